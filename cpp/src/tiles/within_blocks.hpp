/// Which elements small blocks lose.
#pragma once

#include <cstdint>

#include "base/keys.hpp"
#include "kernels/kernels.hpp"
#include "tiles/grid.hpp"
#include "tiles/lane.hpp"
#include "tiles/small_blocks.hpp"

namespace datasparse {

/// Writes 0 for the `zeros` least elements of each block, the first of equal ones, else 1. Their
/// keys are in the lane, in rows that lie `pitch` keys apart; 0 < zeros < blocks.size().
template <class Key>
void zero_least_within(const SelectionKernels<Key>& select, const SmallBlocks& blocks,
                       std::int64_t zeros, std::int64_t pitch, const MaskWindow& mask,
                       Lane<Key>& lane) noexcept {
  const Key* const keys = lane.element_keys.data();
  const std::int64_t size = blocks.filled_size();
  if (blocks.are_in_place()) return select.zero_least(mask.bytes, keys, blocks.count, size, zeros);
  if (blocks.width == 1) {
    return select.zero_least_down(mask.bytes, mask.pitch, keys, pitch, blocks.count, blocks.height,
                                  zeros);
  }
  blocks.gather(lane.small_keys.data(), keys, pitch, key_of_others<Key>);
  select.zero_least(lane.small_bytes.data(), lane.small_keys.data(), blocks.count, size, zeros);
  blocks.scatter(mask.bytes, mask.pitch, lane.small_bytes.data());
}

}  // namespace datasparse
