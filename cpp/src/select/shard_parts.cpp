#include "datasparse/shard_parts.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/float_environment.hpp"
#include "base/parallel.hpp"
#include "datasparse/error.hpp"
#include "select/shard_counting.hpp"
#include "select/shard_engines.hpp"
#include "select/shard_item.hpp"

namespace datasparse {

class ShardParts::Impl {
 public:
  Impl(const std::vector<ShardJob>& jobs, const std::vector<ShardSearch>& searches)
      : searches_(searches), items_(items_of(jobs)) {
    for (const auto& search : searches_) {
      bool any_wide = false, any_narrow = false, any_norm = false;
      for (const std::size_t group : search.groups) {
        require_job(group);
        (items_[group]->is_wide() ? any_wide : any_narrow) = true;
        any_norm = any_norm || items_[group]->job.mask.spec.normalize;
      }
      for (const std::size_t group : search.groups) {
        items_[group]->scale.as_double = any_norm || (any_wide && any_narrow);
      }
    }
  }

  std::vector<std::int64_t> prelude() {
    std::vector<std::int64_t> numbers = carried_ < rounds_of_cuts() ? carry() : past_and_squares();
    asked_ = numbers.size();
    return numbers;
  }

  void begin(const std::vector<std::int64_t>& sums) {
    if (sums.size() != asked_) {
      throw ValueError("sums must be as many as the numbers of prelude(), " +
                       std::to_string(asked_) + ", got " + std::to_string(sums.size()));
    }
    if (std::exchange(asked_, 0) == 0) return;
    if (carried_ < rounds_of_cuts()) return take_carried(sums);
    take_past_and_squares(sums);
  }
  ShardSelection selection(std::int64_t most) const { return ShardSelection(searches_, most); }

  std::vector<std::int64_t> count(const ShardSelection& selection) {
    std::vector<std::int64_t> numbers(selection.size());
    for (const auto& question : selection.questions()) {
      for (const std::size_t group : *question.groups) require_job(group);
      counting_.answer(selection, question, numbers.data());
    }
    return numbers;
  }
  void find(const ShardSelection& selection) { counting_.find(selection); }

  void write(const std::vector<std::size_t>& some) noexcept {
    const int threads = engines_.threads();
    const auto is_large = [](const ShardItem& item) {
      return item.has_blocks && item.mask->takes_all_threads();
    };
    for (const std::size_t i : some) {
      if (is_large(*items_[i])) write_one(*items_[i], 0, threads);
    }
    parallel_for(static_cast<std::int64_t>(some.size()), threads, [&](std::int64_t i, int worker) {
      ShardItem& item = *items_[some[static_cast<std::size_t>(i)]];
      if (!is_large(item)) write_one(item, worker, 1);
    });
  }

  std::size_t size() const noexcept { return items_.size(); }
  std::int64_t pruned(std::size_t job) const noexcept { return items_[job]->pruned; }

 private:
  void require_job(std::size_t group) const {
    if (group < items_.size()) return;
    throw ValueError("groups of searches must be places of jobs, less than " +
                     std::to_string(items_.size()) + ", got " + std::to_string(group));
  }
  /// Each has room for its share of the candidates: 1% of the data, and something in any case.
  static ShardItems items_of(const std::vector<ShardJob>& jobs) {
    constexpr auto one = static_cast<double>(sizeof(Candidate<std::uint64_t>));
    constexpr std::int64_t in_any_case = std::int64_t{3} << 18, least = 16;
    ShardItems items;
    std::int64_t blocks = 0, bytes = 0;
    items.reserve(jobs.size());
    for (const auto& job : jobs) {
      items.push_back(std::make_unique<ShardItem>(job));
      blocks += items.back()->blocks();
      bytes += job.mask.data.size() * static_cast<std::int64_t>(item_size(job.mask.data.dtype()));
    }
    const double all = static_cast<double>(bytes / 100 + in_any_case) / one;
    for (auto& item : items) {
      const double share = static_cast<double>(item->blocks()) / static_cast<double>(blocks);
      if (!item->has_blocks) continue;
      item->room = std::min(least + static_cast<std::int64_t>(all * share), item->blocks());
    }
    return items;
  }

