/// How much is pruned.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "datasparse/block_mask.hpp"

namespace datasparse {

/// To the nearest integer, half to even, whatever the rounding mode.
inline std::int64_t round_half_even(double exact) noexcept {
  const double below = std::floor(exact);
  const auto count = static_cast<std::int64_t>(below);
  const double rest = exact - below;
  return rest > 0.5 || (rest == 0.5 && count % 2 != 0) ? count + 1 : count;
}

/// A sparsity level. (`Level`, of schedules, is a number or none.)
struct PrunedShare {
  double share;           // of the blocks
  std::int64_t min_kept;  // blocks that are kept whatever the share

  static PrunedShare of(const BlockSpec& spec) noexcept {
    return {spec.sparsity_level, spec.min_kept};
  }

  /// How many of the blocks are pruned: share × blocks in double, rounded half to even, but no more
  /// than leave min_kept.
  std::int64_t pruned_of(std::int64_t blocks) const noexcept {
    const std::int64_t count = round_half_even(share * static_cast<double>(blocks));
    return std::min(count, std::max<std::int64_t>(blocks - min_kept, 0));
  }
};

}  // namespace datasparse
