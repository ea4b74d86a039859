// Kernels for AVX-512 (F, BW, VL, DQ, VBMI2; Ice Lake, Zen 4 and later): a vector of keys at a
// time. What is not here is the scalar one.
//
// Every function carries its own target, and the file includes no header with code in it: a
// template compiled here for AVX-512 could become the copy that the linker keeps for everyone. What
// an .inl file says is said within this one.

#include <immintrin.h>

#include <type_traits>

#include "kernels/kernels.hpp"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2")))

namespace datasparse {
namespace {

using Bytes = __m512i;

TARGET Bytes load_bytes(const void* bytes) noexcept { return _mm512_loadu_si512(bytes); }

TARGET void store_bytes(void* bytes, Bytes vector) noexcept { _mm512_storeu_si512(bytes, vector); }

// --- vectors of keys of either width, under one set of names; `lanes` are those in use ----------

struct Words {
  using Keys = __m512i;
  TARGET static void store(void* keys, Keys vector) noexcept { store_bytes(keys, vector); }
};

struct Vector32 : Words {
  using Key = std::uint32_t;
  using Lanes = __mmask16;
  static constexpr int size = 16;
  TARGET static __m512i all(Key key) noexcept { return _mm512_set1_epi32(static_cast<int>(key)); }
  TARGET static __m512i load(__mmask16 lanes, const Key* keys) noexcept {
    return _mm512_maskz_loadu_epi32(lanes, keys);
  }
  TARGET static void store_lanes(Key* keys, __mmask16 lanes, __m512i vector) noexcept {
    _mm512_mask_storeu_epi32(keys, lanes, vector);
  }
  TARGET static __mmask16 less(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmplt_epu32_mask(lanes, a, b);
  }
  TARGET static __mmask16 equal(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmpeq_epi32_mask(lanes, a, b);
  }
  TARGET static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi32(a, b); }
  TARGET static __m512i subtract(__m512i a, __m512i b) noexcept { return _mm512_sub_epi32(a, b); }
  TARGET static __m512i compress(__mmask16 lanes, __m512i vector) noexcept {
    return _mm512_maskz_compress_epi32(lanes, vector);
  }
  TARGET static __m512i permute(__m512i order, __m512i vector) noexcept {
    return _mm512_permutexvar_epi32(order, vector);
  }
  TARGET static __m512i count_up(__m512i counts, __mmask16 lanes) noexcept {
    return _mm512_mask_add_epi32(counts, lanes, counts, all(1));
  }
  TARGET static std::int64_t total(__m512i counts) noexcept {
    return _mm512_reduce_add_epi32(counts);
  }
};

struct Vector64 : Words {
  using Key = std::uint64_t;
  using Lanes = __mmask8;
  static constexpr int size = 8;
  TARGET static __m512i all(Key key) noexcept {
    return _mm512_set1_epi64(static_cast<long long>(key));
  }
  TARGET static __m512i load(__mmask16 lanes, const Key* keys) noexcept {
    return _mm512_maskz_loadu_epi64(static_cast<__mmask8>(lanes), keys);
  }
  TARGET static void store_lanes(Key* keys, __mmask16 lanes, __m512i vector) noexcept {
    _mm512_mask_storeu_epi64(keys, static_cast<__mmask8>(lanes), vector);
  }
  TARGET static __mmask16 less(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmplt_epu64_mask(static_cast<__mmask8>(lanes), a, b);
  }
  TARGET static __mmask16 equal(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmpeq_epi64_mask(static_cast<__mmask8>(lanes), a, b);
  }
  TARGET static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi64(a, b); }
  TARGET static __m512i subtract(__m512i a, __m512i b) noexcept { return _mm512_sub_epi64(a, b); }
  TARGET static __m512i compress(__mmask16 lanes, __m512i vector) noexcept {
    return _mm512_maskz_compress_epi64(static_cast<__mmask8>(lanes), vector);
  }
  TARGET static __m512i permute(__m512i order, __m512i vector) noexcept {
    return _mm512_permutexvar_epi64(order, vector);
  }
  TARGET static __m512i count_up(__m512i counts, __mmask16 lanes) noexcept {
    return _mm512_mask_add_epi64(counts, static_cast<__mmask8>(lanes), counts, all(1));
  }
  TARGET static std::int64_t total(__m512i counts) noexcept {
    return _mm512_reduce_add_epi64(counts);
  }
};

