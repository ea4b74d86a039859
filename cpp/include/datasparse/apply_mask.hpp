/// What one does with a mask once it is there.
#pragma once

#include <cstdint>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"

namespace datasparse {

/// Writes +0 into every element of `data` whose mask byte is 0, also over NaN and Inf; leaves the
/// others untouched. `mask` holds data.size() bytes in C order.
/// ValueError where the memory is read-only or overlaps itself; nothing is written then.
/// Cost: O(n), no allocation, parallel.
DATASPARSE_API void apply_mask(const ArrayView& data, const std::uint8_t* mask);

/// How many of the n bytes are 0. Cost: O(n), on the calling thread.
DATASPARSE_API std::int64_t count_zeros(const std::uint8_t* mask, std::int64_t n);

}  // namespace datasparse
