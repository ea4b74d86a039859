#include "datasparse/shard_selection.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "datasparse/error.hpp"
#include "select/shard_places.hpp"
#include "select/shard_range.hpp"

namespace datasparse {
namespace {

/// How a group takes part in a search.
enum class Part {
  nothing,  // it loses nothing
  shared,   // the search stops where its count lies within its bounds: weights are added up
  own,      // that is to be seen: its blocks are counted by themselves
  bound,    // it is at a bound wherever the search stops: a search of its own looks for that place
};

struct Member {
  std::size_t group;
  std::int64_t begin;  // position of its first block
  PoolMember pool;
  Part part;
  std::int64_t below, up_to;  // its blocks before the range, and before its end
  std::int64_t past = 0;      // blocks that a monotone mask has pruned
  bool is_finer = false;      // in its own keys than in those of the search
  std::size_t row = 0;        // of the question
};

}  // namespace

/// One search: a range, which gets narrower by sums.
struct ShardSelection::Search {
  /// What is known of it at once: places from the first one of the range to its end, and how many
  /// of a member's blocks come before each. Of those that are counted by themselves alone.
  struct Known {
    std::vector<ShardPlace> places;
    std::vector<std::int64_t> costs, shared;
    std::function<std::int64_t(const Member& member, std::size_t place)> count;
  };

  std::vector<Member> members;
  std::int64_t budget = 0;
  ShardOrder order;
  ShardRange range;
  ShardGuess guess;
  ShardHint hint;             // what it begins with
  double keys_per_block = 0;  // what it leaves, once known
  double error = 0;
  bool is_done = false;
  std::vector<std::size_t> asked;   // the members that are counted
  std::vector<std::size_t> groups;  // theirs
  std::vector<std::int64_t> first;  // likewise
  std::size_t rows = 0;
  /// By weight, of those whose counts are added up: how many come before the range, and its end.
  std::int64_t shared_below = 0, shared_up_to = 0;

  static Search of(const ShardSearch& given);
  Search of_finer(const Member& member, std::int64_t pruned) const;
  Search of_bound(const Member& member, std::int64_t bound, const Known& known) const;
  void require_possible(std::size_t index) const;
  /// Begins: the whole range.
  void begin(std::vector<Search>& more);
  /// Who is counted from now on, and how.
  void arrange();
  void require_sums(const Question& question, const std::int64_t* sums) const;
  void tell(const Question& question, const std::int64_t* sums, std::vector<Search>& more);
  void narrow(const Known& known, std::vector<Search>& more);
  bool has_stopped() const noexcept;
  void learn_density(const Known& known, std::size_t last);
  void take_stops(std::map<std::size_t, Stop>& stops) const;
};

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

/// A place of a pool as one of a member's own.
ShardPlace own_place(const ShardPlace& place, const Member& member) noexcept {
  return {place.key,
          std::clamp<std::int64_t>(place.position - member.begin, 0, member.pool.blocks)};
}

/// The same where a search begins or ends: no position is behind the last block.
ShardPlace own_end(const ShardPlace& place, const Member& member) noexcept {
  const ShardPlace own = own_place(place, member);
  return own.position < member.pool.blocks ? own : ShardPlace{own.key + 1, 0};
}

/// How many of a member's blocks are pruned where so many come before the stop.
std::int64_t clamped(std::int64_t count, const Member& member) noexcept {
  return std::clamp(count, member.pool.least, member.pool.most);
}

}  // namespace

