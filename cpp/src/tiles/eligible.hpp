/// Which blocks may be chosen, where not all may: those that a mask before leaves free (past.hpp),
/// or those that the marks of a mask that moves allow (choice.hpp). All others rank above them.
///
/// A byte for each block says so: 1 for those that may be chosen, the eligible ones, else 0.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/bytes.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/moving.hpp"
#include "tiles/past.hpp"
#include "tiles/patch.hpp"
#include "tiles/task.hpp"

namespace datasparse {

/// Of a part's blocks: in the lane, or right in the mask before.
template <class Key>
[[gnu::noinline]] const std::uint8_t* eligible_blocks(const Task<Key>& task, const Grid::Part& part,
                                                      Lane<Key>& lane) noexcept {
  std::uint8_t* const eligible = lane.free.data();
  if (!task.choice.is_made()) {
    const std::uint8_t* const free = free_blocks(task, part, lane);
    if (!task.returning) return free;
    if (free != eligible) std::copy_n(free, part.size(), eligible);
    flip_bytes(eligible, part.size());
    return eligible;
  }
  const std::int64_t height = task.grid.height, width = task.grid.width;
  Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
    moving::gather_states(eligible + first, task.mask.at(band.band * height, band.block * width),
                          band.width, width);
  });
  task.table.find_eligible(eligible, part.size(), task.choice.is_inactive());
  return eligible;
}

/// Asks for the memory that score_blocks() reads of a few blocks side by side.
template <class Key>
void prefetch_run(const Task<Key>& task, const Grid::Part& run, const Patch& patch) noexcept {
  task.scorer.prefetch(task.grid, run, patch);
  if (!task.chooses_among_some()) return;
  const Grid::Rectangle elements = task.grid.elements(run);
  const MaskWindow& bytes = task.choice.is_made() ? task.mask : task.past;
  const std::int64_t rows = task.choice.is_made() ? 1 : elements.rows;  // a block's marks are alike
  for (std::int64_t r = 0; r < rows; ++r) {
    __builtin_prefetch(bytes.at(elements.row + r, elements.column));
  }
}

/// The keys of a part's blocks as they rank: at most a tile of them.
template <class Key>
[[gnu::noinline]] void score_blocks(const Task<Key>& task, Key* keys, const Grid::Part& part,
                                    const Patch& patch, Lane<Key>& lane) noexcept {
  if (task.choice.by_chance) {
    draw_blocks(task, keys, part);
  } else {
    task.scorer.blocks(keys, task.grid, part, patch, lane.sums.data());
  }
  if (!task.chooses_among_some()) return;
  task.select.rank_others(keys, eligible_blocks(task, part, lane), part.size());
}

/// Prunes those of a part's blocks that stay pruned.
template <class Key>
[[gnu::noinline]] void prune_again(const Task<Key>& task, const Grid::Part& part,
                                   std::uint8_t* keep, Lane<Key>& lane) noexcept {
  if (task.prunes_others()) and_bytes(keep, free_blocks(task, part, lane), part.size());
}

}  // namespace datasparse
