/// XXH64: a checksum at the speed of memory, which finds flipped bits; no protection against an
/// adversary.
#pragma once

#include <cstddef>
#include <cstdint>

namespace datasparse {

/// With seed 0, as specified in https://github.com/Cyan4973/xxHash (doc/xxhash_spec.md).
std::uint64_t xxh64(const void* data, std::size_t size) noexcept;

}  // namespace datasparse
