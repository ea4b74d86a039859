// Kernels for AVX-512 (F, BW, VL, DQ): a vector of keys at a time. What is not here is the scalar
// one.
//
// Every function carries its own target, and the file includes no header with code in it: a
// template compiled here for AVX-512 could become the copy that the linker keeps for everyone.

#include <immintrin.h>

#include "kernels/kernels.hpp"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))

namespace datasparse {
namespace {

// Vectors of either width of key under one set of names. `lanes` are those in use.

struct Vector32 {
  using Key = std::uint32_t;
  static constexpr int size = 16;
  AVX512 static __m512i all(Key key) noexcept { return _mm512_set1_epi32(static_cast<int>(key)); }
  AVX512 static __m512i load(__mmask16 lanes, const Key* keys) noexcept {
    return _mm512_maskz_loadu_epi32(lanes, keys);
  }
  AVX512 static void store(Key* keys, __mmask16 lanes, __m512i vector) noexcept {
    _mm512_mask_storeu_epi32(keys, lanes, vector);
  }
  AVX512 static __mmask16 less(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmplt_epu32_mask(lanes, a, b);
  }
  AVX512 static __mmask16 equal(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmpeq_epi32_mask(lanes, a, b);
  }
  AVX512 static __m512i compress(__mmask16 lanes, __m512i vector) noexcept {
    return _mm512_maskz_compress_epi32(lanes, vector);
  }
  AVX512 static __m512i least(__m512i a, __mmask16 lanes, __m512i b) noexcept {
    return _mm512_mask_min_epu32(a, lanes, a, b);
  }
  AVX512 static __m512i greatest(__m512i a, __mmask16 lanes, __m512i b) noexcept {
    return _mm512_mask_max_epu32(a, lanes, a, b);
  }
  AVX512 static Key least_lane(__m512i a) noexcept { return _mm512_reduce_min_epu32(a); }
  AVX512 static Key greatest_lane(__m512i a) noexcept { return _mm512_reduce_max_epu32(a); }
  AVX512 static __m512i key_of_mean(__mmask16 lanes, const float* sums, float elements) noexcept {
    const __m512 mean = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, sums), _mm512_set1_ps(elements));
    const __m512i magnitude =
        _mm512_and_si512(_mm512_castps_si512(mean), _mm512_set1_epi32(0x7FFFFFFF));
    return _mm512_min_epu32(magnitude, all(KeyTraits<Key>::nan));
  }
};

struct Vector64 {
  using Key = std::uint64_t;
  static constexpr int size = 8;
  AVX512 static __m512i all(Key key) noexcept {
    return _mm512_set1_epi64(static_cast<long long>(key));
  }
  AVX512 static __m512i load(__mmask16 lanes, const Key* keys) noexcept {
    return _mm512_maskz_loadu_epi64(static_cast<__mmask8>(lanes), keys);
  }
  AVX512 static void store(Key* keys, __mmask16 lanes, __m512i vector) noexcept {
    _mm512_mask_storeu_epi64(keys, static_cast<__mmask8>(lanes), vector);
  }
  AVX512 static __mmask16 less(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmplt_epu64_mask(static_cast<__mmask8>(lanes), a, b);
  }
  AVX512 static __mmask16 equal(__mmask16 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmpeq_epi64_mask(static_cast<__mmask8>(lanes), a, b);
  }
  AVX512 static __m512i compress(__mmask16 lanes, __m512i vector) noexcept {
    return _mm512_maskz_compress_epi64(static_cast<__mmask8>(lanes), vector);
  }
  AVX512 static __m512i least(__m512i a, __mmask16 lanes, __m512i b) noexcept {
    return _mm512_mask_min_epu64(a, static_cast<__mmask8>(lanes), a, b);
  }
  AVX512 static __m512i greatest(__m512i a, __mmask16 lanes, __m512i b) noexcept {
    return _mm512_mask_max_epu64(a, static_cast<__mmask8>(lanes), a, b);
  }
  AVX512 static Key least_lane(__m512i a) noexcept { return _mm512_reduce_min_epu64(a); }
  AVX512 static Key greatest_lane(__m512i a) noexcept { return _mm512_reduce_max_epu64(a); }
  AVX512 static __m512i key_of_mean(__mmask16 lanes, const double* sums, double elements) noexcept {
    const __m512d sum = _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), sums);
    const __m512d mean = _mm512_div_pd(sum, _mm512_set1_pd(elements));
    const __m512i magnitude =
        _mm512_and_si512(_mm512_castpd_si512(mean), _mm512_set1_epi64(0x7FFFFFFFFFFFFFFFLL));
    return _mm512_min_epu64(magnitude, all(KeyTraits<Key>::nan));
  }
};

