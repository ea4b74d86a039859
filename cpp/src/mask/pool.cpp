#include "datasparse/pool.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "datasparse/error.hpp"
#include "datasparse/param.hpp"
#include "mask/level.hpp"
#include "mask/pattern.hpp"

namespace datasparse {
namespace {

__extension__ using Wide = __int128;

/// share × blocks, rounded down or up; a share in [0, 1].
std::int64_t down(double share, std::int64_t blocks) noexcept {
  return static_cast<std::int64_t>(std::floor(share * static_cast<double>(blocks)));
}
std::int64_t up(double share, std::int64_t blocks) noexcept {
  return std::min(blocks,
                  static_cast<std::int64_t>(std::ceil(share * static_cast<double>(blocks))));
}

}  // namespace

PoolPlan PoolPlan::of(const std::string& pool, const std::vector<BlockSpec>& specs,
                      const std::vector<Axes>& shapes) {
  PoolPlan plan;
  std::int64_t divisor = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const MatrixShape matrix = MatrixShape::of(shapes[i]);
    const Pattern pattern = Pattern::of(specs[i], matrix);
    plan.members.push_back({pattern.blocks_of(matrix), pattern.zeros, 0, 0});
    divisor = std::gcd(divisor, pattern.zeros);
  }
  std::int64_t all = 0, kept = 0;
  double by_levels = 0;
  bool is_one_level = true;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    PoolMember& member = plan.members[i];
    if (divisor > 0) member.weight /= divisor;
    const std::int64_t weight = member.blocks * member.weight;
    all += weight;
    kept += std::min(member.blocks, specs[i].min_kept) * member.weight;
    by_levels += specs[i].sparsity_level * static_cast<double>(weight);
    is_one_level = is_one_level && specs[i].sparsity_level == specs[0].sparsity_level;
  }
  if (all == 0) return plan;
  const double exact =
      is_one_level ? specs[0].sparsity_level * static_cast<double>(all) : by_levels;
  plan.budget = std::min(round_half_even(exact), all - kept);
  std::int64_t most = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    PoolMember& member = plan.members[i];
    if (member.weight == 0) continue;
    member.most = std::min(up(specs[i].max_level, member.blocks),
                           std::max<std::int64_t>(member.blocks - specs[i].min_kept, 0));
    // The pool's level is budget / all. In integers, so that the sum never exceeds the budget.
    const auto by_pool =
        static_cast<std::int64_t>(static_cast<Wide>(plan.budget) * member.blocks / all);
    member.least = std::min({down(specs[i].min_level, member.blocks), by_pool, member.most});
    most += member.most * member.weight;
  }
  if (plan.budget > most) {
    const double level = static_cast<double>(plan.budget) / static_cast<double>(all);
    const double possible = static_cast<double>(most) / static_cast<double>(all);
    throw ValueError(
        "sparsity_level of pool '" + pool + "' must be in [0, " + to_string(ParamValue(possible)) +
        "], which is what max_level leaves to its groups, got " + to_string(ParamValue(level)));
  }
  return plan;
}

std::int64_t PoolPlan::cost(const Counts& pruned) const noexcept {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const auto& [blocks, weight, least, most] = members[i];
    sum += weight * std::clamp(pruned[i], least, most);
  }
  return sum;
}

void PoolPlan::prune(const Counts& below, const Counts& equal, Counts& pruned) const noexcept {
  std::int64_t left = budget - cost(below);
  bool ended = false;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const auto& [blocks, weight, least, most] = members[i];
    pruned[i] = std::clamp(below[i], least, most);
    const std::int64_t wanted = std::clamp(below[i] + equal[i], least, most) - pruned[i];
    if (weight == 0 || ended) continue;
    const std::int64_t paid = std::min(wanted, left / weight);
    ended = paid < wanted;
    left -= paid * weight;
    pruned[i] += paid;
  }
}

ZeroCount PoolPlan::bounds(std::size_t index) const noexcept {
  const PoolMember& member = members[index];
  if (member.weight == 0) return {};
  std::int64_t others_least = 0, others_most = 0;
  std::int64_t unspent = 0;  // the walk may end on a block that costs more than what is left
  for (std::size_t i = 0; i < members.size(); ++i) {
    const auto& [blocks, weight, least, most] = members[i];
    if (weight != 0 && weight != member.weight)
      unspent = std::max({unspent, weight, member.weight});
    if (i == index) continue;
    others_least += weight * least;
    others_most += weight * most;
  }
  const std::int64_t spent = budget - std::max<std::int64_t>(unspent - 1, 0);
  const std::int64_t rest = std::max<std::int64_t>(spent - others_most, 0);
  return {std::max(member.least, (rest + member.weight - 1) / member.weight),
          std::min(member.most, (budget - others_least) / member.weight)};
}

PoolSearch::PoolSearch(const PoolPlan& plan, std::uint64_t end)
    : plan_(&plan), end_(end), below_(plan.members.size()), equal_(plan.members.size()) {
  for (const auto& member : plan.members) up_to_.push_back(member.blocks);
}

void PoolSearch::begin_with(const Counts& below, const Counts& up_to) noexcept {
  std::copy(below.begin(), below.end(), below_.begin());
  std::copy(up_to.begin(), up_to.end(), up_to_.begin());
}

void PoolSearch::tell(std::uint64_t key, const Counts& below) noexcept {
  if (key <= first_ || key >= end_) return;
  if (plan_->cost(below) <= plan_->budget) {
    first_ = key;
    std::copy(below.begin(), below.end(), below_.begin());
  } else {
    end_ = key;
    std::copy(below.begin(), below.end(), up_to_.begin());
  }
}

void PoolSearch::finish(Counts& pruned) noexcept {
  for (std::size_t i = 0; i < below_.size(); ++i) equal_[i] = up_to_[i] - below_[i];
  plan_->prune(below_, equal_, pruned);
}

}  // namespace datasparse
