/// Writes masks, once it is decided which blocks are pruned.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/bytes.hpp"
#include "select/limits.hpp"
#include "select/selection.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/matrix.hpp"
#include "tiles/moving.hpp"
#include "tiles/past.hpp"
#include "tiles/patch.hpp"
#include "tiles/small_blocks.hpp"
#include "tiles/task.hpp"
#include "tiles/within_blocks.hpp"

namespace datasparse {

/// Whole blocks: pruned ones become zeros, all others ones.
template <class Key>
void write_blocks(const Task<Key>& task, const Grid::Part& band,
                  const std::uint8_t* keep) noexcept {
  const std::int64_t width = task.grid.width;
  const Grid::Rectangle elements = task.grid.elements(band);
  const MaskWindow window = task.window(elements);
  const std::int64_t rest = band.width * width - elements.columns;
  const std::int64_t full = rest > 0 ? band.width - 1 : band.width;
  for (std::int64_t r = 0; r < elements.rows; ++r) {
    task.table.repeat(window.at(r, 0), keep, full, width);
    if (rest > 0) {
      std::memset(window.at(r, full * width), keep[full], static_cast<std::size_t>(width - rest));
    }
  }
}

/// One block, `column` columns into the rectangle of all elements, among whose keys its own are.
template <class Key>
void zero_least_of_block(const Task<Key>& task, const Grid::Rectangle& elements,
                         std::int64_t column, std::int64_t columns, Lane<Key>& lane) noexcept {
  const Key* const all = lane.element_keys.data() + column;
  const MaskWindow window = task.window(elements);
  const std::int64_t rows = elements.rows;
  const std::int64_t n = rows * columns;
  const std::int64_t zeros = std::min(task.quota.zeros, n);
  Key* const keys = lane.block_keys.data();
  std::uint8_t* const keep = lane.bytes.data();
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(all + r * elements.columns, columns, keys + r * columns);
  }
  if (task.has_past()) {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(task.past.at(elements.row + r, elements.column + column), columns,
                  keep + r * columns);
    }
    rank_elements(keys, keep, n, zeros);
  }
  constexpr std::int64_t few = SmallBlocks::max_size;
  if (n <= few && zeros < few) {
    std::fill(keys + n, keys + few, key_of_others<Key>);  // behind all that may be chosen
    task.select.zero_least(keep, keys, 1, few, zeros);
  } else {
    const Cut<Key> cut = cut_of(task.select, keys, n, zeros, keys + n, n);
    task.select.threshold(keep, keys, n, cut.threshold, cut.ties);
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(keep + r * columns, columns, window.at(r, column));
  }
}

/// The mask of small blocks, whose element keys are in the lane.
template <class Key>
void zero_least_of_small(const Task<Key>& task, const SmallBlocks& blocks,
                         const Grid::Rectangle& elements, const std::uint8_t* keep,
                         Lane<Key>& lane) noexcept {
  const MaskWindow window = task.window(elements);
  if (task.has_past()) rank_small(task, blocks, elements, lane);
  zero_least_within(task.select, blocks, task.quota.zeros, elements.columns, window, lane);
  if (std::memchr(keep, 1, static_cast<std::size_t>(blocks.count)) == nullptr) return;
  const std::int64_t columns = blocks.count * blocks.width;
  std::uint8_t* const kept = lane.small_bytes.data();
  task.table.repeat(kept, keep, blocks.count, blocks.width);
  for (std::int64_t r = 0; r < blocks.height; ++r) or_bytes(window.at(r, 0), kept, columns);
}

/// The mask of blocks side by side, whose element keys are in the lane.
template <class Key>
void zero_least(const Task<Key>& task, const Grid::Rectangle& elements, const std::uint8_t* keep,
                Lane<Key>& lane) noexcept {
  const std::int64_t width = task.grid.width;
  const MaskWindow window = task.window(elements);
  const SmallBlocks whole{elements.rows, width, elements.columns / width};
  std::int64_t done = 0;
  if (whole.fit() && whole.count > 0 && task.quota.zeros < whole.size()) {
    zero_least_of_small(task, whole, elements, keep, lane);
    done = whole.count * width;
  }
  for (; done < elements.columns; done += width) {
    const std::int64_t columns = std::min(width, elements.columns - done);
    if (keep[done / width] != 0) {
      MaskWindow{window.at(0, done), window.pitch}.fill(elements.rows, columns, 1);
    } else {
      zero_least_of_block(task, elements, done, columns, lane);
    }
  }
}

/// Blocks that all lose some of their elements, without keys in memory; false where there is no
/// kernel for that.
template <class Key>
bool zero_least_at_once(const Task<Key>& task, const Grid::Part& band, const Patch& patch,
                        const std::uint8_t* keep) noexcept {
  const std::int64_t width = task.grid.width;
  const bool is_narrow = width == 2 || width == 4 || width == 8;
  if (!task.scorer.can_zero_least() || !patch || !is_narrow || task.has_past()) return false;
  const Grid::Rectangle elements = task.grid.elements(band);
  if (elements.rows > 1 || elements.columns % width != 0 || task.quota.zeros >= width) {
    return false;
  }
  if (std::memchr(keep, 1, static_cast<std::size_t>(band.width)) != nullptr) return false;
  task.scorer.zero_least(task.window(elements).bytes, elements, patch, width, task.quota.zeros,
                         task.store());
  return true;
}

/// Blocks that lose some of their elements only, as many at a time as keys stay in the cache.
template <class Key>
void write_within_blocks(const Task<Key>& task, const Grid::Part& band, const Patch& patch,
                         const std::uint8_t* keep, Lane<Key>& lane) noexcept {
  if (zero_least_at_once(task, band, patch, keep)) return;
  const std::int64_t together = blocks_together(task.block_size());
  for (std::int64_t b = 0; b < band.width; b += together) {
    const Grid::Part some{band.band, 1, band.block + b, std::min(together, band.width - b)};
    const Grid::Rectangle elements = task.grid.elements(some);
    task.scorer.elements(lane.element_keys.data(), elements, patch, lane.sums.data());
    zero_least(task, elements, keep + b, lane);
  }
}

/// The mask of a chunk, given which of its blocks to keep. Large blocks come later.
template <class Key>
void write_chunk(const Task<Key>& task, const Grid::Part& chunk, const Patch& patch,
                 const std::uint8_t* keep, Lane<Key>& lane) noexcept {
  if (task.choice.is_made()) return mark_choice(task, chunk, keep, lane);
  if (!task.writes() || task.large() || task.direct()) return;
  Grid::for_each_band(chunk, [&](const Grid::Part& band, std::int64_t first) {
    if (task.whole()) {
      write_blocks(task, band, keep + first);
    } else {
      write_within_blocks(task, band, patch, keep + first, lane);
    }
  });
}

/// One block whose fate has changed.
template <class Key>
void rewrite_block(const Task<Key>& task, const Grid::Part& block, const Patch& patch, bool keep,
                   Lane<Key>& lane) noexcept {
  if (task.choice.is_made()) {
    remark_block(task, block, keep, lane);
  } else if (keep || task.whole()) {
    const Grid::Rectangle elements = task.grid.elements(block);
    task.window(elements).fill(elements.rows, elements.columns, keep ? 1 : 0);
  } else {
    const std::uint8_t none = 0;
    write_within_blocks(task, block, patch, &none, lane);
  }
}

}  // namespace datasparse
