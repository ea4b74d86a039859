// Kernels for AVX2 with BMI1 and F16C (Haswell, Zen and later): a vector of keys at a time, without
// the masks and the compression of AVX-512. What is not here is the scalar one, and so are ends
// shorter than a vector.
//
// Every function carries its own target, and the file includes no header with code in it: a
// template compiled here for AVX2 could become the copy that the linker keeps for everyone.

#include <immintrin.h>

#include <type_traits>

#include "kernels/kernels.hpp"

#define TARGET __attribute__((target("avx2,bmi,f16c,popcnt")))

namespace datasparse {
namespace {

using Bytes = __m256i;

TARGET Bytes load_bytes(const void* bytes) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

TARGET void store_bytes(void* bytes, Bytes vector) noexcept {
  _mm256_storeu_si256(static_cast<__m256i*>(bytes), vector);
}

/// Past the cache, to where is_aligned() holds.
TARGET void stream_bytes(void* bytes, Bytes vector) noexcept {
  _mm256_stream_si256(static_cast<__m256i*>(bytes), vector);
}

bool is_aligned(const void* bytes) noexcept {
  return reinterpret_cast<std::uintptr_t>(bytes) % sizeof(Bytes) == 0;
}

TARGET Bytes are_zero(Bytes bytes) noexcept {
  return _mm256_cmpeq_epi8(bytes, _mm256_setzero_si256());
}

TARGET Bytes ones_where_zero(Bytes bytes) noexcept {
  return _mm256_add_epi8(bytes, _mm256_set1_epi8(1));
}

constexpr int few = 1;

TARGET std::uint64_t bits(const Bytes* bytes) noexcept {
  return static_cast<unsigned>(_mm256_movemask_epi8(*bytes));
}

TARGET int count(const Bytes* bytes) noexcept { return __builtin_popcountll(bits(bytes)); }

/// The first of some bits; 64 where there is none.
TARGET int first_of(std::uint64_t bits) noexcept { return static_cast<int>(_tzcnt_u64(bits)); }

/// Puts 0 4 1 5 2 6 3 7 in order.
TARGET __m256i interleave(__m256i vector) noexcept {
  return _mm256_permutevar8x32_epi32(vector, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// --- vectors of keys of either width, under one set of names -------------------------------------
//
// Compares are signed: in registers, the highest bit of a key is turned, so that it orders so. Sums
// and differences of keys and numbers are right either way.

constexpr int group = 32;
using Place = std::int32_t;

template <class Vector>
struct Words {
  using Keys = __m256i;
  TARGET static Keys turned(Keys vector) noexcept {
    return _mm256_xor_si256(vector, Vector::number(KeyTraits<typename Vector::Key>::zero));
  }
  TARGET static Keys load(const void* keys) noexcept { return turned(load_bytes(keys)); }
  TARGET static void store(void* keys, Keys vector) noexcept { store_bytes(keys, turned(vector)); }
  TARGET static Keys numbers(const void* numbers) noexcept { return load_bytes(numbers); }
  TARGET static Keys permute(Bytes order, Keys vector) noexcept {
    return _mm256_permutevar8x32_epi32(vector, order);
  }
};

struct Vector32 : Words<Vector32> {
  using Key = std::uint32_t;
  static constexpr int size = 8;
  TARGET static __m256i number(Key n) noexcept { return _mm256_set1_epi32(static_cast<int>(n)); }
  TARGET static __m256i key(Key key) noexcept { return number(key ^ KeyTraits<Key>::zero); }
  TARGET static __m256i less(__m256i a, __m256i b) noexcept { return _mm256_cmpgt_epi32(b, a); }
  TARGET static __m256i equal(__m256i a, __m256i b) noexcept { return _mm256_cmpeq_epi32(a, b); }
  TARGET static __m256i add(__m256i a, __m256i b) noexcept { return _mm256_add_epi32(a, b); }
  TARGET static __m256i subtract(__m256i a, __m256i b) noexcept { return _mm256_sub_epi32(a, b); }
  TARGET static int count(__m256i lanes) noexcept {
    return __builtin_popcount(
        static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes))));
  }
  /// A byte for each lane of a group.
  TARGET static __m256i bytes(const __m256i* lanes) noexcept {
    return interleave(_mm256_packs_epi16(_mm256_packs_epi32(lanes[0], lanes[1]),
                                         _mm256_packs_epi32(lanes[2], lanes[3])));
  }
};

/// Elements of 16 bits by themselves, without their signs: see least_with().
struct Vector16 {
  using Key = std::uint16_t;
  using Keys = __m256i;
  static constexpr int size = 16;
  TARGET static __m256i number(Key n) noexcept { return _mm256_set1_epi16(static_cast<short>(n)); }
  TARGET static __m256i key(Key key) noexcept { return number(key ^ 0x8000U); }
  TARGET static __m256i load(const void* halves) noexcept {
    return _mm256_or_si256(load_bytes(halves), number(0x8000U));
  }
  TARGET static __m256i less(__m256i a, __m256i b) noexcept { return _mm256_cmpgt_epi16(b, a); }
  TARGET static __m256i subtract(__m256i a, __m256i b) noexcept { return _mm256_sub_epi16(a, b); }
  TARGET static __m256i bytes(const __m256i* lanes) noexcept {
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(lanes[0], lanes[1]),
                                    _MM_SHUFFLE(3, 1, 2, 0));
  }
};

