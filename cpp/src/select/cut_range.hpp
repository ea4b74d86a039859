/// Where the cut of one tensor lies, by counting keys: it sees none of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "datasparse/block_mask.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

constexpr int radix_bits = 13;  // a round: of most data, few enough keys share so many

/// The keys that begin with the bits of `prefix`, `low` bits of which are not known yet.
template <class Key>
struct KeyRange {
  Key prefix = 0;
  int low = KeyTraits<Key>::bits;

  /// All keys of scores: those of magnitudes have the highest bit.
  static KeyRange of(Norm norm) noexcept {
    return norm == Norm::none ? KeyRange() : KeyRange{1, KeyTraits<Key>::bits - 1};
  }

  Key lo() const noexcept { return low == KeyTraits<Key>::bits ? Key{0} : prefix << low; }
  Key hi() const noexcept {
    if (low == KeyTraits<Key>::bits) return ~Key{0};
    return lo() + ((Key{1} << low) - 1);
  }
};

/// A range that holds the cut.
template <class Key>
struct CutRange {
  KeyRange<Key> keys;
  std::int64_t left;   // how many of its keys are pruned, 1 or more
  std::int64_t among;  // how many it holds
};

/// Narrows the keys of `blocks` blocks, all of which lie in `all`, down to a range that holds the
/// `pruned`-th, 1 <= pruned <= blocks: to one key, or to at most `few` of them. `histogram(range,
/// bits)` is asked how many keys of the range have each number as their next `bits` bits, at most
/// three times for 32 bits and five times for 64.
template <class Key, class Histogram>
CutRange<Key> range_of_cut(std::int64_t blocks, std::int64_t pruned, std::int64_t few,
                           const Histogram& histogram, const KeyRange<Key>& all = {}) noexcept {
  CutRange<Key> cut{all, pruned, blocks};
  while (cut.keys.low > 0 && cut.among > few) {
    const int bits = std::min(radix_bits, cut.keys.low);
    const std::int64_t* const counts = histogram(cut.keys, bits);
    // Data that somebody writes to meanwhile may have fewer keys in the range than were counted.
    const Key last = (Key{1} << bits) - 1;
    Key bucket = 0;
    for (; cut.left > counts[bucket] && bucket < last; ++bucket) cut.left -= counts[bucket];
    cut.among = counts[bucket];
    cut.keys = {cut.keys.prefix << bits | bucket, cut.keys.low - bits};
  }
  return cut;
}

}  // namespace datasparse
