/// The engines that look through the parts of one process.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/parallel.hpp"
#include "kernels/kernels.hpp"
#include "select/engine.hpp"
#include "select/mask_plan.hpp"
#include "select/shard_item.hpp"

namespace datasparse {

using ShardItems = std::vector<std::unique_ptr<ShardItem>>;

/// One for each type of keys, with scratch memory for all items.
class ShardEngines {
 public:
  explicit ShardEngines(const ShardItems& items) {
    allocate<std::uint32_t>(items);
    allocate<std::uint64_t>(items);
  }

  const Kernels& table() const noexcept { return table_; }
  int threads() const noexcept { return threads_; }
  int lanes_of(const ShardItem& item) const noexcept {
    return item.has_blocks && item.mask->takes_all_threads() ? threads_ : 1;
  }
  template <class Key>
  Engine<Key>& engine() const noexcept {
    if constexpr (sizeof(Key) == 8) {
      return kept_->wide;
    } else {
      return kept_->narrow;
    }
  }

  /// Calls work(engine, task), of the item's type of keys.
  template <class Work>
  void with_task(ShardItem& item, int lane, int lanes, const Work& work) const noexcept {
    if (item.is_wide()) {
      with_task_of<std::uint64_t>(item, lane, lanes, work);
    } else {
      with_task_of<std::uint32_t>(item, lane, lanes, work);
    }
  }
  template <class Key, class Work>
  void with_task_of(ShardItem& item, int lane, int lanes, const Work& work) const noexcept {
    Engine<Key>& own = engine<Key>();
    const Grid grid = item.mask->grid();
    const std::int64_t pitch = item.mask->pruning.matrix.columns();
    Target target{{nullptr, pitch}};
    if (item.job.mask.spec.monotone) {
      MaskPlan plan = *item.mask;
      if (item.own_past.bytes() > 0) plan.job.mask = item.own_past.get();
      target.past = {past_of(own, table_, plan, lane, lanes), pitch};
    }
    auto task = own.task_of(grid, item.mask->pruning, target, lane, lanes, {});
    task.returning = item.order.is_returning;
    work(own, task);
  }

 private:
  struct Engines {
    Engine<std::uint32_t> narrow;
    Engine<std::uint64_t> wide;
  };
  /// A thread keeps its scratch memory from one step to the next, as with masks of whole tensors.
  static std::shared_ptr<Engines> engines_of_thread() {
    thread_local std::shared_ptr<Engines> kept;
    const bool is_free = kept != nullptr && kept.use_count() == 1;
    if (!is_free || kept->narrow.bytes_held() + kept->wide.bytes_held() > kept_bytes_max) {
      kept = std::make_shared<Engines>();
    }
    return kept;
  }
  template <class Key>
  void allocate(const ShardItems& items) {
    Room shared, largest;
    std::int64_t large_blocks = 0;
    bool any = false;
    for (const auto& item : items) {
      if (item->is_wide() != (sizeof(Key) == 8)) continue;
      any = true;
      if (!item->has_blocks) continue;
      if (!item->mask->takes_all_threads()) shared.include(item->mask->room());
      largest.include(item->mask->room());
      if (item->mask->has_large_blocks()) large_blocks = std::max(large_blocks, item->blocks());
    }
    if (any) engine<Key>().allocate(table_, threads_, shared, largest, large_blocks);
  }

  const Kernels& table_ = kernels();
  const int threads_ = available_threads();
  const std::shared_ptr<Engines> kept_ = engines_of_thread();
};

}  // namespace datasparse
