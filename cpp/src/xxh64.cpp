#include "xxh64.hpp"

namespace datasparse {
namespace {

constexpr std::uint64_t prime1 = 0x9E3779B185EBCA87, prime2 = 0xC2B2AE3D27D4EB4F,
                        prime3 = 0x165667B19E3779F9, prime4 = 0x85EBCA77C2B2AE63,
                        prime5 = 0x27D4EB2F165667C5;

/// Little-endian, on any machine.
template <class Word>
Word load(const unsigned char* bytes) noexcept {
  Word word = 0;
  for (unsigned i = 0; i < sizeof(Word); ++i) word |= Word{bytes[i]} << (8 * i);
  return word;
}

std::uint64_t rotate(std::uint64_t x, int bits) noexcept { return x << bits | x >> (64 - bits); }

std::uint64_t round(std::uint64_t lane, std::uint64_t input) noexcept {
  return rotate(lane + input * prime2, 31) * prime1;
}

std::uint64_t merge(std::uint64_t hash, std::uint64_t lane) noexcept {
  return (hash ^ round(0, lane)) * prime1 + prime4;
}

}  // namespace

// The additions wrap around on purpose: unsigned integers do.
std::uint64_t xxh64(const void* data, std::size_t size) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::size_t left = size;
  std::uint64_t hash = prime5;
  if (left >= 32) {
    std::uint64_t lanes[4] = {prime1 + prime2, prime2, 0, 0 - prime1};
    for (; left >= 32; bytes += 32, left -= 32) {
      for (int i = 0; i < 4; ++i) lanes[i] = round(lanes[i], load<std::uint64_t>(bytes + 8 * i));
    }
    hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
    for (const auto lane : lanes) hash = merge(hash, lane);
  }
  hash += size;
  for (; left >= 8; bytes += 8, left -= 8) {
    hash = rotate(hash ^ round(0, load<std::uint64_t>(bytes)), 27) * prime1 + prime4;
  }
  for (; left >= 4; bytes += 4, left -= 4) {
    hash = rotate(hash ^ (load<std::uint32_t>(bytes) * prime1), 23) * prime2 + prime3;
  }
  for (; left > 0; ++bytes, --left) hash = rotate(hash ^ (*bytes * prime5), 11) * prime1;

  hash = (hash ^ hash >> 33) * prime2;
  hash = (hash ^ hash >> 29) * prime3;
  return hash ^ hash >> 32;
}

}  // namespace datasparse
