#include "tiles/past_loops.hpp"

#include <cstring>

#include "base/bytes.hpp"
#include "base/keys.hpp"
#include "tiles/byte_sums.hpp"

namespace datasparse {
namespace {

/// Blocks as wide as a word.
template <class Word>
void and_words(std::uint8_t* __restrict free, const std::uint8_t* __restrict row,
               std::int64_t n) noexcept {
  constexpr auto ones = static_cast<Word>(ones_of_bytes);
  for (std::int64_t i = 0; i < n; ++i) {
    Word word;
    std::memcpy(&word, row + i * static_cast<std::int64_t>(sizeof(Word)), sizeof(Word));
    free[i] = static_cast<std::uint8_t>(free[i] & (word == ones ? 1 : 0));
  }
}

}  // namespace

void and_row(std::uint8_t* free, const std::uint8_t* row, std::int64_t columns,
             std::int64_t width) noexcept {
  const std::int64_t full = columns / width;
  switch (width) {
    case 1: and_bytes(free, row, full); break;
    case 2: and_words<std::uint16_t>(free, row, full); break;
    case 4: and_words<std::uint32_t>(free, row, full); break;
    case 8: and_words<std::uint64_t>(free, row, full); break;
    default:
      for (std::int64_t b = 0; b < full; ++b) {
        const auto n = static_cast<std::size_t>(width);
        if (std::memchr(row + b * width, 0, n) != nullptr) free[b] = 0;
      }
  }
  const auto rest = static_cast<std::size_t>(columns - full * width);
  if (rest > 0 && std::memchr(row + full * width, 0, rest) != nullptr) free[full] = 0;
}

namespace {

/// Whether any of the blocks has lost more than `zeros`.
template <int width>
bool any_returns(const std::uint8_t* free, std::int64_t n, std::int64_t zeros) noexcept {
  const std::int64_t words = n / 16 * 16;
  const auto pruned = [free](std::int64_t i) { return word_at(free + i) ^ ones_of_bytes; };
  if (any_exceeds<width>(words, zeros, pruned)) return true;
  for (std::int64_t i = words; i < n; i += width) {
    std::int64_t lost = width;
    for (int j = 0; j < width; ++j) lost -= free[i + j];
    if (lost > zeros) return true;
  }
  return false;
}

/// Those that were pruned stay so, and the others are above them.
template <class Key>
void rank_free(Key* __restrict keys, const std::uint8_t* __restrict free, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) keys[i] = free[i] != 0 ? keys[i] + 1 : 0;
}

/// Some of those that were pruned come back, and the others stay free.
template <class Key>
void rank_pruned(Key* __restrict keys, const std::uint8_t* __restrict free,
                 std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) keys[i] = free[i] != 0 ? key_of_others<Key> : keys[i];
}

template <int width, class Key>
void rank_narrow(Key* keys, const std::uint8_t* free, std::int64_t n, std::int64_t zeros) noexcept {
  if (!any_returns<width>(free, n, zeros)) return rank_free(keys, free, n);
  for (std::int64_t i = 0; i < n; i += width) {  // without a branch: some blocks do, some do not
    int pruned = width;
    for (int j = 0; j < width; ++j) pruned -= free[i + j];
    const bool returns = pruned > zeros;
    for (int j = 0; j < width; ++j) {
      const Key key = keys[i + j];
      const Key below = returns ? key : 0;
      const Key above = returns ? key_of_others<Key> : key + 1;
      keys[i + j] = free[i + j] != 0 ? above : below;
    }
  }
}

}  // namespace

template <class Key>
void rank_elements(Key* keys, const std::uint8_t* free, std::int64_t n,
                   std::int64_t zeros) noexcept {
  std::int64_t pruned = n;
  for (std::int64_t i = 0; i < n; ++i) pruned -= free[i];
  pruned > zeros ? rank_pruned(keys, free, n) : rank_free(keys, free, n);
}

template <class Key>
void rank_elements_of_blocks(Key* keys, const std::uint8_t* free, std::int64_t n,
                             std::int64_t width, std::int64_t zeros) noexcept {
  switch (width) {
    case 2: return rank_narrow<2>(keys, free, n, zeros);
    case 4: return rank_narrow<4>(keys, free, n, zeros);
    case 8: return rank_narrow<8>(keys, free, n, zeros);
    default: return rank_narrow<16>(keys, free, n, zeros);
  }
}

template void rank_elements(std::uint32_t*, const std::uint8_t*, std::int64_t,
                            std::int64_t) noexcept;
template void rank_elements(std::uint64_t*, const std::uint8_t*, std::int64_t,
                            std::int64_t) noexcept;
template void rank_elements_of_blocks(std::uint32_t*, const std::uint8_t*, std::int64_t,
                                      std::int64_t, std::int64_t) noexcept;
template void rank_elements_of_blocks(std::uint64_t*, const std::uint8_t*, std::int64_t,
                                      std::int64_t, std::int64_t) noexcept;

}  // namespace datasparse
