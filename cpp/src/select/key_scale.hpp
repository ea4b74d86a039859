/// The order that keys of several tensors have in common.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/keys.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

/// How the keys of one tensor rank among those of a pool: as they are, where all are of one type
/// and none is divided; else as doubles, divided by a norm. Infinite ones stay so. Monotone: what
/// the division makes equal keeps its order within the tensor.
struct KeyScale {
  bool as_double = false;
  double norm = 1;

  friend bool operator==(const KeyScale& a, const KeyScale& b) noexcept {
    return a.as_double == b.as_double && a.norm == b.norm;
  }

  /// Greater than all keys of a pool; with `wide`, of one whose keys are 64 bits wide, or doubles.
  static constexpr std::uint64_t end(bool wide) noexcept {
    return wide ? KeyTraits<std::uint64_t>::nan + 1
                : std::uint64_t{KeyTraits<std::uint32_t>::nan} + 1;
  }

  template <class Key>
  std::uint64_t of(Key key) const noexcept {
    if (!as_double) return key;
    if (key >= KeyTraits<Key>::nan)
      return KeyTraits<std::uint64_t>::nan + (key - KeyTraits<Key>::nan);
    constexpr Key least = KeyTraits<Key>::zero - (KeyTraits<Key>::nan - 1 - KeyTraits<Key>::zero);
    if (key < least) return 0;  // below -Inf: no key is
    const double score = number_of(key);
    return key_of<std::uint64_t>(std::isinf(score) ? score : score / norm);
  }

  /// The least key of the tensor that ranks at `common` or above; KeyTraits::nan + 1 where there is
  /// none.
  template <class Key>
  Key least_at(std::uint64_t common) const noexcept {
    constexpr Key end = KeyTraits<Key>::nan + 1;
    if (!as_double) return common < end ? static_cast<Key>(common) : end;
    if (common > of<Key>(KeyTraits<Key>::nan)) return end;
    // Next to the value times the norm, in all likelihood.
    Key low = 0, high = KeyTraits<Key>::nan;  // of(high) >= common
    Key guess = KeyTraits<Key>::nan;
    if (common < KeyTraits<std::uint64_t>::nan) {
      guess = key_of<Key>(static_cast<typename KeyTraits<Key>::Score>(number_of(common) * norm));
    }
    constexpr Key near = 2;
    if (guess < high && of<Key>(guess + near) >= common) high = guess + near;
    if (guess > near && guess - near < high && of<Key>(guess - near) < common) low = guess - near;
    while (low < high) {
      const Key middle = low + (high - low) / 2;
      if (of<Key>(middle) >= common) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return high;
  }
};

}  // namespace datasparse