ShardSelection::Search ShardSelection::Search::of(const ShardSearch& given) {
  Search search;
  search.budget = given.plan.budget;
  search.hint = given.hint;
  ShardRange& range = search.range;
  double weights = 0, squares = 0;
  std::int64_t past_cost = 0;
  for (std::size_t m = 0; m < given.groups.size(); ++m) {
    const PoolMember& pool = given.plan.members[m];
    const bool loses = pool.blocks > 0 && pool.weight > 0 && pool.most > 0;
    const std::int64_t past = given.past.empty() ? 0 : given.past[m];
    search.members.push_back({given.groups[m], range.blocks, pool,
                              loses ? Part::own : Part::nothing, 0, pool.blocks, past,
                              !given.is_finer.empty() && given.is_finer[m]});
    range.blocks += pool.blocks;
    if (!loses) continue;
    const auto weight = static_cast<double>(pool.weight);
    weights += static_cast<double>(pool.blocks) * weight;
    squares += static_cast<double>(pool.blocks) * weight * weight;
    past_cost += pool.weight * clamped(past, search.members.back());
  }
  search.order.is_returning = past_cost > given.plan.budget;
  for (Member& member : search.members) {
    if (member.part == Part::nothing) continue;
    (search.order.is_returning ? member.up_to : member.below) = member.past;
    range.cost_first += member.pool.weight * clamped(member.below, member);
    range.cost_end += member.pool.weight * clamped(member.up_to, member);
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
  Search search = of(alone);
  search.order.by_own_keys = true;
  return search;
}

/// The search for where a member has lost as many blocks as its bound says.
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
  Search search = of(alone);
  search.guess.rounds = guess.rounds;
  if (search.order.is_returning != order.is_returning)
    return search;  // what was counted is of others
  std::size_t last = 0;
  while (last + 1 < known.places.size() && known.count(member, last + 1) <= bound) ++last;
  const auto place = [&](std::size_t i) { return own_end(known.places[i], member); };
  ShardRange& own = search.range;
  own.first = place(last);
  own.cost_first = known.count(member, last);
  search.members[0].below = own.cost_first;
  const std::size_t before = last - (last > 0 ? 1 : 0);
  own.before = place(before);
  own.cost_before = known.count(member, before);
  if (last + 1 == known.places.size()) return search;
  own.end = place(last + 1);
  own.cost_end = known.count(member, last + 1);
  search.members[0].up_to = own.cost_end;
  const std::size_t behind = std::min(last + 2, known.places.size() - 1);
  own.behind = place(behind);
  own.cost_behind = known.count(member, behind);
  return search;
}

void ShardSelection::Search::require_possible(std::size_t index) const {
  for (const Member& member : members) {
    const auto& [blocks, weight, least, most] = member.pool;
    if (0 <= least && least <= most && most <= blocks && weight >= 0) continue;
    throw ValueError("members of search " + std::to_string(index) +
                     " must have 0 <= least <= most <= blocks and a weight of at least 0, got " +
                     std::to_string(least) + ", " + std::to_string(most) + " and " +
                     std::to_string(blocks) + ", and a weight of " + std::to_string(weight) +
                     ", for group " + std::to_string(member.group));
  }
  if (budget < range.cost_first) {
    throw ValueError("budget of search " + std::to_string(index) + " must be at least " +
                     std::to_string(range.cost_first) + ", which its members lose at the least, " +
                     "got " + std::to_string(budget));
  }
}

