/// The bytes of a mask, in the order of its data's own axes and in that of a layout.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "base/parallel.hpp"
#include "datasparse/array_view.hpp"
#include "kernels/kernels.hpp"
#include "tiles/grid.hpp"

namespace datasparse {

class Permutation {
 public:
  /// Of data of that shape, which has elements.
  Permutation(const Axes& shape, const Axes& layout) noexcept {
    std::array<std::int64_t, Axes::max_size> steps{};
    std::int64_t step = 1;
    for (int axis = shape.size() - 1; axis >= 0; --axis) {
      steps[static_cast<std::size_t>(axis)] = step;
      step *= shape[axis];
    }
    for (const std::int64_t from : layout) {
      const std::int64_t length = shape[static_cast<int>(from)];
      if (length == 1) continue;
      const std::int64_t own = steps[static_cast<std::size_t>(from)];
      if (count_ > 0 && axis(count_ - 1).own == length * own) {
        axis(count_ - 1) = {axis(count_ - 1).length * length, own, 0};
      } else {
        axis(count_++) = {length, own, 0};
      }
    }
    step = 1;
    for (int i = count_ - 1; i >= 0; --i) {
      axis(i).viewed = step;
      step *= axis(i).length;
    }
  }

  /// Both are in C order, of the layout's shape and of the data's own; bytes are 0 or 1.
  void to_view(const Kernels& table, std::uint8_t* view, const std::uint8_t* own,
               int threads) const noexcept {
    copy<&Axis::viewed, &Axis::own>(table, view, own, threads);
  }
  void from_view(const Kernels& table, std::uint8_t* own, const std::uint8_t* view,
                 int threads) const noexcept {
    copy<&Axis::own, &Axis::viewed>(table, own, view, threads);
  }

 private:
  struct Axis {
    std::int64_t length;
    std::int64_t own, viewed;  // from one index to the next, in either order
  };
  using Step = std::int64_t Axis::*;

  Axis& axis(int i) noexcept { return axes_[static_cast<std::size_t>(i)]; }
  const Axis& axis(int i) const noexcept { return axes_[static_cast<std::size_t>(i)]; }

  /// The axis along which bytes follow each other.
  template <Step step>
  int innermost() const noexcept {
    int found = 0;
    while (found < count_ - 1 && axis(found).*step != 1) ++found;
    return found;
  }

  /// Transposes planes of the two axes along which bytes follow each other, piece by piece.
  template <Step to, Step from>
  void copy(const Kernels& table, std::uint8_t* out, const std::uint8_t* in,
            int threads) const noexcept {
    const int row_axis = innermost<to>(), column_axis = innermost<from>();
    const bool plane = row_axis != column_axis;
    // Few enough for what is read to stay in the nearest cache until its lines are used up.
    constexpr std::int64_t rows_max = 256, columns_max = 1024, piece_min = 1 << 16;
    const std::int64_t rows = plane ? axis(row_axis).length : 1;
    const std::int64_t columns = axis(column_axis).length;
    const std::int64_t across = Grid::divide_up(columns, columns_max);
    const std::int64_t pieces = Grid::divide_up(rows, rows_max) * across;
    std::int64_t planes = 1;
    for (int i = 0; i < count_; ++i) {
      if (i != row_axis && i != column_axis) planes *= axis(i).length;
    }
    const auto copy_piece = [&](std::int64_t index) {
      std::uint8_t* target = out;
      const std::uint8_t* source = in;
      std::int64_t rest = index / pieces;
      for (int i = count_ - 1; i >= 0; --i) {
        if (i == row_axis || i == column_axis) continue;
        target += rest % axis(i).length * axis(i).*to;
        source += rest % axis(i).length * axis(i).*from;
        rest /= axis(i).length;
      }
      const std::int64_t r = index % pieces / across * rows_max;
      const std::int64_t c = index % pieces % across * columns_max;
      const std::int64_t some_rows = std::min(rows_max, rows - r);
      const std::int64_t some_columns = std::min(columns_max, columns - c);
      if (!plane) {
        std::memcpy(target + c, source + c, static_cast<std::size_t>(some_columns));
        return;
      }
      const std::int64_t out_pitch = axis(column_axis).*to, in_pitch = axis(row_axis).*from;
      table.transpose_mask(target + r + c * out_pitch, out_pitch, source + r * in_pitch + c,
                           in_pitch, some_rows, some_columns);
    };
    const std::int64_t piece = std::min(rows, rows_max) * std::min(columns, columns_max);
    const std::int64_t together = std::max<std::int64_t>(1, piece_min / piece);
    const std::int64_t all = planes * pieces;
    parallel_for(Grid::divide_up(all, together), threads, [&](std::int64_t i, int) {
      const std::int64_t end = std::min(all, (i + 1) * together);
      for (std::int64_t index = i * together; index < end; ++index) copy_piece(index);
    });
  }

  std::array<Axis, Axes::max_size> axes_{};
  int count_ = 0;
};

}  // namespace datasparse
