/// From elements to keys: of blocks, and of single elements.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "datasparse/block_mask.hpp"
#include "kernels/kernels.hpp"
#include "select/limits.hpp"
#include "tiles/grid.hpp"
#include "tiles/patch.hpp"

namespace datasparse {

template <class Key>
const SelectionKernels<Key>& selection_of(const Kernels& table) noexcept {
  if constexpr (sizeof(Key) == sizeof(std::uint32_t)) {
    return table.select32;
  } else {
    return table.select64;
  }
}

/// Makes keys of one matrix's elements.
template <class Key>
class Scorer {
 public:
  using Score = typename KeyTraits<Key>::Score;

  Scorer(const Kernels& table, const Matrix& matrix, Norm norm) noexcept
      : matrix_(matrix),
        norm_(norm),
        score_(table.score[static_cast<int>(matrix.dtype())][static_cast<int>(norm)]),
        score_at_(table.score_at[static_cast<int>(matrix.dtype())][static_cast<int>(norm)]),
        bracket_(table.bracket[static_cast<int>(matrix.dtype())][static_cast<int>(norm)]),
        bracket_mask_(table.bracket_mask[static_cast<int>(matrix.dtype())][static_cast<int>(norm)]),
        bracket_ends_(table.bracket_ends[static_cast<int>(matrix.dtype())][static_cast<int>(norm)]),
        zero_least_(table.zero_least[static_cast<int>(matrix.dtype())][static_cast<int>(norm)]),
        accumulate_(table.accumulate[static_cast<int>(matrix.dtype())][static_cast<int>(norm)]),
        make_keys_(selection_of<Key>(table).make_keys) {}

  Norm norm() const noexcept { return norm_; }

  /// The keys of a part's blocks. Where the patch has no data, by way of as many sums as a band of
  /// the part has blocks.
  void blocks(Key* keys, const Grid& grid, const Grid::Part& part, const Patch& patch,
              Score* sums) const noexcept {
    if (patch && grid.per_band == 1) {
      column_of_blocks(keys, grid, part, patch);
      return;
    }
    Grid::for_each_band(part, [&](const Grid::Part& band, std::int64_t first) {
      row_of_blocks(keys + first, grid.elements(band), band.width, grid.width, patch, sums);
    });
  }

  /// Where bracket() writes: a byte for each block of the band, or the mask of all its elements.
  struct Target {
    std::uint8_t* bytes;
    std::ptrdiff_t pitch;
    bool is_mask;
    bool count_ends;  // where there is no mask
    Store store;
    /// Or a byte for each block: only those with 1 are candidates. Counts of what is kept, and of
    /// ends, are of all blocks nevertheless.
    const std::uint8_t* eligible = nullptr;
  };
  bool can_bracket() const noexcept { return bracket_ != nullptr; }
  bool can_bracket_masks() const noexcept { return bracket_mask_ != nullptr; }
  bool can_count_ends() const noexcept { return bracket_ends_ != nullptr; }

  /// SelectionKernels::bracket for the blocks of a band, without their keys in memory but for those
  /// of the candidates: these go to `candidates`. Places count from `begin`. The patch has data.
  BracketEndCounts bracket(const Target& target, Key* candidates, std::uint16_t* places,
                           const Grid& grid, const Grid::Part& band, std::int64_t begin,
                           const Patch& patch, Key from, Key first, Key width) const noexcept {
    BracketEndCounts all{};
    BracketCounts& counts = all.counts;
    const auto add = [&](std::int64_t done, const Blocks& blocks) {
      std::uint16_t* const here = places + counts.inside;
      std::uint8_t* const bytes = target.bytes + (target.is_mask ? done * grid.width : done);
      BracketEndCounts with_ends{};
      BracketCounts& found = with_ends.counts;
      if (target.is_mask) {
        found = bracket_mask_(bytes, target.pitch, here, blocks, from, first, width, target.store);
      } else if (target.count_ends) {
        with_ends = bracket_ends_(bytes, here, blocks, from, first, width, target.store);
      } else {
        found = bracket_(bytes, here, blocks, from, first, width, target.store);
      }
      if (target.eligible != nullptr) {
        found.inside = keep_eligible(here, found.inside, target.eligible + done);
      }
      score_at_(candidates + counts.inside, blocks, here, found.inside);
      if (begin + done > 0) {
        for (std::int64_t i = 0; i < found.inside; ++i) {
          here[i] = static_cast<std::uint16_t>(here[i] + begin + done);
        }
      }
      counts.kept += found.kept;
      counts.inside += found.inside;
      all.before += with_ends.before;
      all.behind += with_ends.behind;
    };
    in_row(grid.elements(band), band.width, grid.width, patch, add);
    return all;
  }

  bool can_zero_least() const noexcept { return zero_least_ != nullptr; }

