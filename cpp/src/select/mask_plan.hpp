/// One mask to be computed, from the job to the engine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/layout.hpp"
#include "datasparse/mask.hpp"
#include "kernels/kernels.hpp"
#include "mask/kept_zeros.hpp"
#include "mask/pattern.hpp"
#include "mask/pruned_share.hpp"
#include "select/engine.hpp"
#include "select/limits.hpp"
#include "select/mask_engine.hpp"
#include "tiles/grid.hpp"
#include "tiles/matrix.hpp"
#include "tiles/permutation.hpp"
#include "tiles/small_blocks.hpp"

namespace datasparse {

/// A job in the numbers of the engine.
struct MaskPlan {
  MaskJobView job;
  Pruning pruning;
  bool is_permuted = false;  // the mask in the order of its layout is another one
  bool is_turned = false;    // by turn_columns(): columns are taken for rows
  bool has_single_elements;  // as blocks: of the whole tensor, where the matrix is a part of one

  explicit MaskPlan(const MaskJobView& of) noexcept
      : job(of), pruning{Matrix(of.data), of.spec.norm} {
    const Axes& shape = of.data.shape();
    const MatrixShape seen = MatrixShape::of(shape, of.layout);
    Matrix& matrix = pruning.matrix;
    if (layout_matters(of.spec, shape, of.layout)) {
      matrix = Matrix(of.data, of.layout);
      is_permuted = !keeps_order(shape, of.layout);
    }
    const Pattern pattern = Pattern::of(of.spec, seen);
    pruning.height = pattern.height;
    pruning.width = pattern.width;
    has_single_elements = pattern.size() == 1;
    matrix = matrix.for_blocks(pattern.height, pattern.width);
    pruning.quota = {PrunedShare::of(of.spec).pruned_of(pattern.blocks_of(seen)), pattern.zeros};
  }

  /// Takes columns for rows where blocks are parts of one column, and all of them lose as many of
  /// their elements: then nothing depends on the order of blocks. Small ones, many side by side,
  /// are quicker as they are (within_blocks.hpp). They are turned all the same where a layout has
  /// turned them before: that spares a permutation. For masks that are computed alone.
  void turn_columns() noexcept {
    const Axes& shape = job.data.shape();
    const Quota& quota = pruning.quota;
    if (shape.size() != 2 || pruning.width != 1) return;
    if (quota.zeros == 0 || quota.zeros >= pruning.height) return;
    const bool is_turned_already = layout_matters(job.spec, shape, job.layout);
    constexpr std::int64_t many = 16;
    const bool is_small = pruning.height <= SmallBlocks::max_size;
    if (is_small && pruning.matrix.columns() >= many && !is_turned_already) return;
    if (quota.blocks < grid().blocks()) return;
    std::swap(pruning.height, pruning.width);
    const Axes layout = is_turned_already ? Axes{0, 1} : Axes{1, 0};
    pruning.matrix = Matrix(job.data, layout).for_blocks(pruning.height, pruning.width);
    is_permuted = !keeps_order(shape, layout);
    is_turned = is_permuted;
  }
  /// Where the mask is permuted.
  Permutation permutation() const noexcept {
    return {job.data.shape(), is_turned ? Axes{1, 0} : job.layout};
  }

  std::int64_t elements() const noexcept {
    return pruning.matrix.rows() * pruning.matrix.columns();
  }
  Grid grid() const noexcept { return Grid(pruning.matrix, pruning.height, pruning.width); }
  bool has_large_blocks() const noexcept {
    return pruning.height * pruning.width > small_block_max;
  }
  /// Else it is one of many that the threads share.
  bool takes_all_threads() const noexcept {
    return elements() >= parallel_from || has_large_blocks();
  }
  /// Saves what the mask is, where somebody asks for it.
  void save() const noexcept {
    if (job.before != nullptr) pack_bits(job.before, job.mask, elements());
  }
  /// The selections within large blocks included.
  Room room() const noexcept {
    const Matrix& matrix = pruning.matrix;
    Room room = room_of(grid());
    if (has_large_blocks()) {
      // Those at the edge are narrower: tiles may hold more of their rows, and their keys may all
      // be kept where those of whole ones are not.
      for (const std::int64_t columns : {pruning.width, matrix.columns() % pruning.width}) {
        if (columns == 0) continue;
        Room within = room_of(Grid(matrix.part(0, 0, pruning.height, columns), 1, 1));
        within.in_memory = std::min(within.blocks, in_memory_max);
        room.include(within);
      }
    }
    if (is_permuted) room.viewed = elements();
    if (job.spec.monotone) room.past = elements();
    return room;
  }
  static Room room_of(const Grid& grid) noexcept {
    const std::int64_t blocks = grid.blocks();
    return {blocks, grid.tiles(), grid.packed_bytes(), blocks <= in_memory_max ? blocks : 0};
  }
};

/// What the mask has pruned up to now, in the order of the layout, in the lane's scratch memory:
/// see past.hpp. nullptr where it is nothing. A mask that is permuted is changed, to what gives the
/// same when it is asked again.
template <class Key>
std::uint8_t* past_of(const Engine<Key>& engine, const Kernels& table, const MaskPlan& plan,
                      int lane, int lanes) noexcept {
  const MaskJobView& job = plan.job;
  std::uint8_t* const past = engine.past(lane);
  std::uint8_t* const own = plan.is_permuted ? job.mask : past;
  // A single element that stays zero is a block that is pruned, whatever it has become meanwhile.
  const std::uint8_t* const kept = plan.has_single_elements ? nullptr : job.kept_zeros;
  if (!mark_free(table, own, job.mask, kept, plan.elements(), lanes)) return nullptr;
  if (plan.is_permuted) {
    plan.permutation().to_view(table, past, job.mask, lanes);
  }
  return past;
}

/// Prunes so many blocks of one matrix by itself. What its mask is may be the `past`. `last` is set
/// where some are pruned, and others not.
template <class Key>
void prune_alone(Engine<Key>& engine, const Kernels& table, const MaskPlan& plan, int lane,
                 int lanes, bool has_past, std::uint64_t* last = nullptr) noexcept {
  const MaskJobView& job = plan.job;
  const std::int64_t pitch = plan.pruning.matrix.columns();
  Target target{{job.mask, pitch}, job.kept_zeros != nullptr, {}, job.hint};
  if (plan.is_permuted) target = {{engine.viewed(lane), pitch}, true, {}, job.hint};
  target.last = last;
  if (has_past) target.past = {past_of(engine, table, plan, lane, lanes), pitch};
  engine.prune(plan.pruning, target, lane, lanes);
  if (plan.is_permuted) {
    plan.permutation().from_view(table, job.mask, target.mask.bytes, lanes);
  }
  if (job.kept_zeros != nullptr) {
    zero_kept(table, job.mask, job.kept_zeros, plan.elements(), lanes);
  }
}

}  // namespace datasparse