struct Vector64 : Words<Vector64> {
  using Key = std::uint64_t;
  static constexpr int size = 4;
  TARGET static __m256i number(Key n) noexcept {
    return _mm256_set1_epi64x(static_cast<long long>(n));
  }
  TARGET static __m256i key(Key key) noexcept { return number(key ^ KeyTraits<Key>::zero); }
  TARGET static __m256i less(__m256i a, __m256i b) noexcept { return _mm256_cmpgt_epi64(b, a); }
  TARGET static __m256i equal(__m256i a, __m256i b) noexcept { return _mm256_cmpeq_epi64(a, b); }
  TARGET static __m256i add(__m256i a, __m256i b) noexcept { return _mm256_add_epi64(a, b); }
  TARGET static __m256i subtract(__m256i a, __m256i b) noexcept { return _mm256_sub_epi64(a, b); }
  TARGET static int count(__m256i lanes) noexcept {
    return __builtin_popcount(
        static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(lanes))));
  }
  TARGET static __m256i bytes(const __m256i* lanes) noexcept {
    __m256i narrow[4];
    for (int i = 0; i < 4; ++i) {
      narrow[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(lanes[2 * i], lanes[2 * i + 1]),
                                           _MM_SHUFFLE(3, 1, 2, 0));
    }
    return Vector32::bytes(narrow);
  }
};

/// For each set of eight lanes, their numbers.
struct LaneNumbers {
  std::uint8_t of[256][8] = {};
  constexpr LaneNumbers() noexcept {
    for (int lanes = 0; lanes < 256; ++lanes) {
      int n = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if ((lanes >> lane & 1) != 0) of[lanes][n++] = static_cast<std::uint8_t>(lane);
      }
    }
  }
};
constexpr LaneNumbers lane_numbers;

/// The chosen lanes first, in order. Keys of 64 bits are pairs of lanes.
template <class Vector>
TARGET __m256i compress(__m256i lanes, __m256i vector) noexcept {
  const auto* const numbers = lane_numbers.of[_mm256_movemask_ps(_mm256_castsi256_ps(lanes))];
  const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(numbers));
  return _mm256_permutevar8x32_epi32(vector, _mm256_cvtepu8_epi32(order));
}

// --- elements ------------------------------------------------------------------------------------

template <class T>
TARGET T read(const std::byte* data) noexcept {
  T value;
  __builtin_memcpy(&value, data, sizeof(value));
  return value;
}

#include "kernels/x86.inl"

/// Sums of eight blocks in a vector of floats, elements of 16 and 32 bits being widened to float.
struct Floats {
  using Sums = __m256;
  using Vector = Vector32;
  using Key = std::uint32_t;
  using Number = float;
  static constexpr int size = 8;
  TARGET static Sums absolute(Sums x) noexcept {
    return _mm256_and_ps(x, _mm256_castsi256_ps(Vector32::number(0x7FFFFFFFU)));
  }
  TARGET static __m256i key(Sums mean) noexcept {
    return _mm256_min_epu32(_mm256_castps_si256(absolute(mean)),
                            Vector32::key(KeyTraits<Key>::nan));
  }
  TARGET static __m256i key_of_value(Sums x) noexcept {
    const __m256i negative =
        _mm256_sub_epi32(Vector32::number(KeyTraits<Key>::zero), _mm256_castps_si256(x));
    const __m256 is_negative = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_blendv_epi8(key(x), negative, _mm256_castps_si256(is_negative));
  }

  /// Vector i of `v` holds elements of block i; vector i of the result holds their i-th ones.
  TARGET static void transpose(Sums* v) noexcept { transpose_eight(v); }

