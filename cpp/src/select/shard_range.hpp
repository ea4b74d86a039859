/// What a search over shards knows: between which places it stops.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/keys.hpp"
#include "datasparse/shard_selection.hpp"

namespace datasparse {

/// The search stops at `first` or behind it, before `end`: `first` is paid for, `end` is not.
///
/// Places are put by their coordinate: keys in steps, and the position as a fraction of one. So
/// blocks of one key are as if they lay evenly between it and the next.
struct ShardRange {
  std::int64_t blocks = 0;  ///< of all groups: positions are less
  double weight = 1;        ///< of a block, on the average over weights
  bool is_wide = false, has_sign = false;
  int key_step = 0;

  ShardPlace first{}, end{};
  std::int64_t cost_first = 0, cost_end = 0;
  ShardPlace before{}, behind{};  ///< known beyond the range; its ends where there are none
  std::int64_t cost_before = 0, cost_behind = 0;

  /// The place behind which no key is: of blocks that may not be chosen there is one above NaN's.
  static ShardPlace last(bool is_wide) noexcept {
    return {is_wide ? KeyTraits<std::uint64_t>::nan + 2
                    : std::uint64_t{KeyTraits<std::uint32_t>::nan} + 2,
            0};
  }
  std::uint64_t zero() const noexcept {
    return is_wide ? KeyTraits<std::uint64_t>::zero : KeyTraits<std::uint32_t>::zero;
  }
  std::uint64_t nan() const noexcept {
    return is_wide ? KeyTraits<std::uint64_t>::nan : KeyTraits<std::uint32_t>::nan;
  }
  int fraction_bits() const noexcept {
    return is_wide ? KeyTraits<std::uint64_t>::fraction_bits
                   : KeyTraits<std::uint32_t>::fraction_bits;
  }
  /// The score of a key, or NaN.
  double value_of(std::uint64_t key) const noexcept {
    return is_wide ? number_of(key) : number_of(static_cast<std::uint32_t>(key));
  }
  bool holds(const ShardPlace& place) const noexcept { return first < place && place < end; }
  bool is_one_place() const noexcept {
    return end.key == first.key
               ? end.position - first.position <= 1
               : end == ShardPlace{first.key + 1, 0} && first.position + 1 >= blocks;
  }
  /// A place inside that halves the keys, or the positions of one key. The range is more than one
  /// place.
  ShardPlace middle() const noexcept {
    const std::uint64_t keys = end.key - first.key;
    if (keys > 1) {
      const std::uint64_t step = std::uint64_t{1} << key_step;
      const std::uint64_t key = first.key + keys / 2;
      const std::uint64_t rounded = key & ~(step - 1);
      return {rounded > first.key ? rounded : key, 0};
    }
    const std::int64_t at_first = (keys == 0 ? end.position : blocks) - first.position;
    if (at_first > 1) return {first.key, first.position + at_first / 2};
    return {end.key, end.position / 2};  // 0 where end.position is 1: the place behind `first`
  }

  /// The coordinate of a place, 0 at the step in which `first` is.
  double coordinate(const ShardPlace& place) const noexcept {
    const std::uint64_t step = place.key >> key_step, origin = first.key >> key_step;
    const double steps =
        step >= origin ? static_cast<double>(step - origin) : -static_cast<double>(origin - step);
    const bool is_multiple = step << key_step == place.key;
    return steps + (is_multiple ? fraction_of(place.position) : 1);
  }
  /// The place at a coordinate of at least 0; `whole`: position 0 of the nearest key.
  ShardPlace at(double coordinate, bool whole) const noexcept {
    const double steps = std::floor(whole ? coordinate + 0.5 : coordinate);
    if (!(steps < 0x1p63)) return end;
    const std::uint64_t key = (first.key >> key_step) + static_cast<std::uint64_t>(steps);
    if (key > end.key >> key_step) return end;
    const double position = whole ? 0 : (coordinate - steps) * static_cast<double>(blocks);
    return {key << key_step, std::min(static_cast<std::int64_t>(position), blocks - 1)};
  }

 private:
  double fraction_of(std::int64_t position) const noexcept {
    return static_cast<double>(position) / static_cast<double>(std::max<std::int64_t>(blocks, 1));
  }
};

}  // namespace datasparse
