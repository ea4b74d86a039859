/// What the mask before has pruned, where a mask is monotone: it ranks below everything else.
///
/// `past` has a byte for every element: 1 where it is free, 0 where it was pruned. A block is free
/// if all its elements are. Of P blocks that are not, K to be pruned, the others get a key above
/// all others: where K >= P, these P stay pruned, and K - P of the free ones are chosen; else K of
/// the P. The elements within a block that loses only some likewise. A zero that stays is free,
/// since it says nothing of its block; one that is a block by itself is pruned.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/keys.hpp"
#include "kernels/kernels.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/small_blocks.hpp"
#include "tiles/task.hpp"

// What is called for chunks, in many places, is not inlined: the library is small.
namespace datasparse {

namespace past {

template <class Word>
void and_words(std::uint8_t* free, const std::uint8_t* row, std::int64_t n) noexcept {
  constexpr auto ones = static_cast<Word>(0x0101010101010101U);
  for (std::int64_t i = 0; i < n; ++i) {
    Word word;
    std::memcpy(&word, row + i * static_cast<std::int64_t>(sizeof(Word)), sizeof(Word));
    free[i] = static_cast<std::uint8_t>(free[i] & (word == ones ? 1 : 0));
  }
}

/// Takes from `free` the blocks that have a 0 in this row.
inline void and_row(std::uint8_t* free, const std::uint8_t* row, std::int64_t columns,
                    std::int64_t width) noexcept {
  const std::int64_t full = columns / width;
  switch (width) {
    case 1: and_words<std::uint8_t>(free, row, full); break;
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

/// rank_elements() for blocks of so many elements side by side.
template <class Key, int width>
void rank_narrow(Key* keys, const std::uint8_t* free, std::int64_t n, std::int64_t zeros) noexcept {
  bool any_returns = false;
  for (std::int64_t i = 0; i < n; i += width) {
    int pruned = width;
    for (int j = 0; j < width; ++j) pruned -= free[i + j];
    any_returns |= pruned > zeros;
  }
  if (!any_returns) {
    for (std::int64_t i = 0; i < n; ++i) keys[i] = free[i] != 0 ? keys[i] + 1 : 0;
    return;
  }
  for (std::int64_t i = 0; i < n; i += width) {
    int pruned = width;
    for (int j = 0; j < width; ++j) pruned -= free[i + j];
    const bool returns = pruned > zeros;
    for (int j = 0; j < width; ++j) {
      const Key key = keys[i + j];
      const Key below = returns ? key : 0;
      const Key above = returns ? KeyTraits<Key>::nan + 1 : key + 1;
      keys[i + j] = free[i + j] != 0 ? above : below;
    }
  }
}

}  // namespace past

/// A byte for each block of a part: 1 where it is free. In the lane, or right in `past`.
template <class Key>
[[gnu::noinline]] const std::uint8_t* free_blocks(const Task<Key>& task, const Grid::Part& part,
                                                  Lane<Key>& lane) noexcept {
  if (task.direct()) return task.past.bytes + task.grid.begin(part);
  std::uint8_t* const free = lane.free.data();
  std::memset(free, 1, static_cast<std::size_t>(part.size()));
  Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
    const Grid::Rectangle elements = task.grid.elements(band);
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      past::and_row(free + first, task.past.at(elements.row + r, elements.column), elements.columns,
                    task.grid.width);
    }
  });
  return free;
}

/// The keys of the n elements of one block as they rank, `zeros` of which are zeroed. Where all
/// that were pruned stay so, those have no rank among each other, and free ones are one greater, to
/// be above them: no key is the greatest.
template <class Key>
void rank_elements(Key* keys, const std::uint8_t* free, std::int64_t n,
                   std::int64_t zeros) noexcept {
  std::int64_t pruned = n;
  for (std::int64_t i = 0; i < n; ++i) pruned -= free[i];
  if (pruned <= zeros) {
    for (std::int64_t i = 0; i < n; ++i) keys[i] = free[i] != 0 ? keys[i] + 1 : 0;
  } else {
    for (std::int64_t i = 0; i < n; ++i) keys[i] = free[i] != 0 ? key_of_others<Key> : keys[i];
  }
}

/// The same for all of n elements in blocks of 2, 4, 8 or 16, one behind another.
template <class Key>
[[gnu::noinline]] void rank_elements_of_blocks(Key* keys, const std::uint8_t* free, std::int64_t n,
                                               std::int64_t width, std::int64_t zeros) noexcept {
  switch (width) {
    case 2: return past::rank_narrow<Key, 2>(keys, free, n, zeros);
    case 4: return past::rank_narrow<Key, 4>(keys, free, n, zeros);
    case 8: return past::rank_narrow<Key, 8>(keys, free, n, zeros);
    default: return past::rank_narrow<Key, 16>(keys, free, n, zeros);
  }
}

/// The same for small blocks, whose element keys are in the lane.
template <class Key>
void rank_small(const Task<Key>& task, const SmallBlocks& blocks, const Grid::Rectangle& elements,
                Lane<Key>& lane) noexcept {
  const std::uint8_t* const free = task.past.at(elements.row, elements.column);
  const std::int64_t n = blocks.elements(), size = blocks.filled_size();
  Key* const keys = lane.element_keys.data();
  if (blocks.are_in_place()) return rank_elements_of_blocks(keys, free, n, size, task.quota.zeros);
  Key* const gathered = lane.small_keys.data();
  std::uint8_t* const free_gathered = lane.small_bytes.data();
  blocks.gather(gathered, keys, elements.columns, key_of_others<Key>);
  blocks.gather(free_gathered, free, task.past.pitch, std::uint8_t{1});
  rank_elements_of_blocks(gathered, free_gathered, n, size, task.quota.zeros);
  blocks.scatter(keys, elements.columns, gathered);
}

}  // namespace datasparse
