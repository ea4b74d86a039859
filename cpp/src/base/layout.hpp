/// The order in which a tensor's axes make the matrix that is cut into blocks.
///
/// A layout is a permutation of the axes: the first one becomes the rows, all others the columns,
/// the last one innermost. An empty layout leaves them as they are.
#pragma once

#include <cstdint>
#include <string>

#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"

namespace datasparse {

/// ValueError, beginning with `what`, unless a layout is empty or a permutation of that many axes.
void require_layout(const Axes& layout, int axes, const std::string& what);

/// The shape with its axes in the order of the layout: what a BlockSpec is resolved for.
Axes viewed_shape(const Axes& shape, const Axes& layout);

/// Whether the axes as they lie in memory give the same sequence of elements: those longer than 1
/// keep their order.
bool keeps_order(const Axes& shape, const Axes& layout) noexcept;

/// How large a block is in the matrix of that shape and layout: what of it would lie outside is cut
/// off. `rows` and `columns` are the matrix's.
struct ViewedBlock {
  std::int64_t rows, columns, height, width;
};
ViewedBlock viewed_block(const BlockSpec& spec, const Axes& shape, const Axes& layout) noexcept;

/// Whether the masks of a tensor depend on its layout. They do not, by rule, where the order of
/// columns is no matter to what the blocks are: single elements (of blocks, what lies within the
/// matrix counts); and, where the rows are the data's first axis, blocks that are one column wide
/// or as wide as the matrix. Then the data are taken as they lie in memory: sums are added and ties
/// broken in that order, and nothing is permuted, which would cost two to three times the time.
bool layout_matters(const BlockSpec& spec, const Axes& shape, const Axes& layout) noexcept;

}  // namespace datasparse
