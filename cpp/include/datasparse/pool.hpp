/// One threshold for many tensors: how much they lose together, and where pruning stops.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"

namespace datasparse {

/// A group as a pool sees it.
struct PoolGroup {
  const BlockSpec* spec;  ///< resolved; not owned
  Axes shape;             ///< of the data, in the order of their layout
};

/// The same in blocks.
struct PoolMember {
  std::int64_t blocks;
  /// Of a block: how many elements it zeroes, over the greatest common divisor of the pool. 0 for a
  /// group that loses nothing.
  std::int64_t weight;
  std::int64_t least, most;  ///< how many of the blocks are pruned
};

/// What a pool prunes: the blocks that come first in the order (key, order of groups, index), as
/// long as their weights fit into the budget.
///
/// All blocks are walked in that order. A block costs its weight; it costs nothing as long as its
/// group is below `least`, the sum of which is set aside first; and it is passed over once its
/// group is at `most`. The first block that costs more than what is left ends the walk.
struct DATASPARSE_API PoolPlan {
  std::vector<PoolMember> members;  ///< in the order of the groups
  std::int64_t budget = 0;          ///< the sum of the weights of what is pruned, at the most

  /// The plan of groups in their order.
  ///
  /// The budget is level × Σ blocks·weight in double, rounded half to even, where all levels are
  /// equal, but for those of groups that have nothing to prune; else Σ level·blocks·weight, added
  /// up in the order of the groups. Blocks that min_kept keeps are left out of it. One group alone
  /// loses what it would lose without a pool. `most` is ⌈max_level × blocks⌉, `least` is
  /// ⌊min(min_level, the pool's level) × blocks⌋. ValueError where the budget exceeds what
  /// max_level leaves: it names the possible range.
  static PoolPlan of(const std::string& pool, const std::vector<PoolGroup>& groups);

  using Counts = std::vector<std::int64_t>;  // by member

  /// Whether every block costs the same, and no member is bounded: then only the budget counts.
  bool is_plain() const noexcept;
  /// What it costs to prune so many blocks of each member, or as many as it may lose.
  std::int64_t cost(const Counts& pruned) const noexcept;
  /// How many blocks each member loses, where pruning stops at a key: so many lie below it, and so
  /// many equal it. cost(below) must not exceed the budget. `pruned` has an entry for each member.
  void prune(const Counts& below, const Counts& equal, Counts& pruned) const noexcept;
  /// The sum of the weights of what is pruned, whatever the data are: less than the budget where
  /// blocks weigh differently, and the next one costs more than what is left.
  ZeroCount spent() const noexcept;
  /// How many blocks each member may come to lose.
  std::vector<ZeroCount> bounds() const;
};

/// The search for the key at which a pool stops: the greatest one below which no more lies than the
/// budget pays for. It sees no key of the data. Whoever has these is asked how many lie below some
/// keys: parts in memory, ranks or files, whose counts add up.
///
///     PoolSearch search(plan, greatest_key + 1);
///     while (!search.done()) {
///       const std::uint64_t key = search.middle();
///       search.tell(key, counts);  // of each member, how many keys lie below that one
///     }
///     search.finish(pruned);  // so many blocks of each member, the lowest ones by (key, index)
///
/// Allocates nothing but in its constructor.
class DATASPARSE_API PoolSearch {
 public:
  using Counts = PoolPlan::Counts;

  /// All keys are less than `end`. The plan is not owned, and must not change.
  PoolSearch(const PoolPlan& plan, std::uint64_t end);
  /// Begins, also again, where members have blocks that come before all keys, or behind: so many
  /// lie below the first key, and below `end`.
  void begin(std::uint64_t end, const Counts& below, const Counts& up_to) noexcept;

  /// The key lies in [first(), last()].
  std::uint64_t first() const noexcept { return first_; }
  std::uint64_t last() const noexcept { return end_ - 1; }
  bool done() const noexcept { return last() == first(); }
  /// The key that halves the range.
  std::uint64_t middle() const noexcept { return first_ + (end_ - first_) / 2; }
  /// How many keys lie below `key`, by member. Of any key: those that do not narrow the range are
  /// passed over.
  void tell(std::uint64_t key, const Counts& below) noexcept;
  /// How many keys lie below first(), and up to last().
  const Counts& below() const noexcept { return below_; }
  const Counts& up_to() const noexcept { return up_to_; }
  /// PoolPlan::prune(). done() must hold.
  void finish(Counts& pruned) noexcept;

 private:
  const PoolPlan* plan_;
  std::uint64_t first_ = 0, end_;
  Counts below_, up_to_, equal_;
};

/// The pools that some groups share, in the order in which they come first: names and places.
DATASPARSE_API std::vector<ZeroCounts::Pool> pools_of(const std::vector<PoolGroup>& groups);

/// How many zeros a step puts into the masks of groups that share pools or not. ValueError from
/// PoolPlan::of().
DATASPARSE_API ZeroCounts count_zeros(const std::vector<PoolGroup>& groups);
/// Throws what count_zeros() throws.
DATASPARSE_API void require_possible(const std::vector<PoolGroup>& groups);

}  // namespace datasparse
