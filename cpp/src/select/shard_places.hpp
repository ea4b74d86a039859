/// Which places a search over shards asks about.
#pragma once

#include <cstdint>
#include <vector>

#include "select/shard_range.hpp"

namespace datasparse {

/// What a search has learnt from its guesses.
struct ShardGuess {
  std::int64_t rounds = 0;
  ShardPlace from{}, to{};  ///< between which the last one expected the stop
  bool is_even = false;     ///< the last one expected it anywhere
  bool is_wrong = false;    ///< it was elsewhere, or blocks cluster: the next expects it anywhere
  bool is_hinted = false;   ///< the last one was by a hint, which expected it at
  ShardPlace hinted{};

  /// Learns from what the range has become, of that cost before.
  void tell(const ShardRange& range, std::int64_t cost_before) noexcept;
};

/// Places to ask about: `count` at the most, at least one, ascending, all inside the range, which
/// is more than one place. Many lie where the search is expected to stop; the others bracket it
/// wherever that is. A wrong guess costs a round. They are decided by IEEE arithmetic on doubles
/// alone, so all machines ask the same.
std::vector<ShardPlace> places_in(const ShardRange& range, ShardGuess& guess, std::int64_t budget,
                                  const ShardHint& hint, std::int64_t count);

}  // namespace datasparse