  /// SelectionKernels::zero_least for blocks of one row, 2, 4 or 8 wide, that fill a rectangle of a
  /// patch with data.
  void zero_least(std::uint8_t* mask, const Grid::Rectangle& rectangle, const Patch& patch,
                  std::int64_t width, std::int64_t zeros, Store store) const noexcept {
    const std::byte* const data = patch.at(rectangle.row, rectangle.column, matrix_.item_size());
    zero_least_(mask, data, rectangle.columns / width, width, zeros, store);
  }

  /// Asks for the memory of a few blocks side by side.
  void prefetch(const Grid& grid, const Grid::Part& run, const Patch& patch) const noexcept {
    if (!patch) return;
    const Grid::Rectangle elements = grid.elements(run);
    for (std::int64_t r = 0; r < elements.rows; ++r) {
      __builtin_prefetch(patch.at(elements.row + r, elements.column, matrix_.item_size()));
    }
  }

  /// The keys of the elements of a rectangle, row by row.
  void elements(Key* keys, const Grid::Rectangle& rectangle, const Patch& patch,
                Score* sums) const noexcept {
    const auto [row, rows, column, columns] = rectangle;
    for (std::int64_t r = 0; r < rows; ++r, keys += columns) {
      row_of_blocks(keys, {row + r, 1, column, columns}, columns, 1, patch, sums);
    }
  }

 private:
  /// Keeps those of n places whose blocks may be chosen. Returns how many.
  static std::int64_t keep_eligible(std::uint16_t* places, std::int64_t n,
                                    const std::uint8_t* eligible) noexcept {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint16_t place = places[i];
      places[kept] = place;
      kept += eligible[place];
    }
    return kept;
  }

  /// Calls work(done, blocks) for those of one size among blocks side by side: all, or all but the
  /// last, and the last, which is narrower; `done` counts those before.
  template <class Work>
  void in_row(const Grid::Rectangle& rectangle, std::int64_t blocks, std::int64_t width,
              const Patch& patch, const Work& work) const noexcept {
    const auto& [row, rows, column, columns] = rectangle;
    const std::ptrdiff_t item = matrix_.item_size();
    const std::int64_t full = blocks * width == columns ? blocks : blocks - 1;
    const std::int64_t rest = columns - full * width;
    const std::byte* const data = patch.at(row, column, item);
    if (full > 0) work(0, Blocks{data, patch.pitch, width * item, full, rows, width});
    if (rest > 0) work(full, Blocks{data + full * width * item, patch.pitch, 0, 1, rows, rest});
  }

  void row_of_blocks(Key* keys, const Grid::Rectangle& rectangle, std::int64_t blocks,
                     std::int64_t width, const Patch& patch, Score* sums) const noexcept {
    if (patch) {
      in_row(rectangle, blocks, width, patch,
             [&](std::int64_t done, const Blocks& some) { score_(keys + done, some); });
      return;
    }
    const std::int64_t full = rectangle.columns / width;
    const std::int64_t rest = rectangle.columns % width;
    add_up(sums, rectangle, width);
    make_keys_(keys, sums, full, rectangle.rows * width);
    if (rest > 0) make_keys_(keys + full, sums + full, 1, rectangle.rows * rest);
  }

  /// Blocks above each other, as wide as the matrix; the last of them may be less high.
  void column_of_blocks(Key* keys, const Grid& grid, const Grid::Part& part,
                        const Patch& patch) const noexcept {
    const auto [row, rows, column, columns] = grid.elements(part);
    const std::int64_t full = rows / grid.height;
    const std::int64_t rest = rows % grid.height;
    const std::ptrdiff_t step = grid.height * patch.pitch;
    const std::byte* const data = patch.at(row, column, matrix_.item_size());
    score_(keys, {data, patch.pitch, step, full, grid.height, columns});
    if (rest > 0) score_(keys + full, {data + full * step, patch.pitch, step, 1, rest, columns});
  }

  void add_up(Score* sums, const Grid::Rectangle& rectangle, std::int64_t width) const noexcept {
    const std::int64_t columns = rectangle.columns;
    // A lane has room for no more sums.
    assert(Grid::divide_up(columns, width) <= small_block_max);
    std::fill_n(sums, Grid::divide_up(columns, width), Score{0});
    for (std::int64_t r = 0; r < rectangle.rows; ++r) {
      matrix_.for_each_run(rectangle.row + r, rectangle.column, columns,
                           [&](const std::byte* data, std::ptrdiff_t stride, std::int64_t count,
                               std::int64_t offset) {
                             accumulate_(sums + offset / width, data, stride, count, offset % width,
                                         width);
                           });
    }
  }

  const Matrix& matrix_;
  Norm norm_;
  Kernels::Score score_;
  Kernels::ScoreAt score_at_;
  Kernels::Bracket bracket_;
  Kernels::BracketMask bracket_mask_;
  Kernels::BracketEnds bracket_ends_;
  Kernels::ZeroLeast zero_least_;
  Kernels::Accumulate accumulate_;
  decltype(SelectionKernels<Key>::make_keys) make_keys_;
};

}  // namespace datasparse
