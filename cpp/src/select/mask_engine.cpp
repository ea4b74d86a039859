#include "select/mask_engine.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "base/layout.hpp"
#include "base/parallel.hpp"
#include "datasparse/pool.hpp"
#include "kernels/kernels.hpp"
#include "select/engine.hpp"
#include "select/limits.hpp"
#include "select/mask_plan.hpp"
#include "select/pool_engine.hpp"

namespace datasparse {
namespace {

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
    is_pooled_ = false;
    if (engine_.bytes_held() > kept_bytes_max) engine_ = Engine<Key>();
  }

  /// One that is computed by itself, or else by a pool.
  void add(const MaskPlan& plan, bool by_itself) {
    const bool is_large = plan.takes_all_threads();
    if (by_itself) (is_large ? large_ : small_).push_back(plan);
    is_pooled_ = is_pooled_ || !by_itself;
    elements_ += plan.elements();
    if (!is_large) shared_.include(plan.room());
    largest_.include(plan.room());
    if (plan.has_large_blocks()) large_blocks_ = std::max(large_blocks_, plan.grid().blocks());
  }

  void allocate(const Kernels& table, int threads) {
    table_ = &table;
    threads_ = elements_ < parallel_from && !is_pooled_ ? 1 : threads;
    if (elements_ > 0) engine_.allocate(table, threads_, shared_, largest_, large_blocks_);
  }

  void run() noexcept {
    const auto prune = [this](const MaskPlan& plan, int lane, int lanes) {
      plan.save();
      prune_alone(engine_, *table_, plan, lane, lanes, plan.job.spec.monotone);
    };
    parallel_for(
        static_cast<std::int64_t>(small_.size()), threads_,
        [&](std::int64_t i, int worker) { prune(small_[static_cast<std::size_t>(i)], worker, 1); });
    for (const MaskPlan& plan : large_) {
      prune(plan, 0, plan.elements() < parallel_from ? 1 : threads_);
    }
  }

  Engine<Key>& engine() noexcept { return engine_; }

 private:
  const Kernels* table_ = nullptr;
  std::vector<MaskPlan> small_, large_;
  Room shared_, largest_;
  std::int64_t elements_ = 0, large_blocks_ = 0;
  int threads_ = 1;
  bool is_pooled_ = false;
  Engine<Key> engine_;
};

/// The pools among some jobs.
class Pools {
 public:
  void reserve(std::size_t jobs) {
    masks_.reserve(jobs);
    groups_.reserve(jobs);
  }
  void add(const MaskPlan& mask) {
    masks_.push_back(mask);
    elements_ += mask.elements();
    const MaskJobView& job = mask.job;
    groups_.push_back({&job.spec, viewed_shape(job.data.shape(), job.layout)});
  }
  bool empty() const noexcept { return masks_.empty(); }
  std::int64_t elements() const noexcept { return elements_; }

  /// ValueError from PoolPlan::of().
  void allocate(PoolScratch& scratch) {
    for (const auto& [name, places, zeros] : pools_of(groups_)) {
      std::vector<MaskPlan*> masks;
      std::vector<PoolGroup> groups;
      groups.reserve(places.size());
      for (const std::size_t i : places) {
        masks.push_back(&masks_[i]);
        groups.push_back(groups_[i]);
      }
      pools_.push_back(std::make_unique<Pool>(PoolPlan::of(name, groups), masks));
      pools_.back()->allocate(scratch);
    }
  }

  void run(const PoolEngines& engines) noexcept {
    parallel_for(static_cast<std::int64_t>(masks_.size()), engines.threads,
                 [this](std::int64_t i, int) { masks_[static_cast<std::size_t>(i)].save(); });
    for (const auto& pool : pools_) pool->run(engines);
  }

 private:
  std::vector<MaskPlan> masks_;
  std::vector<PoolGroup> groups_;
  std::vector<std::unique_ptr<Pool>> pools_;
  std::int64_t elements_ = 0;
};

}  // namespace

void compute_viewed_masks(const std::vector<MaskJobView>& jobs, const Kernels& table) {
  const DefaultFloatEnvironment environment;
  thread_local Batch<std::uint32_t> narrow;
  thread_local Batch<std::uint64_t> wide;
  narrow.clear();
  wide.clear();
  Pools pools;
  pools.reserve(static_cast<std::size_t>(std::count_if(
      jobs.begin(), jobs.end(), [](const MaskJobView& job) { return !job.spec.pool.empty(); })));
  for (const auto& job : jobs) {
    if (job.data.size() == 0) continue;
    MaskPlan plan(job);
    const bool alone = job.spec.pool.empty();
    if (alone) plan.turn_columns();
    if (job.data.dtype() == DType::float64) {
      wide.add(plan, alone);
    } else {
      narrow.add(plan, alone);
    }
    if (!alone) pools.add(plan);
  }
  const int threads = available_threads();
  narrow.allocate(table, threads);
  wide.allocate(table, threads);
  thread_local PoolScratch scratch;
  if (!pools.empty()) pools.allocate(scratch);
  narrow.run();
  wide.run();
  const int of_pools = pools.elements() < parallel_from ? 1 : threads;
  pools.run({table, narrow.engine(), wide.engine(), of_pools});
  narrow.clear();
  wide.clear();
  if (scratch.bytes() > kept_bytes_max) scratch.release();
}

void compute_masks(const std::vector<MaskJob>& jobs, const Kernels& table) {
  std::vector<MaskJobView> views;
  views.reserve(jobs.size());
  for (const auto& job : jobs) views.push_back(job.view());
  compute_viewed_masks(views, table);
}

}  // namespace datasparse
