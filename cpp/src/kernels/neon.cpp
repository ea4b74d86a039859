// Kernels for NEON, which every 64-bit ARM has: a vector of keys at a time. What is not here is the
// scalar one, and so are ends shorter than a vector.

#include <arm_neon.h>

#include <type_traits>

#include "kernels/kernels.hpp"

#define TARGET  // the compiler's own

namespace datasparse {
namespace {

using Bytes = uint8x16_t;

Bytes load_bytes(const void* bytes) noexcept {
  return vld1q_u8(static_cast<const std::uint8_t*>(bytes));
}

void store_bytes(std::uint8_t* bytes, Bytes vector) noexcept { vst1q_u8(bytes, vector); }

/// There is no store past the cache.
void stream_bytes(std::uint8_t* bytes, Bytes vector) noexcept { store_bytes(bytes, vector); }
bool is_aligned(const void*) noexcept { return false; }

Bytes are_zero(Bytes bytes) noexcept { return vceqzq_u8(bytes); }

Bytes ones_where_zero(Bytes bytes) noexcept { return vaddq_u8(bytes, vdupq_n_u8(1)); }

/// In each half, bit i alone is set in byte i.
Bytes bit_of_byte() noexcept { return vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201U)); }

constexpr int few = 4;

std::uint64_t bits(const Bytes* bytes) noexcept {
  const Bytes weights = bit_of_byte();
  const Bytes low = vpaddq_u8(vandq_u8(bytes[0], weights), vandq_u8(bytes[1], weights));
  const Bytes high = vpaddq_u8(vandq_u8(bytes[2], weights), vandq_u8(bytes[3], weights));
  const Bytes all = vpaddq_u8(low, high);
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(all, all)), 0);
}

int count(const Bytes* bytes) noexcept {
  const Bytes all = vaddq_u8(vaddq_u8(bytes[0], bytes[1]), vaddq_u8(bytes[2], bytes[3]));
  return -vaddvq_s8(vreinterpretq_s8_u8(all));
}

/// The first of some bits; 64 where there is none, which takes no branch.
int first_of(std::uint64_t bits) noexcept { return bits == 0 ? 64 : __builtin_ctzll(bits); }

// --- vectors of keys of either width, under one set of names -------------------------------------

constexpr int group = 16;
using Place = std::uint8_t;

struct Vector32 {
  using Key = std::uint32_t;
  using Keys = uint32x4_t;
  static constexpr int size = 4;
  static Keys number(Key n) noexcept { return vdupq_n_u32(n); }
  static Keys key(Key key) noexcept { return vdupq_n_u32(key); }
  static Keys numbers(const Key* numbers) noexcept { return vld1q_u32(numbers); }
  static Keys load(const Key* keys) noexcept { return vld1q_u32(keys); }
  static void store(Key* keys, Keys vector) noexcept { vst1q_u32(keys, vector); }
  static Keys less(Keys a, Keys b) noexcept { return vcltq_u32(a, b); }
  static Keys equal(Keys a, Keys b) noexcept { return vceqq_u32(a, b); }
  static Keys add(Keys a, Keys b) noexcept { return vaddq_u32(a, b); }
  static Keys subtract(Keys a, Keys b) noexcept { return vsubq_u32(a, b); }
  static int count(Keys lanes) noexcept { return -vaddvq_s32(vreinterpretq_s32_u32(lanes)); }
  static Keys permute(uint8x16_t order, Keys vector) noexcept {
    return vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(vector), order));
  }
  /// Keys of 64 bits are pairs of words.
  static uint32x4_t words(Keys lanes) noexcept { return lanes; }
  /// A byte for each lane of a group.
  static uint8x16_t bytes(const Keys* lanes) noexcept {
    const uint16x8_t low =
        vuzp1q_u16(vreinterpretq_u16_u32(lanes[0]), vreinterpretq_u16_u32(lanes[1]));
    const uint16x8_t high =
        vuzp1q_u16(vreinterpretq_u16_u32(lanes[2]), vreinterpretq_u16_u32(lanes[3]));
    return vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
  }
};

/// Elements of 16 bits by themselves, without their signs: see least_with().
struct Vector16 {
  using Key = std::uint16_t;
  using Keys = uint16x8_t;
  static constexpr int size = 8;
  static Keys number(Key n) noexcept { return vdupq_n_u16(n); }
  static Keys key(Key key) noexcept { return vdupq_n_u16(key); }
  static Keys load(const void* halves) noexcept {
    return vbicq_u16(vreinterpretq_u16_u8(load_bytes(halves)), number(0x8000U));
  }
  static Keys less(Keys a, Keys b) noexcept { return vcltq_u16(a, b); }
  static Keys subtract(Keys a, Keys b) noexcept { return vsubq_u16(a, b); }
  static uint8x16_t bytes(const Keys* lanes) noexcept {
    return vuzp1q_u8(vreinterpretq_u8_u16(lanes[0]), vreinterpretq_u8_u16(lanes[1]));
  }
};

