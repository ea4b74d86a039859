#include "mask/pattern.hpp"

#include <algorithm>
#include <array>

#include "base/layout.hpp"

namespace datasparse {

MatrixShape MatrixShape::of(const Axes& shape, const Axes& layout) noexcept {
  const int first = layout.size() > 0 ? static_cast<int>(layout[0]) : 0;
  MatrixShape matrix{1, 1};
  for (int axis = 0; axis < shape.size(); ++axis) {
    (axis == first && shape.size() > 1 ? matrix.rows : matrix.columns) *= shape[axis];
  }
  return matrix;
}

Pattern Pattern::of(const BlockSpec& spec, const MatrixShape& matrix) noexcept {
  const auto within = [](std::int64_t length, std::int64_t all) {
    return length < 0 ? all : std::min(length, all);
  };
  const std::int64_t height = within(spec.block_height, matrix.rows);
  const std::int64_t width = within(spec.block_width, matrix.columns);
  const std::int64_t size = height * width;
  return {height, width, std::min(spec.zeros_per_block.value_or(size), size)};
}

std::int64_t Pattern::blocks_of(const MatrixShape& matrix) const noexcept {
  if (size() == 0) return 0;
  return ((matrix.rows - 1) / height + 1) * ((matrix.columns - 1) / width + 1);
}

ZeroCount Pattern::zeros_in(const MatrixShape& matrix, std::int64_t pruned) const {
  if (size() == 0) return {};
  // Whole blocks, and the partial ones at the right, at the bottom, and in the corner.
  struct Kind {
    std::int64_t number, zeros;  // zeros in each
  };
  const auto blocks = [this](std::int64_t number, std::int64_t elements) {
    return Kind{number, std::min(elements, zeros)};
  };
  const std::int64_t down = matrix.rows / height, across = matrix.columns / width;
  const std::int64_t below = matrix.rows % height, beside = matrix.columns % width;
  std::array<Kind, 4> kinds{blocks(down * across, height * width),
                            blocks(beside != 0 ? down : 0, height * beside),
                            blocks(below != 0 ? across : 0, below * width),
                            blocks(below != 0 && beside != 0 ? 1 : 0, below * beside)};

  const auto zeros_by_order = [&] {
    std::int64_t count = 0, left = pruned;
    for (const auto& kind : kinds) {
      const std::int64_t some = std::min(left, kind.number);
      count += some * kind.zeros;
      left -= some;
    }
    return count;
  };
  std::sort(kinds.begin(), kinds.end(),
            [](const Kind& a, const Kind& b) { return a.zeros < b.zeros; });
  const std::int64_t least = zeros_by_order();
  std::reverse(kinds.begin(), kinds.end());
  return {least, zeros_by_order()};
}

bool layout_matters(const BlockSpec& spec, const Axes& shape, const Axes& layout) noexcept {
  if (layout.size() < 2) return false;
  const MatrixShape matrix = MatrixShape::of(shape, layout);
  const Pattern pattern = Pattern::of(spec, matrix);
  if (matrix.rows == shape[0] && keeps_order(shape, layout)) return false;
  if (pattern.height <= 1 && pattern.width <= 1) return false;
  return layout[0] != 0 || (pattern.width > 1 && pattern.width < matrix.columns);
}

}  // namespace datasparse
