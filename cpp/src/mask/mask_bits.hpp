/// Zeros in data and in masks: finding, counting and joining them.
#pragma once

#include <cstdint>
#include <vector>

#include "datasparse/array_view.hpp"
#include "datasparse/mask.hpp"

namespace datasparse {

/// A set bit for each element that is 0 or -0, packed as Mask::pack() packs. Reads the data once.
PackedBits zeros_in(const ArrayView& data);
/// How many elements are 0 or -0 where the mask prunes. Reads both once.
std::int64_t count_pruned_zeros(const ArrayView& data, const std::uint8_t* mask) noexcept;

/// The inverse of pack_bits(). Large ones use several threads.
void unpack_bits(std::uint8_t* mask, const std::uint8_t* bits, std::int64_t size) noexcept;

/// Mask::pack() of all, with one wait for each device.
std::vector<PackedBits> pack_all(const std::vector<Mask>& masks);

/// Whether the mask keeps one of n elements at least. Reads up to the first that it keeps.
bool keeps_any(const std::uint8_t* mask, std::int64_t n) noexcept;
/// How many entries of an axis the mask keeps no element of: rows, say. 0 for a shape without
/// elements. Reads as far as it takes to see that each has one, or else the whole mask.
std::int64_t count_dead(const std::uint8_t* mask, const Axes& shape, int axis);

}  // namespace datasparse
