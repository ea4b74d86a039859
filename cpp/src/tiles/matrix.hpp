/// An N-D view seen as rows × columns, as the mask rules see it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "datasparse/array_view.hpp"

namespace datasparse {

/// Rows are the view's first axis; columns are all the others, merged where their strides allow.
/// One axis of N is 1 × N, none is 1 × 1. With a layout (see layout.hpp), of the permuted view.
class Matrix {
 public:
  explicit Matrix(const ArrayView& view, const Axes& layout = {}) noexcept
      : data_(static_cast<std::byte*>(view.data())),
        dtype_(view.dtype()),
        item_size_(static_cast<std::ptrdiff_t>(datasparse::item_size(view.dtype()))) {
    const auto& shape = view.shape();
    const auto& strides = view.strides();
    const auto from = [&layout](int axis) {
      return layout.size() > 0 ? static_cast<int>(layout[axis]) : axis;
    };
    const int row_axes = shape.size() > 1 ? 1 : 0;
    if (row_axes == 1) {
      rows_ = shape[from(0)];
      row_stride_ = strides[from(0)];
    }
    for (int axis = row_axes; axis < shape.size(); ++axis) {
      append(shape[from(axis)], strides[from(axis)]);
    }
  }

  // A copy is of the axes that are there. Room for all of them is half a kilobyte, and a step makes
  // several copies for each group.
  Matrix(const Matrix& other) noexcept { *this = other; }
  Matrix& operator=(const Matrix& other) noexcept {
    data_ = other.data_;
    dtype_ = other.dtype_;
    item_size_ = other.item_size_;
    rows_ = other.rows_;
    row_stride_ = other.row_stride_;
    columns_ = other.columns_;
    first_column_ = other.first_column_;
    axis_count_ = other.axis_count_;
    std::copy_n(other.axes_.begin(), axis_count_, axes_.begin());
    return *this;
  }
  ~Matrix() = default;

  DType dtype() const noexcept { return dtype_; }
  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t columns() const noexcept { return columns_; }

  /// Whether the elements of a row follow each other without a gap; at() is for those.
  bool is_unit() const noexcept {
    return axis_count_ == 0 || (axis_count_ == 1 && axes_[0].stride == item_size_);
  }
  const std::byte* at(std::int64_t row, std::int64_t column) const noexcept {
    return data_ + row * row_stride_ + (first_column_ + column) * item_size_;
  }
  std::ptrdiff_t row_stride() const noexcept { return row_stride_; }
  std::ptrdiff_t item_size() const noexcept { return item_size_; }

  /// Whether neighbours in a column lie nearer to each other than neighbours in a row.
  bool is_transposed() const noexcept {
    return rows_ > 1 && std::abs(row_stride_) < std::abs(inner().stride);
  }

  /// Whether the first elements of successive runs of a row follow each other without a gap.
  bool has_neighbours_in_rows() const noexcept {
    return axis_count_ > 1 && axes_[static_cast<std::size_t>(axis_count_ - 2)].stride == item_size_;
  }

  /// Whether elements of a row lie between neighbours in a column all the same, as where the axes
  /// of a tensor were rotated.
  bool is_interleaved() const noexcept {
    constexpr std::ptrdiff_t far = 16;
    return is_transposed() && std::abs(row_stride_) > far;
  }

  /// The same elements in the same order as one row, where the rows follow each other evenly.
  bool is_one_row() const noexcept {
    if (rows_ == 1 || columns_ == 0) return true;
    const bool even = columns_ == 1 || row_stride_ == columns_ * inner().stride;
    return axis_count_ <= 1 && first_column_ == 0 && even;
  }
  Matrix as_one_row() const noexcept {
    Matrix row = *this;
    if (rows_ != 1) {
      row.rows_ = 1;
      row.columns_ = rows_ * columns_;
      row.axes_[0] = {row.columns_, columns_ == 1 ? row_stride_ : inner().stride};
      row.axis_count_ = 1;
    }
    return row;
  }

  /// The same elements in the same order, for blocks of that size: where these are of one row, no
  /// matter which, in rows that are quicker to read.
  Matrix for_blocks(std::int64_t height, std::int64_t width) const noexcept {
    if (height != 1 || columns_ % width != 0) return *this;
    if (is_one_row()) return as_one_row();
    return are_rows_inside(width) ? with_rows_inside() : *this;
  }

