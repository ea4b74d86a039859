#include "mask/mask_bits.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/kernels.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t piece_max = 4096;  // elements; a multiple of 8

/// zeros[i] = whether element i is 0 or -0, by its bits: no mode of the processor can make a small
/// number one.
template <class Bits>
void mark_zeros(const std::byte* run, std::ptrdiff_t stride, std::int64_t n,
                std::uint8_t* zeros) noexcept {
  const auto mark = [run, n, zeros](std::ptrdiff_t step) {
    for (std::int64_t i = 0; i < n; ++i) {
      Bits bits;
      std::memcpy(&bits, run + i * step, sizeof(bits));
      zeros[i] = static_cast<Bits>(bits << 1) == 0 ? 1 : 0;
    }
  };
  stride == sizeof(Bits) ? mark(sizeof(Bits)) : mark(stride);
}

/// Calls visit(zeros, first, n) for pieces of the elements in C order, which begin at multiples of
/// 8: a byte for each of n elements from `first` on, 1 where it is zero.
template <class Visit>
void for_each_piece(const ArrayView& data, const Visit& visit) {
  if (data.size() == 0) return;
  const std::size_t size = item_size(data.dtype());
  const auto mark = size == 2   ? mark_zeros<std::uint16_t>
                    : size == 4 ? mark_zeros<std::uint32_t>
                                : mark_zeros<std::uint64_t>;
  Matrix matrix(data);
  if (matrix.is_one_row()) matrix = matrix.as_one_row();
  std::uint8_t zeros[piece_max];
  std::int64_t first = 0, filled = 0;
  for (std::int64_t row = 0; row < matrix.rows(); ++row) {
    matrix.for_each_run(
        row, 0, matrix.columns(),
        [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count, std::int64_t) {
          for (std::int64_t done = 0; done < count;) {
            const std::int64_t n = std::min(count - done, piece_max - filled);
            mark(run + done * stride, stride, n, zeros + filled);
            done += n;
            filled += n;
            if (filled < piece_max) continue;
            visit(zeros, first, filled);
            first += filled;
            filled = 0;
          }
        });
  }
  if (filled > 0) visit(zeros, first, filled);
}

template <class Item>
void expand_items(std::byte* data, const std::uint8_t* bits, std::int64_t n) noexcept {
  constexpr auto item = static_cast<std::int64_t>(sizeof(Item));
  std::byte* const end = data + n * item;
  const std::byte* next = end - count_bits(bits, packed_size(n)) * item;
  const auto take = [&](std::byte* to, unsigned bit) {
    // Values never lie before the elements that are written, and are read before these are. No
    // branch could be foreseen.
    Item value;
    std::memcpy(&value, next, sizeof(value));
    value = static_cast<Item>(value & (Item{0} - Item(bit)));
    std::memcpy(to, &value, sizeof(value));
    next += bit * sizeof(value);
  };
  std::byte* to = data;
  for (; to < end && end - next >= 8 * item && end - to >= 8 * item; to += 8 * item) {
    const unsigned byte = *bits++;
    for (unsigned i = 0; i < 8; ++i) take(to + i * sizeof(Item), byte >> i & 1U);
  }
  // Behind the last value there is nothing to read.
  for (unsigned i = 0; to < end; to += item, ++i) {
    const unsigned bit = bits[i / 8] >> i % 8 & 1U;
    if (bit != 0) {
      take(to, bit);
    } else {
      std::memset(to, 0, sizeof(Item));
    }
  }
}

}  // namespace

void expand_bits(std::byte* data, const std::uint8_t* bits, std::int64_t n,
                 std::size_t item) noexcept {
  switch (item) {
    case 1: return expand_items<std::uint8_t>(data, bits, n);
    case 2: {
      const std::byte* const end = data + 2 * n;
      const std::int64_t values = count_bits(bits, packed_size(n));
      const std::int64_t done = kernels().expand(data, end - 2 * values, end, bits, n);
      return expand_items<std::uint16_t>(data + 2 * done, bits + done / 8, n - done);
    }
    case 4: return expand_items<std::uint32_t>(data, bits, n);
    default: return expand_items<std::uint64_t>(data, bits, n);
  }
}

PackedBits zeros_in(const ArrayView& data) {
  const auto pack = kernels().pack;
  PackedBits bits(packed_size(data.size()));
  for_each_piece(data, [&](const std::uint8_t* zeros, std::int64_t first, std::int64_t n) {
    pack(bits.data() + first / 8, zeros, n);
  });
  return bits;
}

std::int64_t count_pruned_zeros(const ArrayView& data, const std::uint8_t* mask) noexcept {
  std::int64_t count = 0;
  for_each_piece(data, [&](const std::uint8_t* zeros, std::int64_t first, std::int64_t n) {
    unsigned here = 0;
    for (std::int64_t i = 0; i < n; ++i) here += mask[first + i] == 0 ? zeros[i] : 0U;
    count += here;
  });
  return count;
}

std::int64_t count_bits(const std::uint8_t* bits, std::size_t bytes) noexcept {
  std::int64_t count = 0;
  std::size_t i = 0;
  for (std::uint64_t eight; i + 8 <= bytes; i += 8) {  // sums of 2, of 4, of 8 bits side by side
    std::memcpy(&eight, bits + i, 8);
    eight -= eight >> 1 & 0x5555555555555555U;
    eight = (eight & 0x3333333333333333U) + (eight >> 2 & 0x3333333333333333U);
    eight = (eight + (eight >> 4)) & 0x0F0F0F0F0F0F0F0FU;
    count += static_cast<std::int64_t>((eight * 0x0101010101010101U) >> 56);
  }
  for (; i < bytes; ++i) {
    for (unsigned rest = bits[i]; rest != 0; rest &= rest - 1) ++count;
  }
  return count;
}

void prune_bits(std::uint8_t* mask, const std::uint8_t* bits, std::int64_t n) noexcept {
  for (std::int64_t first = 0; first < n; first += 8) {
    const unsigned byte = bits[first / 8];
    if (byte == 0) continue;
    const std::int64_t end = std::min<std::int64_t>(8, n - first);
    for (std::int64_t i = 0; i < end; ++i) {
      if ((byte >> i & 1U) != 0) mask[first + i] = 0;
    }
  }
}

bool keeps_any(const std::uint8_t* mask, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (std::uint64_t eight; i + 8 <= n; i += 8) {
    std::memcpy(&eight, mask + i, 8);
    if (eight != 0) return true;
  }
  for (; i < n; ++i) {
    if (mask[i] != 0) return true;
  }
  return false;
}

std::int64_t count_dead(const std::uint8_t* mask, const Axes& shape, int axis) {
  const std::int64_t elements = element_count(shape);
  if (elements == 0) return 0;
  const std::int64_t length = shape[axis];
  std::int64_t inner = 1;
  for (int i = axis + 1; i < shape.size(); ++i) inner *= shape[i];
  std::int64_t dead = length;
  std::vector<std::uint8_t> alive(static_cast<std::size_t>(length));
  for (std::int64_t first = 0; first < elements && dead > 0; first += length * inner) {
    for (std::int64_t i = 0; i < length; ++i) {
      auto& seen = alive[static_cast<std::size_t>(i)];
      if (seen != 0 || !keeps_any(mask + first + i * inner, inner)) continue;
      seen = 1;
      --dead;
    }
  }
  return dead;
}

}  // namespace datasparse