/// The first n lanes.
AVX512 __mmask16 first_lanes(std::int64_t n) noexcept {
  return n >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << n) - 1U);
}

/// The lanes of a vector that begins `left` keys before the end.
template <class Vector>
AVX512 __mmask16 lanes_of(std::int64_t left) noexcept {
  return first_lanes(left < Vector::size ? left : Vector::size);
}

AVX512 int count(__mmask16 lanes) noexcept { return __builtin_popcount(lanes); }

template <class Vector, class Key = typename Vector::Key>
AVX512 void make_keys(Key* keys, const typename KeyTraits<Key>::Score* sums, std::int64_t n,
                      std::int64_t elements) noexcept {
  const auto divisor = static_cast<typename KeyTraits<Key>::Score>(elements);
  for (std::int64_t i = 0; i < n; i += Vector::size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    Vector::store(keys + i, lanes, Vector::key_of_mean(lanes, sums + i, divisor));
  }
}

template <class Vector, class Key = typename Vector::Key>
AVX512 KeyRange<Key> range(const Key* keys, std::int64_t n) noexcept {
  __m512i least = Vector::all(keys[0]);
  __m512i greatest = least;
  for (std::int64_t i = 0; i < n; i += Vector::size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    const __m512i vector = Vector::load(lanes, keys + i);
    least = Vector::least(least, lanes, vector);
    greatest = Vector::greatest(greatest, lanes, vector);
  }
  return {Vector::least_lane(least), Vector::greatest_lane(greatest)};
}

template <class Vector, class Key = typename Vector::Key>
AVX512 std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  const __m512i pivots = Vector::all(pivot);
  std::int64_t below = 0;
  for (std::int64_t i = 0; i < n; i += Vector::size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    below += count(Vector::less(lanes, Vector::load(lanes, keys + i), pivots));
  }
  return below;
}

template <class Vector, class Key = typename Vector::Key>
AVX512 std::int64_t count_equal(const Key* keys, std::int64_t n, Key key) noexcept {
  const __m512i wanted = Vector::all(key);
  std::int64_t equal = 0;
  for (std::int64_t i = 0; i < n; i += Vector::size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    equal += count(Vector::equal(lanes, Vector::load(lanes, keys + i), wanted));
  }
  return equal;
}

template <class Vector, class Key = typename Vector::Key>
AVX512 void keep_range(Key* out, const Key* keys, std::int64_t n, Key lo, Key hi) noexcept {
  const __m512i low = Vector::all(lo);
  const __m512i high = Vector::all(hi);
  for (std::int64_t i = 0; i < n; i += Vector::size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    const __m512i vector = Vector::load(lanes, keys + i);
    const __mmask16 not_low = static_cast<__mmask16>(lanes & ~Vector::less(lanes, vector, low));
    const __mmask16 kept = Vector::less(not_low, vector, high);
    Vector::store(out, first_lanes(count(kept)), Vector::compress(kept, vector));
    out += count(kept);
  }
}

/// A byte for each of the lanes in use: 1 for those in `ones`.
AVX512 void store_bytes(std::uint8_t* bytes, __mmask16 lanes, __mmask16 ones) noexcept {
  _mm_mask_storeu_epi8(bytes, lanes, _mm_maskz_set1_epi8(ones, 1));
}

template <class Vector, class Key = typename Vector::Key>
AVX512 BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys,
                             std::int64_t n, Key lo, Key hi) noexcept {
  const __m512i low = Vector::all(lo);
  const __m512i high = Vector::all(hi);
  const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  std::int64_t above = 0;
  BracketCounts counts{};
  for (std::int64_t i = 0; i < n; i += Vector::size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    const __m512i vector = Vector::load(lanes, keys + i);
    const __mmask16 kept = Vector::less(lanes, low, vector);
    const __mmask16 within = Vector::less(kept, vector, high);
    store_bytes(keep + i, lanes, kept);
    above += count(kept);
    counts.at_lo += count(Vector::equal(lanes, vector, low));
    counts.at_hi += count(Vector::equal(kept, vector, high));
    if (within != 0) {
      const __m512i here = _mm512_add_epi32(places, _mm512_set1_epi32(static_cast<int>(i)));
      const __m256i found = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(within, here));
      _mm256_mask_storeu_epi16(inside + counts.inside, first_lanes(count(within)), found);
      counts.inside += count(within);
    }
  }
  counts.below = n - above - counts.at_lo;
  return counts;
}

