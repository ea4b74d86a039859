/// One search of a selection over shards: a range, which gets narrower by sums.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "datasparse/shard_selection.hpp"
#include "select/shard_places.hpp"
#include "select/shard_range.hpp"

namespace datasparse {

struct ShardSelection::Search {
  /// How a group takes part.
  enum class Part {
    nothing,  // it loses nothing
    shared,   // its count lies within its bounds wherever the search stops: weights are added up
    own,      // that is to be seen: its blocks are counted by themselves
    bound,    // it is at a bound wherever the search stops: one of its own looks for that place
  };
  struct Member {
    std::size_t group;
    std::int64_t begin;  ///< position of its first block
    PoolMember pool;
    Part part;
    std::int64_t past;          ///< blocks that a monotone mask has pruned
    bool is_finer;              ///< in its own keys than in those of the search
    std::int64_t below, up_to;  ///< its blocks before the range, and before its end; until shared
    std::size_t row = 0;        ///< of the question

    /// A place of the search as one of the group's own.
    ShardPlace own(const ShardPlace& place) const noexcept {
      return {place.key, std::clamp<std::int64_t>(place.position - begin, 0, pool.blocks)};
    }
    /// How many of its blocks are pruned where so many come before the stop.
    std::int64_t pruned(std::int64_t count) const noexcept {
      return std::clamp(count, pool.least, pool.most);
    }
  };
  /// What is known at once. Places go from the range's first one to its end. Costs are of what
  /// comes before each. `shared` is the part in them of those members whose weights are added up.
  /// Of the others, count(member, i) tells how many blocks come before the i-th place.
  struct Known {
    std::vector<ShardPlace> places;
    std::vector<std::int64_t> costs, shared;
    std::function<std::int64_t(const Member& member, std::size_t i)> count;
  };

  std::size_t index = 0;                       ///< among the selection's
  std::size_t parent = 0, parents_member = 0;  ///< of one for a bound: the pool's, and whose
  /// For a bound at which the group was last time: it begins before that is known again.
  bool is_ahead = false;
  bool is_done = false;
  std::vector<Member> members;
  std::int64_t budget = 0;
  ShardOrder order;
  ShardRange range;
  ShardGuess guess;
  std::vector<ShardHint> hints;  ///< what it begins with
  double keys_per_block = 0;     ///< what it leaves
  double error = 0;              ///< likewise
  /// By weight, of the shared members: how many blocks come before the range, and before its end.
  std::int64_t shared_below = 0, shared_up_to = 0;

  std::vector<std::size_t> asked;   ///< the members that are counted
  std::vector<std::size_t> groups;  ///< theirs
  std::vector<std::int64_t> first;  ///< likewise
  std::size_t rows = 0;

  /// ValueError for what cannot be.
  static Search of(const ShardSearch& given, std::size_t index);
  /// Begins with the whole range. Adds the searches for members at a bound.
  void begin(std::vector<Search>& more);
  /// Says anew who is counted, and how.
  void arrange();
  /// Adds what the parts of the i-th of `groups` have counted to the numbers.
  void add(const Question& question, std::size_t i, const std::int64_t* counts,
           std::int64_t* numbers) const noexcept;
  /// The row that this is, and the weight of its counts there.
  std::pair<std::size_t, std::int64_t> row_of(std::size_t i) const noexcept;
  /// ValueError for sums that cannot be.
  void require_sums(const Question& question, const std::int64_t* sums) const;
  /// Narrows the range. Adds the searches for members that are at a bound from now on.
  void tell(const Question& question, const std::int64_t* sums, std::vector<Search>& more);
  /// Where it has stopped: of the members that are at no bound.
  void take_stops(std::map<std::size_t, Stop>& stops) const;
  ShardHint hint() const noexcept;

 private:
  Search of_finer(const Member& member, std::int64_t pruned) const;
  Search of_bound(const Member& member, std::int64_t bound, const Known& known) const;
  void require_members() const;
  void require_budget() const;
  void narrow(const Known& known, std::vector<Search>& more);
  void move_range(const Known& known, std::size_t last, std::size_t next);
  void place_members(const Known& known, std::size_t last, std::size_t next,
                     std::vector<Search>& more);
  bool has_stopped() const noexcept;
  void learn_density(const Known& known, std::size_t last);
};

}  // namespace datasparse