/// Of 16-bit elements, only what zero_least() needs.
struct Vector16 {
  using Key = std::uint16_t;
  using Lanes = __mmask32;
  static constexpr int size = 32;
  TARGET static __mmask32 less(__mmask32 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmplt_epu16_mask(lanes, a, b);
  }
  TARGET static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi16(a, b); }
  TARGET static __m512i permute(__m512i order, __m512i vector) noexcept {
    return _mm512_permutexvar_epi16(order, vector);
  }
};

/// The first n lanes.
TARGET __mmask16 first_lanes(std::int64_t n) noexcept {
  return n >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << n) - 1U);
}

/// The lanes of a vector that begins `left` keys before the end.
template <class Vector>
TARGET __mmask16 lanes_of(std::int64_t left) noexcept {
  return first_lanes(left < Vector::size ? left : Vector::size);
}

TARGET int count(__mmask16 lanes) noexcept { return __builtin_popcount(lanes); }

/// Sixty-four keys at a time, the last time fewer: bit i of a mask belongs to key i.
constexpr int bundle = 64;

TARGET std::uint64_t first_bits(std::int64_t n) noexcept {
  return n >= bundle ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1U;
}

/// A byte for each of the first n bits, at most 64.
TARGET void store_bytes(std::uint8_t* bytes, std::int64_t n, std::uint64_t ones) noexcept {
  const __m512i vector = _mm512_maskz_set1_epi8(ones, 1);
  if (n < bundle) {
    _mm512_mask_storeu_epi8(bytes, first_bits(n), vector);
  } else {
    store_bytes(bytes, vector);
  }
}

/// The mask of 64 blocks of `width` columns side by side: all bytes of a block are 0 or 1.
template <int width>
TARGET void store_blocks(std::uint8_t* mask, std::ptrdiff_t pitch, std::int64_t rows,
                         std::uint64_t ones, Store store) noexcept {
  constexpr int taken = 64 / width;  // blocks in a vector of bytes
  for (int v = 0; v < width; ++v) {
    const std::uint64_t some = ones >> (v * taken % 64);
    __m512i vector;
    if constexpr (width == 1) {
      vector = _mm512_maskz_set1_epi8(some, 1);
    } else if constexpr (width == 2) {
      vector = _mm512_maskz_set1_epi16(static_cast<__mmask32>(some), 0x0101);
    } else if constexpr (width == 4) {
      vector = _mm512_maskz_set1_epi32(static_cast<__mmask16>(some), 0x01010101);
    } else {
      vector = _mm512_maskz_set1_epi64(static_cast<__mmask8>(some), 0x0101010101010101);
    }
    std::uint8_t* line = mask + v * 64;
    for (std::int64_t r = 0; r < rows; ++r, line += pitch) {
      if (store == Store::past_cache) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(line), vector);
      } else {
        _mm512_storeu_si512(line, vector);
      }
    }
  }
}

/// What was asked for, where whole lines begin at multiples of 64 bytes.
TARGET Store store_to(const std::uint8_t* bytes, Store store) noexcept {
  return reinterpret_cast<std::uintptr_t>(bytes) % 64 == 0 ? store : Store::ordinary;
}

// --- elements ------------------------------------------------------------------------------------

/// Transposes 4 × 4 quarters of vectors.
TARGET inline void transpose_quarters(__m512& a, __m512& b, __m512& c, __m512& d) noexcept {
  const __m512 ab_low = _mm512_shuffle_f32x4(a, b, 0x44);
  const __m512 ab_high = _mm512_shuffle_f32x4(a, b, 0xEE);
  const __m512 cd_low = _mm512_shuffle_f32x4(c, d, 0x44);
  const __m512 cd_high = _mm512_shuffle_f32x4(c, d, 0xEE);
  a = _mm512_shuffle_f32x4(ab_low, cd_low, 0x88);
  b = _mm512_shuffle_f32x4(ab_low, cd_low, 0xDD);
  c = _mm512_shuffle_f32x4(ab_high, cd_high, 0x88);
  d = _mm512_shuffle_f32x4(ab_high, cd_high, 0xDD);
}

/// Transposes 4 × 4 numbers within each quarter.
TARGET inline void transpose_within_quarters(__m512& a, __m512& b, __m512& c, __m512& d) noexcept {
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
  const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
  const __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  a = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
  b = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
  c = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
  d = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
}

