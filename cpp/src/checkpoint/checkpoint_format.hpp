/// The bytes of a checkpoint: a safetensors file (https://github.com/huggingface/safetensors).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "datasparse/checkpoint.hpp"

namespace datasparse {

/// Everything before the masks. What follows has nothing between: of each group in turn the packed
/// bits of its mask, those of its kept zeros, if it has some, and its arrays. ValueError where a
/// name is not UTF-8, or the header grows beyond what readers accept.
std::string encode_header(const Checkpoint& checkpoint);

/// Copies `size` bytes from `offset` on; offset + size is within the file.
using ReadBytes = std::function<void(std::uint64_t offset, void* to, std::size_t size)>;

/// ValueError, naming the entry, for anything but a whole and undamaged checkpoint of `size` bytes.
Checkpoint decode_checkpoint(std::uint64_t size, const ReadBytes& read);

}  // namespace datasparse
