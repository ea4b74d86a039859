/// What a step of regrowth chooses among, and what it makes of a mask meanwhile.
///
/// While masks move, the bytes of a mask hold more than 0 and 1: what a block was before the step,
/// and what became of it. So a step needs no copy of the mask before. Every mark can be taken back
/// or set again without a look at the data, as the engine does where a bracket was wrong.
#pragma once

#include <cstdint>

namespace datasparse {

/// Bits of a byte. All elements of a block have the same, but for `stays`.
namespace moving {

constexpr std::uint8_t was_active = 1;  ///< before the step
constexpr std::uint8_t dropped = 2;     ///< of what was active; else see `dead`
constexpr std::uint8_t grown = 4;
constexpr std::uint8_t stays = 8;  ///< the element is a zero that is kept
constexpr std::uint8_t dead = 2;   ///< and so are all of its block, which was not active

// A block may be dropped if it was active, and may grow if it neither survives nor is dead. It is
// new if it has grown and was not active. A mask keeps what survives or has grown, but for elements
// that stay zero. kernels/marks.inl is the code.

/// 1 where a block stays as it is, active, else 0.
constexpr std::uint8_t survives(std::uint8_t state) noexcept {
  return static_cast<std::uint8_t>(state & ~(state >> 1) & 1);
}

}  // namespace moving

/// Which blocks the engine chooses among, and how it ranks them. The lowest of the quota are marked
/// as dropped, or the others as grown.
struct Choice {
  enum class Among : std::uint8_t { all, active, inactive };

  Among among = Among::all;   ///< all: masks are written as they are ever, and the rest is unused
  bool by_chance = false;     ///< else by the data
  std::uint64_t stream = 0;   ///< of random numbers
  std::int64_t eligible = 0;  ///< how many blocks there are to choose among

  bool is_made() const noexcept { return among != Among::all; }
  bool is_inactive() const noexcept { return among == Among::inactive; }
};

}  // namespace datasparse
