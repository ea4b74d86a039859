// The reference kernels: portable C++, one element at a time. Every other table must give these
// bits.

#include <type_traits>

#include "kernels/kernels.hpp"

#define TARGET  // the compiler's own

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

/// No norm: the values as they are.
struct None {
  template <class Score>
  static Score of(Score x) noexcept {
    return x;
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

/// Of a score of some norm, which has no sign where the norm is not None.
template <class Norm, class Score>
auto key_of(Score mean) noexcept {
  using Key = std::conditional_t<sizeof(Score) == 4, std::uint32_t, std::uint64_t>;
  const auto bits = bits_as<Key>(mean);
  if (std::is_same_v<Norm, None> && mean < 0) return Key{0} - bits;
  const Key key = bits | KeyTraits<Key>::zero;  // a NaN may carry a sign
  return key < KeyTraits<Key>::nan ? key : KeyTraits<Key>::nan;
}
template <class Element>
using KeyOf = decltype(key_of<L1>(typename Element::Score{}));

template <class Key>
void make_keys(Key* keys, const typename KeyTraits<Key>::Score* sums, std::int64_t n,
               std::int64_t elements) noexcept {
  const auto divisor = static_cast<typename KeyTraits<Key>::Score>(elements);
  for (std::int64_t i = 0; i < n; ++i) keys[i] = key_of<None>(sums[i] / divisor);
}

/// A few blocks at a time: the sum of each waits for its last element, but not for the other sums.
template <class Element, class Norm>
void score(void* out, const Blocks& blocks) noexcept {
  using Sum = typename Element::Score;
  constexpr auto item = static_cast<std::ptrdiff_t>(Element::item);
  constexpr std::int64_t together = 4;
  auto* const keys = static_cast<KeyOf<Element>*>(out);
  const auto elements = static_cast<Sum>(blocks.rows * blocks.width);
  std::int64_t b = 0;
  for (; b + together <= blocks.count; b += together) {
    const std::byte* const data = blocks.data + b * blocks.step;
    Sum sums[together] = {};
    for (std::int64_t r = 0; r < blocks.rows; ++r) {
      const std::byte* const row = data + r * blocks.pitch;
      for (std::int64_t i = 0; i < blocks.width; ++i) {
        for (std::int64_t t = 0; t < together; ++t) {
          sums[t] += Norm::of(Element::load(row + t * blocks.step + i * item));
        }
      }
    }
    for (std::int64_t t = 0; t < together; ++t) keys[b + t] = key_of<Norm>(sums[t] / elements);
  }
  for (; b < blocks.count; ++b) {
    Sum sum = 0;
    for (std::int64_t r = 0; r < blocks.rows; ++r) {
      const std::byte* const row = blocks.data + b * blocks.step + r * blocks.pitch;
      for (std::int64_t i = 0; i < blocks.width; ++i)
        sum += Norm::of(Element::load(row + i * item));
    }
    keys[b] = key_of<Norm>(sum / elements);
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
std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += keys[i] < pivot ? 1 : 0;
  return count;
}

template <class Key>
SplitCounts split(Key* out, std::int64_t room, const Key* keys, std::int64_t n, Key lo,
                  Key hi) noexcept {
  SplitCounts counts{};
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = keys[i];
    counts.below += key < lo ? 1 : 0;
    if (key < lo || key >= hi) continue;
    if (counts.inside < room) out[counts.inside] = key;
    ++counts.inside;
  }
  return counts;
}

template <class Key>
BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys, std::int64_t n,
                      Key from, Key first, Key width) noexcept {
  BracketCounts counts{};
  for (std::int64_t i = 0; i < n; ++i) {
    const Key key = keys[i];
    keep[i] = key >= from ? 1 : 0;
    counts.kept += keep[i];
    if (key - first < width) inside[counts.inside++] = static_cast<std::uint16_t>(i);
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

template <class Element, class Norm>
void score_at(void* out, const Blocks& blocks, const std::uint16_t* places,
              std::int64_t n) noexcept {
  auto* const keys = static_cast<KeyOf<Element>*>(out);
  for (std::int64_t i = 0; i < n; ++i) {
    Blocks one = blocks;
    one.data += places[i] * blocks.step;
    one.count = 1;
    score<Element, Norm>(keys + i, one);
  }
}

/// Some blocks at a time.
template <class Element, class Norm>
BracketCounts bracket_blocks(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                             std::uint64_t from, std::uint64_t first, std::uint64_t width,
                             Store) noexcept {
  using Key = KeyOf<Element>;
  constexpr std::int64_t together = 256;
  Key keys[together];
  BracketCounts counts{};
  for (std::int64_t b = 0; b < blocks.count; b += together) {
    Blocks some = blocks;
    some.data += b * blocks.step;
    some.count = blocks.count - b < together ? blocks.count - b : together;
    score<Element, Norm>(keys, some);
    std::uint16_t* const places = inside + counts.inside;
    const BracketCounts found = bracket(keep + b, places, keys, some.count, static_cast<Key>(from),
                                        static_cast<Key>(first), static_cast<Key>(width));
    for (std::int64_t i = 0; i < found.inside; ++i) {
      places[i] = static_cast<std::uint16_t>(places[i] + b);
    }
    counts.kept += found.kept;
    counts.inside += found.inside;
  }
  return counts;
}

/// An element goes if fewer than `zeros` of its block come before it.
template <class Key>
void zero_least(std::uint8_t* mask, const Key* keys, std::int64_t blocks, std::int64_t width,
                std::int64_t zeros) noexcept {
  for (std::int64_t b = 0; b < blocks; ++b, mask += width, keys += width) {
    for (std::int64_t i = 0; i < width; ++i) {
      std::int64_t before = 0;
      for (std::int64_t j = 0; j < i; ++j) before += keys[j] <= keys[i] ? 1 : 0;
      for (std::int64_t j = i + 1; j < width; ++j) before += keys[j] < keys[i] ? 1 : 0;
      mask[i] = before < zeros ? 0 : 1;
    }
  }
}

void copy_run(std::byte* out, const std::byte* in, std::ptrdiff_t stride, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) __builtin_memcpy(out + i * 4, in + i * stride, 4);
}

void transpose(std::byte* out, std::ptrdiff_t pitch, const std::byte* in, std::ptrdiff_t stride,
               std::int64_t rows, std::int64_t columns) noexcept {
  if (rows == 0) return;
  constexpr std::int64_t ahead = 32;  // columns: no prefetcher of the processor foresees them
  for (std::int64_t c = 0; c < columns; ++c, in += stride, out += 4) {
    const std::byte* const next = in + (c + ahead < columns ? ahead : 0) * stride;
    for (std::int64_t r = 0; r < rows; r += 16) __builtin_prefetch(next + r * 4, 0, 2);
    __builtin_prefetch(next + rows * 4 - 1, 0, 2);
    for (std::int64_t r = 0; r < rows; ++r) __builtin_memcpy(out + r * pitch, in + r * 4, 4);
  }
}

void repeat(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n,
            std::int64_t times) noexcept {
  for (std::int64_t i = 0; i < n; ++i, out += times) {
    __builtin_memset(out, bytes[i], static_cast<std::size_t>(times));
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

// Eight elements are handled as one word, the first in its lowest byte.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the byte order of x86-64 and ARM64");

constexpr std::uint64_t lowest_bits = 0x0101010101010101U;
constexpr std::uint64_t all_but_highest_bits = 0x7F7F7F7F7F7F7F7FU;

/// Byte i is 1 where it is not zero in `bytes`, else 0.
std::uint64_t nonzero(std::uint64_t bytes) noexcept {
  const std::uint64_t highest = ((bytes & all_but_highest_bits) + all_but_highest_bits) | bytes;
  return (highest >> 7) & lowest_bits;
}

std::int64_t count_zeros(const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t zeros = 0;
  for (; n >= 8; n -= 8, bytes += 8) {
    std::uint64_t eight;
    __builtin_memcpy(&eight, bytes, sizeof(eight));
    const std::uint64_t zero = ~nonzero(eight) & lowest_bits;
    zeros += static_cast<std::int64_t>(zero * lowest_bits >> 56);
  }
  for (std::int64_t i = 0; i < n; ++i) zeros += bytes[i] == 0 ? 1 : 0;
  return zeros;
}

/// Bit i is set where byte i is not zero.
std::uint8_t packed(std::uint64_t bytes) noexcept {
  // Moves bit 8i to bit 56 + i: no two of the products meet.
  return static_cast<std::uint8_t>((nonzero(bytes) * 0x0102040810204080U) >> 56);
}

/// Byte i is 1 where bit i is set, else 0.
std::uint64_t unpacked(std::uint8_t bits) noexcept {
  const std::uint64_t one_bit_each = (bits * lowest_bits) & 0x8040201008040201U;
  return ((one_bit_each + all_but_highest_bits) >> 7) & lowest_bits;
}

void pack(std::uint8_t* bits, const std::uint8_t* bytes, std::int64_t n) noexcept {
  for (; n > 0; n -= 8, bytes += 8) {
    std::uint64_t eight = 0;
    __builtin_memcpy(&eight, bytes, static_cast<std::size_t>(n < 8 ? n : 8));
    *bits++ = packed(eight);
  }
}

void unpack(std::uint8_t* bytes, const std::uint8_t* bits, std::int64_t n, Store) noexcept {
  for (; n > 0; n -= 8, bytes += 8) {
    const std::uint64_t eight = unpacked(*bits++);
    __builtin_memcpy(bytes, &eight, static_cast<std::size_t>(n < 8 ? n : 8));
  }
}

/// Eight by eight: a byte of each row becomes a bit, and the bits of a column bytes again.
void transpose_mask(std::uint8_t* out, std::ptrdiff_t out_pitch, const std::uint8_t* in,
                    std::ptrdiff_t in_pitch, std::int64_t rows, std::int64_t columns) noexcept {
  constexpr std::int64_t size = 8;
  const auto one_by_one = [&](std::int64_t r, std::int64_t c, std::int64_t end) {
    for (; c < end; ++c) out[c * out_pitch + r] = in[r * in_pitch + c];
  };
  std::int64_t c = 0;
  for (; c + size <= columns; c += size) {
    std::int64_t r = 0;
    for (; r + size <= rows; r += size) {
      std::uint64_t bits = 0;
      for (int i = 0; i < size; ++i) {
        bits |= read<std::uint64_t>(reinterpret_cast<const std::byte*>(in + (r + i) * in_pitch + c))
                << i;
      }
      for (int i = 0; i < size; ++i) {
        const std::uint64_t bytes = unpacked(static_cast<std::uint8_t>(bits >> (8 * i)));
        __builtin_memcpy(out + (c + i) * out_pitch + r, &bytes, sizeof(bytes));
      }
    }
    for (; r < rows; ++r) one_by_one(r, c, c + size);
  }
  for (std::int64_t r = 0; r < rows; ++r) one_by_one(r, c, columns);
}

/// expand_bits() is as fast.
std::int64_t expand(std::byte*, const std::byte*, const std::byte*, const std::uint8_t*,
                    std::int64_t) noexcept {
  return 0;
}

#include "kernels/columns.inl"
#include "kernels/marks.inl"

template <class Key>
constexpr SelectionKernels<Key> selection{make_keys<Key>,   histogram<Key>,  count_below<Key>,
                                          count_equal<Key>, split<Key>,      bracket<Key>,
                                          threshold<Key>,   zero_least<Key>, zero_least_down<Key>,
                                          rank_others<Key>, rank_within<Key>};

constexpr Kernels table{
    "scalar",
    {
        {score<Float16, L1>, score<Float16, L2>, score<Float16, None>},
        {score<BFloat16, L1>, score<BFloat16, L2>, score<BFloat16, None>},
        {score<Float32, L1>, score<Float32, L2>, score<Float32, None>},
        {score<Float64, L1>, score<Float64, L2>, score<Float64, None>},
    },
    {
        {score_at<Float16, L1>, score_at<Float16, L2>},
        {score_at<BFloat16, L1>, score_at<BFloat16, L2>},
        {score_at<Float32, L1>, score_at<Float32, L2>, score_at<Float32, None>},
        {score_at<Float64, L1>, score_at<Float64, L2>},
    },
    {
        {bracket_blocks<Float16, L1>, bracket_blocks<Float16, L2>},
        {bracket_blocks<BFloat16, L1>, bracket_blocks<BFloat16, L2>},
        {bracket_blocks<Float32, L1>, bracket_blocks<Float32, L2>, bracket_blocks<Float32, None>},
        {bracket_blocks<Float64, L1>, bracket_blocks<Float64, L2>},
    },
    {},  // bracket_ends
    {},  // bracket_mask
    {},  // zero_least
    {
        {accumulate<Float16, L1>, accumulate<Float16, L2>, accumulate<Float16, None>},
        {accumulate<BFloat16, L1>, accumulate<BFloat16, L2>, accumulate<BFloat16, None>},
        {accumulate<Float32, L1>, accumulate<Float32, L2>, accumulate<Float32, None>},
        {accumulate<Float64, L1>, accumulate<Float64, L2>, accumulate<Float64, None>},
    },
    selection<std::uint32_t>,
    selection<std::uint64_t>,
    copy_run,
    transpose,
    transpose_mask,
    repeat,
    {zero_masked<2>, zero_masked<2>, zero_masked<4>, zero_masked<8>},
    count_zeros,
    pack,
    unpack,
    expand,
    draw,
    find_eligible,
    mark,
    unmark,
};

}  // namespace

const Kernels& scalar_kernels() noexcept { return table; }

}  // namespace datasparse
