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

#include <cstdint>
#include <vector>

#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "kernels/kernels.hpp"
#include "select/cut_hint.hpp"

namespace datasparse {

/// How many of the blocks are pruned: level × blocks in double, rounded half to even, whatever the
/// rounding mode; but no more than leave min_kept.
std::int64_t pruned_blocks(const BlockSpec& spec, std::int64_t blocks) noexcept;

struct MaskJob {
  ArrayView data;
  BlockSpec spec;  ///< resolved for the data's shape, viewed_shape() of the layout
  /// data.size() bytes, in C order of the data's own shape. What is there counts where the spec is
  /// monotone: see DataNormSparsifier.
  std::uint8_t* mask;
  CutHint* hint = nullptr;  ///< of the same mask: read and renewed
  /// The order in which the data's axes make the matrix: the first one its rows, the others its
  /// columns, the last innermost. None: as they are. The mask keeps the data's own order. Where
  /// layout_matters(), a byte per element of scratch memory holds it in the layout's.
  Axes layout{};
  /// Elements that stay zero whatever the rule says: packed like Mask::pack(), a set bit for each;
  /// or nullptr. Where the spec is monotone, they do not count as pruned by the rule before.
  const std::uint8_t* kept_zeros = nullptr;
};

/// Computes all masks. Monotone ones take a byte per element of scratch memory. Small ones are
/// shared out among the threads, large ones split. Allocates its scratch memory first and may throw
/// bad_alloc then; from the first mask byte on it cannot fail. Any table gives the same masks.
void compute_masks(const std::vector<MaskJob>& jobs, const Kernels& table = kernels());

}  // namespace datasparse
