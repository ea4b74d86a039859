/// Computes masks, one or many at once. See block_mask.hpp for what a mask is.
///
/// How: the matrix is cut into tiles of at most 4,096 blocks. A tile is scored on demand, never
/// stored: once per round of a radix selection that finds the score of the last block to prune, and
/// once more when the mask is written. Few bytes are kept, and every stage is parallel over tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"

namespace datasparse {

struct MaskJob {
  ArrayView data;
  BlockSpec spec;      ///< resolved for the data's shape
  std::uint8_t* mask;  ///< data.size() bytes
};

/// Computes all masks. Small ones are shared out among the threads, large ones split. Allocates its
/// scratch memory first and may throw bad_alloc then; from the first mask byte on it cannot fail.
void compute_masks(const std::vector<MaskJob>& jobs);

}  // namespace datasparse
