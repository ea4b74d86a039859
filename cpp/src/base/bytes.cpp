#include "base/bytes.hpp"

namespace datasparse {

void or_bytes(std::uint8_t* __restrict to, const std::uint8_t* __restrict by,
              std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(to[i] | by[i]);
}

void or_not_bytes(std::uint8_t* __restrict to, const std::uint8_t* __restrict by,
                  std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(to[i] | (by[i] ^ 1));
}

void and_bytes(std::uint8_t* __restrict to, const std::uint8_t* __restrict by,
               std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(to[i] & by[i]);
}

void and_not_bytes(std::uint8_t* __restrict to, const std::uint8_t* __restrict by,
                   std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(to[i] & (by[i] ^ 1));
}

void flip_bytes(std::uint8_t* bytes, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) bytes[i] = static_cast<std::uint8_t>(bytes[i] ^ 1);
}

bool normalise_bytes(std::uint8_t* bytes, std::int64_t n) noexcept {
  std::uint8_t all = 1;
  for (std::int64_t i = 0; i < n; ++i) {
    bytes[i] = bytes[i] != 0 ? 1 : 0;
    all = static_cast<std::uint8_t>(all & bytes[i]);
  }
  return all == 0;
}

}  // namespace datasparse
