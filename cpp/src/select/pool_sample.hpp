/// Brackets the key at which a pool stops, by a sample of the blocks of all its tensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/buffer.hpp"
#include "datasparse/pool.hpp"
#include "kernels/kernels.hpp"
#include "select/limits.hpp"
#include "select/sampling.hpp"
#include "select/selection.hpp"

namespace datasparse {

/// Where the cut of a pool lies, in keys of its common order: see Bracket.
struct PoolBracket {
  std::uint64_t lo, hi, guess;
  bool ties_at_lo = false, ties_at_hi = false;
  double share_of_ties = 0;  // of the blocks, where those begin that equal the guess and are kept
};

/// Runs of keys in the common order, those of one member one behind the other.
class PoolSample {
 public:
  /// Room for a sample of a pool with so many blocks.
  void require(std::int64_t blocks, std::size_t members) {
    const std::int64_t runs = runs_of(blocks);
    keys_.require(runs * run_length);
    spare_.require(spare_room(runs));
    counts_.require(runs);
    if (sizes_.size() < members) sizes_.resize(members);
  }
  static std::int64_t runs_of(std::int64_t blocks) noexcept {
    return std::max<std::int64_t>(1, std::min(runs_of_sample(blocks), blocks / 2 / run_length));
  }

  void begin(std::int64_t runs, std::size_t members) noexcept {
    runs_ = runs;
    std::fill_n(sizes_.begin(), members, 0);
  }
  std::uint64_t* run(std::int64_t run) noexcept { return keys_.get() + run * run_length; }
  /// That so many runs are of a member. Members in ascending order.
  void add(std::size_t member, std::int64_t runs) noexcept { sizes_[member] += runs * run_length; }

  /// False where it would hold too many candidates.
  bool bracket(const SelectionKernels<std::uint64_t>& select, const PoolPlan& plan,
               std::int64_t room, std::uint64_t end, PoolBracket& bracket) noexcept {
    select_ = &select;
    plan_ = &plan;
    end_ = end;
    const auto size = static_cast<double>(runs_ * run_length);
    double blocks = 0, weights = 0;
    is_plain_ = true;
    std::int64_t weight = 0;
    for (const auto& member : plan.members) {
      if (member.weight == 0) continue;
      blocks += static_cast<double>(member.blocks);
      weights += static_cast<double>(member.blocks) * static_cast<double>(member.weight);
      if (weight == 0) weight = member.weight;
      is_plain_ =
          is_plain_ && member.weight == weight && member.least == 0 && member.most == member.blocks;
    }
    const auto budget = static_cast<double>(plan.budget);
    const double unit = weights / size;  // of the budget, to a key of the sample
    const auto key_at = [&](double distance) {
      return is_plain_ ? key_of_rank(budget / unit + distance)
                       : key_of_cost(budget + distance * unit);
    };
    bracket.guess = key_at(0);
    const double below = deviation_below(bracket.guess);
    const double up_to =
        equal_to(bracket.guess) < repeated ? below : deviation_below(bracket.guess + 1);
    bracket.lo = std::min(key_at(-deviations * below - 4), bracket.guess);
    bracket.hi = std::max(key_at(deviations * up_to + 4), bracket.guess);
    const double ties = equal_to(bracket.guess);
    bracket.ties_at_lo = bracket.lo == bracket.hi || equal_to(bracket.lo) >= repeated;
    bracket.ties_at_hi = bracket.lo < bracket.hi && equal_to(bracket.hi) >= repeated;
    const double left = budget / unit - count_below(bracket.guess);
    bracket.share_of_ties = std::clamp(left / std::max(ties, 1.0), 0.0, 1.0);
    const double first = count_below(bracket.lo + (bracket.ties_at_lo ? 1 : 0));
    const double behind = count_below(bracket.hi + (bracket.ties_at_hi ? 0 : 1));
    return (behind - first) / size * blocks <= 0.8 * static_cast<double>(room);
  }

 private:
  static std::int64_t spare_room(std::int64_t runs) noexcept { return runs * run_length / 4 + 64; }

  double count_below(std::uint64_t key) const noexcept {
    return static_cast<double>(select_->count_below(keys_.get(), runs_ * run_length, key));
  }
  double equal_to(std::uint64_t key) const noexcept {
    return static_cast<double>(select_->count_equal(keys_.get(), runs_ * run_length, key));
  }
  double deviation_below(std::uint64_t key) const noexcept {
    for (std::int64_t run = 0; run < runs_; ++run) {
      counts_[run] = static_cast<std::uint16_t>(
          select_->count_below(keys_.get() + run * run_length, run_length, key));
    }
    return deviation(counts_.get(), runs_);
  }

  /// The key of that rank among all of the sample: where every block weighs the same, and no member
  /// is bounded.
  std::uint64_t key_of_rank(double rank) const noexcept {
    const std::int64_t n = runs_ * run_length;
    const auto k = static_cast<std::int64_t>(std::llround(rank));
    if (k < 1) return 0;
    if (k > n) return end_ - 1;
    return std::min(cut_of(*select_, keys_.get(), n, k, spare_.get(), spare_room(runs_)).threshold,
                    end_ - 1);
  }

  /// The greatest key below which no more lies than that budget pays for, by the sample.
  std::uint64_t key_of_cost(double budget) const noexcept {
    std::uint64_t first = 0, behind = end_;
    while (behind - first > 1) {
      const std::uint64_t key = first + (behind - first) / 2;
      (cost_below(key) <= budget ? first : behind) = key;
    }
    return first;
  }
  double cost_below(std::uint64_t key) const noexcept {
    double cost = 0;
    const double share_of_all = count_below(key) / static_cast<double>(runs_ * run_length);
    const std::uint64_t* keys = keys_.get();
    for (std::size_t i = 0; i < plan_->members.size(); ++i) {
      const auto& [blocks, weight, least, most] = plan_->members[i];
      const std::int64_t n = sizes_[i];
      const double share =
          n == 0 ? share_of_all
                 : static_cast<double>(select_->count_below(keys, n, key)) / static_cast<double>(n);
      keys += n;
      cost += static_cast<double>(weight) * std::clamp(share * static_cast<double>(blocks),
                                                       static_cast<double>(least),
                                                       static_cast<double>(most));
    }
    return cost;
  }

  Buffer<std::uint64_t> keys_, spare_;
  Buffer<std::uint16_t> counts_;
  std::vector<std::int64_t> sizes_;  // by member: keys
  std::int64_t runs_ = 0;
  const SelectionKernels<std::uint64_t>* select_ = nullptr;
  const PoolPlan* plan_ = nullptr;
  std::uint64_t end_ = 0;
  bool is_plain_ = true;
};

}  // namespace datasparse