struct Vector64 {
  using Key = std::uint64_t;
  using Keys = uint64x2_t;
  static constexpr int size = 2;
  static Keys number(Key n) noexcept { return vdupq_n_u64(n); }
  static Keys key(Key key) noexcept { return vdupq_n_u64(key); }
  static Keys numbers(const Key* numbers) noexcept { return vld1q_u64(numbers); }
  static Keys load(const Key* keys) noexcept { return vld1q_u64(keys); }
  static void store(Key* keys, Keys vector) noexcept { vst1q_u64(keys, vector); }
  static Keys less(Keys a, Keys b) noexcept { return vcltq_u64(a, b); }
  static Keys equal(Keys a, Keys b) noexcept { return vceqq_u64(a, b); }
  static Keys add(Keys a, Keys b) noexcept { return vaddq_u64(a, b); }
  static Keys subtract(Keys a, Keys b) noexcept { return vsubq_u64(a, b); }
  static int count(Keys lanes) noexcept {
    return static_cast<int>(-vaddvq_s64(vreinterpretq_s64_u64(lanes)));
  }
  static Keys permute(uint8x16_t order, Keys vector) noexcept {
    return vreinterpretq_u64_u8(vqtbl1q_u8(vreinterpretq_u8_u64(vector), order));
  }
  static uint32x4_t words(Keys lanes) noexcept { return vreinterpretq_u32_u64(lanes); }
  static uint8x16_t bytes(const Keys* lanes) noexcept {
    uint32x4_t narrow[4];
    for (int i = 0; i < 4; ++i)
      narrow[i] = vuzp1q_u32(words(lanes[2 * i]), words(lanes[2 * i + 1]));
    return Vector32::bytes(narrow);
  }
};

/// For each set of four words, their bytes.
struct WordBytes {
  std::uint8_t of[16][16] = {};
  constexpr WordBytes() noexcept {
    for (int words = 0; words < 16; ++words) {
      int n = 0;
      for (int byte = 0; byte < 16; ++byte) {
        if ((words >> byte / 4 & 1) != 0) of[words][n++] = static_cast<std::uint8_t>(byte);
      }
    }
  }
};
constexpr WordBytes word_bytes;

/// The chosen keys first, in order.
template <class Vector, class Keys = typename Vector::Keys>
Keys compress(Keys lanes, Keys vector) noexcept {
  constexpr std::uint32_t weights[4] = {1, 2, 4, 8};
  const std::uint32_t words = vaddvq_u32(vandq_u32(Vector::words(lanes), vld1q_u32(weights)));
  return Vector::permute(load_bytes(word_bytes.of[words]), vector);
}

// --- elements ------------------------------------------------------------------------------------

template <class T>
T read(const std::byte* data) noexcept {
  T value;
  __builtin_memcpy(&value, data, sizeof(value));
  return value;
}

/// Sums of four blocks in a vector of floats, elements of 16 and 32 bits being widened to float.
struct Floats {
  using Sums = float32x4_t;
  using Vector = Vector32;
  using Key = std::uint32_t;
  using Number = float;
  static constexpr int size = 4;
  static Sums absolute(Sums x) noexcept { return vabsq_f32(x); }
  static uint32x4_t key(Sums mean) noexcept {
    const uint32x4_t bits =
        vorrq_u32(vreinterpretq_u32_f32(mean), Vector32::key(KeyTraits<Key>::zero));
    return vminq_u32(bits, Vector32::key(KeyTraits<Key>::nan));
  }
  static uint32x4_t key_of_value(Sums x) noexcept {
    const int32x4_t negative = vnegq_s32(vreinterpretq_s32_f32(x));
    return vbslq_u32(vcltzq_f32(x), vreinterpretq_u32_s32(negative), key(x));
  }

  /// Vector i of `v` holds elements of block i; vector i of the result holds their i-th ones.
  static void transpose(Sums* v) noexcept {
    const float64x2_t ab_even = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
    const float64x2_t ab_odd = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
    const float64x2_t cd_even = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
    const float64x2_t cd_odd = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
    v[0] = vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even));
    v[1] = vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd));
    v[2] = vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even));
    v[3] = vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd));
  }

  /// The same for `width` vectors of narrower blocks.
  template <int width>
  static void transpose_narrow(Sums* v) noexcept {
    if constexpr (width == 2) {
      const Sums first = vuzp1q_f32(v[0], v[1]);
      v[1] = vuzp2q_f32(v[0], v[1]);
      v[0] = first;
    }
  }
};

