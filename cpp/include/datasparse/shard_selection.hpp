/// Where pruning stops in tensors of which nobody sees more than a part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/pool.hpp"

namespace datasparse {

/// A place in the order of a search's blocks: before it come the blocks of a lesser key, and of
/// those whose key equals it, the ones whose position is less.
///
/// Keys are those of scores (base/keys.hpp): they order as the scores do, NaN highest, and above
/// it, by one, what may not be chosen. Positions number the blocks of all groups of a search, one
/// group behind the other, each row-major in its whole tensor.
struct ShardPlace {
  std::uint64_t key;
  std::int64_t position;

  friend bool operator==(const ShardPlace& a, const ShardPlace& b) noexcept {
    return a.key == b.key && a.position == b.position;
  }
  friend bool operator<(const ShardPlace& a, const ShardPlace& b) noexcept {
    return a.key != b.key ? a.key < b.key : a.position < b.position;
  }
};

/// What a search has left for the next one of the same groups: a wish. One that misleads costs
/// rounds, never a mask. All who take part must have the same.
struct ShardHint {
  std::uint64_t key = 0;      ///< of the place at which the search stopped
  std::int64_t position = 0;  ///< likewise
  std::int64_t pruned = 0;    ///< what comes before that place, in blocks times their weight
  double keys_per_block = 0;  ///< how far apart keys lie near there, per weight of 1; 0: no hint
  double error = 0;           ///< how far off the hint before was, in blocks times their weight
};

/// Groups that share one threshold: a pool, or one group by itself.
struct ShardSearch {
  std::vector<std::size_t> groups;  ///< which ones, in the order of the pool's members
  PoolPlan plan;                    ///< of whole tensors
  /// By member: how many blocks the masks before have pruned, where these are monotone; or nothing.
  /// They come first. Where they cost more than the budget, some of them come back, and no others
  /// count.
  std::vector<std::int64_t> past = {};
  /// By member: whether its own keys tell apart what the common order of the search makes equal,
  /// as after a division; or nothing. Then its own keys decide which of its ties are pruned.
  std::vector<bool> is_finer = {};
  bool is_wide = false;   ///< keys are 64 bits wide, those of doubles; else 32
  bool has_sign = false;  ///< keys are of values; else of magnitudes, which are never below zero's
  /// Keys are multiples of 2^key_step, all but NaN's: 16 for bfloat16 numbers as floats, 13 for
  /// float16. It tells what to ask for; that they are is not relied upon.
  int key_step = 0;
  /// What ShardSelection::hints() left: of the search, and of its members at a bound. Or empty.
  std::vector<ShardHint> hints;
};

/// Which blocks are ranked, and by what.
struct ShardOrder {
  /// Only blocks that the mask before has pruned: no other comes before any place. Else those come
  /// before every place.
  bool is_returning = false;
  bool by_own_keys = false;  ///< of the one group; else in the common order of the search

  friend bool operator==(const ShardOrder& a, const ShardOrder& b) noexcept {
    return a.is_returning == b.is_returning && a.by_own_keys == b.by_own_keys;
  }
};

/// The places at which some searches stop, found by counting. It asks how many blocks come before
/// some places, and is told the sums of what all have answered who have parts of the tensors. It
/// decides by these sums alone, so all who are told the same decide alike. It sees no data, and
/// knows nothing of memory, messages or files.
///
///     ShardSelection selection(searches);
///     while (!selection.done()) {
///       std::vector<std::int64_t> numbers(selection.size());
///       for (const auto& question : selection.questions()) {
///         for (std::size_t m = 0; m < question.groups->size(); ++m) {
///           // counts[i]: how many blocks of the parts here of group question.groups[m] come
///           // before question.places[i]; counts[places.size()]: how many there are
///           selection.add(question, m, counts, numbers.data());
///         }
///       }
///       sum(numbers);  // over all who have parts: ranks, files, threads
///       selection.tell(numbers);
///     }
///     selection.stop(group);  // its blocks before that place are pruned
///
/// Questions of a round have at most `most` numbers together, but eight for each search, and each
/// bounded member of a pool, at the least: rounds are what costs. More places are asked about where
/// fewer searches are left. All searches go on at the same time.
class DATASPARSE_API ShardSelection {
 public:
  /// ValueError for a group that is in two searches, and for a plan that cannot be.
  explicit ShardSelection(const std::vector<ShardSearch>& searches, std::int64_t most = 8192);
  ShardSelection(ShardSelection&& other) noexcept;
  ShardSelection& operator=(ShardSelection&& other) noexcept;
  ~ShardSelection();

  struct Question {
    const std::vector<std::size_t>* groups;  ///< of the search, those that matter, in order
    const std::vector<std::int64_t>* first;  ///< the position of each group's first block
    std::vector<ShardPlace> places;          ///< ascending, at least one
    ShardOrder order;                        ///< in which they are places
    std::size_t search;                      ///< which one it is of, for add()
    std::size_t begin;                       ///< where its numbers begin
  };
  bool done() const noexcept { return questions_.empty(); }
  const std::vector<Question>& questions() const noexcept { return questions_; }
  /// How many numbers the answers to all questions are.
  std::size_t size() const noexcept { return size_; }
  /// Adds what the parts of one group have counted to the numbers of a question: counts of
  /// places.size() + 1 entries.
  void add(const Question& question, std::size_t member, const std::int64_t* counts,
           std::int64_t* numbers) const noexcept;
  /// The row of numbers that add() adds a group's counts to, and times which weight. Where both are
  /// the same for several groups, the sum of their counts may be added once, for any of them.
  std::pair<std::size_t, std::int64_t> row_of(const Question& question,
                                              std::size_t member) const noexcept;
  /// Begins a search anew where its own hint says, as if it had been given. StateError once sums
  /// were told; ValueError for an index of no search. All who take part must do the same.
  void expect(std::size_t search, const ShardHint& hint);
  /// Takes the sums, and asks the next questions. ValueError where they do not add up to the
  /// tensors: parts are missing, or were counted twice.
  void tell(const std::vector<std::int64_t>& sums);

  /// Once done, else a StateError: the place at which pruning stops in a group; `position` is the
  /// index of a block in the group's own tensor. ValueError for a group of no search.
  ShardPlace stop(std::size_t group) const { return stop_of(group).place; }
  /// And the order in which that is a place.
  ShardOrder order(std::size_t group) const { return stop_of(group).order; }
  /// Likewise: what the next search of the same groups begins with.
  std::vector<ShardHint> hints(std::size_t search) const;
  /// How many sums it was told.
  std::int64_t rounds() const noexcept { return rounds_; }

 private:
  struct Search;
  void require_done(const char* what) const;
  void require_search(std::size_t search) const;
  void take_up(std::vector<Search> more);
  void ask();

  std::vector<Search> searches_;  // those asked for, and behind them those of members at a bound
  std::vector<Question> questions_;
  struct Stop {
    ShardPlace place;
    ShardOrder order;
  };
  const Stop& stop_of(std::size_t group) const;

  std::map<std::size_t, Stop> stops_;  // by group
  std::size_t given_ = 0, size_ = 0;
  std::int64_t most_ = 0, rounds_ = 0;
};

}  // namespace datasparse
