/// Exact selection among keys in memory: where does pruning the k lowest stop?
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/keys.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

/// Keys below `threshold` are pruned, and the first `ties` of those that equal it.
template <class Key>
struct Cut {
  Key threshold;
  std::int64_t ties;
  double density = 0;  // how many lie between two scores that differ by 1, near there; 0: not known
};

/// Of so many keys in [from, to).
template <class Key>
double density_of(std::int64_t keys, Key from, Key to) noexcept {
  return static_cast<double>(keys) / (number_of(to) - number_of(from));
}

/// The search for the k-th lowest of some keys, by narrowing the range [lo, hi) that holds it.
template <class Key>
class CutSearch {
 public:
  /// 1 <= k <= n. `buffer` is scratch memory for `room` keys, and may be `keys`.
  CutSearch(const SelectionKernels<Key>& kernels, const Key* keys, std::int64_t n, std::int64_t k,
            Key* buffer, std::int64_t room) noexcept
      : kernels_(kernels), keys_(keys), n_(n), k_(k), buffer_(buffer), room_(room), within_(n) {}

  Cut<Key> run() noexcept {
    bool sampling = true;
    for (bool halve = false; hi_ - lo_ > 1; halve = !halve) {
      if (within_ == n_ && n_ <= few_max) return cut_of_few();
      if (sampling && within_ == n_ && n_ >= sample_from) {
        const std::int64_t before = within_;
        narrow_by_sample();
        sampling = within_ <= before / 2;  // else few values, or an unlucky sample
      } else {
        narrow_by_pivot(halve);
      }
    }
    return {lo_, k_, density_};
  }

 private:
  static constexpr std::int64_t few_max = 16;
  static constexpr std::int64_t sample_from = 512;
  static constexpr std::int64_t run_length =
      16;  // keys of the sample side by side: a vector of them
  static constexpr std::int64_t sample_max = 512;

  /// By sorting, for a handful of keys.
  Cut<Key> cut_of_few() const noexcept {
    Key sorted[few_max];
    for (std::int64_t i = 0; i < n_; ++i) {
      const Key key = keys_[i];
      std::int64_t place = i;
      for (; place > 0 && sorted[place - 1] > key; --place) sorted[place] = sorted[place - 1];
      sorted[place] = key;
    }
    const Key threshold = sorted[k_ - 1];
    std::int64_t ties = 1;
    while (ties < k_ && sorted[k_ - 1 - ties] == threshold) ++ties;
    return {threshold, ties, density_};
  }

  /// Floyd and Rivest's SELECT: two pivots out of a sample, a little below and above the k-th,
  /// leave few keys between them.
  void narrow_by_sample() noexcept {
    Key sample[sample_max];
    Key spare[sample_max];
    const std::int64_t size = n_ < 16 * sample_max ? n_ / 16 / run_length * run_length : sample_max;
    const std::int64_t step = n_ / (size / run_length);
    for (std::int64_t i = 0; i < size / run_length; ++i) {
      std::copy_n(keys_ + i * step, run_length, sample + i * run_length);
    }
    const double share = (static_cast<double>(k_) - 0.5) / static_cast<double>(n_);
    const double rank = share * static_cast<double>(size);
    const double margin = 2.5 * std::sqrt(rank * (1 - share)) + 1;
    const auto low = static_cast<std::int64_t>(rank - margin);
    const auto high = static_cast<std::int64_t>(rank + margin) + 1;
    const auto pivot = [&](std::int64_t k) {
      return CutSearch(kernels_, sample, size, k, spare, sample_max).run().threshold;
    };
    const Key from = low < 1 ? lo_ : pivot(low);
    const Key to = high > size ? hi_ : pivot(high) + 1;
    narrow(from, to);
  }

  /// Keeps the part of the range below `from`, from there to `to`, or above.
  void narrow(Key from, Key to) noexcept {
    const bool in_place = keys_ == buffer_;  // then only what is kept may be written
    const auto [below_from, inside] = in_place ? counts_of(from, to) : split(from, to);
    const std::int64_t below = below_from - below_lo_;
    if (k_ <= below) {
      hi_ = from;
      within_ = below;
    } else if (k_ > below + inside) {
      lo_ = to;
      k_ -= below + inside;
      within_ -= below + inside;
      below_lo_ = below_from + inside;
    } else {
      lo_ = from;
      hi_ = to;
      k_ -= below;
      within_ = inside;
      below_lo_ = below_from;
      constexpr std::int64_t enough = 64;
      if (inside >= enough) density_ = density_of(inside, from, to);
      if (in_place) split(from, to);
      if (inside <= room_) keep(inside);
    }
  }

  SplitCounts split(Key from, Key to) const noexcept {
    return kernels_.split(buffer_, room_, keys_, n_, from, to);
  }
  SplitCounts counts_of(Key from, Key to) const noexcept {
    const std::int64_t below = kernels_.count_below(keys_, n_, from);
    return {below, kernels_.count_below(keys_, n_, to) - below};
  }

  /// Pivots alternate between interpolation, which takes a handful of rounds on keys that are
  /// spread at all evenly, and bisection, which bounds the rounds by twice the bits of a key.
  void narrow_by_pivot(bool halve) noexcept {
    Key pivot = lo_ + (hi_ - lo_) / 2;
    if (!halve) {
      const double share = (static_cast<double>(k_) - 0.5) / static_cast<double>(within_);
      const auto step = static_cast<Key>(static_cast<double>(hi_ - lo_) * share);
      pivot = std::clamp<Key>(lo_ + step, lo_ + 1, hi_ - 1);
    }
    const std::int64_t below = kernels_.count_below(keys_, n_, pivot) - below_lo_;
    if (k_ <= below) {
      hi_ = pivot;
      within_ = below;
    } else {
      lo_ = pivot;
      k_ -= below;
      within_ -= below;
      below_lo_ += below;
    }
    if (within_ < n_ && within_ <= room_) {
      split(lo_, hi_);
      keep(within_);
    }
  }

  /// Goes on with the keys in the buffer: all of the range, and nothing else.
  void keep(std::int64_t n) noexcept {
    keys_ = buffer_;
    n_ = n;
    below_lo_ = 0;
  }

  const SelectionKernels<Key>& kernels_;
  const Key* keys_;
  std::int64_t n_;
  std::int64_t k_;  // counts within the range
  Key* const buffer_;
  const std::int64_t room_;
  std::int64_t within_;        // keys in the range
  std::int64_t below_lo_ = 0;  // keys that are still there, but below it
  Key lo_ = 0;
  Key hi_ = key_of_others<Key> + 1;
  double density_ = 0;
};

/// The cut that prunes the k lowest of n keys, 1 <= k <= n. `buffer` is scratch memory for `room`
/// keys; with room for a tenth of n, all rounds but the first run over few keys. Time: about one
/// pass over the keys, and at most one per two bits of a key.
template <class Key>
Cut<Key> cut_of(const SelectionKernels<Key>& kernels, const Key* keys, std::int64_t n,
                std::int64_t k, Key* buffer, std::int64_t room) noexcept {
  return CutSearch<Key>(kernels, keys, n, k, buffer, room).run();
}

}  // namespace datasparse
