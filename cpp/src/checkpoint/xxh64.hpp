/// XXH64: a checksum at the speed of memory, which finds flipped bits; no protection against an
/// adversary.
#pragma once

#include <cstddef>
#include <cstdint>

namespace datasparse {

/// With seed 0, as specified in https://github.com/Cyan4973/xxHash (doc/xxhash_spec.md), of bytes
/// that come in pieces of any size.
class Xxh64 {
 public:
  Xxh64() noexcept;
  void update(const void* data, std::size_t size) noexcept;
  /// Of all bytes so far.
  std::uint64_t digest() const noexcept;

 private:
  static constexpr std::size_t stripe = 32;  // bytes, a quarter of them to each lane

  void take_stripes(const unsigned char* bytes, std::size_t count) noexcept;

  std::uint64_t lanes_[4];
  std::uint64_t size_ = 0;
  unsigned char waiting_[stripe] = {};  // the size_ % stripe last bytes
};

/// Of bytes that are there at once.
std::uint64_t xxh64(const void* data, std::size_t size) noexcept;

}  // namespace datasparse
