/// What is pruned together: the blocks of a matrix, and how many elements of each. N:M is one row
/// of M elements, N of which go.
#pragma once

#include <algorithm>
#include <cstdint>

#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"

namespace datasparse {

/// The matrix that blocks are cut from.
struct MatrixShape {
  std::int64_t rows, columns;

  /// Of a tensor: rows are the first axis of its layout, columns all others.
  static MatrixShape of(const Axes& shape, const Axes& layout = {}) noexcept;
};

constexpr std::int64_t whole_axis = -1;  // in the place of the length of a block

/// Whether the height or the width of a block may be given as that.
constexpr bool is_length(std::int64_t length) noexcept {
  return length == whole_axis || (length >= 1 && length <= std::int64_t{1} << 60);
}
/// The same, with a whole axis of that many rows or columns filled in.
constexpr std::int64_t filled_in(std::int64_t length, std::int64_t axis) noexcept {
  return length == whole_axis ? std::max<std::int64_t>(axis, 1) : length;
}

struct Pattern {
  std::int64_t height, width;  // of a block: what would lie outside the matrix is cut off
  std::int64_t zeros;          // in each pruned block

  /// Of a spec, be it resolved or not.
  static Pattern of(const BlockSpec& spec, const MatrixShape& matrix) noexcept;

  std::int64_t size() const noexcept { return height * width; }
  /// How many blocks there are, partial ones at the edges included.
  std::int64_t blocks_of(const MatrixShape& matrix) const noexcept;
  /// How many elements are zeroed where so many blocks are pruned, partial ones at the edges among
  /// them or not. O(1).
  ZeroCount zeros_in(const MatrixShape& matrix, std::int64_t pruned) const;
};

/// Whether the masks of a tensor depend on its layout. They do not, by rule, where the order of
/// columns is no matter to what the blocks are. So it is with single elements, and with blocks of
/// which no more lies within the matrix. Where the rows are the data's first axis, so it is with
/// blocks that are one column wide, or as wide as the matrix. Then the data are taken as they lie
/// in memory: sums are added and ties broken in that order. Nothing is permuted, which would cost
/// two to three times the time.
bool layout_matters(const BlockSpec& spec, const Axes& shape, const Axes& layout) noexcept;

}  // namespace datasparse