/// Sums of sixteen blocks in a vector of floats, elements of 16 and 32 bits being widened to float.
struct Floats {
  using Sums = __m512;
  using Vector = Vector32;
  using Key = std::uint32_t;
  using Number = float;
  static constexpr int size = 16;
  TARGET static Sums absolute(Sums x) noexcept { return _mm512_abs_ps(x); }
  TARGET static __m512i key(Sums mean) noexcept {
    const __m512i bits =
        _mm512_or_si512(_mm512_castps_si512(mean), Vector32::all(KeyTraits<Key>::zero));
    return _mm512_min_epu32(bits, Vector32::all(KeyTraits<Key>::nan));
  }
  TARGET static __m512i key_of_value(Sums x) noexcept {
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_sub_epi32(key(x), negative, _mm512_setzero_si512(), _mm512_castps_si512(x));
  }

  /// Vector i of `v` holds elements of block i; vector i of the result holds their i-th ones.
  TARGET static void transpose(Sums* v) noexcept {
    for (int i = 0; i < 16; i += 4) transpose_within_quarters(v[i], v[i + 1], v[i + 2], v[i + 3]);
    for (int i = 0; i < 4; ++i) transpose_quarters(v[i], v[i + 4], v[i + 8], v[i + 12]);
  }

  /// The same for `width` vectors of narrower blocks, in an order that RowOrder undoes.
  template <int width>
  TARGET static void transpose_narrow(Sums* v) noexcept {
    if constexpr (width == 2) {
      const __m512 even = _mm512_shuffle_ps(v[0], v[1], 0x88);
      v[1] = _mm512_shuffle_ps(v[0], v[1], 0xDD);
      v[0] = even;
    } else {
      for (int i = 0; i < width; i += 4)
        transpose_within_quarters(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
    if constexpr (width == 8) {  // even quarters hold elements 0 to 3 of a block, odd ones 4 to 7
      for (int i = 0; i < 4; ++i) {
        const __m512 even = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
        v[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD);
        v[i] = even;
      }
    }
  }
};

struct Float32 : Floats {
  static constexpr int dtype = 2;
  static constexpr std::ptrdiff_t item = 4;
  TARGET static __m512 load(const std::byte* data) noexcept { return _mm512_loadu_ps(data); }
  TARGET static __m512 load(const std::byte* data, __mmask16 lanes) noexcept {
    return _mm512_maskz_loadu_ps(lanes, data);
  }
};

/// Sixteen elements of 16 bits, which Derived widens.
template <class Derived>
struct Halves : Floats {
  static constexpr std::ptrdiff_t item = 2;
  TARGET static Sums load(const std::byte* data) noexcept {
    return Derived::widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
  }
  TARGET static Sums load(const std::byte* data, __mmask16 lanes) noexcept {
    return Derived::widen(_mm256_maskz_loadu_epi16(lanes, data));
  }
};

struct BFloat16 : Halves<BFloat16> {
  static constexpr int dtype = 1;
  static constexpr std::int16_t infinity = 0x7F80;
  TARGET static Sums widen(__m256i halves) noexcept {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
};

struct Float16 : Halves<Float16> {
  static constexpr int dtype = 0;
  static constexpr std::int16_t infinity = 0x7C00;
  TARGET static Sums widen(__m256i halves) noexcept { return _mm512_cvtph_ps(halves); }
};

struct Float64 {
  using Sums = __m512d;
  using Vector = Vector64;
  using Key = std::uint64_t;
  using Number = double;
  static constexpr int size = 8;
  static constexpr int dtype = 3;
  static constexpr std::ptrdiff_t item = 8;
  TARGET static Sums absolute(Sums x) noexcept { return _mm512_abs_pd(x); }
  TARGET static __m512i key(Sums mean) noexcept {
    const __m512i bits =
        _mm512_or_si512(_mm512_castpd_si512(mean), Vector64::all(KeyTraits<Key>::zero));
    return _mm512_min_epu64(bits, Vector64::all(KeyTraits<Key>::nan));
  }
  TARGET static __m512i key_of_value(Sums x) noexcept {
    const __mmask8 negative = _mm512_cmp_pd_mask(x, _mm512_setzero_pd(), _CMP_LT_OQ);
    return _mm512_mask_sub_epi64(key(x), negative, _mm512_setzero_si512(), _mm512_castpd_si512(x));
  }
  TARGET static Sums load(const std::byte* data) noexcept { return _mm512_loadu_pd(data); }
  TARGET static Sums load(const std::byte* data, __mmask16 lanes) noexcept {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), data);
  }
  TARGET static void transpose(Sums* v) noexcept {
    for (int i = 0; i < 8; i += 2) {
      const __m512d a = v[i];
      v[i] = _mm512_unpacklo_pd(a, v[i + 1]);
      v[i + 1] = _mm512_unpackhi_pd(a, v[i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
      __m512 a = _mm512_castpd_ps(v[i]);
      __m512 b = _mm512_castpd_ps(v[i + 2]);
      __m512 c = _mm512_castpd_ps(v[i + 4]);
      __m512 d = _mm512_castpd_ps(v[i + 6]);
      transpose_quarters(a, b, c, d);
      v[i] = _mm512_castps_pd(a);
      v[i + 2] = _mm512_castps_pd(b);
      v[i + 4] = _mm512_castps_pd(c);
      v[i + 6] = _mm512_castps_pd(d);
    }
  }
  template <int width>
  TARGET static void transpose_narrow(Sums* v) noexcept {
    __m512d even[width / 2], odd[width / 2];
    for (int i = 0; i < width / 2; ++i) {
      even[i] = _mm512_unpacklo_pd(v[2 * i], v[2 * i + 1]);
      odd[i] = _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]);
    }
    if constexpr (width == 2) {
      v[0] = even[0];
      v[1] = odd[0];
    } else if constexpr (width == 4) {  // odd quarters hold elements 2 and 3
      v[0] = _mm512_shuffle_f64x2(even[0], even[1], 0x88);
      v[1] = _mm512_shuffle_f64x2(odd[0], odd[1], 0x88);
      v[2] = _mm512_shuffle_f64x2(even[0], even[1], 0xDD);
      v[3] = _mm512_shuffle_f64x2(odd[0], odd[1], 0xDD);
    }
  }
};

/// Undoes the order in which transpose_narrow() leaves blocks.
template <class Element, int width>
class RowOrder {
 public:
  TARGET RowOrder() noexcept {
    alignas(64) typename Element::Key order[Element::size];
    for (unsigned i = 0; i < Element::size; ++i) {
      order[i] = i;
      if (Element::size == 8) {
        if (width == 2) order[i] = i % 4 * 2 + i / 4;
        if (width == 4) order[i] = i / 4 * 4 + i % 2 * 2 + i % 4 / 2;
      } else {
        if (width == 2) order[i] = i % 8 / 2 * 4 + i / 8 * 2 + i % 2;
        if (width == 4) order[i] = i % 4 * 4 + i / 4;
        if (width == 8) order[i] = (i / 8 * 2 + i % 2) * 4 + i % 8 / 2;
      }
    }
    order_ = load_bytes(order);
  }
  TARGET __m512i of(__m512i keys) const noexcept {
    return width == 1 ? keys : Element::Vector::permute(order_, keys);
  }

