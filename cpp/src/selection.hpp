/// Exact selection among keys in memory: where does pruning the k lowest stop?
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/kernels.hpp"

namespace datasparse {

/// Keys below `threshold` are pruned, and the first `ties` of those that equal it.
template <class Key>
struct Cut {
  Key threshold;
  std::int64_t ties;
};

/// The same as cut_of(), by sorting: for a handful of keys.
template <class Key>
Cut<Key> cut_of_few(const Key* keys, std::int64_t n, std::int64_t k, Key* buffer) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = keys[i];
    std::int64_t place = i;
    for (; place > 0 && buffer[place - 1] > key; --place) buffer[place] = buffer[place - 1];
    buffer[place] = key;
  }
  const Key threshold = buffer[k - 1];
  std::int64_t ties = 1;
  while (ties < k && buffer[k - 1 - ties] == threshold) ++ties;
  return {threshold, ties};
}

/// The cut that prunes the k lowest of n keys, 1 <= k <= n. `buffer` is scratch memory for `room`
/// keys; with room for n, all rounds but the first few run over few keys.
///
/// A range of keys that holds the k-th shrinks round by round: what lies below a pivot is counted,
/// and one side kept. Pivots alternate between interpolation, which takes a handful of rounds on
/// keys that are spread at all evenly, and bisection, which bounds the rounds by twice the bits of
/// a key.
template <class Key>
Cut<Key> cut_of(const SelectionKernels<Key>& kernels, const Key* keys, std::int64_t n,
                std::int64_t k, Key* buffer, std::int64_t room) noexcept {
  constexpr std::int64_t few = 16;
  if (n <= few && n <= room) return cut_of_few(keys, n, k, buffer);
  const auto [least, greatest] = kernels.range(keys, n);
  Key lo = least;
  Key hi = greatest + 1;
  std::int64_t within = n;    // keys in [lo, hi), among which the k-th is sought
  std::int64_t below_lo = 0;  // keys that are still there, but below
  for (bool interpolate = true; hi - lo > 1; interpolate = !interpolate) {
    Key pivot = lo + (hi - lo) / 2;
    if (interpolate) {
      const double share = (static_cast<double>(k) - 0.5) / static_cast<double>(within);
      const auto step = static_cast<Key>(static_cast<double>(hi - lo) * share);
      pivot = std::clamp<Key>(lo + step, lo + 1, hi - 1);
    }
    const std::int64_t below = kernels.count_below(keys, n, pivot) - below_lo;
    if (k <= below) {
      hi = pivot;
      within = below;
    } else {
      lo = pivot;
      k -= below;
      within -= below;
      below_lo += below;
    }
    if (within < n && within <= room) {
      kernels.keep_range(buffer, keys, n, lo, hi);
      keys = buffer;
      n = within;
      below_lo = 0;
    }
  }
  return {lo, k};
}

}  // namespace datasparse
