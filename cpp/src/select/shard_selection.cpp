#include "datasparse/shard_selection.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "datasparse/error.hpp"
#include "select/shard_places.hpp"
#include "select/shard_search.hpp"

namespace datasparse {

ShardSelection::ShardSelection(ShardSelection&& other) noexcept = default;
ShardSelection& ShardSelection::operator=(ShardSelection&& other) noexcept = default;
ShardSelection::~ShardSelection() = default;

ShardSelection::ShardSelection(const std::vector<ShardSearch>& searches, std::int64_t most)
    : given_(searches.size()), most_(most) {
  for (std::size_t i = 0; i < searches.size(); ++i) {
    searches_.push_back(Search::of(searches[i], i));
    for (const std::size_t group : searches[i].groups) {
      // One that loses nothing gets back what the mask before has pruned.
      if (stops_.emplace(group, Stop{{}, {true, false}}).second) continue;
      throw ValueError("searches must not share groups, got group " + std::to_string(group) +
                       " a second time in search " + std::to_string(i));
    }
  }
  std::vector<Search> more;
  for (Search& search : searches_) search.begin(more);
  take_up(std::move(more));
  ask();
}

void ShardSelection::add(const Question& question, std::size_t member, const std::int64_t* counts,
                         std::int64_t* numbers) const noexcept {
  searches_[question.search].add(question, member, counts, numbers + question.begin);
}

std::pair<std::size_t, std::int64_t> ShardSelection::row_of(const Question& question,
                                                            std::size_t member) const noexcept {
  return searches_[question.search].row_of(member);
}

void ShardSelection::expect(std::size_t search, const ShardHint& hint) {
  require_search(search);
  if (rounds_ > 0) throw StateError("expect() must come before the first tell()");
  searches_[search].hints[0] = hint;
  ask();
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
  take_up(std::move(more));
  ask();
}

/// Searches for bounds: those that have come up, and those that went ahead and are needed now, or
/// in vain.
void ShardSelection::take_up(std::vector<Search> more) {
  std::map<std::size_t, Search*> ahead;  // by group
  for (Search& search : searches_) {
    if (search.is_ahead) ahead[search.members[0].group] = &search;
  }
  std::vector<Search> added;
  for (Search& search : more) {
    const auto found = ahead.find(search.members[0].group);
    if (found != ahead.end() && found->second->budget == search.budget) {
      found->second->is_ahead = false;
    } else {
      added.push_back(std::move(search));
    }
  }
  for (Search& search : added) {
    search.index = searches_.size();
    searches_.push_back(std::move(search));
  }
  for (Search& search : searches_) {
    if (!search.is_ahead) continue;
    const Search& pool = searches_[search.parent];
    const bool is_open = pool.members[search.parents_member].part == Search::Part::own;
    if (pool.is_done || !is_open) search.is_done = true;
  }
}

void ShardSelection::ask() {
  std::size_t rows = 0;
  for (Search& search : searches_) {
    search.arrange();
    if (!search.is_done) rows += search.rows;
    if (search.is_done && !search.is_ahead) search.take_stops(stops_);
  }
  questions_.clear();
  size_ = 0;
  // With less, it would go on in halves: rounds cost more than numbers.
  constexpr std::int64_t fewest = 8;
  const auto each =
      std::max(fewest, most_ / std::max<std::int64_t>(static_cast<std::int64_t>(rows), 1));
  for (Search& search : searches_) {
    if (search.is_done) continue;
    auto places = places_in(search.range, search.guess, search.budget, search.hints[0], each - 1);
    const std::size_t numbers = search.rows * (places.size() + 1);
    questions_.push_back(
        {&search.groups, &search.first, std::move(places), search.order, search.index, size_});
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

std::vector<ShardHint> ShardSelection::hints(std::size_t search) const {
  require_done("hints()");
  require_search(search);
  const Search& stopped = searches_[search];
  std::vector<ShardHint> hints{stopped.hint()};
  for (std::size_t i = given_; i < searches_.size(); ++i) {
    const Search& bound = searches_[i];
    if (bound.parent != search || bound.is_ahead) continue;
    hints.resize(1 + stopped.members.size());
    hints[1 + bound.parents_member] = bound.hint();
  }
  return hints;
}

void ShardSelection::require_search(std::size_t search) const {
  if (search < given_) return;
  throw ValueError("search must be less than " + std::to_string(given_) + ", got " +
                   std::to_string(search));
}

void ShardSelection::require_done(const char* what) const {
  if (done()) return;
  throw StateError(std::string(what) +
                   " must come when done() holds: sum up the answers to questions(), and tell()");
}

}  // namespace datasparse
