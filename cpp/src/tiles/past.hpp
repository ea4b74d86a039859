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
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/past_loops.hpp"
#include "tiles/small_blocks.hpp"
#include "tiles/task.hpp"

// What is called for chunks, in many places, is not inlined: the library is small.
namespace datasparse {

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
      and_row(free + first, task.past.at(elements.row + r, elements.column), elements.columns,
              task.grid.width);
    }
  });
  return free;
}

/// rank_elements_of_blocks() for small blocks of any shape, whose element keys are in the lane.
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
