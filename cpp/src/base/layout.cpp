#include "base/layout.hpp"

#include <algorithm>

#include "datasparse/error.hpp"

namespace datasparse {

void require_layout(const Axes& layout, int axes, const std::string& what) {
  if (layout.size() == 0) return;
  const auto has = [&layout](int axis) {
    return std::find(layout.begin(), layout.end(), std::int64_t{axis}) != layout.end();
  };
  bool valid = layout.size() == axes;
  for (int axis = 0; axis < axes; ++axis) valid = valid && has(axis);
  if (valid) return;
  throw ValueError(what + " must be a permutation of the " + std::to_string(axes) +
                   " axes, counted from 0, got " + to_string(layout));
}

Axes viewed_shape(const Axes& shape, const Axes& layout) {
  if (layout.size() == 0) return shape;
  Axes result;
  for (const std::int64_t axis : layout) result.push_back(shape[static_cast<int>(axis)]);
  return result;
}

bool keeps_order(const Axes& shape, const Axes& layout) noexcept {
  std::int64_t last = -1;
  for (const std::int64_t axis : layout) {
    if (shape[static_cast<int>(axis)] == 1) continue;
    if (axis < last) return false;
    last = axis;
  }
  return true;
}

}  // namespace datasparse
