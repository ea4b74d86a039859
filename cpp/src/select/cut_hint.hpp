/// What the last computation of a mask tells the next one.
#pragma once

#include <cmath>
#include <cstdint>

#include "datasparse/block_mask.hpp"

namespace datasparse {

/// Where pruning stopped, and how densely scores lie around there. The next cut is bracketed by it
/// where the tensor has changed little: without a sample, and more closely. A hint that misleads
/// costs a pass over the data, never a mask.
struct CutHint {
  std::int64_t blocks = 0;  // of the matrix; 0 where there is no hint
  std::int64_t pruned = 0;  // of them
  double score = 0;         // of the last one pruned
  double density = 0;  // how many blocks lie between two scores that differ by 1, near that one
  double error = 0;    // how far off the hint before this one was, in blocks; never negative
  int rest = 0;        // steps that it is not used for, since the one before misled

  /// Where `wanted` blocks would be pruned.
  double score_at(std::int64_t wanted) const noexcept {
    return score + static_cast<double>(wanted - pruned) / density;
  }
};

constexpr int rest_after_miss = 8;  // CutHint::rest

/// How far the cut may lie from where a hint says, to either side, in blocks. A thousandth of all,
/// and a hundred, are enough to tell how dense they are. Some more are needed where the level has
/// moved, since the density is not the same everywhere. What the last hint would have needed is
/// added.
inline double margin_of_hint(double blocks, double moved, double error) noexcept {
  return 0.001 * blocks + 100 + 0.1 * moved + 1.5 * error;
}
/// Whether that is less than a sample would need.
inline bool beats_sample(double margin, double blocks) noexcept {
  return margin <= 0.01 * blocks + 200;
}

/// Whether a bracket may reach so far from a score to either side. Magnitudes are hardly as dense
/// all over a wider range: their squares crowd near zero. Those of values are alike around it.
inline bool may_reach(Norm norm, double score, double reach) noexcept {
  constexpr double share = 0.2;
  return std::isfinite(score + reach) && (norm == Norm::none || reach <= share * score);
}

}  // namespace datasparse
