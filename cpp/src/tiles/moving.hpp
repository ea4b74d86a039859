/// Masks on the move: keys of what may be chosen, and marks on what was. See choice.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/kernels.hpp"
#include "select/limits.hpp"
#include "select/selection.hpp"
#include "tiles/choice.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/patch.hpp"
#include "tiles/task.hpp"

namespace datasparse {

/// Above the keys of all that may be chosen.
template <class Key>
constexpr Key key_of_others = KeyTraits<Key>::nan + 1;

namespace moving {

/// keys[i] = that of element `first` + i by chance.
template <class Key>
void draw_keys(Key* keys, std::uint64_t stream, std::int64_t first, std::int64_t n) noexcept {
  // Numbers are 32 bits wide: what is drawn is drawn by the engine of such keys.
  if constexpr (std::is_same_v<Key, std::uint32_t>) {
    for (std::int64_t i = 0; i < n; ++i) keys[i] = random_key(stream, first + i);
  }
}

/// Sets one bit of n bytes to those of `marks`, which have no other.
inline void set_bit(std::uint8_t* states, const std::uint8_t* marks, std::int64_t n,
                    std::uint8_t bit) noexcept {
  const auto others = static_cast<std::uint8_t>(~bit);
  for (std::int64_t i = 0; i < n; ++i) {
    states[i] = static_cast<std::uint8_t>((states[i] & others) | marks[i]);
  }
}

template <class Key, Choice::Among among>
void rank_row(Key* keys, const std::uint8_t* states, std::int64_t n, std::int64_t width) noexcept {
  const auto rank = [&](std::int64_t step) {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint8_t state = states[i * step];
      const bool may = (among == Choice::Among::active ? may_drop(state) : may_grow(state)) != 0;
      keys[i] = may ? keys[i] : key_of_others<Key>;
    }
  };
  width == 1 ? rank(1) : rank(width);
}

}  // namespace moving

/// The keys of a part's blocks: of those that may be chosen, the others above them.
template <class Key>
[[gnu::noinline]] void score_choice(const Task<Key>& task, Key* keys, const Grid::Part& part,
                                    const Patch& patch, Lane<Key>& lane) noexcept {
  const Choice& choice = task.choice;
  const std::int64_t width = task.grid.width;
  if (!choice.by_chance) task.scorer.blocks(keys, task.grid, part, patch, lane.sums.data());
  Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
    Key* const here = keys + first;
    if (choice.by_chance) {
      moving::draw_keys(here, choice.stream, task.grid.begin(band), band.width);
    }
    const std::uint8_t* const states =
        task.mask.at(band.band * task.grid.height, band.block * width);
    if (choice.among == Choice::Among::active) {
      moving::rank_row<Key, Choice::Among::active>(here, states, band.width, width);
    } else {
      moving::rank_row<Key, Choice::Among::inactive>(here, states, band.width, width);
    }
  });
}

/// Marks the blocks of a part that may be chosen, as `keep` has it, and takes marks back.
template <class Key>
[[gnu::noinline]] void mark_choice(const Task<Key>& task, const Grid::Part& part,
                                   const std::uint8_t* keep, Lane<Key>& lane) noexcept {
  const Choice choice = task.choice;
  const std::uint8_t mark = choice.mark(), marks_kept = choice.marks_kept();
  const std::int64_t width = task.grid.width;
  std::uint8_t* const marks = lane.free.data();
  Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
    const Grid::Rectangle elements = task.grid.elements(band);
    const std::uint8_t* const of_band = keep + first;
    const auto mark_row = [&](const std::uint8_t* states, std::int64_t step) {
      for (std::int64_t b = 0; b < band.width; ++b) {
        const std::uint8_t is_marked = of_band[b] ^ marks_kept ^ 1U;
        marks[b] = static_cast<std::uint8_t>(choice.may_take(states[b * step]) & is_marked) != 0
                       ? mark
                       : std::uint8_t{0};
      }
    };
    std::uint8_t* const top = task.mask.at(elements.row, elements.column);
    width == 1 ? mark_row(top, 1) : mark_row(top, width);
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      std::uint8_t* const row = task.mask.at(elements.row + r, elements.column);
      if (width == 1) {
        moving::set_bit(row, marks, band.width, mark);
        continue;
      }
      const std::int64_t together = std::max<std::int64_t>(1, small_block_max / width);
      for (std::int64_t b = 0; b < band.width; b += together) {
        const std::int64_t n = std::min(together, band.width - b);
        const std::int64_t end = std::min((b + n) * width, elements.columns);
        for (std::int64_t column = b * width;
             column < end;) {  // one piece, unless a block is large
          const std::int64_t some = std::min(end - column, small_block_max);
          if (n == 1) {
            std::fill_n(lane.bytes.data(), some, marks[b]);
          } else {
            task.table.repeat(lane.bytes.data(), marks + b, n, width);
          }
          moving::set_bit(row + column, lane.bytes.data(), some, mark);
          column += some;
        }
      }
    }
  });
}

