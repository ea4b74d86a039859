/// The loops of past.hpp, which has the words. In one source, which is compiled for speed.
#pragma once

#include <cstdint>

namespace datasparse {

/// Takes from `free`, a byte for each block, those that have a 0 in this row of theirs.
void and_row(std::uint8_t* free, const std::uint8_t* row, std::int64_t columns,
             std::int64_t width) noexcept;

/// The keys of the n elements of one block as they rank, `zeros` of which are zeroed. Where all
/// that were pruned stay so, those have no rank among each other, and free ones are one greater, to
/// be above them: no key is the greatest.
template <class Key>
void rank_elements(Key* keys, const std::uint8_t* free, std::int64_t n,
                   std::int64_t zeros) noexcept;

/// The same for all of n elements in blocks of 2, 4, 8 or 16, one behind another.
template <class Key>
void rank_elements_of_blocks(Key* keys, const std::uint8_t* free, std::int64_t n,
                             std::int64_t width, std::int64_t zeros) noexcept;

}  // namespace datasparse
