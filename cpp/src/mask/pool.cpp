#include "datasparse/pool.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string_view>

#include "base/float_environment.hpp"
#include "datasparse/error.hpp"
#include "datasparse/param.hpp"
#include "mask/pattern.hpp"
#include "mask/pruned_share.hpp"

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

PoolPlan plan_of(const ZeroCounts::Pool& pool, const std::vector<PoolGroup>& groups) {
  std::vector<PoolGroup> own;
  own.reserve(pool.groups.size());
  for (const std::size_t i : pool.groups) own.push_back(groups[i]);
  return PoolPlan::of(pool.name, own);
}

}  // namespace

PoolPlan PoolPlan::of(const std::string& pool, const std::vector<PoolGroup>& groups) {
  const DefaultFloatEnvironment environment;
  PoolPlan plan;
  plan.members.reserve(groups.size());
  std::int64_t divisor = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const MatrixShape matrix = MatrixShape::of(groups[i].shape);
    const Pattern pattern = Pattern::of(*groups[i].spec, matrix);
    plan.members.push_back({pattern.blocks_of(matrix), pattern.zeros, 0, 0});
    divisor = std::gcd(divisor, pattern.zeros);
  }
  std::int64_t all = 0, kept = 0;
  double by_levels = 0;
  double common_level = 0;  // of the groups that have something to prune
  bool is_one_level = true;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    PoolMember& member = plan.members[i];
    if (divisor > 0) member.weight /= divisor;
    const std::int64_t weight = member.blocks * member.weight;
    if (weight == 0) continue;
    if (all == 0) common_level = groups[i].spec->sparsity_level;
    all += weight;
    kept += std::min(member.blocks, groups[i].spec->min_kept) * member.weight;
    by_levels += groups[i].spec->sparsity_level * static_cast<double>(weight);
    is_one_level = is_one_level && groups[i].spec->sparsity_level == common_level;
  }
  if (all == 0) return plan;
  const double exact = is_one_level ? common_level * static_cast<double>(all) : by_levels;
  plan.budget = std::min(round_half_even(exact), all - kept);
  std::int64_t most = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    PoolMember& member = plan.members[i];
    if (member.weight == 0) continue;
    member.most = std::min(up(groups[i].spec->max_level, member.blocks),
                           std::max<std::int64_t>(member.blocks - groups[i].spec->min_kept, 0));
    // The pool's level is budget / all. In integers, so that the sum never exceeds the budget.
    const auto by_pool =
        static_cast<std::int64_t>(static_cast<Wide>(plan.budget) * member.blocks / all);
    member.least = std::min({down(groups[i].spec->min_level, member.blocks), by_pool, member.most});
    most += member.most * member.weight;
  }
  if (plan.budget > most) {
    const double level = static_cast<double>(plan.budget) / static_cast<double>(all);
    const double possible = static_cast<double>(most) / static_cast<double>(all);
    throw ValueError("sparsity_level of pool '" + pool + "' must be in [0, " +
                     to_string(ParamValue(possible)) +
                     "], which is what max_level leaves to its groups, got " +
                     to_string(ParamValue(level)) + "; lower it, or raise max_level");
  }
  return plan;
}

bool PoolPlan::is_plain() const noexcept {
  std::int64_t weight = 0;  // of the first that has one
  for (const auto& member : members) {
    if (member.weight == 0) continue;
    if (weight == 0) weight = member.weight;
    if (member.weight != weight || member.least > 0 || member.most < member.blocks) return false;
  }
  return true;
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

ZeroCount PoolPlan::spent() const noexcept {
  std::int64_t lightest = 0, heaviest = 0;
  for (const auto& member : members) {
    if (member.weight == 0) continue;
    lightest = lightest == 0 ? member.weight : std::min(lightest, member.weight);
    heaviest = std::max(heaviest, member.weight);
  }
  if (heaviest == 0) return {};
  const std::int64_t left = lightest == heaviest ? budget % heaviest : heaviest - 1;
  return {std::max<std::int64_t>(budget - left, 0), budget};
}

std::vector<ZeroCount> PoolPlan::bounds() const {
  const ZeroCount all = spent();
  std::int64_t least = 0, most = 0;
  for (const auto& member : members) {
    least += member.weight * member.least;
    most += member.weight * member.most;
  }
  std::vector<ZeroCount> result;
  for (const auto& [blocks, weight, own_least, own_most] : members) {
    if (weight == 0) {
      result.push_back({});
      continue;
    }
    // What the others cannot lose is left to it, and what they must is not.
    const std::int64_t rest = std::max<std::int64_t>(all.least - (most - weight * own_most), 0);
    const std::int64_t room = all.most - (least - weight * own_least);
    result.push_back(
        {std::max(own_least, (rest + weight - 1) / weight), std::min(own_most, room / weight)});
  }
  return result;
}

std::vector<ZeroCounts::Pool> pools_of(const std::vector<PoolGroup>& groups) {
  std::vector<ZeroCounts::Pool> pools;
  std::map<std::string_view, std::size_t> places;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const std::string& name = groups[i].spec->pool;
    if (name.empty()) continue;
    const auto [place, is_new] = places.try_emplace(name, pools.size());
    if (is_new) pools.push_back({name, {}, {}});
    pools[place->second].groups.push_back(i);
  }
  return pools;
}

void require_possible(const std::vector<PoolGroup>& groups) {
  for (const auto& pool : pools_of(groups)) plan_of(pool, groups);
}

ZeroCounts count_zeros(const std::vector<PoolGroup>& groups) {
  ZeroCounts counts{std::vector<ZeroCount>(groups.size()), pools_of(groups)};
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto& [spec, shape] = groups[i];
    if (spec->pool.empty()) counts.groups[i] = count_zeros(shape, *spec);
  }
  for (auto& pool : counts.pools) {
    const PoolPlan plan = plan_of(pool, groups);
    const auto bounds = plan.bounds();
    std::int64_t missing = 0;          // from partial blocks, to whole ones
    std::int64_t unit = 1;             // elements that a weight of 1 stands for
    std::int64_t least = 0, most = 0;  // the sums over the groups
    for (std::size_t m = 0; m < bounds.size(); ++m) {
      const auto& [spec, shape] = groups[pool.groups[m]];
      const MatrixShape matrix = MatrixShape::of(shape);
      const Pattern pattern = Pattern::of(*spec, matrix);
      const ZeroCount zeros{pattern.zeros_in(matrix, bounds[m].least).least,
                            pattern.zeros_in(matrix, bounds[m].most).most};
      counts.groups[pool.groups[m]] = zeros;
      least += zeros.least;
      most += zeros.most;
      const auto& member = plan.members[m];
      if (member.weight == 0) continue;
      unit = pattern.zeros / member.weight;
      missing += member.blocks * pattern.zeros - pattern.zeros_in(matrix, member.blocks).most;
    }
    const ZeroCount spent = plan.spent();
    pool.zeros = {std::max(spent.least * unit - missing, least), std::min(spent.most * unit, most)};
  }
  return counts;
}

PoolSearch::PoolSearch(const PoolPlan& plan, std::uint64_t end)
    : plan_(&plan), end_(end), below_(plan.members.size()), equal_(plan.members.size()) {
  for (const auto& member : plan.members) up_to_.push_back(member.blocks);
}

void PoolSearch::begin(std::uint64_t end, const Counts& below, const Counts& up_to) noexcept {
  first_ = 0;
  end_ = end;
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
