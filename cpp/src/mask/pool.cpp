#include "datasparse/pool.hpp"

#include <algorithm>
#include <cmath>
#include <map>
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
    throw ValueError("sparsity_level of pool '" + pool + "' must be in [0, " +
                     to_string(ParamValue(possible)) +
                     "], which is what max_level leaves to its groups, got " +
                     to_string(ParamValue(level)) + "; lower it, or raise max_level");
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

ZeroCounts count_zeros(const std::vector<BlockSpec>& specs, const std::vector<Axes>& shapes) {
  ZeroCounts counts;
  std::map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::string& pool = specs[i].pool;
    counts.groups.push_back(pool.empty() ? count_zeros(shapes[i], specs[i]) : ZeroCount{});
    if (pool.empty()) continue;
    const auto [place, is_new] = places.try_emplace(pool, counts.pools.size());
    if (is_new) counts.pools.push_back({pool, {}, {}});
    counts.pools[place->second].groups.push_back(i);
  }
  for (auto& pool : counts.pools) {
    std::vector<BlockSpec> own_specs;
    std::vector<Axes> own_shapes;
    for (const std::size_t i : pool.groups) {
      own_specs.push_back(specs[i]);
      own_shapes.push_back(shapes[i]);
    }
    const PoolPlan plan = PoolPlan::of(pool.name, own_specs, own_shapes);
    const auto bounds = plan.bounds();
    std::int64_t missing = 0;  // from partial blocks, to whole ones
    std::int64_t unit = 1;     // elements that a weight of 1 stands for
    for (std::size_t m = 0; m < bounds.size(); ++m) {
      const MatrixShape matrix = MatrixShape::of(own_shapes[m]);
      const Pattern pattern = Pattern::of(own_specs[m], matrix);
      counts.groups[pool.groups[m]] = {pattern.zeros_in(matrix, bounds[m].least).least,
                                       pattern.zeros_in(matrix, bounds[m].most).most};
      const auto& member = plan.members[m];
      if (member.weight == 0) continue;
      unit = pattern.zeros / member.weight;
      missing += member.blocks * pattern.zeros - pattern.zeros_in(matrix, member.blocks).most;
    }
    const ZeroCount spent = plan.spent();
    pool.zeros = {std::max<std::int64_t>(spent.least * unit - missing, 0), spent.most * unit};
    std::int64_t least = 0, most = 0;
    for (const std::size_t i : pool.groups) {
      least += counts.groups[i].least;
      most += counts.groups[i].most;
    }
    pool.zeros = {std::max(pool.zeros.least, least), std::min(pool.zeros.most, most)};
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
