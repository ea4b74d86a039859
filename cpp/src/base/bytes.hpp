/// Loops over the bytes of masks, in one source that is compiled for speed. Bytes are 0 or 1 unless
/// a function says otherwise. `to` and `by` are not the same memory.
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
/// Makes 1 of all that is not 0, of any bytes. Returns whether there is any 0.
bool normalise_bytes(std::uint8_t* bytes, std::int64_t n) noexcept;

}  // namespace datasparse
