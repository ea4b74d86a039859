/// Masks on the move: keys by chance, and marks on what was chosen. See choice.hpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/keys.hpp"
#include "kernels/kernels.hpp"
#include "select/limits.hpp"
#include "select/selection.hpp"
#include "tiles/choice.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/moves.hpp"
#include "tiles/patch.hpp"
#include "tiles/small_blocks.hpp"
#include "tiles/task.hpp"
#include "tiles/within_blocks.hpp"

namespace datasparse {

/// The keys of a part's blocks by chance.
template <class Key>
void draw_blocks(const Task<Key>& task, Key* keys, const Grid::Part& part) noexcept {
  Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
    moving::draw_keys(task.table, keys + first, task.choice.stream, task.grid.begin(band),
                      band.width);
  });
}

/// Marks the blocks of a part that may be chosen, as `keep` has it, and takes marks back.
template <class Key>
[[gnu::noinline]] void mark_choice(const Task<Key>& task, const Grid::Part& part,
                                   const std::uint8_t* keep, Lane<Key>& lane) noexcept {
  const std::int64_t width = task.grid.width;
  std::uint8_t* const marks = lane.free.data();
  const bool inactive = task.choice.is_inactive();
  Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
    const Grid::Rectangle elements = task.grid.elements(band);
    std::uint8_t* const top = task.mask.at(elements.row, elements.column);
    if (task.block_size() == 1) {
      return task.table.mark(top, keep + first, band.width, inactive);
    }
    moving::gather_states(marks, top, band.width, width);
    task.table.mark(marks, keep + first, band.width, inactive);
    // As many blocks at a time as a lane has room for, or else pieces of one.
    const std::int64_t together = std::max<std::int64_t>(1, small_block_max / width);
    for (std::int64_t b = 0; b < band.width; b += together) {
      const std::int64_t n = std::min(together, band.width - b);
      const std::int64_t end = std::min((b + n) * width, elements.columns);
      const std::int64_t length = std::min(end - b * width, small_block_max);
      if (width == 1) {
        std::copy_n(marks + b, n, lane.bytes.data());
      } else if (n == 1) {
        std::fill_n(lane.bytes.data(), length, marks[b]);
      } else {
        task.table.repeat(lane.bytes.data(), marks + b, n, width);
      }
      for (std::int64_t r = 0; r < elements.rows; ++r) {
        std::uint8_t* const row = task.mask.at(elements.row + r, elements.column);
        for (std::int64_t column = b * width; column < end; column += length) {
          moving::replace_states(row + column, lane.bytes.data(), std::min(length, end - column));
        }
      }
    }
  });
}

/// Takes back the mark of a block, or sets it. The block is one that may be chosen. For a single
/// element no branch depends on the byte, so the memory of many is waited for together.
template <class Key>
void remark_block(const Task<Key>& task, const Grid::Part& block, bool keep,
                  Lane<Key>& lane) noexcept {
  const std::uint8_t byte = keep ? 1 : 0;
  if (task.block_size() > 1) return mark_choice(task, block, &byte, lane);
  const bool inactive = task.choice.is_inactive();
  const std::uint8_t bit = inactive ? moving::grown : moving::dropped;
  std::uint8_t& state = *task.mask.at(block.band, block.block);
  state = static_cast<std::uint8_t>(keep == inactive ? state | bit : state & ~bit);
}

/// Within each of some blocks side by side, whose element keys are in the lane: of those that are
/// active, drops as many of the lowest as are missing from quota.zeros; or of those that are not,
/// grows the highest that are too many.
template <class Key>
void mark_within_blocks(const Task<Key>& task, const Grid::Rectangle& elements,
                        Lane<Key>& lane) noexcept {
  const bool drops = task.choice.among == Choice::Among::active;
  const std::int64_t width = task.grid.width;
  Key* const keys = lane.element_keys.data();
  for (std::int64_t r = 0; r < elements.rows; ++r) {
    task.select.rank_within(keys + r * elements.columns,
                            task.mask.at(elements.row + r, elements.column), elements.columns,
                            drops);
  }
  std::uint8_t* const keep = lane.bytes.data();
  const auto mark = [&](std::uint8_t* states, const std::uint8_t* of, std::int64_t n) {
    drops ? moving::drop_within(states, of, n) : task.table.mark(states, of, n, true);
  };
  const SmallBlocks whole{elements.rows, width, elements.columns / width};
  std::int64_t done = 0;
  if (whole.fit() && whole.count > 0 && task.quota.zeros < whole.size()) {
    done = whole.count * width;
    zero_least_within(task.select, whole, task.quota.zeros, elements.columns, {keep, done}, lane);
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      mark(task.mask.at(elements.row + r, elements.column), keep + r * done, done);
    }
  }
  for (; done < elements.columns; done += width) {
    const std::int64_t columns = std::min(width, elements.columns - done);
    const std::int64_t n = elements.rows * columns, zeros = std::min(task.quota.zeros, n);
    Key* const own = lane.block_keys.data();
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      std::copy_n(keys + r * elements.columns + done, columns, own + r * columns);
    }
    Cut<Key> cut{key_of_others<Key> + 1, 0};  // all of them
    if (zeros < n) cut = cut_of(task.select, own, n, zeros, own + n, n);
    task.select.threshold(keep, own, n, cut.threshold, cut.ties);
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      mark(task.mask.at(elements.row + r, elements.column + done), keep + r * columns, columns);
    }
  }
}

/// mark_within_blocks() for a band of blocks of at most small_block_max elements.
template <class Key>
void mark_within_band(const Task<Key>& task, const Grid::Part& band, const Patch& patch,
                      Lane<Key>& lane) noexcept {
  const std::int64_t together = blocks_together(task.block_size());
  for (std::int64_t b = 0; b < band.width; b += together) {
    const Grid::Part some{band.band, 1, band.block + b, std::min(together, band.width - b)};
    const Grid::Rectangle elements = task.grid.elements(some);
    Key* const keys = lane.element_keys.data();
    if (task.choice.by_chance) {
      for (std::int64_t r = 0; r < elements.rows; ++r) {
        const std::int64_t first =
            (elements.row + r) * task.grid.matrix.columns() + elements.column;
        moving::draw_keys(task.table, keys + r * elements.columns, task.choice.stream, first,
                          elements.columns);
      }
    } else {
      task.scorer.elements(keys, elements, patch, lane.sums.data());
    }
    mark_within_blocks(task, elements, lane);
  }
}

}  // namespace datasparse