 private:
  __m512i order_;
};

#include "kernels/columns.inl"
#include "kernels/generic.inl"
#include "kernels/marks.inl"

/// As many elements of each block as there are blocks are transposed in registers.
template <class Element, int norm>
TARGET typename Element::Sums sums_of(const Blocks& blocks, const std::byte* const* data) noexcept {
  constexpr int size = Element::size;
  typename Element::Sums sums{};
  for (std::int64_t r = 0; r < blocks.rows; ++r) {
    for (std::int64_t i = 0; i < blocks.width; i += size) {
      const std::int64_t left = blocks.width - i;
      const __mmask16 lanes = lanes_of<typename Element::Vector>(left);
      typename Element::Sums v[size];
      for (int t = 0; t < size; ++t) {
        const std::byte* const from = data[t] + r * blocks.pitch + i * Element::item;
        v[t] = term<Element, norm>(Element::load(from, lanes));
      }
      Element::transpose(v);
      for (int t = 0; t < size && t < left; ++t) sums += v[t];
    }
  }
  return sums;
}

template <class Vector>
TARGET void store_first(typename Vector::Key* keys, std::int64_t n,
                        typename Vector::Keys vector) noexcept {
  Vector::store_lanes(keys, first_lanes(n), vector);
}

template <class Element, int norm>
TARGET void score_at(void* out, const Blocks& blocks, const std::uint16_t* places,
                     std::int64_t n) noexcept {
  auto* const keys = static_cast<typename Element::Key*>(out);
  if (blocks.width > 1 || blocks.rows > 1) {
    score_places<Element, norm>(keys, blocks, places, n);
    return;
  }
  constexpr std::int64_t together = 256;
  alignas(64) std::byte elements[together * Element::item];
  for (std::int64_t done = 0; done < n; done += together) {
    const std::int64_t some = n - done < together ? n - done : together;
    for (std::int64_t i = 0; i < some; ++i) {
      __builtin_memcpy(elements + i * Element::item, blocks.data + places[done + i] * blocks.step,
                       Element::item);
    }
    score<Element, norm>(keys + done, {elements, 0, Element::item, some, 1, 1});
  }
}

// --- selection -----------------------------------------------------------------------------------

/// How many of n keys are in the lanes that chosen(lanes, vector) returns.
template <class Vector, class Key, class Choose>
TARGET std::int64_t count_if(const Key* keys, std::int64_t n, const Choose& chosen) noexcept {
  constexpr std::int64_t size = Vector::size;
  constexpr __mmask16 all = (1U << size) - 1U;
  if (n <= size) {
    const __mmask16 lanes = lanes_of<Vector>(n);
    return count(chosen(lanes, Vector::load(lanes, keys)));
  }
  __m512i counts[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  std::int64_t i = 0;
  for (; i + 2 * size <= n; i += 2 * size) {
    counts[0] = Vector::count_up(counts[0], chosen(all, Vector::load(all, keys + i)));
    counts[1] = Vector::count_up(counts[1], chosen(all, Vector::load(all, keys + i + size)));
  }
  for (; i < n; i += size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    counts[0] = Vector::count_up(counts[0], chosen(lanes, Vector::load(lanes, keys + i)));
  }
  return Vector::total(Vector::add(counts[0], counts[1]));
}

template <class Vector, class Key = typename Vector::Key>
TARGET std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  const __m512i pivots = Vector::all(pivot);
  return count_if<Vector>(keys, n, [&](__mmask16 lanes, __m512i vector) TARGET {
    return Vector::less(lanes, vector, pivots);
  });
}

template <class Vector, class Key = typename Vector::Key>
TARGET std::int64_t count_equal(const Key* keys, std::int64_t n, Key key) noexcept {
  const __m512i wanted = Vector::all(key);
  return count_if<Vector>(keys, n, [&](__mmask16 lanes, __m512i vector) TARGET {
    return Vector::equal(lanes, vector, wanted);
  });
}

template <class Vector, class Key = typename Vector::Key>
TARGET SplitCounts split(Key* out, std::int64_t room, const Key* keys, std::int64_t n, Key lo,
                         Key hi) noexcept {
  constexpr std::int64_t size = Vector::size;
  const __m512i low = Vector::all(lo);
  const __m512i width = Vector::all(hi - lo);
  __m512i below = _mm512_setzero_si512();
  std::int64_t found = 0;
  const auto compare = [&](__mmask16 lanes, __m512i vector) TARGET {
    below = Vector::count_up(below, Vector::less(lanes, vector, low));
    return Vector::less(lanes, Vector::subtract(vector, low), width);
  };
  std::int64_t i = 0;
  for (; i + size <= n && found + size <= room; i += size) {
    constexpr __mmask16 all = (1U << size) - 1U;
    const __m512i vector = Vector::load(all, keys + i);
    const __mmask16 inside = compare(all, vector);
    store_bytes(out + found, Vector::compress(inside, vector));
    found += count(inside);
  }
  for (; i < n; i += size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    const __m512i vector = Vector::load(lanes, keys + i);
    const __mmask16 inside = compare(lanes, vector);
    const std::int64_t left = room - found;
    if (left > 0) {
      const std::int64_t copied = count(inside) < left ? count(inside) : left;
      store_first<Vector>(out + found, copied, Vector::compress(inside, vector));
    }
    found += count(inside);
  }
  return {Vector::total(below), found};
}

template <class Vector, class Key = typename Vector::Key>
TARGET void threshold(std::uint8_t* keep, const Key* keys, std::int64_t n, Key cut,
                      std::int64_t ties) noexcept {
  const __m512i cuts = Vector::all(cut);
  for (std::int64_t i = 0; i < n; i += bundle) {
    const std::int64_t left = n - i < bundle ? n - i : bundle;
    std::uint64_t kept = 0;
    std::uint64_t tied = 0;
    for (int v = 0; v < left; v += Vector::size) {
      const __mmask16 lanes = lanes_of<Vector>(left - v);
      const __m512i vector = Vector::load(lanes, keys + i + v);
      kept |= std::uint64_t{Vector::less(lanes, cuts, vector)} << v;
      tied |= std::uint64_t{Vector::equal(lanes, cuts, vector)} << v;
    }
    for (; tied != 0 && ties > 0; --ties) tied &= tied - 1;  // the first go
    store_bytes(keep + i, left, kept | tied);
  }
}

#include "kernels/avx512_bracket.inl"
#include "kernels/avx512_transpose.inl"
#include "kernels/avx512_zero_least.inl"

// --- bytes ---------------------------------------------------------------------------------------

template <int times>
TARGET Bytes repeated(const std::uint8_t* bytes, Bytes pattern) noexcept {
  if constexpr (times == 2) {  // 16 bytes to two quarters, 16 to the other two
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    const __m512i both = _mm512_castsi256_si512(half);
    return _mm512_shuffle_epi8(_mm512_shuffle_i64x2(both, both, 0x50), pattern);
  } else if constexpr (times == 4) {
    const __m128i quarter = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(quarter), pattern);
  } else {
    long long few = 0;
    __builtin_memcpy(&few, bytes, 64 / times);
    return _mm512_shuffle_epi8(_mm512_set1_epi64(few), pattern);
  }
}

