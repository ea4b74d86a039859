/// Random numbers that are a function of what they are for: the same on every machine, for any
/// number of threads, in any order.
#pragma once

#include <cstdint>
#include <string_view>

namespace datasparse {

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit hangs on all of the number's.
constexpr std::uint64_t mixed(std::uint64_t number) noexcept {
  number += 0x9E3779B97F4A7C15U;
  number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9U;
  number = (number ^ (number >> 27)) * 0x94D049BB133111EBU;
  return number ^ (number >> 31);
}

/// Which numbers to draw, by Kernels::draw: for a group, by its name, and for one of its moves.
inline std::uint64_t random_stream(std::int64_t seed, std::string_view name,
                                   std::int64_t move) noexcept {
  std::uint64_t stream = mixed(static_cast<std::uint64_t>(seed));
  for (const char byte : name) stream = mixed(stream ^ static_cast<unsigned char>(byte));
  return mixed(stream ^ static_cast<std::uint64_t>(move));
}

}  // namespace datasparse
