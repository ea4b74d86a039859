/// Computes masks, one or many at once. See block_mask.hpp for what a mask is.
///
/// How: the matrix is cut into tiles of at most 16,384 blocks. Up to 32,768 blocks are scored once
/// and their keys kept. Above, the last computation or a sample brackets the key at which pruning
/// stops; one pass compares the keys as they are made, writes the mask as if pruning stopped where
/// it most likely does, counts, and collects the few candidates in the bracket; the exact cut is
/// selected among those, and the wrong ones are corrected. What defeats samples is bracketed by
/// counting instead, 13 bits of the keys a round. Scores are never stored for the whole tensor;
/// every stage but the selection is parallel over tiles.
#pragma once

#include <vector>

#include "datasparse/block_mask.hpp"
#include "datasparse/mask_rule.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

/// Of block masks; the spec may be resolved or not.
using MaskJob = JobOf<BlockSpec>;

/// Computes all masks. Monotone ones take a byte per element of scratch memory. Small ones are
/// shared out among the threads, large ones split. Allocates its scratch memory first and may throw
/// bad_alloc then; from the first mask byte on it cannot fail. Any table gives the same masks.
void compute_masks(const std::vector<MaskJob>& jobs, const Kernels& table = kernels());

}  // namespace datasparse