template <class Vector, class Key = typename Vector::Key>
AVX512 void threshold(std::uint8_t* keep, const Key* keys, std::int64_t n, Key cut,
                      std::int64_t ties) noexcept {
  const __m512i cuts = Vector::all(cut);
  for (std::int64_t i = 0; i < n; i += Vector::size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    const __m512i vector = Vector::load(lanes, keys + i);
    unsigned tied = Vector::equal(lanes, vector, cuts);
    for (; tied != 0 && ties > 0; --ties) tied &= tied - 1;  // the first go
    const __mmask16 kept = Vector::less(lanes, cuts, vector);
    store_bytes(keep + i, lanes, static_cast<__mmask16>(kept | tied));
  }
}

// Sixteen elements, widened to float.

struct Float32 {
  static constexpr int dtype = 2;
  static constexpr std::ptrdiff_t item = 4;
  AVX512 static __m512 load(const std::byte* data) noexcept { return _mm512_loadu_ps(data); }
};

struct BFloat16 {
  static constexpr int dtype = 1;
  static constexpr std::ptrdiff_t item = 2;
  AVX512 static __m512 load(const std::byte* data) noexcept {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
};

struct Float16 {
  static constexpr int dtype = 0;
  static constexpr std::ptrdiff_t item = 2;
  AVX512 static __m512 load(const std::byte* data) noexcept {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
  }
};

template <int norm>
AVX512 __m512 magnitude(__m512 x) noexcept {
  if constexpr (norm == 0) {
    return _mm512_abs_ps(x);
  } else {
    return _mm512_mul_ps(x, x);
  }
}

/// sums[i] += |x_i| or x_i·x_i for sixteen blocks of one element.
template <class Element, int norm>
AVX512 void add_elements(float* sums, const std::byte* data) noexcept {
  const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums), magnitude<norm>(Element::load(data)));
  _mm512_storeu_ps(sums, sum);
}

/// The same for sixteen blocks of four elements side by side, added one after another: a transpose
/// in registers puts the first elements of all blocks into one vector, and so on.
template <class Element, int norm>
AVX512 void add_fours(float* sums, const std::byte* data) noexcept {
  // Lane 4 l + v holds the block that stands at lane 4 v + l of its sums.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  constexpr std::ptrdiff_t step = 16 * Element::item;
  const __m512 a = magnitude<norm>(Element::load(data));
  const __m512 b = magnitude<norm>(Element::load(data + step));
  const __m512 c = magnitude<norm>(Element::load(data + 2 * step));
  const __m512 d = magnitude<norm>(Element::load(data + 3 * step));
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
  const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
  const __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  __m512 sum = _mm512_permutexvar_ps(order, _mm512_loadu_ps(sums));
  sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)));
  sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)));
  sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)));
  sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)));
  _mm512_storeu_ps(sums, _mm512_permutexvar_ps(order, sum));
}

template <class Element, int norm>
AVX512 void accumulate(void* out, const std::byte* src, std::ptrdiff_t stride, std::int64_t n,
                       std::int64_t phase, std::int64_t block_width) noexcept {
  auto* sums = static_cast<float*>(out);
  if (stride == Element::item && phase == 0) {
    if (block_width == 1) {
      for (; n >= 16; n -= 16, sums += 16, src += 16 * stride) {
        add_elements<Element, norm>(sums, src);
      }
    } else if (block_width == 4) {
      for (; n >= 64; n -= 64, sums += 16, src += 64 * stride) add_fours<Element, norm>(sums, src);
    }
  }
  if (n > 0) {
    scalar_kernels().accumulate[Element::dtype][norm](sums, src, stride, n, phase, block_width);
  }
}

template <class Vector, class Key = typename Vector::Key>
void use(SelectionKernels<Key>& kernels) noexcept {
  kernels.make_keys = make_keys<Vector>;
  kernels.range = range<Vector>;
  kernels.count_below = count_below<Vector>;
  kernels.keep_range = keep_range<Vector>;
  kernels.bracket = bracket<Vector>;
  kernels.count_equal = count_equal<Vector>;
  kernels.threshold = threshold<Vector>;
}

template <class Element>
void use(Kernels::Accumulate (&kernels)[norm_count]) noexcept {
  kernels[0] = accumulate<Element, 0>;
  kernels[1] = accumulate<Element, 1>;
}

Kernels make_table() noexcept {
  Kernels table = scalar_kernels();
  table.name = "avx512";
  use<Vector32>(table.select32);
  use<Vector64>(table.select64);
  use<Float16>(table.accumulate[Float16::dtype]);
  use<BFloat16>(table.accumulate[BFloat16::dtype]);
  use<Float32>(table.accumulate[Float32::dtype]);
  return table;
}

}  // namespace

const Kernels& avx512_kernels() noexcept {
  static const Kernels table = make_table();
  return table;
}

}  // namespace datasparse
