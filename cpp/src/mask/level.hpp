/// How much is pruned.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "datasparse/block_mask.hpp"

namespace datasparse {

struct Level {
  double share;           // of the blocks
  std::int64_t min_kept;  // blocks that are kept whatever the share

  static Level of(const BlockSpec& spec) noexcept { return {spec.sparsity_level, spec.min_kept}; }

  /// How many of the blocks are pruned: share × blocks in double, rounded half to even, whatever
  /// the rounding mode; but no more than leave min_kept.
  std::int64_t pruned_of(std::int64_t blocks) const noexcept {
    const double exact = share * static_cast<double>(blocks);
    const double below = std::floor(exact);
    auto count = static_cast<std::int64_t>(below);
    const double rest = exact - below;
    if (rest > 0.5 || (rest == 0.5 && count % 2 != 0)) ++count;
    return std::min(count, std::max<std::int64_t>(blocks - min_kept, 0));
  }
};

}  // namespace datasparse