TARGET std::int64_t count_zeros(const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t zeros = 0;
  for (std::int64_t i = 0; i < n; i += bundle) {
    const std::uint64_t here = first_bits(n - i);
    const __m512i vector = _mm512_maskz_loadu_epi8(here, bytes + i);
    zeros += __builtin_popcountll(_mm512_mask_testn_epi8_mask(here, vector, vector));
  }
  return zeros;
}

TARGET void pack(std::uint8_t* bits, const std::uint8_t* bytes, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; i += bundle) {
    const __m512i vector = _mm512_maskz_loadu_epi8(first_bits(n - i), bytes + i);
    const std::uint64_t ones = _mm512_test_epi8_mask(vector, vector);
    const std::int64_t left = (n - i + 7) / 8;
    __builtin_memcpy(bits + i / 8, &ones, static_cast<std::size_t>(left < 8 ? left : 8));
  }
}

TARGET void unpack(std::uint8_t* bytes, const std::uint8_t* bits, std::int64_t n,
                   Store wanted) noexcept {
  const Store store = store_to(bytes, wanted);
  std::int64_t i = 0;
  for (; i + bundle <= n; i += bundle) {
    std::uint64_t ones = 0;
    __builtin_memcpy(&ones, bits + i / 8, sizeof(ones));
    store_blocks<1>(bytes + i, 0, 1, ones, store);
  }
  scalar_kernels().unpack(bytes + i, bits + i / 8, n - i, store);
}

