/// The order in which a tensor's axes make the matrix that is cut into blocks.
///
/// A layout is a permutation of the axes: the first one becomes the rows, all others the columns,
/// the last one innermost. An empty layout leaves them as they are.
#pragma once

#include <string>

#include "datasparse/array_view.hpp"

namespace datasparse {

/// ValueError, beginning with `what`, unless a layout is empty or a permutation of that many axes.
void require_layout(const Axes& layout, int axes, const std::string& what);

/// Whether the axes as they lie in memory give the same sequence of elements: those longer than 1
/// keep their order.
bool keeps_order(const Axes& shape, const Axes& layout) noexcept;

}  // namespace datasparse