  /// The same for `width` vectors of narrower blocks, in an order that RowOrder undoes.
  template <int width>
  TARGET static void transpose_narrow(Sums* v) noexcept {
    if constexpr (width == 2) {
      const Sums first = _mm256_shuffle_ps(v[0], v[1], _MM_SHUFFLE(2, 0, 2, 0));
      v[1] = _mm256_shuffle_ps(v[0], v[1], _MM_SHUFFLE(3, 1, 3, 1));
      v[0] = first;
    } else if constexpr (width == 4) {
      transpose_within_halves(v);
    }
  }
};

struct Float32 : Floats {
  static constexpr int dtype = 2;
  static constexpr std::ptrdiff_t item = 4;
  TARGET static Sums load(const std::byte* data) noexcept {
    return _mm256_castsi256_ps(load_bytes(data));
  }
  /// One element from each of eight places, `offset` bytes on.
  TARGET static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const auto at = [&](int i) TARGET { return read<float>(data[i] + offset); };
    return _mm256_setr_ps(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  }
};

/// Eight elements of 16 bits, which Derived widens.
template <class Derived>
struct Halves : Floats {
  static constexpr std::ptrdiff_t item = 2;
  TARGET static Sums load(const std::byte* data) noexcept {
    return Derived::widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
  }
  TARGET static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const auto at = [&](int i) TARGET { return read<short>(data[i] + offset); };
    return Derived::widen(_mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)));
  }
};

struct BFloat16 : Halves<BFloat16> {
  static constexpr int dtype = 1;
  static constexpr std::uint16_t infinity = 0x7F80;
  TARGET static Sums widen(__m128i halves) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
};

struct Float16 : Halves<Float16> {
  static constexpr int dtype = 0;
  static constexpr std::uint16_t infinity = 0x7C00;
  TARGET static Sums widen(__m128i halves) noexcept { return _mm256_cvtph_ps(halves); }
};

struct Float64 {
  using Sums = __m256d;
  using Vector = Vector64;
  using Key = std::uint64_t;
  using Number = double;
  static constexpr int size = 4;
  static constexpr int dtype = 3;
  static constexpr std::ptrdiff_t item = 8;
  TARGET static Sums absolute(Sums x) noexcept {
    return _mm256_and_pd(x, _mm256_castsi256_pd(Vector64::number(0x7FFFFFFFFFFFFFFFULL)));
  }
  TARGET static __m256i key(Sums mean) noexcept {
    const __m256i bits = _mm256_castpd_si256(absolute(mean));
    const __m256i nan = Vector64::key(KeyTraits<Key>::nan);
    return _mm256_blendv_epi8(bits, nan, Vector64::less(nan, bits));
  }
  TARGET static __m256i key_of_value(Sums x) noexcept {
    const __m256i negative =
        _mm256_sub_epi64(Vector64::number(KeyTraits<Key>::zero), _mm256_castpd_si256(x));
    const __m256d is_negative = _mm256_cmp_pd(x, _mm256_setzero_pd(), _CMP_LT_OQ);
    return _mm256_blendv_epi8(key(x), negative, _mm256_castpd_si256(is_negative));
  }
  TARGET static Sums load(const std::byte* data) noexcept {
    return _mm256_castsi256_pd(load_bytes(data));
  }
  TARGET static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const auto at = [&](int i) TARGET { return read<double>(data[i] + offset); };
    return _mm256_setr_pd(at(0), at(1), at(2), at(3));
  }
  TARGET static void transpose(Sums* v) noexcept {
    transpose_narrow<2>(v);
    transpose_narrow<2>(v + 2);
    for (int i = 0; i < 2; ++i) {
      const Sums low = _mm256_permute2f128_pd(v[i], v[i + 2], 0x20);
      v[i + 2] = _mm256_permute2f128_pd(v[i], v[i + 2], 0x31);
      v[i] = low;
    }
  }
  template <int width>
  TARGET static void transpose_narrow(Sums* v) noexcept {
    if constexpr (width == 2) {
      const Sums first = _mm256_unpacklo_pd(v[0], v[1]);
      v[1] = _mm256_unpackhi_pd(v[0], v[1]);
      v[0] = first;
    }
  }
};

/// Undoes the order in which transpose_narrow() leaves blocks.
template <class Element, int width>
struct RowOrder {
  TARGET static __m256i of(__m256i keys) noexcept {
    if constexpr (width == 2) {
      return _mm256_permute4x64_epi64(keys, _MM_SHUFFLE(3, 1, 2, 0));
    } else if constexpr (width == 4 && Element::size == 8) {
      return interleave(keys);
    } else {
      return keys;
    }
  }
};

