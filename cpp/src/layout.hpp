/// The order in which the axes of data make the matrix that blocks are cut from.
#pragma once

#include <string>

#include "datasparse/array_view.hpp"
#include "datasparse/error.hpp"

namespace datasparse {

/// ValueError, beginning with `what`, unless `layout` names each of that many axes once. None at
/// all means the order that they have.
inline void require_layout(const Axes& layout, int axes, const std::string& what) {
  if (layout.size() == 0) return;
  bool seen[Axes::max_size] = {};
  bool valid = layout.size() == axes;
  for (int i = 0; valid && i < axes; ++i) {
    const std::int64_t axis = layout[i];
    valid = axis >= 0 && axis < axes && !seen[axis];
    if (valid) seen[axis] = true;
  }
  if (valid) return;
  throw ValueError(what + " must name each of the data's " + std::to_string(axes) +
                   " axes once, got " + to_string(layout));
}

/// The shape that the matrix is made of: the first axis its rows, the others its columns. The
/// layout is one that require_layout() accepts.
inline Axes viewed_shape(const Axes& shape, const Axes& layout) {
  if (layout.size() == 0) return shape;
  Axes viewed;
  for (const std::int64_t axis : layout) viewed.push_back(shape[static_cast<int>(axis)]);
  return viewed;
}

}  // namespace datasparse
