#include "mask_bits.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/kernels.hpp"
#include "matrix.hpp"

namespace datasparse {
namespace {

/// Whether an element is 0 or -0, by its bits: no mode of the processor can make a small number
/// one.
template <class Bits>
bool is_zero(const std::byte* element) noexcept {
  Bits bits;
  std::memcpy(&bits, element, sizeof(bits));
  return static_cast<Bits>(bits << 1) == 0;
}

/// Calls visit(pointer, stride, count, first) for runs of evenly spaced elements, in C order;
/// `first` is where the run begins among all elements.
template <class Visit>
void for_each_run(const ArrayView& data, const Visit& visit) {
  if (data.size() == 0) return;
  Matrix matrix(data);
  if (matrix.is_one_row()) matrix = matrix.as_one_row();
  for (std::int64_t row = 0; row < matrix.rows(); ++row) {
    matrix.for_each_run(
        row, 0, matrix.columns(),
        [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count, std::int64_t offset) {
          visit(run, stride, count, row * matrix.columns() + offset);
        });
  }
}

template <class Bits>
PackedBits zeros_of(const ArrayView& data) {
  constexpr std::size_t piece = 65536;  // a multiple of 8
  const auto pack = kernels().pack;
  PackedBits bits(static_cast<std::size_t>((data.size() + 7) / 8));
  std::vector<std::uint8_t> zeros;
  zeros.reserve(piece);
  std::uint8_t* to = bits.data();
  const auto flush = [&] {
    pack(to, zeros.data(), static_cast<std::int64_t>(zeros.size()));
    to += zeros.size() / 8;
    zeros.clear();
  };
  for_each_run(
      data, [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count, std::int64_t) {
        while (count > 0) {
          const std::int64_t n = std::min(count, static_cast<std::int64_t>(piece - zeros.size()));
          for (std::int64_t i = 0; i < n; ++i) zeros.push_back(is_zero<Bits>(run + i * stride));
          run += n * stride;
          count -= n;
          if (zeros.size() == piece) flush();
        }
      });
  flush();
  return bits;
}

template <class Bits>
std::int64_t count_pruned_zeros_of(const ArrayView& data, const std::uint8_t* mask) noexcept {
  std::int64_t zeros = 0;
  for_each_run(data, [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count,
                         std::int64_t first) {
    const std::uint8_t* const kept = mask + first;
    for (std::int64_t i = 0; i < count; ++i) {
      zeros += static_cast<std::int64_t>(kept[i] == 0) & is_zero<Bits>(run + i * stride);
    }
  });
  return zeros;
}

/// Calls work.template operator()<Bits>() with unsigned integers of the elements' size.
template <class Work16, class Work32, class Work64>
auto by_size(DType dtype, const Work16& work16, const Work32& work32, const Work64& work64) {
  switch (item_size(dtype)) {
    case 2: return work16();
    case 4: return work32();
    default: return work64();
  }
}

}  // namespace

PackedBits zeros_in(const ArrayView& data) {
  return by_size(
      data.dtype(), [&] { return zeros_of<std::uint16_t>(data); },
      [&] { return zeros_of<std::uint32_t>(data); }, [&] { return zeros_of<std::uint64_t>(data); });
}

std::int64_t count_pruned_zeros(const ArrayView& data, const std::uint8_t* mask) noexcept {
  return by_size(
      data.dtype(), [&] { return count_pruned_zeros_of<std::uint16_t>(data, mask); },
      [&] { return count_pruned_zeros_of<std::uint32_t>(data, mask); },
      [&] { return count_pruned_zeros_of<std::uint64_t>(data, mask); });
}

std::int64_t count_bits(const PackedBits& bits) noexcept {
  std::int64_t count = 0;
  for (const std::uint8_t byte : bits) {
    for (unsigned rest = byte; rest != 0; rest &= rest - 1) ++count;
  }
  return count;
}

void prune_bits(std::uint8_t* mask, const PackedBits& bits, std::int64_t n) noexcept {
  for (std::int64_t first = 0; first < n; first += 8) {
    const unsigned byte = bits[static_cast<std::size_t>(first / 8)];
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
