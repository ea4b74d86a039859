#include "select/shard_search.hpp"

#include <cmath>
#include <limits>
#include <string>

#include "datasparse/error.hpp"

namespace datasparse {

namespace {

void require_shape(const ShardSearch& search, std::size_t index) {
  const std::string which = " of search " + std::to_string(index);
  if (search.groups.size() != search.plan.members.size()) {
    throw ValueError("groups" + which + " must be as many as the members of its plan, " +
                     std::to_string(search.plan.members.size()) + ", got " +
                     std::to_string(search.groups.size()));
  }
  if ((!search.past.empty() && search.past.size() != search.groups.size()) ||
      (!search.is_finer.empty() && search.is_finer.size() != search.groups.size())) {
    throw ValueError("past and is_finer" + which + " must be empty, or as many as its groups, " +
                     std::to_string(search.groups.size()) + ", got " +
                     std::to_string(search.past.size()) + " and " +
                     std::to_string(search.is_finer.size()));
  }
  const int bits = search.is_wide ? KeyTraits<std::uint64_t>::fraction_bits
                                  : KeyTraits<std::uint32_t>::fraction_bits;
  if (search.key_step < 0 || search.key_step > bits) {
    throw ValueError("key_step" + which + " must be in [0, " + std::to_string(bits) + "], got " +
                     std::to_string(search.key_step));
  }
}

}  // namespace

ShardSelection::Search ShardSelection::Search::of(const ShardSearch& given, std::size_t index) {
  require_shape(given, index);
  Search search;
  search.index = index;
  search.budget = given.plan.budget;
  search.hints = given.hints;
  search.hints.resize(1 + given.groups.size());
  ShardRange& range = search.range;
  double weights = 0, squares = 0;
  for (std::size_t m = 0; m < given.groups.size(); ++m) {
    const PoolMember& pool = given.plan.members[m];
    const bool loses = pool.blocks > 0 && pool.weight > 0 && pool.most > 0;
    const bool is_finer = !given.is_finer.empty() && given.is_finer[m];
    const std::int64_t past = given.past.empty() ? 0 : given.past[m];
    search.members.push_back({given.groups[m], range.blocks, pool,
                              loses ? Part::own : Part::nothing, past, is_finer, 0, pool.blocks});

    range.blocks += pool.blocks;
    if (!loses) continue;
    const auto weight = static_cast<double>(pool.weight);
    weights += static_cast<double>(pool.blocks) * weight;
    squares += static_cast<double>(pool.blocks) * weight * weight;
  }
  search.require_members();
  std::int64_t past_cost = 0;
  for (const Member& member : search.members) {
    if (member.part != Part::nothing) past_cost += member.pool.weight * member.pruned(member.past);
  }
  search.order.is_returning = past_cost > search.budget;
  for (Member& member : search.members) {
    if (member.part == Part::nothing) continue;
    (search.order.is_returning ? member.up_to : member.below) = member.past;
    range.cost_first += member.pool.weight * member.pruned(member.below);
    range.cost_end += member.pool.weight * member.pruned(member.up_to);
  }
  range.weight = weights > 0 ? squares / weights : 1;
  range.is_wide = given.is_wide;
  range.has_sign = given.has_sign;
  range.key_step = given.key_step;
  range.end = ShardRange::last(given.is_wide);
  range.before = range.first;
  range.behind = range.end;
  range.cost_before = range.cost_first;
  range.cost_behind = range.cost_end;
  search.require_budget();
  return search;
}

/// The search for a member's own lowest blocks, by its own keys.
ShardSelection::Search ShardSelection::Search::of_finer(const Member& member,
                                                        std::int64_t pruned) const {
  ShardSearch alone;
  alone.groups = {member.group};
  alone.plan = {{{member.pool.blocks, 1, 0, member.pool.blocks}}, pruned};
  alone.is_wide = true;  // no keys of 32 bits become equal as doubles
  alone.has_sign = range.has_sign;
  alone.past = {member.past};
  Search search = of(alone, index);
  search.parent = index;
  search.parents_member = static_cast<std::size_t>(&member - members.data());
  search.order.by_own_keys = true;
  std::vector<Search> none;
  search.begin(none);
  return search;
}

/// The search for where a member has lost as many blocks as its bound says: it begins with what is
/// known, unless that was counted in another order.
ShardSelection::Search ShardSelection::Search::of_bound(const Member& member, std::int64_t bound,
                                                        const Known& known) const {
  if (member.is_finer) return of_finer(member, bound);
  ShardSearch alone;
  alone.groups = {member.group};
  alone.plan = {{{member.pool.blocks, 1, 0, member.pool.blocks}}, bound};
  alone.is_wide = range.is_wide;
  alone.has_sign = range.has_sign;
  alone.key_step = range.key_step;
  alone.past = {member.past};
  Search search = of(alone, index);
  search.parent = index;
  search.parents_member = static_cast<std::size_t>(&member - members.data());
  std::vector<Search> none;  // a bound has none of its own
  if (search.order.is_returning != order.is_returning) {
    search.begin(none);
    return search;
  }
  search.guess.rounds = guess.rounds;
  Known own{{}, {}, std::vector<std::int64_t>(known.places.size()), {}};
  for (std::size_t i = 0; i < known.places.size(); ++i) {
    own.places.push_back(member.own(known.places[i]));
    own.costs.push_back(known.count(member, i));
  }
  own.count = [&](const Member&, std::size_t i) { return own.costs[i]; };
  search.narrow(own, none);
  return search;
}

void ShardSelection::Search::require_members() const {
  for (const Member& member : members) {
    const auto& [blocks, weight, least, most] = member.pool;
    if (0 <= least && least <= most && most <= blocks && weight >= 0) continue;
    throw ValueError("members of search " + std::to_string(index) +
                     " must have 0 <= least <= most <= blocks and a weight of at least 0, got " +
                     std::to_string(least) + ", " + std::to_string(most) + " and " +
                     std::to_string(blocks) + ", and a weight of " + std::to_string(weight) +
                     ", for group " + std::to_string(member.group));
  }
}

void ShardSelection::Search::require_budget() const {
  if (budget < range.cost_first) {
    throw ValueError("budget of search " + std::to_string(index) + " must be at least " +
                     std::to_string(range.cost_first) + ", which its members lose at the least, " +
                     "got " + std::to_string(budget));
  }
}

void ShardSelection::Search::begin(std::vector<Search>& more) {
  const Known known{
      {range.first, range.end},
      {range.cost_first, range.cost_end},
      {0, 0},
      [](const Member& member, std::size_t i) { return i == 0 ? member.below : member.up_to; }};
  narrow(known, more);
  for (std::size_t m = 0; m < members.size(); ++m) {
    const Member& member = members[m];
    const ShardHint& hinted = hints[m + 1];
    if (is_done || member.part != Part::own || !(hinted.keys_per_block > 0)) continue;
    // It was at the bound that is nearer.
    const auto& [blocks, weight, least, most] = member.pool;
    const bool is_least = hinted.pruned < least + (most - least) / 2;
    Search ahead = of_bound(member, is_least ? least : most, known);
    if (ahead.is_done) continue;
    ahead.is_ahead = true;
    ahead.hints[0] = hinted;
    more.push_back(std::move(ahead));
  }
}

void ShardSelection::Search::arrange() {
  asked.clear();
  groups.clear();
  first.clear();
  const bool is_shared = std::any_of(members.begin(), members.end(), [](const Member& member) {
    return member.part == Part::shared;
  });
  rows = is_shared ? 1 : 0;
  for (std::size_t m = 0; m < members.size(); ++m) {
    Member& member = members[m];
    if (member.part != Part::shared && member.part != Part::own) continue;
    member.row = member.part == Part::shared ? 0 : rows++;
    asked.push_back(m);
    groups.push_back(member.group);
    first.push_back(member.begin);
  }
}

void ShardSelection::Search::require_sums(const Question& question,
                                          const std::int64_t* sums) const {
  const std::size_t count = question.places.size() + 1;
  const auto require_row = [&](std::size_t row, const std::string& whose, std::int64_t below,
                               std::int64_t up_to, std::int64_t total) {
    const std::int64_t* const counts = sums + row * count;
    const std::string what = "sums for " + whose;
    if (counts[count - 1] != total) {
      throw ValueError(what + " must count each block once, " + std::to_string(total) +
                       " in all, got " + std::to_string(counts[count - 1]) +
                       ": a part is missing, was added twice, or is of a tensor of another shape");
    }
    if (std::is_sorted(counts, counts + count) && below <= counts[0] && counts[count - 2] <= up_to)
      return;
    throw ValueError(what +
                     " must not be less for later places, and agree with those of the rounds "
                     "before: the data have changed since, or a part counts by other keys");
  };
  std::int64_t total = 0;
  std::string shared;
  for (const std::size_t m : asked) {
    const Member& member = members[m];
    const std::string group = "group " + std::to_string(member.group);
    if (member.part == Part::own) {
      require_row(member.row, group, member.below, member.up_to, member.pool.blocks);
      continue;
    }
    shared = total == 0 ? group : shared.substr(0, shared.find(" and")) + " and others, by weight,";
    total += member.pool.weight * member.pool.blocks;
  }
  if (total > 0) require_row(0, shared, shared_below, shared_up_to, total);
}

void ShardSelection::Search::tell(const Question& question, const std::int64_t* sums,
                                  std::vector<Search>& more) {
  const std::size_t count = question.places.size();
  Known known;
  known.places.push_back(range.first);
  known.places.insert(known.places.end(), question.places.begin(), question.places.end());
  known.places.push_back(range.end);
  known.count = [&](const Member& member, std::size_t i) {
    if (i == 0) return member.below;
    return i == count + 1 ? member.up_to : sums[member.row * (count + 1) + i - 1];
  };
  std::int64_t constant = 0;
  bool is_shared = false;
  for (const Member& member : members) {
    is_shared = is_shared || member.part == Part::shared;
    if (member.part == Part::bound) constant += member.pool.weight * member.pruned(member.below);
  }
  known.shared.push_back(shared_below);
  for (std::size_t i = 0; i < count; ++i) known.shared.push_back(is_shared ? sums[i] : 0);
  known.shared.push_back(shared_up_to);
  for (std::size_t i = 0; i < count + 2; ++i) {
    std::int64_t cost = constant + known.shared[i];
    for (const std::size_t m : asked) {
      const Member& member = members[m];
      if (member.part == Part::own) {
        cost += member.pool.weight * member.pruned(known.count(member, i));
      }
    }
    known.costs.push_back(cost);
  }
  const std::int64_t before = range.cost_end - range.cost_first;
  const bool was_hinted = guess.is_hinted;
  const ShardPlace hinted = guess.hinted;
  narrow(known, more);
  guess.tell(range, before);
  if (!was_hinted) return;
  if (keys_per_block == 0 && !guess.is_wrong) keys_per_block = hints[0].keys_per_block;
  for (std::size_t i = 0; i < count + 2; ++i) {
    if (known.places[i] == hinted) {
      error = std::abs(static_cast<double>(known.costs[i] - budget));
    }
  }
}

void ShardSelection::Search::narrow(const Known& known, std::vector<Search>& more) {
  const std::size_t end = known.places.size() - 1;
  std::size_t last = 0;  // that is paid for
  while (last < end && known.costs[last + 1] <= budget) ++last;
  const std::size_t next = std::min(last + 1, end);
  move_range(known, last, next);
  learn_density(known, last);
  place_members(known, last, next, more);
}

void ShardSelection::Search::move_range(const Known& known, std::size_t last, std::size_t next) {
  if (last > 0) {
    range.before = known.places[last - 1];
    range.cost_before = known.costs[last - 1];
  }
  if (next + 1 < known.places.size()) {
    range.behind = known.places[next + 1];
    range.cost_behind = known.costs[next + 1];
  }
  range.first = known.places[last];
  range.cost_first = known.costs[last];
  range.end = known.places[next];
  range.cost_end = known.costs[next];
  shared_below = known.shared[last];
  shared_up_to = known.shared[next];
}

/// Says of those members whose bounds could matter whether they still can.
void ShardSelection::Search::place_members(const Known& known, std::size_t last, std::size_t next,
                                           std::vector<Search>& more) {
  is_done = has_stopped();
  for (Member& member : members) {
    if (member.part != Part::own) continue;
    const auto& [blocks, weight, least, most] = member.pool;
    const std::int64_t below = known.count(member, last), up_to = known.count(member, next);
    // Where it has stopped, only what comes before matters.
    const std::int64_t at_most = is_done ? below : up_to;
    const bool is_within = least <= below && at_most <= most;
    if (is_within && member.is_finer && is_done) {
      more.push_back(of_finer(member, below));
      member.part = Part::bound;
    } else if (is_within && !member.is_finer) {
      member.part = Part::shared;
      shared_below += weight * below;
      shared_up_to += weight * up_to;
    } else if (!is_within && (at_most <= least || below >= most)) {
      more.push_back(of_bound(member, at_most <= least ? least : most, known));
      member.part = Part::bound;
    }
    member.below = below;
    member.up_to = up_to;
  }
}

/// Nothing that lies in the range, and has a price, is pruned: what is left of the budget pays for
/// no block, or there is one alone, which costs more. Or there is no place but the first one.
bool ShardSelection::Search::has_stopped() const noexcept {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (const Member& member : members) {
    if (member.part == Part::shared || member.part == Part::own) {
      least = std::min(least, member.pool.weight);
    }
  }
  return range.first == range.end || budget - range.cost_first < least ||
         (range.cost_end - range.cost_first) / 2 < least || range.is_one_place();
}

void ShardSelection::Search::take_stops(std::map<std::size_t, Stop>& stops) const {
  for (const Member& member : members) {
    if (member.part == Part::shared) stops[member.group] = {member.own(range.first), order};
  }
}

ShardHint ShardSelection::Search::hint() const noexcept {
  return {range.first.key, range.first.position, range.cost_first, keys_per_block, error};
}

void ShardSelection::Search::add(const Question& question, std::size_t i,
                                 const std::int64_t* counts, std::int64_t* numbers) const noexcept {
  const std::size_t count = question.places.size() + 1;
  const auto [row, weight] = row_of(i);
  std::int64_t* const own = numbers + row * count;
  for (std::size_t p = 0; p < count; ++p) own[p] += weight * counts[p];
}

std::pair<std::size_t, std::int64_t> ShardSelection::Search::row_of(std::size_t i) const noexcept {
  const Member& member = members[asked[i]];
  return {member.row, member.part == Part::shared ? member.pool.weight : 1};
}

/// How far apart keys lie around the end: over as few of the places as hold enough blocks.
void ShardSelection::Search::learn_density(const Known& known, std::size_t last) {
  constexpr double few = 64, many = 4096;
  const double blocks = static_cast<double>(range.blocks) / 64;
  const double enough = std::clamp(blocks, few, many) * range.weight;
  std::size_t from = last, to = std::min(last + 1, known.places.size() - 1);
  const auto cost = [&] { return static_cast<double>(known.costs[to] - known.costs[from]); };
  // The first ends are where nobody has looked: on the way lie keys that no block has.
  if (guess.rounds == 0 && (from == 0 || to + 1 == known.places.size())) return;
  while (cost() < enough && (from > 1 || to + 2 < known.places.size())) {
    if (from > 1) --from;
    if (to + 2 < known.places.size()) ++to;
  }
  if (!(cost() > 0) || (cost() < enough / 4 && keys_per_block > 0)) return;
  const auto coordinate = [&](std::size_t i) {
    return range.coordinate(known.places[i], range.key_step);
  };
  keys_per_block = (coordinate(to) - coordinate(from)) / cost() *
                   static_cast<double>(std::uint64_t{1} << range.key_step);
}

}  // namespace datasparse
