// Feeds the reader of checkpoints with whatever libFuzzer makes of the seeds. scripts/fuzz runs it.
//
// Checksums are not compared in this build: otherwise no change of the seeds would get past them.

#include <cstring>

#include "checkpoint/checkpoint_format.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "require.hpp"

namespace {

using namespace datasparse;

std::string encoded(const Checkpoint& checkpoint) {
  std::string bytes = encode_header(checkpoint);
  for (const auto& group : checkpoint.sparsifier.groups) {
    bytes.append(group.mask_bits.begin(), group.mask_bits.end());
    bytes.append(group.kept_zeros.begin(), group.kept_zeros.end());
    for (const auto& [key, array] : group.arrays) {
      bytes.append(reinterpret_cast<const char*>(array.data()), array.byte_count());
    }
  }
  return bytes;
}

Checkpoint decoded(const void* data, std::size_t size) {
  return decode_checkpoint(size, [&](std::uint64_t offset, void* to, std::size_t count) {
    require(offset <= size && count <= size - offset, "reading within the file");
    if (count > 0) std::memcpy(to, static_cast<const char*>(data) + offset, count);
  });
}

/// The checkpoint is loaded, or everything stays as it was.
void load(const Checkpoint& checkpoint, bool strict) {
  float numbers[15] = {};
  DataNormSparsifier sparsifier;
  sparsifier.add_data("w", ArrayView(numbers, {3, 5}));
  sparsifier.step();
  const std::string before = encoded(take_checkpoint(sparsifier));
  try {
    restore_checkpoint(checkpoint, sparsifier, {}, strict);
    sparsifier.step();
  } catch (const ValueError&) {
    require(encoded(take_checkpoint(sparsifier)) == before, "all or nothing");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Checkpoint checkpoint = decoded(data, size);
    const std::string once = encoded(checkpoint);
    require(encoded(decoded(once.data(), once.size())) == once, "the round trip");
    load(checkpoint, true);
    load(checkpoint, false);
  } catch (const ValueError&) {
    // Refused, as it should be.
  }
  return 0;
}
