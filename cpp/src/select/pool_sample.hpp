/// Brackets the key at which a pool stops, by a sample of the blocks of all its tensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "datasparse/pool.hpp"
#include "kernels/kernels.hpp"
#include "select/limits.hpp"
#include "select/pool_keys.hpp"
#include "select/sampling.hpp"
#include "select/selection.hpp"

namespace datasparse {

/// Where the cut of a pool lies, in keys of its common order: see Bracket.
struct PoolBracket {
  std::uint64_t lo, hi, guess;
  bool ties_at_lo = false, ties_at_hi = false;
  double share_of_ties = 0;  // of the blocks, where those begin that equal the guess and are kept
};

/// Runs of a sample of a pool: more than of one tensor, in the same time. A key of it takes 4
/// bytes, and a candidate 10: so the step takes the least memory.
inline std::int64_t runs_of_pool(std::int64_t blocks) noexcept {
  const std::int64_t runs = runs_of_sample(blocks) * 5 / 4;
  return std::max<std::int64_t>(1, std::min(runs, blocks / 2 / run_length));
}

/// Where the cut lies by a sample, which is in `keys`.
template <class Key>
class PoolSample {
 public:
  /// Allocates nothing: `keys` holds all runs, and `counts` has room for a number of each.
  PoolSample(PoolKeys<Key>& keys, std::uint16_t* counts, const SelectionKernels<Key>& select,
             const PoolPlan& plan, Key end) noexcept
      : keys_(keys),
        counts_(counts),
        select_(select),
        plan_(plan),
        end_(end),
        is_plain_(plan.is_plain()) {
    for (const auto& member : plan.members) {
      if (member.weight == 0) continue;
      blocks_ += static_cast<double>(member.blocks);
      weights_ += static_cast<double>(member.blocks) * static_cast<double>(member.weight);
    }
  }

  /// False where it would hold too many candidates, for so much room.
  bool bracket(std::int64_t room, PoolBracket& bracket) const noexcept {
    const auto size = static_cast<double>(keys_.size());
    const double unit = weights_ / size;  // of the budget, to a key of the sample
    const auto budget = static_cast<double>(plan_.budget);
    const auto key_at = [&](double distance) -> Key {
      return is_plain_ ? key_of_rank(budget / unit + distance)
                       : keys_.stop(select_, plan_, budget + distance * unit, 0, end_, true);
    };
    const Key guess = key_at(0);
    const double below = deviation_below(guess);
    const double up_to = equal_to(guess) < repeated ? below : deviation_below(guess + 1);
    const Key lo = std::min(key_at(-deviations * below - 4), guess);
    const Key hi = std::max(key_at(deviations * up_to + 4), guess);
    const double ties = equal_to(guess);
    const bool ties_at_lo = lo == hi || equal_to(lo) >= repeated;
    const bool ties_at_hi = lo < hi && equal_to(hi) >= repeated;
    const double left = budget / unit - count_below(guess);
    const double share_of_ties = std::clamp(left / std::max(ties, 1.0), 0.0, 1.0);
    bracket = {lo, hi, guess, ties_at_lo, ties_at_hi, share_of_ties};
    const double first = count_below(lo + (ties_at_lo ? 1 : 0));
    const double behind = count_below(hi + (ties_at_hi ? 0 : 1));
    return (behind - first) / size * blocks_ <= 0.8 * static_cast<double>(room);
  }

  /// The bound that a member is at, where pruning stops somewhere in the bracket, in all
  /// likelihood; -1 for none.
  std::int64_t bound(std::size_t member, const PoolBracket& bracket) const noexcept {
    const std::int64_t at_lo = bound(member, static_cast<Key>(bracket.lo), deviations);
    const std::int64_t at_hi = bound(member, static_cast<Key>(bracket.hi), deviations);
    return at_lo == at_hi ? at_lo : -1;
  }

 private:
  std::int64_t bound(std::size_t member, Key key, double margin) const noexcept {
    const auto& [blocks, weight, least, most] = plan_.members[member];
    const std::int64_t n = keys_.size(member);
    if (n == 0 || is_plain_) return -1;
    const auto size = static_cast<double>(n);
    const auto below = static_cast<double>(select_.count_below(keys_.of(member), n, key));
    const double off = margin * (std::sqrt(size) / 2 + 1);
    const auto all = static_cast<double>(blocks);
    if ((below - off) / size * all >= static_cast<double>(most)) return most;
    if ((below + off) / size * all <= static_cast<double>(least)) return least;
    return -1;
  }

  double count_below(Key key) const noexcept {
    return static_cast<double>(select_.count_below(keys_.get(), keys_.size(), key));
  }
  double equal_to(Key key) const noexcept {
    return static_cast<double>(select_.count_equal(keys_.get(), keys_.size(), key));
  }
  double deviation_below(Key key) const noexcept {
    std::int64_t run = 0;
    for (std::size_t m = 0; m < plan_.members.size(); ++m) {
      // One at a bound does not vary.
      const bool varies = bound(m, key, 0) < 0;
      for (std::int64_t rest = keys_.size(m); rest > 0; rest -= run_length, ++run) {
        const Key* const keys = keys_.get() + run * run_length;
        counts_[run] =
            static_cast<std::uint16_t>(varies ? select_.count_below(keys, run_length, key) : 0);
      }
    }
    return deviation(counts_, run);
  }

  /// Where every block weighs the same, and no member is bounded.
  Key key_of_rank(double rank) const noexcept {
    const auto k = static_cast<std::int64_t>(std::llround(rank));
    if (k < 1) return 0;
    if (k > keys_.size()) return end_ - 1;
    return std::min(keys_.select(select_, k), end_ - 1);
  }

  PoolKeys<Key>& keys_;
  std::uint16_t* counts_;
  const SelectionKernels<Key>& select_;
  const PoolPlan& plan_;
  Key end_;
  bool is_plain_;
  double blocks_ = 0, weights_ = 0;
};

}  // namespace datasparse
