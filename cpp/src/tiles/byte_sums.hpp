/// How many of the bytes of a block are 1, eight bytes at a time.
#pragma once

#include <cstdint>
#include <cstring>

namespace datasparse {

constexpr std::uint64_t ones_of_bytes = ~std::uint64_t{0} / 255;

inline std::uint64_t word_at(const std::uint8_t* bytes) noexcept {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

/// Whether any block of `width` bytes, of n in all, has more than `most` that are 1: word(i) gives
/// those from the i-th on. They are added up pairwise. 0 <= most <= 127. n is a multiple of 8, or
/// of 16 where the width is 16.
template <int width, class Word>
bool any_exceeds(std::int64_t n, std::int64_t most, const Word& word) noexcept {
  static_assert(width == 2 || width == 4 || width == 8 || width == 16);
  constexpr std::int64_t step = width == 16 ? 16 : 8;
  constexpr std::uint64_t sums = width >= 8   ? 255
                                 : width == 4 ? ~std::uint64_t{0} / ~std::uint32_t{0} * 255
                                              : ~std::uint64_t{0} / 65535 * 255;
  constexpr std::uint64_t places = sums / 255;
  // The highest bit of a byte says: more.
  const std::uint64_t bias = places * static_cast<std::uint64_t>(127 - most);
  std::uint64_t any = 0;
  for (std::int64_t i = 0; i < n; i += step) {
    std::uint64_t sum = word(i);
    if (width == 16) sum += word(i + 8);
    sum += sum >> 8;
    if (width > 2) sum += sum >> 16;
    if (width > 4) sum += sum >> 32;
    any |= (sum & sums) + bias;
  }
  return (any & (places << 7)) != 0;
}

}  // namespace datasparse