  /// The part of `height` rows and `width` columns from (row, column) on.
  Matrix part(std::int64_t row, std::int64_t column, std::int64_t height,
              std::int64_t width) const noexcept {
    Matrix result = *this;
    result.data_ += row * row_stride_;
    result.first_column_ += column;
    result.rows_ = height;
    result.columns_ = width;
    return result;
  }

  /// Calls visit(pointer, stride, count, offset) for runs of evenly spaced elements that together
  /// are columns [begin, begin + n) of a row, in order; `offset` counts from `begin`.
  template <class Visit>
  void for_each_run(std::int64_t row, std::int64_t begin, std::int64_t n,
                    const Visit& visit) const {
    const auto [length, stride] = inner();
    for (std::int64_t done = 0; done < n;) {
      std::int64_t rest = first_column_ + begin + done;
      const std::int64_t within = rest % length;
      const std::int64_t count = std::min(n - done, length - within);
      std::byte* pointer = data_ + row * row_stride_ + within * stride;
      rest /= length;
      for (int axis = axis_count_ - 2; axis >= 0; --axis) {
        const auto& outer = axes_[static_cast<std::size_t>(axis)];
        pointer += rest % outer.length * outer.stride;
        rest /= outer.length;
      }
      visit(pointer, stride, count, done);
      done += count;
    }
  }

  /// The same for runs that begin evenly: calls visit(pointer, stride, count, offset, runs, step),
  /// where so many runs of `count` elements follow each other, `step` bytes from one to the next.
  template <class Visit>
  void for_each_runs(std::int64_t row, std::int64_t begin, std::int64_t n,
                     const Visit& visit) const {
    const std::int64_t length = inner().length;
    const Axis above = axis_count_ < 2 ? no_axis : axes_[static_cast<std::size_t>(axis_count_ - 2)];
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t place = first_column_ + begin + done;
      std::int64_t runs = 1;
      if (place % length == 0) {
        const std::int64_t left = above.length - place / length % above.length;
        runs = std::max<std::int64_t>(1, std::min((n - done) / length, left));
      }
      const std::int64_t some = runs > 1 ? length : std::min(n - done, length - place % length);
      for_each_run(row, begin + done, some,
                   [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count,
                       std::int64_t) { visit(run, stride, count, done, runs, above.stride); });
      done += runs * some;
    }
  }

 private:
  struct Axis {
    std::int64_t length;
    std::ptrdiff_t stride;
  };
  static constexpr Axis no_axis{1, 0};

  /// Whether each row is made of shorter ones that hold whole blocks, and all of these begin one
  /// element after another: the weight of a transposed convolution, along its inputs. Very short
  /// ones would be slower to read.
  bool are_rows_inside(std::int64_t width) const noexcept {
    constexpr std::int64_t least = 64;
    return axis_count_ == 2 && first_column_ == 0 && axes_[0].stride == item_size_ &&
           row_stride_ == axes_[0].length * item_size_ && axes_[1].length >= least &&
           axes_[1].length % width == 0;
  }
  Matrix with_rows_inside() const noexcept {
    Matrix result = *this;
    result.rows_ = rows_ * axes_[0].length;
    result.row_stride_ = item_size_;
    result.columns_ = axes_[1].length;
    result.axes_[0] = axes_[1];
    result.axis_count_ = 1;
    return result;
  }

  Axis inner() const noexcept {
    return axis_count_ == 0 ? no_axis : axes_[static_cast<std::size_t>(axis_count_ - 1)];
  }

  void append(std::int64_t length, std::ptrdiff_t stride) noexcept {
    columns_ *= length;
    if (length == 1) return;
    if (axis_count_ > 0) {
      auto& last = axes_[static_cast<std::size_t>(axis_count_ - 1)];
      if (last.stride == length * stride) {
        last = {last.length * length, stride};
        return;
      }
    }
    axes_[static_cast<std::size_t>(axis_count_++)] = {length, stride};
  }

  std::byte* data_;
  DType dtype_;
  std::ptrdiff_t item_size_;
  std::int64_t rows_ = 1;
  std::ptrdiff_t row_stride_ = 0;
  std::int64_t columns_ = 1;
  std::int64_t first_column_ = 0;
  int axis_count_ = 0;
  std::array<Axis, Axes::max_size> axes_;  // the first axis_count_ of them
};

}  // namespace datasparse
