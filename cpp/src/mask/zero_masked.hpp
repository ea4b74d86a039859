/// The part of apply_mask() that cannot fail.
#pragma once

#include <cstdint>

#include "datasparse/array_view.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

/// Writes +0 where the mask is 0. The caller has called require_writable().
void zero_masked(const Kernels& table, const ArrayView& data, const std::uint8_t* mask) noexcept;

}  // namespace datasparse