  // --- before the first question ---------------------------------------------------------------

  std::int64_t rounds_of_cuts() const noexcept {
    std::int64_t most = 0;
    for (const auto& item : items_) most = std::max(most, item->cut.rounds());
    return most;
  }
  /// The sums of cut blocks, those with the next pieces; and first, what their masks have pruned.
  std::vector<std::int64_t> carry() {
    std::vector<std::int64_t> numbers;
    for (auto& item : items_) {
      const MaskJob& job = item->job.mask;
      const std::size_t slots = item->cut.slots(), begin = numbers.size();
      const bool tells_past = job.spec.monotone && carried_ == 0;
      numbers.resize(begin + slots * (tells_past ? 2 : 1));
      if (!item->job.shard.counts) continue;
      item->cut.add(engines_.table(), job.spec.norm, carried_, numbers.data() + begin);
      if (!tells_past) continue;
      item->cut.count_past(item->whole_mask, item->kept.empty() ? nullptr : item->kept.data(),
                           numbers.data() + begin + slots);
    }
    return numbers;
  }
  void take_carried(const std::vector<std::int64_t>& sums) {
    const std::int64_t* next = sums.data();
    for (auto& item : items_) {
      item->cut.take(carried_, next);
      next += item->cut.slots();
      if (!item->job.mask.spec.monotone || carried_ > 0) continue;
      item->cut.take_past(next);
      next += item->cut.slots();
    }
    if (++carried_ < rounds_of_cuts()) return;
    for (auto& item : items_) {
      if (item->is_wide()) {
        item->cut.make_keys(engines_.table().select64, item->job.shard.counts);
      } else {
        item->cut.make_keys(engines_.table().select32, item->job.shard.counts);
      }
    }
  }
  /// How many blocks monotone masks have pruned, and the squares of scores.
  std::vector<std::int64_t> past_and_squares() {
    std::vector<std::int64_t> numbers;
    if (has_begun_) return numbers;
    for (auto& item : items_) {
      const BlockSpec& spec = item->job.mask.spec;
      std::optional<Pin> pin;
      if (item->is_loaded() && spec.normalize && item->has_blocks) item->load(pin);
      if (spec.monotone && item->has_blocks) {
        engines_.with_task(*item, 0, engines_.lanes_of(*item),
                           [&](const auto& engine, const auto& task) {
                             item->past = task.has_past() ? engine.count_past(task) : 0;
                           });
      }
      if (spec.monotone) {
        numbers.push_back((item->job.shard.counts ? item->past : 0) + item->cut.counted_past());
      }
      if (!spec.normalize) continue;
      if (item->is_wide()) {
        add_squares<std::uint64_t>(*item, numbers);
      } else {
        add_squares<std::uint32_t>(*item, numbers);
      }
    }
    return numbers;
  }
  void take_past_and_squares(const std::vector<std::int64_t>& sums) {
    has_begun_ = true;
    std::vector<std::int64_t> past(items_.size());
    std::size_t at = 0;
    const auto norm_of = [&](auto key) {
      using Sum = SquareSum<decltype(key)>;
      typename Sum::Limbs limbs;
      std::uint64_t carry = 0;
      for (auto& limb : limbs) {
        carry += static_cast<std::uint64_t>(sums[at++]);
        limb = static_cast<std::uint32_t>(carry);
        carry >>= 32;
      }
      const double norm = std::sqrt(Sum::rounded(limbs));
      return norm > 0 ? norm : 1;  // a norm of 0 leaves the scores
    };
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const BlockSpec& spec = items_[i]->job.mask.spec;
      if (spec.monotone) past[i] = sums[at++];
      if (!spec.normalize) continue;
      items_[i]->scale.norm =
          items_[i]->is_wide() ? norm_of(std::uint64_t{}) : norm_of(std::uint32_t{});
    }
    for (auto& search : searches_) {
      search.past.clear();
      search.is_finer.clear();
      for (const std::size_t group : search.groups) {
        search.past.push_back(past[group]);
        search.is_finer.push_back(items_[group]->is_wide() && items_[group]->scale.norm != 1);
      }
    }
  }
  template <class Key>
  void add_squares(ShardItem& item, std::vector<std::int64_t>& numbers) {
    SquareSum<Key>* sum = &engines_.engine<Key>().squares();
    sum->clear();
    if (item.has_blocks && item.job.shard.counts) {
      engines_.with_task_of<Key>(item, 0, engines_.lanes_of(item), [&](const auto& own, auto task) {
        task.past = {};  // of all blocks
        own.norm(task);
      });
    }
    for (const auto& block : item.cut.blocks()) {
      const auto key = static_cast<Key>(block.key);
      if (block.is_counted) sum->add(&key, 1);
    }
    for (const std::uint32_t limb : sum->exact()) numbers.push_back(limb);
  }

