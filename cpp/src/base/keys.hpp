/// Keys and the numbers they stand for, one at a time: what kernels do for vectors of them.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/kernels.hpp"

namespace datasparse {

/// Above the keys of all scores: of what may not be chosen.
template <class Key>
constexpr Key key_of_others = KeyTraits<Key>::nan + 1;

/// The key of a score.
template <class Key>
Key key_of(typename KeyTraits<Key>::Score score) noexcept {
  if (std::isnan(score)) return KeyTraits<Key>::nan;
  Key bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return score < 0 ? Key{0} - bits : bits | KeyTraits<Key>::zero;
}

/// The magnitude of the score, as its bits.
template <class Key>
Key magnitude_of(Key key) noexcept {
  constexpr Key zero = KeyTraits<Key>::zero;
  return key < zero ? zero - key : key - zero;
}

/// The score of a key, or NaN; of the keys below all scores, -Inf.
template <class Key>
double number_of(Key key) noexcept {
  const Key bits = magnitude_of(key);
  typename KeyTraits<Key>::Score magnitude;
  std::memcpy(&magnitude, &bits, sizeof(bits));
  if (key >= KeyTraits<Key>::zero) return static_cast<double>(magnitude);
  return std::isnan(magnitude) ? -std::numeric_limits<double>::infinity()
                               : -static_cast<double>(magnitude);
}

}  // namespace datasparse