void ShardSelection::Search::begin(std::vector<Search>& more) {
  const auto count = [](const Member& member, std::size_t i) {
    return i == 0 ? member.below : member.up_to;
  };
  narrow({{range.first, range.end}, {range.cost_first, range.cost_end}, {0, 0}, count}, more);
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
  const auto require_row = [&](const std::int64_t* counts, const std::string& who,
                               std::int64_t below, std::int64_t up_to, std::int64_t total) {
    const std::string what = "sums of search " + std::to_string(question.search) + " for " + who;
    if (counts[count - 1] != total) {
      throw ValueError(what + " must count each block once, " + std::to_string(total) +
                       " in all, got " + std::to_string(counts[count - 1]) +
                       ": a part is missing, was added twice, or is of a tensor of another shape");
    }
    if (std::is_sorted(counts, counts + count) && below <= counts[0] && counts[count - 2] <= up_to)
      return;
    throw ValueError(what +
                     " must agree with what was counted before, and not be less for later places: "
                     "the data have changed since the first round, or a part counts by other keys");
  };
  std::int64_t shared_total = 0;
  std::size_t shared_from = 0;
  for (const std::size_t m : asked) {
    const Member& member = members[m];
    if (member.part == Part::shared) {
      if (shared_total == 0) shared_from = member.group;
      shared_total += member.pool.weight * member.pool.blocks;
    } else {
      require_row(sums + member.row * count, "group " + std::to_string(member.group), member.below,
                  member.up_to, member.pool.blocks);
    }
  }
  if (shared_total == 0) return;
  require_row(sums, "its groups from group " + std::to_string(shared_from) + " on, by weight,",
              shared_below, shared_up_to, shared_total);
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
    if (member.part == Part::bound) constant += member.pool.weight * clamped(member.below, member);
  }
  known.shared.push_back(shared_below);
  for (std::size_t i = 0; i < count; ++i) known.shared.push_back(is_shared ? sums[i] : 0);
  known.shared.push_back(shared_up_to);
  for (std::size_t i = 0; i < count + 2; ++i) {
    std::int64_t cost = constant + known.shared[i];
    for (const std::size_t m : asked) {
      const Member& member = members[m];
      if (member.part == Part::own) {
        cost += member.pool.weight * clamped(known.count(member, i), member);
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
  if (last > 0) {
    range.before = known.places[last - 1];
    range.cost_before = known.costs[last - 1];
  }
  if (next < end) {
    range.behind = known.places[next + 1];
    range.cost_behind = known.costs[next + 1];
  }
  range.first = known.places[last];
  range.cost_first = known.costs[last];
  range.end = known.places[next];
  range.cost_end = known.costs[next];
  shared_below = known.shared[last];
  shared_up_to = known.shared[next];
  learn_density(known, last);
  // Who is at a bound from now on, and who within.
  std::vector<std::int64_t> below, up_to;
  for (const Member& member : members) {
    const bool is_own = member.part == Part::own;
    below.push_back(is_own ? known.count(member, last) : member.below);
    up_to.push_back(is_own ? known.count(member, next) : member.up_to);
  }
  is_done = has_stopped();
  for (std::size_t m = 0; m < members.size(); ++m) {
    Member& member = members[m];
    if (member.part != Part::own) continue;
    const auto& [blocks, weight, least, most] = member.pool;
    // Where it has stopped, only what comes before matters.
    const std::int64_t at_most = is_done ? below[m] : up_to[m];
    const bool is_within = least <= below[m] && at_most <= most;
    if (is_within && member.is_finer) {
      if (!is_done) continue;
      more.push_back(of_finer(member, below[m]));
      member.part = Part::bound;
    } else if (is_within) {
      member.part = Part::shared;
      shared_below += weight * below[m];
      shared_up_to += weight * up_to[m];
    } else if (at_most <= least || below[m] >= most) {
      more.push_back(of_bound(member, at_most <= least ? least : most, known));
      member.part = Part::bound;
    }
  }
  for (std::size_t m = 0; m < members.size(); ++m) {
    members[m].below = below[m];
    members[m].up_to = up_to[m];
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
    if (member.part == Part::shared) stops[member.group] = {own_place(range.first, member), order};
  }
}

/// How far apart keys lie around the end: over as few of the places as hold enough blocks.
void ShardSelection::Search::learn_density(const Known& known, std::size_t last) {
  constexpr double enough = 64;
  std::size_t from = last, to = std::min(last + 1, known.places.size() - 1);
  const auto cost = [&] { return static_cast<double>(known.costs[to] - known.costs[from]); };
  while (cost() < enough * range.weight && (from > 0 || to + 1 < known.places.size())) {
    if (from > 0) --from;
    if (to + 1 < known.places.size()) ++to;
  }
  if (cost() < enough * range.weight && keys_per_block > 0) return;
  if (!(cost() > 0)) return;
  const double keys = range.coordinate(known.places[to]) - range.coordinate(known.places[from]);
  keys_per_block = keys / cost() * static_cast<double>(std::uint64_t{1} << range.key_step);
}

ShardSelection::ShardSelection(ShardSelection&& other) noexcept = default;
ShardSelection& ShardSelection::operator=(ShardSelection&& other) noexcept = default;
ShardSelection::~ShardSelection() = default;

ShardSelection::ShardSelection(std::vector<ShardSearch> searches, std::int64_t most)
    : given_(searches.size()), most_(most) {
  for (std::size_t i = 0; i < searches.size(); ++i) {
    require_shape(searches[i], i);
    searches_.push_back(Search::of(searches[i]));
    searches_.back().require_possible(i);
    for (const std::size_t group : searches[i].groups) {
      // One that loses nothing gets back what the mask before has pruned.
      if (stops_.emplace(group, Stop{{}, {true, false}}).second) continue;
      throw ValueError("searches must not share groups, got group " + std::to_string(group) +
                       " a second time in search " + std::to_string(i));
    }
  }
  std::vector<Search> more;
  for (Search& search : searches_) search.begin(more);
  go_on(std::move(more));
}

void ShardSelection::add(const Question& question, std::size_t member, const std::int64_t* counts,
                         std::int64_t* numbers) const noexcept {
  const Search& search = searches_[question.search];
  const Member& counted = search.members[search.asked[member]];
  const std::int64_t weight = counted.part == Part::shared ? counted.pool.weight : 1;
  const std::size_t count = question.places.size() + 1;
  std::int64_t* const row = numbers + question.begin + counted.row * count;
  for (std::size_t i = 0; i < count; ++i) row[i] += weight * counts[i];
}

void ShardSelection::tell(const std::vector<std::int64_t>& sums) {
  if (sums.size() != size_) {
    throw ValueError("sums must be as many as the questions' numbers, " + std::to_string(size_) +
                     ", got " + std::to_string(sums.size()));
  }
  for (const Question& question : questions_) {
    searches_[question.search].require_sums(question, sums.data() + question.begin);
  }
  ++rounds_;
  std::vector<Search> more;
  for (const Question& question : questions_) {
    searches_[question.search].tell(question, sums.data() + question.begin, more);
  }
  go_on(std::move(more));
}

/// Takes up the searches that have come up, and asks of all that have not stopped.
void ShardSelection::go_on(std::vector<Search> more) {
  for (Search& search : more) {
    std::vector<Search> none;  // bounds have no bounds
    search.begin(none);
    searches_.push_back(std::move(search));
  }
  std::size_t rows = 0;
  for (Search& search : searches_) {
    search.arrange();
    if (search.is_done) {
      search.take_stops(stops_);
    } else {
      rows += search.rows;
    }
  }
  questions_.clear();
  size_ = 0;
  const std::int64_t each = most_ / std::max<std::int64_t>(static_cast<std::int64_t>(rows), 1);
  for (std::size_t i = 0; i < searches_.size(); ++i) {
    Search& search = searches_[i];
    if (search.is_done) continue;
    auto places = places_in(search.range, search.guess, search.budget, search.hint,
                            std::max<std::int64_t>(each - 1, 1));
    const std::size_t numbers = search.rows * (places.size() + 1);
    questions_.push_back(
        {&search.groups, &search.first, std::move(places), search.order, i, size_});
    size_ += numbers;
  }
}

const ShardSelection::Stop& ShardSelection::stop_of(std::size_t group) const {
  require_done("stop()");
  const auto found = stops_.find(group);
  if (found == stops_.end()) {
    throw ValueError("group must be one of a search, got " + std::to_string(group));
  }
  return found->second;
}

ShardHint ShardSelection::hint(std::size_t search) const {
  require_done("hint()");
  if (search >= given_) {
    throw ValueError("search must be less than " + std::to_string(given_) + ", got " +
                     std::to_string(search));
  }
  const Search& stopped = searches_[search];
  return {stopped.range.first.key, stopped.range.first.position, stopped.range.cost_first,
          stopped.keys_per_block, stopped.error};
}

void ShardSelection::require_done(const char* what) const {
  if (done()) return;
  throw StateError(std::string(what) +
                   " must come when done() holds: sum up the answers to questions(), and tell()");
}

}  // namespace datasparse
