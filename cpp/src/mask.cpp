#include "datasparse/mask.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstring>
#include <new>

#include "datasparse/apply_mask.hpp"
#include "parallel.hpp"

namespace datasparse {
namespace {

constexpr std::align_val_t cache_line{64};
constexpr std::align_val_t large_page{std::size_t{2} << 20};
constexpr std::size_t large = std::size_t{8} << 20;  // bytes from which on large pages pay

// Eight elements are handled as one word, the first in its lowest byte.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the byte order of x86-64 and ARM64");

std::uint64_t load(const std::uint8_t* bytes) noexcept {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

void store(std::uint64_t word, std::uint8_t* bytes) noexcept {
  std::memcpy(bytes, &word, sizeof(word));
}

constexpr std::uint64_t low_bits = 0x0101010101010101;
constexpr std::uint64_t all_but_high_bits = 0x7F7F7F7F7F7F7F7F;

/// Bit i is set where byte i is not zero.
std::uint8_t packed(std::uint64_t bytes) noexcept {
  const std::uint64_t ones =
      ((((bytes & all_but_high_bits) + all_but_high_bits) | bytes) >> 7) & low_bits;
  // Moves bit 8i to bit 56 + i: no two of the products meet.
  return static_cast<std::uint8_t>((ones * 0x0102040810204080) >> 56);
}

/// Byte i is 1 where bit i is set, else 0.
std::uint64_t unpacked(std::uint8_t bits) noexcept {
  const std::uint64_t one_bit_each = (bits * low_bits) & 0x8040201008040201;
  return ((one_bit_each + all_but_high_bits) >> 7) & low_bits;
}

/// Calls work(first, n) for pieces of [0, size), which begin at multiples of 8, on several threads
/// where that pays.
template <class Work>
void for_each_chunk(std::int64_t size, const Work& work) noexcept {
  constexpr std::int64_t chunk = std::int64_t{1} << 18;
  const int threads = size < parallel_from ? 1 : available_threads();
  parallel_for((size + chunk - 1) / chunk, threads,
               [&](std::int64_t i, int) { work(i * chunk, std::min(chunk, size - i * chunk)); });
}

}  // namespace

std::uint8_t* allocate_bytes(std::size_t count) {
  if (count < large) return static_cast<std::uint8_t*>(::operator new(count));
  auto* const bytes = static_cast<std::uint8_t*>(::operator new(count, large_page));
#if defined(MADV_HUGEPAGE)
  ::madvise(bytes, count, MADV_HUGEPAGE);  // a wish
#endif
  return bytes;
}

void free_bytes(std::uint8_t* bytes, std::size_t count) noexcept {
  if (count < large) {
    ::operator delete(bytes);
  } else {
    ::operator delete(bytes, large_page);
  }
}

Mask::Mask(const Axes& shape) : shape_(shape), size_(element_count(shape)) {
  const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(size_, 1));
  bytes_.reset(static_cast<std::uint8_t*>(::operator new(bytes, cache_line)),
               [](std::uint8_t* memory) { ::operator delete(memory, cache_line); });
  std::memset(bytes_.get(), 1, bytes);
}

std::int64_t Mask::zeros() const noexcept { return count_zeros(data(), size_); }

PackedBits Mask::pack() const {
  PackedBits bits(static_cast<std::size_t>((size_ + 7) / 8));
  for_each_chunk(size_, [this, &bits](std::int64_t first, std::int64_t n) {
    const std::uint8_t* const bytes = data() + first;
    std::uint8_t* const out = bits.data() + first / 8;
    for (std::int64_t i = 0; i < n / 8; ++i) out[i] = packed(load(bytes + 8 * i));
    if (n % 8 != 0) {
      std::uint8_t last[8] = {};
      std::copy(bytes + n / 8 * 8, bytes + n, last);
      out[n / 8] = packed(load(last));
    }
  });
  return bits;
}

void Mask::unpack(const std::uint8_t* bits) noexcept {
  for_each_chunk(size_, [this, bits](std::int64_t first, std::int64_t n) {
    std::uint8_t* const bytes = data() + first;
    const std::uint8_t* const in = bits + first / 8;
    for (std::int64_t i = 0; i < n / 8; ++i) store(unpacked(in[i]), bytes + 8 * i);
    if (n % 8 != 0) {
      std::uint8_t last[8];
      store(unpacked(in[n / 8]), last);
      std::copy(last, last + n % 8, bytes + n / 8 * 8);
    }
  });
}

}  // namespace datasparse