namespace moving {

/// keep[i] = 0 for the `zeros` least of n keys, the first of equal ones, else 1. n is at most
/// small_block_max, and there is room for as many keys behind.
template <class Key>
void zero_least_of(const Task<Key>& task, std::uint8_t* keep, Key* keys, std::int64_t n,
                   std::int64_t zeros) noexcept {
  if (zeros >= n) return static_cast<void>(std::fill_n(keep, n, std::uint8_t{0}));
  const Cut<Key> cut = cut_of(task.select, keys, n, zeros, keys + n, n);
  task.select.threshold(keep, keys, n, cut.threshold, cut.ties);
}

}  // namespace moving

/// Within each of some blocks side by side, whose element keys are in the lane: of those that are
/// active, drops as many of the lowest as are missing from quota.zeros; or of those that are not,
/// grows the highest that are too many.
template <class Key>
void mark_within_blocks(const Task<Key>& task, const Grid::Rectangle& elements,
                        Lane<Key>& lane) noexcept {
  const bool drops = task.choice.among == Choice::Among::active;
  const std::int64_t width = task.grid.width, zeros = task.quota.zeros;
  Key* const keys = lane.element_keys.data();
  for (std::int64_t r = 0; r < elements.rows; ++r) {
    const std::uint8_t* const states = task.mask.at(elements.row + r, elements.column);
    Key* const row = keys + r * elements.columns;
    for (std::int64_t c = 0; c < elements.columns; ++c) {
      const bool survives = moving::survives(states[c]) != 0;
      const bool is_dead = (states[c] & moving::dead) != 0;
      // What is pruned whatever the keys say comes first.
      const Key pruned = drops || is_dead ? Key{0} : row[c];
      const Key active = drops ? row[c] : key_of_others<Key>;
      row[c] = survives ? active : pruned;
    }
  }
  const auto mark = [&](std::uint8_t* states, const std::uint8_t* keep, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint8_t state = states[i];
      const auto drop = static_cast<std::uint8_t>(moving::survives(state) & (keep[i] ^ 1U));
      const auto grow = static_cast<std::uint8_t>(moving::may_grow(state) & keep[i]);
      states[i] = static_cast<std::uint8_t>(state | (drops ? drop << 1 : grow << 2));
    }
  };
  std::uint8_t* const keep = lane.bytes.data();
  std::int64_t done = 0;
  const bool a_power = width == 2 || width == 4 || width == 8 || width == 16;
  if (elements.rows == 1 && a_power && zeros < width) {
    const std::int64_t blocks = elements.columns / width;
    done = blocks * width;
    task.select.zero_least(keep, keys, blocks, width, zeros);
    mark(task.mask.at(elements.row, elements.column), keep, done);
  }
  for (; done < elements.columns; done += width) {
    const std::int64_t columns = std::min(width, elements.columns - done);
    const std::int64_t n = elements.rows * columns;
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      std::copy_n(keys + r * elements.columns + done, columns,
                  lane.block_keys.data() + r * columns);
    }
    moving::zero_least_of(task, keep, lane.block_keys.data(), n, std::min(zeros, n));
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      mark(task.mask.at(elements.row + r, elements.column + done), keep + r * columns, columns);
    }
  }
}

/// mark_within_blocks() for a band of blocks of at most small_block_max elements.
template <class Key>
void mark_within_band(const Task<Key>& task, const Grid::Part& band, const Patch& patch,
                      Lane<Key>& lane) noexcept {
  const std::int64_t together = std::max<std::int64_t>(1, chunk_blocks_max / task.block_size());
  for (std::int64_t b = 0; b < band.width; b += together) {
    const Grid::Part some{band.band, 1, band.block + b, std::min(together, band.width - b)};
    const Grid::Rectangle elements = task.grid.elements(some);
    Key* const keys = lane.element_keys.data();
    if (task.choice.by_chance) {
      for (std::int64_t r = 0; r < elements.rows; ++r) {
        const std::int64_t first =
            (elements.row + r) * task.grid.matrix.columns() + elements.column;
        moving::draw_keys(keys + r * elements.columns, task.choice.stream, first, elements.columns);
      }
    } else {
      task.scorer.elements(keys, elements, patch, lane.sums.data());
    }
    mark_within_blocks(task, elements, lane);
  }
}

}  // namespace datasparse
