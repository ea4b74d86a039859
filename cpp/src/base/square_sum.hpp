/// The sum of the squares of many scores, correctly rounded: the same in whatever order they come.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/keys.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

/// Of scores that their keys stand for. Infinite ones and NaN are left out. Exact: a square is an
/// integer times a power of two, and integers of each power are added up by themselves.
template <class Key>
class SquareSum {
 public:
  void clear() noexcept {
    std::memset(bins_, 0, sizeof(bins_));
    std::memset(recent_, 0, sizeof(recent_));
    n_recent_ = 0;
  }

  void add(const Key* keys, std::int64_t n) noexcept {
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t some = std::min(n - done, recent_max - n_recent_);
      add_recent(keys + done, some);
      done += some;
      n_recent_ += some;
      if (n_recent_ == recent_max) move_recent();
    }
  }
  void add(SquareSum& more) noexcept {
    more.move_recent();
    for (std::size_t e = 0; e < exponents; ++e) {
      for (std::size_t h = 0; h < halves; ++h) bins_[e][h] += more.bins_[e][h];
    }
  }

  __extension__ using Wide = unsigned __int128;
  static constexpr int fraction_bits = KeyTraits<Key>::fraction_bits;
  static constexpr int exponent_bits = KeyTraits<Key>::bits - 1 - fraction_bits;
  static constexpr std::size_t exponents = (std::size_t{1} << exponent_bits) - 1;
  static constexpr std::size_t halves = sizeof(Key) / 4;  // of a square, 64 bits each
  static constexpr std::size_t limbs = (2 * exponents + 64 * halves + 128) / 32 + 1;
  using Limbs = std::array<std::uint32_t, limbs>;

  /// The sum as one integer, times 2^least. Limbs of several sums add up, with carries.
  Limbs exact() noexcept {
    move_recent();
    Limbs sum{};
    for (std::size_t e = 0; e < exponents; ++e) {  // denormals have the exponent of those above
      const std::size_t shift = 2 * (std::max<std::size_t>(e, 1) - 1);
      for (std::size_t h = 0; h < halves; ++h) add_shifted(sum, bins_[e][h], shift + 64 * h);
    }
    return sum;
  }
  /// To the nearest double, half to even.
  double rounded() noexcept { return rounded(exact()); }
  static double rounded(const Limbs& sum) noexcept {
    std::int64_t top = 32 * static_cast<std::int64_t>(limbs) - 1;
    const auto bit = [&sum](std::int64_t i) -> std::uint64_t {
      return i < 0 ? 0 : sum[static_cast<std::size_t>(i / 32)] >> (i % 32) & 1U;
    };
    while (top >= 0 && bit(top) == 0) --top;
    if (top < 0) return 0;
    constexpr std::int64_t least_of_double = -1074;
    const std::int64_t last = std::max(top - 52, least_of_double - least);  // bit that is kept
    std::uint64_t digits = 0;
    for (std::int64_t i = top; i >= last; --i) digits = digits << 1 | bit(i);
    bool beyond = false;  // the half
    for (std::int64_t i = 0; i < last - 1; ++i) beyond = beyond || bit(i) != 0;
    if (bit(last - 1) != 0 && (beyond || digits % 2 != 0)) ++digits;
    return std::ldexp(static_cast<double>(digits), static_cast<int>(last + least));
  }

 private:
  static constexpr std::int64_t bias = (std::int64_t{1} << (exponent_bits - 1)) - 1;
  static constexpr std::int64_t least = 2 * (1 - bias - fraction_bits);  // exponent of the last bit

  // Squares of 32-bit keys have 48 bits: so many add up in 64, in several places at once, since one
  // addition waits for the last one to the same place. Those of 64-bit keys go to the bins at once.
  static constexpr std::int64_t recent_max = 32768;
  static constexpr std::size_t copies = halves == 1 ? 4 : 1;
  static constexpr std::size_t recent_exponents = halves == 1 ? exponents + 1 : 1;

  void add_recent(const Key* keys, std::int64_t n) noexcept {
    for (std::int64_t i = 0; i < n; ++i) {
      const Key bits = magnitude_of(keys[i]);
      const Key exponent = bits >> fraction_bits;
      const Key fraction = bits & ((Key{1} << fraction_bits) - 1);
      if constexpr (halves == 1) {
        const std::uint64_t x = fraction | Key{exponent != 0} << fraction_bits;
        recent_[static_cast<std::size_t>(i) % copies][exponent] +=
            x * x;  // what is infinite, or NaN, too
      } else if (exponent < exponents) {
        const Wide x = fraction | Key{exponent != 0} << fraction_bits;
        const Wide square = x * x;
        bins_[exponent][0] += static_cast<std::uint64_t>(square);
        bins_[exponent][1] += square >> 64;
      }
    }
  }
  void move_recent() noexcept {
    for (std::size_t e = 0; e < exponents && halves == 1; ++e) {
      for (auto& copy : recent_) bins_[e][0] += copy[e];
    }
    std::memset(recent_, 0, sizeof(recent_));
    n_recent_ = 0;
  }

  static void add_shifted(Limbs& sum, Wide number, std::size_t shift) noexcept {
    std::size_t limb = shift / 32;
    const std::size_t rest = shift % 32;
    std::uint64_t carry = 0;
    bool is_first = true;
    for (; number != 0 || carry != 0; ++limb) {
      // The first limb takes as many bits as it has place for.
      const std::size_t place = is_first ? 32 - rest : 32;
      const auto bits = static_cast<std::uint64_t>(number) & ((std::uint64_t{1} << place) - 1);
      carry += sum[limb] + (is_first ? bits << rest : bits);
      sum[limb] = static_cast<std::uint32_t>(carry);
      carry >>= 32;
      number >>= place;
      is_first = false;
    }
  }

  Wide bins_[exponents][halves];
  std::uint64_t recent_[copies][recent_exponents];
  std::int64_t n_recent_;
};

}  // namespace datasparse
