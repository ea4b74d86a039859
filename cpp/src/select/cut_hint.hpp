/// What the last computation of a mask tells the next one.
#pragma once

#include <cstdint>

namespace datasparse {

/// Where pruning stopped, and how densely keys lie around there. The next cut is bracketed by it
/// where the tensor has changed little: without a sample, and more closely. A hint that misleads
/// costs a pass over the data, never a mask.
struct CutHint {
  std::int64_t blocks = 0;  // of the matrix; 0 where there is no hint
  std::int64_t pruned = 0;  // of them
  double key = 0;           // of the last one pruned
  double density = 0;       // how many blocks lie between two keys that differ by 1, near `key`
  double error = 0;         // how far off the hint before this one was, in blocks; never negative
  int rest = 0;             // steps that it is not used for, since the one before misled

  /// Where `wanted` blocks would be pruned.
  double key_at(std::int64_t wanted) const noexcept {
    return key + static_cast<double>(wanted - pruned) / density;
  }
};

}  // namespace datasparse