#include "kernels/columns.inl"
#include "kernels/generic.inl"
#include "kernels/marks.inl"
#include "kernels/maskless.inl"

// --- bytes ---------------------------------------------------------------------------------------

template <int times>
TARGET Bytes repeated(const std::uint8_t* bytes, Bytes pattern) noexcept {
  __m256i taken;
  if constexpr (times == 2) {
    taken = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  } else {
    long long eight = 0;
    __builtin_memcpy(&eight, bytes, 32 / times);
    taken = _mm256_set1_epi64x(eight);
  }
  return _mm256_shuffle_epi8(taken, pattern);
}

/// Eight by eight where the columns are near each other, as those of a permuted tensor are. Of
/// those far apart, the scalar one asks for the next in time.
TARGET void transpose(std::byte* out, std::ptrdiff_t pitch, const std::byte* in,
                      std::ptrdiff_t stride, std::int64_t rows, std::int64_t columns) noexcept {
  constexpr int size = 8;
  constexpr std::ptrdiff_t far = 256;
  std::int64_t c = 0;
  for (; stride < far && stride > -far && c + size <= columns; c += size) {
    const std::byte* const column = in + c * stride;
    std::byte* const target = out + c * 4;
    std::int64_t r = 0;
    for (; r + size <= rows; r += size) {
      __m256 v[size];
      for (int i = 0; i < size; ++i) {
        v[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(column + i * stride + r * 4));
      }
      Floats::transpose(v);
      std::byte* to = target + r * pitch;
      for (int i = 0; i < size; ++i, to += pitch) {
        _mm256_storeu_ps(reinterpret_cast<float*>(to), v[i]);
      }
    }
    for (; r < rows; ++r) {
      for (int i = 0; i < size; ++i) {
        __builtin_memcpy(target + r * pitch + i * 4, column + i * stride + r * 4, 4);
      }
    }
  }
  scalar_kernels().transpose(out + c * 4, pitch, in + c * stride, stride, rows, columns - c);
}

TARGET void unpack(std::uint8_t* bytes, const std::uint8_t* packed, std::int64_t n,
                   Store wanted) noexcept {
  // Byte i of a vector is byte i / 8 of four, in which bit i % 8 tells.
  const __m256i bytes_of =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201U));
  const bool stream = wanted == Store::past_cache && is_aligned(bytes);
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    int four = 0;
    __builtin_memcpy(&four, packed + i / 8, sizeof(four));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(four), bytes_of);
    const __m256i ones = _mm256_min_epu8(_mm256_and_si256(spread, bit_of), _mm256_set1_epi8(1));
    stream ? stream_bytes(bytes + i, ones) : store_bytes(bytes + i, ones);
  }
  scalar_kernels().unpack(bytes + i, packed + i / 8, n - i, wanted);
}

/// A masked store for elements of 32 and 64 bits; there is none for those of 16.
template <class Element>
TARGET void zero_pruned(std::byte* elements, const std::uint8_t* mask) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  if constexpr (Element::item == 4) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask));
    const __m256i pruned = _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(bytes), zero);
    _mm256_maskstore_epi32(reinterpret_cast<int*>(elements), pruned, zero);
  } else {
    const __m128i bytes = _mm_cvtsi32_si128(read<int>(reinterpret_cast<const std::byte*>(mask)));
    const __m256i pruned = _mm256_cmpeq_epi64(_mm256_cvtepu8_epi64(bytes), zero);
    _mm256_maskstore_epi64(reinterpret_cast<long long*>(elements), pruned, zero);
  }
}

TARGET void shuffled(std::byte* to, const std::byte* from, const std::uint8_t* order) noexcept {
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  const __m128i places = _mm_load_si128(reinterpret_cast<const __m128i*>(order));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(values, places));
}

#include "kernels/expand.inl"
#include "kernels/table.inl"

Kernels avx2_table() noexcept {
  Kernels table = make_table("avx2");
  table.transpose = transpose;
  table.zero_masked[Float32::dtype] = zero_masked<Float32>;
  table.zero_masked[Float64::dtype] = zero_masked<Float64>;
  return table;
}

}  // namespace

const Kernels& avx2_kernels() noexcept {
  static const Kernels table = avx2_table();
  return table;
}

}  // namespace datasparse
