/// The sum of the squares of many scores, correctly rounded: the same in whatever order they come.
#pragma once

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
  void clear() noexcept { std::memset(bins_, 0, sizeof(bins_)); }

  void add(const Key* keys, std::int64_t n) noexcept {
    for (std::int64_t i = 0; i < n; ++i) {
      const Key bits = magnitude_of(keys[i]);
      const Key exponent = bits >> fraction_bits;
      if (exponent >= exponents) continue;
      const Key fraction = bits & ((Key{1} << fraction_bits) - 1);
      const Wide x = exponent == 0 ? fraction : fraction | Key{1} << fraction_bits;
      Wide* const bin = bins_[exponent == 0 ? 1 : exponent];
      const Wide square = x * x;
      bin[0] += static_cast<std::uint64_t>(square);
      if constexpr (halves == 2) bin[1] += square >> 64;
    }
  }
  void add(const SquareSum& more) noexcept {
    for (std::size_t e = 0; e < exponents; ++e) {
      for (std::size_t h = 0; h < halves; ++h) bins_[e][h] += more.bins_[e][h];
    }
  }

  /// To the nearest double, half to even.
  double rounded() const noexcept {
    // All of it as one integer, times 2^least.
    std::array<std::uint32_t, limbs> sum{};
    for (std::size_t e = 1; e < exponents; ++e) {
      for (std::size_t h = 0; h < halves; ++h) add_shifted(sum, bins_[e][h], 2 * (e - 1) + 64 * h);
    }
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
  __extension__ using Wide = unsigned __int128;
  static constexpr int fraction_bits = KeyTraits<Key>::fraction_bits;
  static constexpr int exponent_bits = KeyTraits<Key>::bits - 1 - fraction_bits;
  static constexpr std::size_t exponents = (std::size_t{1} << exponent_bits) - 1;
  static constexpr std::size_t halves = sizeof(Key) / 4;  // of a square, 64 bits each
  static constexpr std::int64_t bias = (std::int64_t{1} << (exponent_bits - 1)) - 1;
  static constexpr std::int64_t least = 2 * (1 - bias - fraction_bits);  // exponent of the last bit
  static constexpr std::size_t limbs = (2 * exponents + 64 * halves + 128) / 32 + 1;

  static void add_shifted(std::array<std::uint32_t, limbs>& sum, Wide number,
                          std::size_t shift) noexcept {
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
};

}  // namespace datasparse