struct Float32 : Floats {
  static constexpr int dtype = 2;
  static constexpr std::ptrdiff_t item = 4;
  static Sums load(const std::byte* data) noexcept {
    return vreinterpretq_f32_u8(load_bytes(data));
  }
  /// One element from each of four places, `offset` bytes on.
  static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const float elements[size] = {read<float>(data[0] + offset), read<float>(data[1] + offset),
                                  read<float>(data[2] + offset), read<float>(data[3] + offset)};
    return vld1q_f32(elements);
  }
};

/// Four elements of 16 bits, which Derived widens.
template <class Derived>
struct Halves : Floats {
  static constexpr std::ptrdiff_t item = 2;
  static Sums load(const std::byte* data) noexcept {
    return Derived::widen(vreinterpret_u16_u64(vcreate_u64(read<std::uint64_t>(data))));
  }
  static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    using Half = std::uint16_t;
    const Half elements[size] = {read<Half>(data[0] + offset), read<Half>(data[1] + offset),
                                 read<Half>(data[2] + offset), read<Half>(data[3] + offset)};
    return Derived::widen(vld1_u16(elements));
  }
};

struct BFloat16 : Halves<BFloat16> {
  static constexpr int dtype = 1;
  static constexpr std::uint16_t infinity = 0x7F80;
  static Sums widen(uint16x4_t halves) noexcept {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(halves), 16));
  }
};

struct Float16 : Halves<Float16> {
  static constexpr int dtype = 0;
  static constexpr std::uint16_t infinity = 0x7C00;
  static Sums widen(uint16x4_t halves) noexcept {
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
  }
};

struct Float64 {
  using Sums = float64x2_t;
  using Vector = Vector64;
  using Key = std::uint64_t;
  using Number = double;
  static constexpr int size = 2;
  static constexpr int dtype = 3;
  static constexpr std::ptrdiff_t item = 8;
  static Sums absolute(Sums x) noexcept { return vabsq_f64(x); }
  static uint64x2_t key(Sums mean) noexcept {
    const uint64x2_t bits =
        vorrq_u64(vreinterpretq_u64_f64(mean), Vector64::key(KeyTraits<Key>::zero));
    const uint64x2_t nan = Vector64::key(KeyTraits<Key>::nan);
    return vbslq_u64(Vector64::less(bits, nan), bits, nan);
  }
  static uint64x2_t key_of_value(Sums x) noexcept {
    const int64x2_t negative = vnegq_s64(vreinterpretq_s64_f64(x));
    return vbslq_u64(vcltzq_f64(x), vreinterpretq_u64_s64(negative), key(x));
  }
  static Sums load(const std::byte* data) noexcept {
    return vreinterpretq_f64_u8(load_bytes(data));
  }
  static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const double elements[size] = {read<double>(data[0] + offset), read<double>(data[1] + offset)};
    return vld1q_f64(elements);
  }
  static void transpose(Sums* v) noexcept {
    const Sums first = vtrn1q_f64(v[0], v[1]);
    v[1] = vtrn2q_f64(v[0], v[1]);
    v[0] = first;
  }
  template <int width>
  static void transpose_narrow(Sums*) noexcept {}  // of one element
};

/// Transposed, all blocks are in order.
template <class Element, int width>
struct RowOrder {
  static auto of(typename Element::Vector::Keys keys) noexcept { return keys; }
};

#include "kernels/columns.inl"
#include "kernels/generic.inl"
#include "kernels/marks.inl"
#include "kernels/maskless.inl"

// --- bytes ---------------------------------------------------------------------------------------

template <int times>
Bytes repeated(const std::uint8_t* bytes, Bytes pattern) noexcept {
  std::uint64_t eight = 0;
  __builtin_memcpy(&eight, bytes, 16 / times);
  return vqtbl1q_u8(vreinterpretq_u8_u64(vdupq_n_u64(eight)), pattern);
}

void unpack(std::uint8_t* bytes, const std::uint8_t* bits, std::int64_t n, Store store) noexcept {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const uint8x16_t spread = vcombine_u8(vdup_n_u8(bits[i / 8]), vdup_n_u8(bits[i / 8 + 1]));
    store_bytes(bytes + i, vandq_u8(vtstq_u8(spread, bit_of_byte()), vdupq_n_u8(1)));
  }
  scalar_kernels().unpack(bytes + i, bits + i / 8, n - i, store);
}

void shuffled(std::byte* to, const std::byte* from, const std::uint8_t* order) noexcept {
  store_bytes(reinterpret_cast<std::uint8_t*>(to), vqtbl1q_u8(load_bytes(from), load_bytes(order)));
}

#include "kernels/expand.inl"
#include "kernels/table.inl"

}  // namespace

const Kernels& neon_kernels() noexcept {
  static const Kernels table = make_table("neon");
  return table;
}

}  // namespace datasparse
