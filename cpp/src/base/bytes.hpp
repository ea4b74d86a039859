/// Loops over bytes that are 0 or 1, those of masks; or over any bits. In one source, which is
/// compiled for speed. `to` and `by` are not the same memory.
#pragma once

#include <cstdint>

namespace datasparse {

/// to[i] |= by[i], of any bits.
void or_bytes(std::uint8_t* to, const std::uint8_t* by, std::int64_t n) noexcept;
/// Sets to[i] to 1 where by[i] is 0.
void or_not_bytes(std::uint8_t* to, const std::uint8_t* by, std::int64_t n) noexcept;
/// Sets to[i] to 0 where by[i] is 0.
void and_bytes(std::uint8_t* to, const std::uint8_t* by, std::int64_t n) noexcept;
/// Sets to[i] to 0 where by[i] is 1.
void and_not_bytes(std::uint8_t* to, const std::uint8_t* by, std::int64_t n) noexcept;
/// Makes 0 of 1, and 1 of 0.
void flip_bytes(std::uint8_t* bytes, std::int64_t n) noexcept;
/// Makes 1 of all that is not 0, and returns whether there is any 0.
bool normalise_bytes(std::uint8_t* bytes, std::int64_t n) noexcept;

}  // namespace datasparse
