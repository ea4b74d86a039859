/// Elements of a matrix where kernels can read them: those of a row follow each other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.hpp"
#include "tiles/grid.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {

/// The rows and columns of a matrix from (row, column) on, in the matrix's own memory or packed
/// elsewhere. Without data where they are neither.
struct Patch {
  const std::byte* data = nullptr;
  std::ptrdiff_t pitch = 0;  // bytes from one row to the next
  std::int64_t row = 0, column = 0;

  explicit operator bool() const noexcept { return data != nullptr; }
  const std::byte* at(std::int64_t r, std::int64_t c, std::ptrdiff_t item) const noexcept {
    return data + (r - row) * pitch + (c - column) * item;
  }

  /// All of a matrix, where its elements lie right as they are.
  static Patch of(const Matrix& matrix) noexcept {
    return matrix.is_unit() ? Patch{matrix.at(0, 0), matrix.row_stride(), 0, 0} : Patch{};
  }
};

namespace packing {

/// Copies items of that size, `stride` bytes apart, to one after another.
template <std::size_t item>
void copy_run(std::byte* out, const std::byte* in, std::ptrdiff_t stride, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    std::memcpy(out + i * static_cast<std::ptrdiff_t>(item), in + i * stride, item);
  }
}

/// Packs a part of a matrix row by row. Of a permuted tensor, whose runs of elements begin one
/// after another, all runs of a row at once: they share their cache lines.
template <std::size_t item>
void pack_rows(const Kernels& table, std::byte* out, std::ptrdiff_t pitch, const Matrix& matrix,
               const Grid::Rectangle& rectangle) noexcept {
  constexpr auto size = static_cast<std::ptrdiff_t>(item);
  for (std::int64_t r = 0; r < rectangle.rows; ++r) {
    matrix.for_each_runs(rectangle.row + r, rectangle.column, rectangle.columns,
                         [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t n,
                             std::int64_t offset, std::int64_t runs, std::ptrdiff_t step) {
                           std::byte* const to = out + r * pitch + offset * size;
                           if (item == 4 && runs > 1 && step == size) {
                             return table.transpose(to, n * size, run, stride, runs, n);
                           }
                           for (std::int64_t i = 0; i < runs; ++i) {
                             if constexpr (item == 4) {
                               table.copy_run(to + i * n * size, run + i * step, stride, n);
                             } else {
                               copy_run<item>(to + i * n * size, run + i * step, stride, n);
                             }
                           }
                         });
  }
}

/// Packs a part of a matrix. Goes down the columns of a few rows at a time: where a matrix is
/// transposed, the elements of a column share their cache lines.
template <std::size_t item>
void pack(const Kernels& table, std::byte* out, std::ptrdiff_t pitch, const Matrix& matrix,
          const Grid::Rectangle& rectangle) noexcept {
  if (!matrix.is_transposed() || (matrix.is_interleaved() && matrix.has_neighbours_in_rows())) {
    return pack_rows<item>(table, out, pitch, matrix, rectangle);
  }
  const std::int64_t row = rectangle.row;
  const std::int64_t rows = rectangle.rows;
  const std::int64_t column = rectangle.column;
  const std::int64_t columns = rectangle.columns;
  matrix.for_each_run(
      row, column, columns,
      [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t n, std::int64_t offset) {
        std::byte* const to = out + offset * static_cast<std::ptrdiff_t>(item);
        const std::ptrdiff_t down = matrix.row_stride();
        if (item == 4 && down == 4) {
          return table.transpose(to, pitch, run, stride, rows, n);
        }
        constexpr std::int64_t together = 16;
        for (std::int64_t first = 0; first < rows; first += together) {
          const std::int64_t some = std::min(together, rows - first);
          for (std::int64_t i = 0; i < n; ++i) {
            const std::byte* const from = run + i * stride + first * down;
            std::byte* const target = to + first * pitch + i * static_cast<std::ptrdiff_t>(item);
            for (std::int64_t r = 0; r < some; ++r) {
              std::memcpy(target + r * pitch, from + r * down, item);
            }
          }
        }
      });
}

}  // namespace packing

/// Copies a part of a grid's matrix to `out`, which has room for packed_bytes().
inline Patch pack(const Kernels& table, std::byte* out, const Grid& grid,
                  const Grid::Rectangle& part) noexcept {
  const Matrix& matrix = grid.matrix;
  const std::ptrdiff_t pitch = grid.packed_pitch(part.columns);
  switch (matrix.item_size()) {
    case 2: packing::pack<2>(table, out, pitch, matrix, part); break;
    case 4: packing::pack<4>(table, out, pitch, matrix, part); break;
    default: packing::pack<8>(table, out, pitch, matrix, part); break;
  }
  return {out, pitch, part.row, part.column};
}

}  // namespace datasparse
