#include "tiles/eligible.hpp"

namespace datasparse {

void keep_others(std::uint8_t* __restrict keep, const std::uint8_t* __restrict eligible,
                 std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    keep[i] = static_cast<std::uint8_t>(keep[i] | (eligible[i] ^ 1U));
  }
}

void prune_others(std::uint8_t* __restrict keep, const std::uint8_t* __restrict eligible,
                  std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) keep[i] = static_cast<std::uint8_t>(keep[i] & eligible[i]);
}

void find_pruned(std::uint8_t* pruned, const std::uint8_t* free, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) pruned[i] = static_cast<std::uint8_t>(free[i] ^ 1U);
}

}  // namespace datasparse
