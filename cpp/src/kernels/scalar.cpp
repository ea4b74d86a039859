// The reference kernels: portable C++, one element at a time. Every other table must give these
// bits.

#include "kernels/kernels.hpp"

namespace datasparse {
namespace {

/// Bytes to a value and back, at any alignment; compilers make it one instruction.
template <class To, class From>
To bits_as(const From& from) noexcept {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T>
T read(const std::byte* src) noexcept {
  T value;
  __builtin_memcpy(&value, src, sizeof(value));
  return value;
}

// Each element type says how it is read, widened to the type that scores are summed in.

struct Float64 {
  using Score = double;
  static constexpr std::size_t item = 8;
  static double load(const std::byte* src) noexcept { return read<double>(src); }
};

struct Float32 {
  using Score = float;
  static constexpr std::size_t item = 4;
  static float load(const std::byte* src) noexcept { return read<float>(src); }
};

struct BFloat16 {
  using Score = float;
  static constexpr std::size_t item = 2;
  static float load(const std::byte* src) noexcept {
    return bits_as<float>(std::uint32_t{read<std::uint16_t>(src)} << 16);
  }
};

struct Float16 {
  using Score = float;
  static constexpr std::size_t item = 2;
  static float load(const std::byte* src) noexcept {
    const std::uint32_t half = read<std::uint16_t>(src);
    const std::uint32_t sign = (half & 0x8000U) << 16;
    const std::uint32_t magnitude = half & 0x7FFFU;
    if (magnitude >= 0x7C00U)
      return bits_as<float>(sign | 0x7F800000U | (magnitude << 13));  // Inf, NaN
    if (magnitude >= 0x0400U) return bits_as<float>(sign | ((magnitude << 13) + (112U << 23)));
    const float denormal = static_cast<float>(magnitude) * 0x1p-24F;  // exact
    return bits_as<float>(sign | bits_as<std::uint32_t>(denormal));
  }
};

float absolute(float x) noexcept { return bits_as<float>(bits_as<std::uint32_t>(x) & 0x7FFFFFFFU); }
double absolute(double x) noexcept {
  return bits_as<double>(bits_as<std::uint64_t>(x) & 0x7FFFFFFFFFFFFFFFULL);
}

struct L1 {
  template <class Score>
  static Score of(Score x) noexcept {
    return absolute(x);
  }
};

struct L2 {
  template <class Score>
  static Score of(Score x) noexcept {
    return x * x;
  }
};

template <class Element, class Norm>
void accumulate(void* out, const std::byte* src, std::ptrdiff_t stride, std::int64_t n,
                std::int64_t phase, std::int64_t block_width) noexcept {
  auto* sums = static_cast<typename Element::Score*>(out);
  if (block_width == 1) {
    if (stride == static_cast<std::ptrdiff_t>(Element::item)) {  // a constant stride vectorises
      for (std::int64_t i = 0; i < n; ++i) {
        sums[i] += Norm::of(Element::load(src + i * static_cast<std::ptrdiff_t>(Element::item)));
      }
    } else {
      for (std::int64_t i = 0; i < n; ++i) sums[i] += Norm::of(Element::load(src + i * stride));
    }
    return;
  }
  for (std::int64_t i = 0; i < n; ++sums) {
    auto sum = *sums;
    const std::int64_t end = n - i < block_width - phase ? n : i + block_width - phase;
    for (; i < end; ++i) sum += Norm::of(Element::load(src + i * stride));
    *sums = sum;
    phase = 0;
  }
}

template <class Key>
void make_keys(Key* keys, const typename KeyTraits<Key>::Score* sums, std::int64_t n,
               std::int64_t elements) noexcept {
  const auto divisor = static_cast<typename KeyTraits<Key>::Score>(elements);
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = bits_as<Key>(absolute(sums[i] / divisor));  // a NaN may carry a sign
    keys[i] = key < KeyTraits<Key>::nan ? key : KeyTraits<Key>::nan;
  }
}

template <class Key>
void histogram(std::int64_t* counts, const Key* keys, std::int64_t n, Key prefix, int shift,
               int bits) noexcept {
  const Key bucket = (Key{1} << bits) - 1;
  for (std::int64_t i = 0; i < n; ++i) {
    const Key high = keys[i] >> shift;
    if (high >> bits == prefix) ++counts[high & bucket];
  }
}

template <class Key>
KeyRange<Key> range(const Key* keys, std::int64_t n) noexcept {
  KeyRange<Key> range{keys[0], keys[0]};
  for (std::int64_t i = 1; i < n; ++i) {
    range.least = keys[i] < range.least ? keys[i] : range.least;
    range.greatest = keys[i] > range.greatest ? keys[i] : range.greatest;
  }
  return range;
}

template <class Key>
std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += keys[i] < pivot ? 1 : 0;
  return count;
}

template <class Key>
void keep_range(Key* out, const Key* keys, std::int64_t n, Key lo, Key hi) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    if (keys[i] >= lo && keys[i] < hi) *out++ = keys[i];
  }
}

template <class Key>
BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys, std::int64_t n,
                      Key lo, Key hi) noexcept {
  BracketCounts counts{};
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = keys[i];
    keep[i] = key > lo ? 1 : 0;
    counts.below += key < lo ? 1 : 0;
    counts.at_lo += key == lo ? 1 : 0;
    counts.at_hi += key > lo && key == hi ? 1 : 0;
    if (key > lo && key < hi) inside[counts.inside++] = static_cast<std::uint16_t>(i);
  }
  return counts;
}

template <class Key>
std::int64_t count_equal(const Key* keys, std::int64_t n, Key key) noexcept {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += keys[i] == key ? 1 : 0;
  return count;
}

template <class Key>
void threshold(std::uint8_t* keep, const Key* keys, std::int64_t n, Key cut,
               std::int64_t ties) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    const bool tie = keys[i] == cut;
    keep[i] = keys[i] > cut || (tie && ties <= 0) ? 1 : 0;
    ties -= tie ? 1 : 0;
  }
}

template <std::size_t item>
void zero_masked(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                 std::int64_t n) noexcept {
  // Only masked elements are written: others may belong to a thread that is training.
  for (std::int64_t i = 0; i < n; ++i) {
    if (mask[i] == 0) __builtin_memset(dst + i * stride, 0, item);
  }
}

template <class Key>
constexpr SelectionKernels<Key> selection{make_keys<Key>,   histogram<Key>,  range<Key>,
                                          count_below<Key>, keep_range<Key>, bracket<Key>,
                                          count_equal<Key>, threshold<Key>};

constexpr Kernels table{
    "scalar",
    {
        {accumulate<Float16, L1>, accumulate<Float16, L2>},
        {accumulate<BFloat16, L1>, accumulate<BFloat16, L2>},
        {accumulate<Float32, L1>, accumulate<Float32, L2>},
        {accumulate<Float64, L1>, accumulate<Float64, L2>},
    },
    selection<std::uint32_t>,
    selection<std::uint64_t>,
    {zero_masked<2>, zero_masked<2>, zero_masked<4>, zero_masked<8>},
};

}  // namespace

const Kernels& scalar_kernels() noexcept { return table; }

}  // namespace datasparse
