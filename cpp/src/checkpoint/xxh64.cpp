#include "checkpoint/xxh64.hpp"

#include <algorithm>

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

Xxh64::Xxh64() noexcept : lanes_{prime1 + prime2, prime2, 0, 0 - prime1} {}

void Xxh64::take_stripes(const unsigned char* bytes, std::size_t count) noexcept {
  std::uint64_t lanes[4];  // in registers: no byte that is read could be one of theirs
  std::copy_n(lanes_, 4, lanes);
  for (; count > 0; --count, bytes += stripe) {
    for (int i = 0; i < 4; ++i) lanes[i] = round(lanes[i], load<std::uint64_t>(bytes + 8 * i));
  }
  std::copy_n(lanes, 4, lanes_);
}

void Xxh64::update(const void* data, std::size_t size) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  const std::size_t waiting = size_ % stripe;
  size_ += size;
  if (waiting != 0) {
    const std::size_t taken = std::min(size, stripe - waiting);
    std::copy_n(bytes, taken, waiting_ + waiting);
    if (waiting + taken < stripe) return;
    take_stripes(waiting_, 1);
    bytes += taken;
    size -= taken;
  }
  take_stripes(bytes, size / stripe);
  std::copy_n(bytes + size / stripe * stripe, size % stripe, waiting_);
}

std::uint64_t Xxh64::digest() const noexcept {
  std::uint64_t hash = prime5;
  if (size_ >= stripe) {
    hash =
        rotate(lanes_[0], 1) + rotate(lanes_[1], 7) + rotate(lanes_[2], 12) + rotate(lanes_[3], 18);
    for (const auto lane : lanes_) hash = merge(hash, lane);
  }
  hash += size_;
  const unsigned char* bytes = waiting_;
  std::size_t left = size_ % stripe;
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

std::uint64_t xxh64(const void* data, std::size_t size) noexcept {
  Xxh64 hash;
  hash.update(data, size);
  return hash.digest();
}

}  // namespace datasparse
