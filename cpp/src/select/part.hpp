/// The seam of the selection: what a search for the cut asks of the data. All of it adds up.
///
/// A part holds some of the blocks that one cut goes through. A tensor by itself is one part. The
/// tensors of a pool are several, and so are the shards of a tensor, or the pieces of a file. A
/// search sees no key of theirs: it asks for counts, adds those of all parts, and asks again, until
/// it knows where pruning stops. Then each part writes its own mask.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "datasparse/block_mask.hpp"
#include "kernels/kernels.hpp"
#include "select/selection.hpp"

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

template <class Key>
class Part {
 public:
  virtual ~Part() = default;

  virtual std::int64_t blocks() const noexcept = 0;
  /// Adds to counts[b] how many keys of the range have b as their next `bits` bits.
  virtual void histogram(std::int64_t* counts, const KeyRange<Key>& range,
                         int bits) const noexcept = 0;
  /// How many keys lie in [lo, hi].
  virtual std::int64_t count(Key lo, Key hi) const noexcept = 0;
  /// Writes the mask: prunes the keys below the threshold, and the first `ties` that equal it.
  virtual void write(const Cut<Key>& cut) noexcept = 0;
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
/// bits)` is asked for the sums of Part::histogram(), at most three times for 32 bits and five
/// times for 64.
template <class Key, class Histogram>
CutRange<Key> range_of_cut(std::int64_t blocks, std::int64_t pruned, std::int64_t few,
                           const Histogram& histogram, const KeyRange<Key>& all = {}) noexcept {
  CutRange<Key> cut{all, pruned, blocks};
  while (cut.keys.low > 0 && cut.among > few) {
    const int bits = std::min(radix_bits, cut.keys.low);
    const std::int64_t* const counts = histogram(cut.keys, bits);
    Key bucket = 0;
    for (; cut.left > counts[bucket]; ++bucket) cut.left -= counts[bucket];
    cut.among = counts[bucket];
    cut.keys = {cut.keys.prefix << bits | bucket, cut.keys.low - bits};
  }
  return cut;
}

/// Prunes the `pruned` lowest of the blocks of all parts together, 0 <= pruned <= their number. Of
/// equal ones, those of earlier parts go first. `counts` is scratch memory for 2^radix_bits
/// numbers.
template <class Key>
void prune_parts(const std::vector<Part<Key>*>& parts, std::int64_t pruned,
                 std::int64_t* counts) noexcept {
  Cut<Key> cut{0, 0};
  if (pruned > 0) {
    std::int64_t blocks = 0;
    for (const auto* part : parts) blocks += part->blocks();
    const auto found =
        range_of_cut<Key>(blocks, pruned, 0, [&](const KeyRange<Key>& range, int bits) {
          std::fill_n(counts, std::int64_t{1} << bits, 0);
          for (const auto* part : parts) part->histogram(counts, range, bits);
          return counts;
        });
    cut = {found.keys.lo(), found.left};
  }
  for (auto* part : parts) {
    const std::int64_t equal = cut.ties > 0 ? part->count(cut.threshold, cut.threshold) : 0;
    const std::int64_t ties = std::min(cut.ties, equal);
    part->write({cut.threshold, ties});
    cut.ties -= ties;
  }
}

}  // namespace datasparse
