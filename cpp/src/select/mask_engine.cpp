#include "select/mask_engine.hpp"

#include <algorithm>

#include "base/layout.hpp"
#include "base/parallel.hpp"
#include "kernels/kernels.hpp"
#include "mask/kept_zeros.hpp"
#include "mask/level.hpp"
#include "mask/pattern.hpp"
#include "select/engine.hpp"
#include "select/limits.hpp"
#include "tiles/grid.hpp"
#include "tiles/matrix.hpp"
#include "tiles/permutation.hpp"

namespace datasparse {
namespace {

/// A job in the numbers of the engine.
struct Plan {
  const MaskJob* job;
  Pruning pruning;
  bool is_permuted = false;  // the mask in the order of its layout is another one

  explicit Plan(const MaskJob& of) noexcept : job(&of), pruning{Matrix(of.data), of.spec.norm} {
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
    // Narrow matrices make short strips; where nothing depends on the rows, see them as one.
    if (pattern.height == 1 && matrix.columns() % pattern.width == 0 && matrix.is_one_row()) {
      matrix = matrix.as_one_row();
    }
    pruning.quota = {Level::of(of.spec).pruned_of(grid().blocks()), pattern.zeros};
  }

  std::int64_t elements() const noexcept {
    return pruning.matrix.rows() * pruning.matrix.columns();
  }
  Grid grid() const noexcept { return Grid(pruning.matrix, pruning.height, pruning.width); }
  bool has_large_blocks() const noexcept {
    return pruning.height * pruning.width > small_block_max;
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
    if (job->spec.monotone) room.past = elements();
    return room;
  }
  static Room room_of(const Grid& grid) noexcept {
    const std::int64_t blocks = grid.blocks();
    return {blocks, grid.tiles(), grid.packed_bytes(), blocks <= in_memory_max ? blocks : 0};
  }
};

/// Scratch memory that a thread keeps from one step to the next, since fresh memory costs as much
/// as a step: what would be more is given back.
constexpr std::int64_t kept_bytes_max = std::int64_t{64} << 20;

/// Jobs whose scores are of one type.
template <class Key>
class Batch {
 public:
  /// Forgets the jobs of the last batch.
  void clear() noexcept {
    small_.clear();
    large_.clear();
    shared_ = largest_ = Room();
    elements_ = large_blocks_ = 0;
    if (engine_.bytes_held() > kept_bytes_max) engine_ = Engine<Key>();
  }

  void add(const MaskJob& job) {
    const Plan plan(job);
    // A large one gets all threads for itself.
    const bool alone = plan.elements() >= parallel_from || plan.has_large_blocks();
    (alone ? large_ : small_).push_back(plan);
    elements_ += plan.elements();
    if (!alone) shared_.include(plan.room());
    largest_.include(plan.room());
    if (plan.has_large_blocks()) large_blocks_ = std::max(large_blocks_, plan.grid().blocks());
  }

  void allocate(const Kernels& table, int threads) {
    table_ = &table;
    threads_ = elements_ < parallel_from ? 1 : threads;
    if (elements_ > 0) engine_.allocate(table, threads_, shared_, largest_, large_blocks_);
  }

  void run() noexcept {
    parallel_for(static_cast<std::int64_t>(small_.size()), threads_,
                 [this](std::int64_t i, int worker) {
                   prune(small_[static_cast<std::size_t>(i)], worker, 1);
                 });
    for (const Plan& plan : large_) prune(plan, 0, plan.elements() < parallel_from ? 1 : threads_);
  }

 private:
  void prune(const Plan& plan, int lane, int lanes) noexcept {
    const MaskJob& job = *plan.job;
    const std::int64_t pitch = plan.pruning.matrix.columns();
    Target target{{job.mask, pitch}, job.kept_zeros != nullptr, {}, job.hint};
    if (plan.is_permuted) target = {{engine_.viewed(lane), pitch}, true, {}, job.hint};
    if (job.spec.monotone) target.past = {past_of(plan, lane, lanes), pitch};
    engine_.prune(plan.pruning, target, lane, lanes);
    if (plan.is_permuted) {
      const Permutation order(job.data.shape(), job.layout);
      order.from_view(*table_, job.mask, target.mask.bytes, lanes);
    }
    if (job.kept_zeros != nullptr) {
      zero_kept(*table_, job.mask, job.kept_zeros, plan.elements(), lanes);
    }
  }

  /// What the mask has pruned up to now, in the order of the layout: see past.hpp. Changes the
  /// mask, which is written anew. nullptr where it is nothing.
  std::uint8_t* past_of(const Plan& plan, int lane, int lanes) noexcept {
    const MaskJob& job = *plan.job;
    std::uint8_t* const past = engine_.past(lane);
    std::uint8_t* const own = plan.is_permuted ? job.mask : past;
    // A single element that stays zero is a block that is pruned, whatever it has become meanwhile.
    const std::uint8_t* const kept =
        plan.pruning.height * plan.pruning.width > 1 ? job.kept_zeros : nullptr;
    if (!mark_free(*table_, own, job.mask, kept, plan.elements(), lanes)) return nullptr;
    if (plan.is_permuted) {
      Permutation(job.data.shape(), job.layout).to_view(*table_, past, job.mask, lanes);
    }
    return past;
  }

  const Kernels* table_ = nullptr;
  std::vector<Plan> small_, large_;
  Room shared_, largest_;
  std::int64_t elements_ = 0, large_blocks_ = 0;
  int threads_ = 1;
  Engine<Key> engine_;
};

}  // namespace

void compute_masks(const std::vector<MaskJob>& jobs, const Kernels& table) {
  const DefaultFloatEnvironment environment;
  thread_local Batch<std::uint32_t> narrow;
  thread_local Batch<std::uint64_t> wide;
  narrow.clear();
  wide.clear();
  for (const auto& job : jobs) {
    if (job.data.size() == 0) continue;
    if (job.data.dtype() == DType::float64) {
      wide.add(job);
    } else {
      narrow.add(job);
    }
  }
  const int threads = available_threads();
  narrow.allocate(table, threads);
  wide.allocate(table, threads);
  narrow.run();
  wide.run();
  narrow.clear();
  wide.clear();
}

}  // namespace datasparse
