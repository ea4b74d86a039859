/// Computes masks, one or many at once. block_mask.hpp says what a mask is, and ARCHITECTURE.md how
/// it is computed.
#pragma once

#include <vector>

#include "datasparse/block_mask.hpp"
#include "datasparse/mask_rule.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

/// Of block masks; the spec may be resolved or not.
using MaskJob = JobOf<BlockSpec>;
using MaskJobView = JobView<BlockSpec>;

/// Computes all masks. Monotone ones, and those whose layout or whose long columns make another
/// order of blocks, take a byte per element of scratch memory. Small ones are shared out among the
/// threads, large ones split. Allocates its scratch memory first and may throw bad_alloc then; from
/// the first mask byte on it cannot fail. Any table gives the same masks.
void compute_masks(const std::vector<MaskJob>& jobs, const Kernels& table = kernels());
/// The same of jobs that others keep.
void compute_viewed_masks(const std::vector<MaskJobView>& jobs, const Kernels& table = kernels());

}  // namespace datasparse