/// Masked stores write the chosen elements only.
template <class Element>
TARGET void zero_pruned(std::byte* elements, const std::uint8_t* mask) noexcept {
  const __m512i zero = _mm512_setzero_si512();
  if constexpr (Element::item == 2) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask));
    const __mmask32 pruned = _mm256_testn_epi8_mask(bytes, bytes);
    if (pruned != 0) _mm512_mask_storeu_epi16(elements, pruned, zero);
  } else if constexpr (Element::item == 4) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask));
    const __mmask16 pruned = _mm_testn_epi8_mask(bytes, bytes);
    if (pruned != 0) _mm512_mask_storeu_epi32(elements, pruned, zero);
  } else {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask));
    const auto pruned = static_cast<__mmask8>(_mm_testn_epi8_mask(bytes, bytes));
    if (pruned != 0) _mm512_mask_storeu_epi64(elements, pruned, zero);
  }
}

TARGET std::int64_t expand(std::byte* data, const std::byte* values, const std::byte* end,
                           const std::uint8_t* bits, std::int64_t n) noexcept {
  std::int64_t done = 0;
  for (; n - done >= 32 && end - values >= 64; done += 32) {
    std::uint32_t set;
    __builtin_memcpy(&set, bits + done / 8, sizeof(set));
    _mm512_storeu_si512(data + 2 * done,
                        _mm512_maskz_expand_epi16(set, _mm512_loadu_si512(values)));
    values += 2 * __builtin_popcount(set);
  }
  return done;
}

#include "kernels/table.inl"

Kernels avx512_table() noexcept {
  Kernels table = make_table("avx512");
  table.zero_masked[Float16::dtype] = zero_masked<Float16>;
  table.zero_masked[BFloat16::dtype] = zero_masked<BFloat16>;
  table.zero_masked[Float32::dtype] = zero_masked<Float32>;
  table.zero_masked[Float64::dtype] = zero_masked<Float64>;
  table.copy_run = copy_run;
  table.transpose = transpose;
  table.transpose_mask = transpose_mask;
  return table;
}

}  // namespace

const Kernels& avx512_kernels() noexcept {
  static const Kernels table = avx512_table();
  return table;
}

}  // namespace datasparse