  // --- masks -------------------------------------------------------------------------------------

  void write_one(ShardItem& item, int lane, int lanes) noexcept {
    if (item.cut.any()) {
      item.cut.write(item.whole_mask, item.kept.empty() ? nullptr : item.kept.data());
    }
    if (!item.has_blocks || item.is_loaded()) return;
    item.mask->pruning.quota.blocks = item.pruned;
    MaskPlan plan = *item.mask;
    CutHint hint;
    if (item.is_wide()) {
      write_of<std::uint64_t>(item, plan, hint, lane, lanes);
    } else {
      write_of<std::uint32_t>(item, plan, hint, lane, lanes);
    }
  }
  template <class Key>
  void write_of(const ShardItem& item, MaskPlan& plan, CutHint& hint, int lane,
                int lanes) noexcept {
    const auto& found = std::get<Candidates<Key>>(item.found);
    if (found.size > 0 && plan.grid().blocks() >= hinted_min) {  // lanes have room for no others
      hint = {plan.grid().blocks(), item.pruned, number_of(static_cast<Key>(item.stopped)),
              density_of(found.size, found.first, found.end)};
      plan.job.hint = &hint;
    }
    prune_alone(engines_.engine<Key>(), engines_.table(), plan, lane, lanes,
                plan.job.spec.monotone);
  }

  std::vector<ShardSearch> searches_;
  ShardItems items_;
  const ShardEngines engines_{items_};
  ShardCounting counting_{items_, engines_};
  std::int64_t carried_ = 0;  // rounds that cut blocks have taken
  std::size_t asked_ = 0;     // numbers of the last prelude(), until their sums are told
  bool has_begun_ = false;
};

ShardParts::ShardParts(const std::vector<ShardJob>& jobs, const std::vector<ShardSearch>& searches)
    : impl_(std::make_unique<Impl>(jobs, searches)) {}
ShardParts::~ShardParts() = default;

std::vector<std::int64_t> ShardParts::prelude() {
  const DefaultFloatEnvironment environment;
  return impl_->prelude();
}
void ShardParts::begin(const std::vector<std::int64_t>& sums) { impl_->begin(sums); }
ShardSelection ShardParts::selection(std::int64_t most) const { return impl_->selection(most); }
std::vector<std::int64_t> ShardParts::count(const ShardSelection& selection) {
  const DefaultFloatEnvironment environment;
  return impl_->count(selection);
}
void ShardParts::find(const ShardSelection& selection) {
  const DefaultFloatEnvironment environment;
  impl_->find(selection);
}
std::int64_t ShardParts::pruned(std::size_t job) const noexcept { return impl_->pruned(job); }
void ShardParts::write(const std::vector<std::size_t>& some) noexcept {
  const DefaultFloatEnvironment environment;
  impl_->write(some);
}
void ShardParts::write() noexcept {
  std::vector<std::size_t> all(impl_->size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  write(all);
}

}  // namespace datasparse
