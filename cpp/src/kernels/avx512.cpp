// Kernels for AVX-512 (F, BW, VL, DQ, VBMI2; Ice Lake, Zen 4 and later): a vector of keys at a
// time. What is not here is the scalar one.
//
// Every function carries its own target, and the file includes no header with code in it: a
// template compiled here for AVX-512 could become the copy that the linker keeps for everyone.

#include <immintrin.h>

#include <type_traits>

#include "kernels/kernels.hpp"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2")))

namespace datasparse {
namespace {

// --- vectors of keys of either width, under one set of names; `lanes` are those in use ----------

struct Vector32 {
  using Key = std::uint32_t;
  using Lanes = __mmask16;
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
  AVX512 static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi32(a, b); }
  AVX512 static __m512i subtract(__m512i a, __m512i b) noexcept { return _mm512_sub_epi32(a, b); }
  AVX512 static __m512i compress(__mmask16 lanes, __m512i vector) noexcept {
    return _mm512_maskz_compress_epi32(lanes, vector);
  }
  AVX512 static __m512i permute(__m512i order, __m512i vector) noexcept {
    return _mm512_permutexvar_epi32(order, vector);
  }
  AVX512 static __m512i count_up(__m512i counts, __mmask16 lanes) noexcept {
    return _mm512_mask_add_epi32(counts, lanes, counts, all(1));
  }
  AVX512 static std::int64_t total(__m512i counts) noexcept {
    return _mm512_reduce_add_epi32(counts);
  }
};

struct Vector64 {
  using Key = std::uint64_t;
  using Lanes = __mmask8;
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
  AVX512 static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi64(a, b); }
  AVX512 static __m512i subtract(__m512i a, __m512i b) noexcept { return _mm512_sub_epi64(a, b); }
  AVX512 static __m512i compress(__mmask16 lanes, __m512i vector) noexcept {
    return _mm512_maskz_compress_epi64(static_cast<__mmask8>(lanes), vector);
  }
  AVX512 static __m512i permute(__m512i order, __m512i vector) noexcept {
    return _mm512_permutexvar_epi64(order, vector);
  }
  AVX512 static __m512i count_up(__m512i counts, __mmask16 lanes) noexcept {
    return _mm512_mask_add_epi64(counts, static_cast<__mmask8>(lanes), counts, all(1));
  }
  AVX512 static std::int64_t total(__m512i counts) noexcept {
    return _mm512_reduce_add_epi64(counts);
  }
};

/// Of 16-bit elements, only what zero_least() needs.
struct Vector16 {
  using Key = std::uint16_t;
  using Lanes = __mmask32;
  static constexpr int size = 32;
  AVX512 static __mmask32 less(__mmask32 lanes, __m512i a, __m512i b) noexcept {
    return _mm512_mask_cmplt_epu16_mask(lanes, a, b);
  }
  AVX512 static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi16(a, b); }
  AVX512 static __m512i permute(__m512i order, __m512i vector) noexcept {
    return _mm512_permutexvar_epi16(order, vector);
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

/// Sixty-four keys at a time, the last time fewer: bit i of a mask belongs to key i.
constexpr int bundle = 64;

AVX512 std::uint64_t first_bits(std::int64_t n) noexcept {
  return n >= bundle ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1U;
}

/// A byte for each of the first n bits, at most 64.
AVX512 void store_bytes(std::uint8_t* bytes, std::int64_t n, std::uint64_t ones) noexcept {
  const __m512i vector = _mm512_maskz_set1_epi8(ones, 1);
  if (n < bundle) {
    _mm512_mask_storeu_epi8(bytes, first_bits(n), vector);
  } else {
    _mm512_storeu_si512(bytes, vector);
  }
}

// --- selection -----------------------------------------------------------------------------------

/// How many of n keys are in the lanes that chosen(lanes, vector) returns.
template <class Vector, class Key, class Choose>
AVX512 std::int64_t count_if(const Key* keys, std::int64_t n, const Choose& chosen) noexcept {
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
AVX512 std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  const __m512i pivots = Vector::all(pivot);
  return count_if<Vector>(keys, n, [&](__mmask16 lanes, __m512i vector) AVX512 {
    return Vector::less(lanes, vector, pivots);
  });
}

template <class Vector, class Key = typename Vector::Key>
AVX512 std::int64_t count_equal(const Key* keys, std::int64_t n, Key key) noexcept {
  const __m512i wanted = Vector::all(key);
  return count_if<Vector>(keys, n, [&](__mmask16 lanes, __m512i vector) AVX512 {
    return Vector::equal(lanes, vector, wanted);
  });
}

template <class Vector, class Key = typename Vector::Key>
AVX512 SplitCounts split(Key* out, std::int64_t room, const Key* keys, std::int64_t n, Key lo,
                         Key hi) noexcept {
  constexpr std::int64_t size = Vector::size;
  const __m512i low = Vector::all(lo);
  const __m512i width = Vector::all(hi - lo);
  __m512i below = _mm512_setzero_si512();
  std::int64_t found = 0;
  const auto compare = [&](__mmask16 lanes, __m512i vector) AVX512 {
    below = Vector::count_up(below, Vector::less(lanes, vector, low));
    return Vector::less(lanes, Vector::subtract(vector, low), width);
  };
  std::int64_t i = 0;
  for (; i + size <= n && found + size <= room; i += size) {
    constexpr __mmask16 all = (1U << size) - 1U;
    const __m512i vector = Vector::load(all, keys + i);
    const __mmask16 inside = compare(all, vector);
    _mm512_storeu_si512(out + found, Vector::compress(inside, vector));
    found += count(inside);
  }
  for (; i < n; i += size) {
    const __mmask16 lanes = lanes_of<Vector>(n - i);
    const __m512i vector = Vector::load(lanes, keys + i);
    const __mmask16 inside = compare(lanes, vector);
    const std::int64_t left = room - found;
    if (left > 0) {
      const std::int64_t copied = count(inside) < left ? count(inside) : left;
      Vector::store(out + found, first_lanes(copied), Vector::compress(inside, vector));
    }
    found += count(inside);
  }
  return {Vector::total(below), found};
}

/// Stores the places of the bits in `within`, counted from `first` on. Where candidates are few,
/// they come unpredictably: no branch depends on them unless there are many.
AVX512 void store_places(std::uint16_t* places, std::int64_t first, std::uint64_t within) noexcept {
  alignas(64) static constexpr std::uint8_t rising[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  const __m512i found = _mm512_maskz_compress_epi8(within, _mm512_load_si512(rising));
  const __m512i firsts = _mm512_set1_epi16(static_cast<short>(first));
  const __m256i low = _mm512_castsi512_si256(found);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(places),
                      _mm256_add_epi16(_mm512_castsi512_si256(firsts),
                                       _mm256_cvtepu8_epi16(_mm256_castsi256_si128(low))));
  if (__builtin_popcountll(within) <= 16) return;
  _mm512_storeu_si512(places, _mm512_add_epi16(firsts, _mm512_cvtepu8_epi16(low)));
  const __m256i high = _mm512_extracti64x4_epi64(found, 1);
  _mm512_storeu_si512(places + 32, _mm512_add_epi16(firsts, _mm512_cvtepu8_epi16(high)));
}

/// The mask of 64 blocks of `width` columns side by side: all bytes of a block are 0 or 1.
template <int width>
AVX512 void store_blocks(std::uint8_t* mask, std::ptrdiff_t pitch, std::int64_t rows,
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

/// The bounds of a bracket in vectors, and what was found so far: with `ends`, at those too.
template <class Vector, bool ends = false>
class Bracketing {
 public:
  using Key = typename Vector::Key;
  AVX512 Bracketing(std::uint16_t* inside, std::uint64_t from, std::uint64_t first,
                    std::uint64_t width) noexcept
      : inside_(inside),
        from_(Vector::all(static_cast<Key>(from))),
        first_(Vector::all(static_cast<Key>(first))),
        width_(Vector::all(static_cast<Key>(width))),
        last_before_(Vector::all(static_cast<Key>(first - 1))),
        first_behind_(Vector::all(static_cast<Key>(first + width))) {}

  /// Up to 64 keys from the i-th on; vector_at(v) loads those from the (i + v)-th on. Returns a bit
  /// for each that is kept.
  template <class Load>
  AVX512 std::uint64_t add(std::int64_t i, std::int64_t n, const Load& vector_at) noexcept {
    std::uint64_t below = 0;
    std::uint64_t within = 0;
    const auto compare = [&](int v, __mmask16 lanes) AVX512 {
      const __m512i vector = vector_at(v, lanes);
      below |= std::uint64_t{Vector::less(lanes, vector, from_)} << v;
      within |= std::uint64_t{Vector::less(lanes, Vector::subtract(vector, first_), width_)} << v;
      if constexpr (ends) {
        before_ = Vector::count_up(before_, Vector::equal(lanes, vector, last_before_));
        behind_ = Vector::count_up(behind_, Vector::equal(lanes, vector, first_behind_));
      }
    };
    if (n == bundle) {
      for (int v = 0; v < bundle; v += Vector::size) compare(v, first_lanes(Vector::size));
    } else {
      for (int v = 0; v < n; v += Vector::size) compare(v, lanes_of<Vector>(n - v));
    }
    store_places(inside_ + counts_.inside, i, within);
    counts_.kept += n - __builtin_popcountll(below);
    counts_.inside += __builtin_popcountll(within);
    return ~below;
  }

  /// Keys in memory, the i-th and those after it; writes a byte for each.
  AVX512 void add_keys(std::uint8_t* keep, std::int64_t i, const Key* keys,
                       std::int64_t n) noexcept {
    for (std::int64_t done = 0; done < n; done += bundle) {
      const std::int64_t some = n - done < bundle ? n - done : bundle;
      const std::uint64_t kept = add(i + done, some, [&](int v, __mmask16 lanes) AVX512 {
        return Vector::load(lanes, keys + done + v);
      });
      store_bytes(keep + done, some, kept);
    }
  }

  AVX512 BracketCounts counts() const noexcept { return counts_; }
  AVX512 BracketEndCounts counts_and_ends() const noexcept {
    return {counts_, Vector::total(before_), Vector::total(behind_)};
  }

 private:
  std::uint16_t* inside_;
  __m512i from_, first_, width_, last_before_, first_behind_;
  __m512i before_ = _mm512_setzero_si512(), behind_ = _mm512_setzero_si512();  // counts
  BracketCounts counts_{};
};

template <class Vector, class Key = typename Vector::Key>
AVX512 BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys,
                             std::int64_t n, Key from, Key first, Key width) noexcept {
  Bracketing<Vector> bracketing(inside, from, first, width);
  bracketing.add_keys(keep, 0, keys, n);
  return bracketing.counts();
}

template <class Vector, class Key = typename Vector::Key>
AVX512 void threshold(std::uint8_t* keep, const Key* keys, std::int64_t n, Key cut,
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

/// Moves each bit by `places` to a lower one within its group of `width` bits, the lowest ones to
/// the top.
template <int width>
AVX512 std::uint64_t rotate(std::uint64_t bits, int places) noexcept {
  constexpr std::uint64_t ones = ~std::uint64_t{0} / ((std::uint64_t{1} << width) - 1U);
  const std::uint64_t low = ones * ((std::uint64_t{1} << places) - 1U);  // that leave their place
  return ((bits & ~low) >> places) | ((bits & low) << (width - places));
}

/// For each key, how many keys of its block come before it. Each rotation of the blocks compares
/// every key with another one of its block; a rotation the other way says the opposite. The answers
/// of 64 keys are added up bit by bit. vector_at(i, lanes) loads the keys from the i-th on.
template <class Vector, int width, class Load>
AVX512 void zero_least(std::uint8_t* mask, std::int64_t n, std::int64_t zeros, Store store,
                       const Load& vector_at) noexcept {
  using Key = typename Vector::Key;
  using Lanes = typename Vector::Lanes;
  constexpr std::uint64_t all = ~std::uint64_t{0};
  constexpr int vectors = bundle / Vector::size;
  constexpr int digits = width == 2 ? 1 : width == 4 ? 2 : width == 8 ? 3 : 4;
  __m512i orders[width / 2 + 1];
  __m512i earlier[width / 2 + 1];  // 1 where the other key stands before: it wins a tie
  for (int r = 1; r <= width / 2; ++r) {
    alignas(64) Key order[Vector::size];
    alignas(64) Key first[Vector::size];
    for (int lane = 0; lane < Vector::size; ++lane) {
      const int place = lane % width;
      order[lane] = static_cast<Key>(lane - place + (place + r) % width);
      first[lane] = place + r >= width ? 1 : 0;
    }
    orders[r] = _mm512_load_si512(order);
    earlier[r] = _mm512_load_si512(first);
  }
  std::uint64_t digit_of_zeros[digits];
  for (int d = 0; d < digits; ++d) digit_of_zeros[d] = std::uint64_t{0} - (zeros >> d & 1U);
  // A bit for each of the 64 keys from the i-th on that stays.
  const auto kept_from = [&](std::int64_t i, std::uint64_t here) AVX512 {
    __m512i loaded[vectors];
    for (int v = 0; v < vectors; ++v) {
      const int first = v * Vector::size;
      loaded[v] = vector_at(i + first, static_cast<Lanes>(here >> first));
    }
    std::uint64_t sum[digits] = {};
    const auto add = [&](std::uint64_t carry) AVX512 {
      for (int d = 0; d < digits; ++d) {
        const std::uint64_t next = sum[d] & carry;
        sum[d] ^= carry;
        carry = next;
      }
    };
    for (int r = 1; r <= width / 2; ++r) {
      std::uint64_t before = 0;  // whether the key r places on comes before
      for (int v = 0; v < vectors; ++v) {
        const std::uint64_t lanes =
            Vector::less(static_cast<Lanes>(all), Vector::permute(orders[r], loaded[v]),
                         Vector::add(loaded[v], earlier[r]));
        before |= lanes << (v * Vector::size);
      }
      add(before);
      if (r < width - r) add(~rotate<width>(before, width - r));
    }
    std::uint64_t fewer = 0;
    std::uint64_t same = all;
    for (int d = digits - 1; d >= 0; --d) {
      fewer |= same & ~sum[d] & digit_of_zeros[d];
      same &= ~(sum[d] ^ digit_of_zeros[d]);
    }
    return ~fewer;
  };
  std::int64_t i = 0;
  for (; i + bundle <= n; i += bundle) store_blocks<1>(mask + i, 0, 1, kept_from(i, all), store);
  if (i < n) store_bytes(mask + i, n - i, kept_from(i, first_bits(n - i)));
}

/// The same for a width of 2, 4 or 8.
template <class Vector, class Load>
AVX512 void zero_least_narrow(std::uint8_t* mask, std::int64_t n, std::int64_t width,
                              std::int64_t zeros, Store store, const Load& vector_at) noexcept {
  if (width == 2) {
    zero_least<Vector, 2>(mask, n, zeros, store, vector_at);
  } else if (width == 4) {
    zero_least<Vector, 4>(mask, n, zeros, store, vector_at);
  } else {
    zero_least<Vector, 8>(mask, n, zeros, store, vector_at);
  }
}

template <class Vector, class Key = typename Vector::Key>
AVX512 void zero_least(std::uint8_t* mask, const Key* keys, std::int64_t blocks, std::int64_t width,
                       std::int64_t zeros) noexcept {
  const std::int64_t n = blocks * width;
  const auto vector_at = [&](std::int64_t i, typename Vector::Lanes lanes)
                             AVX512 { return Vector::load(lanes, keys + i); };
  if (width < 16) {
    zero_least_narrow<Vector>(mask, n, width, zeros, Store::ordinary, vector_at);
  } else if constexpr (Vector::size == 16) {
    zero_least<Vector, 16>(mask, n, zeros, Store::ordinary, vector_at);
  } else {
    scalar_kernels().select64.zero_least(mask, keys, blocks, width, zeros);
  }
}

/// 64 / times bytes, each `times` times.
template <int times>
AVX512 __m512i repeated(const std::uint8_t* bytes, __m512i pattern) noexcept {
  if constexpr (times == 1) {
    return _mm512_loadu_si512(bytes);
  } else if constexpr (times == 2) {  // 16 bytes to two quarters, 16 to the other two
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

template <int times>
AVX512 void repeat(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n) noexcept {
  constexpr int taken = 64 / times;
  alignas(64) std::uint8_t order[64];  // within quarters, each of which holds all of up to 16 bytes
  for (int i = 0; i < 64; ++i) order[i] = static_cast<std::uint8_t>(i / times % 16);
  const __m512i pattern = _mm512_load_si512(order);
  std::int64_t i = 0;
  for (; i + taken <= n; i += taken) {
    _mm512_storeu_si512(out + i * times, repeated<times>(bytes + i, pattern));
  }
  scalar_kernels().repeat(out + i * times, bytes + i, n - i, times);
}

AVX512 void repeat_any(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n,
                       std::int64_t times) noexcept {
  switch (times) {
    case 1: return repeat<1>(out, bytes, n);
    case 2: return repeat<2>(out, bytes, n);
    case 4: return repeat<4>(out, bytes, n);
    case 8: return repeat<8>(out, bytes, n);
    case 16: return repeat<16>(out, bytes, n);
    default: return scalar_kernels().repeat(out, bytes, n, times);
  }
}

// --- scores --------------------------------------------------------------------------------------

/// Sums of sixteen blocks in a vector of floats, elements of 16 and 32 bits being widened to float.
struct Floats {
  using Sums = __m512;
  using Vector = Vector32;
  using Key = std::uint32_t;
  using Number = float;
  static constexpr int size = 16;
  AVX512 static Sums zero() noexcept { return _mm512_setzero_ps(); }
  AVX512 static Sums add(Sums a, Sums b) noexcept { return _mm512_add_ps(a, b); }
  AVX512 static Sums absolute(Sums x) noexcept { return _mm512_abs_ps(x); }
  AVX512 static Sums multiply(Sums a, Sums b) noexcept { return _mm512_mul_ps(a, b); }
  AVX512 static Sums multiply(Sums a, float b) noexcept {
    return _mm512_mul_ps(a, _mm512_set1_ps(b));
  }
  AVX512 static Sums divide(Sums a, float b) noexcept {
    return _mm512_div_ps(a, _mm512_set1_ps(b));
  }
  AVX512 static __m512i key(Sums mean) noexcept {
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(mean), Vector32::all(0x7FFFFFFFU));
    return _mm512_min_epu32(bits, Vector32::all(KeyTraits<Key>::nan));
  }
  AVX512 static void store(Key* keys, std::int64_t n, __m512i vector) noexcept {
    _mm512_mask_storeu_epi32(keys, first_lanes(n), vector);
  }
  AVX512 static Sums permute(__m512i order, Sums sums) noexcept {
    return _mm512_permutexvar_ps(order, sums);
  }
  /// Vector i of `blocks` holds elements of block i; vector i of the result holds their i-th ones.
  AVX512 static void transpose(Sums* blocks) noexcept;
};

struct Float32 : Floats {
  static constexpr int dtype = 2;
  static constexpr std::ptrdiff_t item = 4;
  AVX512 static __m512 load(const std::byte* data) noexcept { return _mm512_loadu_ps(data); }
  AVX512 static __m512 load(const std::byte* data, __mmask16 lanes) noexcept {
    return _mm512_maskz_loadu_ps(lanes, data);
  }
};

struct BFloat16 : Floats {
  static constexpr int dtype = 1;
  static constexpr std::ptrdiff_t item = 2;
  static constexpr std::int16_t infinity = 0x7F80;
  AVX512 static __m512 widen(__m256i halves) noexcept {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  AVX512 static __m512 load(const std::byte* data) noexcept {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
  }
  AVX512 static __m512 load(const std::byte* data, __mmask16 lanes) noexcept {
    return widen(_mm256_maskz_loadu_epi16(lanes, data));
  }
};

struct Float16 : Floats {
  static constexpr int dtype = 0;
  static constexpr std::ptrdiff_t item = 2;
  static constexpr std::int16_t infinity = 0x7C00;
  AVX512 static __m512 widen(__m256i halves) noexcept { return _mm512_cvtph_ps(halves); }
  AVX512 static __m512 load(const std::byte* data) noexcept {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
  }
  AVX512 static __m512 load(const std::byte* data, __mmask16 lanes) noexcept {
    return widen(_mm256_maskz_loadu_epi16(lanes, data));
  }
};

struct Float64 {
  using Sums = __m512d;
  using Vector = Vector64;
  using Key = std::uint64_t;
  using Number = double;
  static constexpr int size = 8;
  static constexpr int dtype = 3;
  static constexpr std::ptrdiff_t item = 8;
  AVX512 static Sums zero() noexcept { return _mm512_setzero_pd(); }
  AVX512 static Sums add(Sums a, Sums b) noexcept { return _mm512_add_pd(a, b); }
  AVX512 static Sums absolute(Sums x) noexcept { return _mm512_abs_pd(x); }
  AVX512 static Sums multiply(Sums a, Sums b) noexcept { return _mm512_mul_pd(a, b); }
  AVX512 static Sums multiply(Sums a, double b) noexcept {
    return _mm512_mul_pd(a, _mm512_set1_pd(b));
  }
  AVX512 static Sums divide(Sums a, double b) noexcept {
    return _mm512_div_pd(a, _mm512_set1_pd(b));
  }
  AVX512 static __m512i key(Sums mean) noexcept {
    const __m512i bits =
        _mm512_and_si512(_mm512_castpd_si512(mean), Vector64::all(0x7FFFFFFFFFFFFFFFULL));
    return _mm512_min_epu64(bits, Vector64::all(KeyTraits<Key>::nan));
  }
  AVX512 static void store(Key* keys, std::int64_t n, __m512i vector) noexcept {
    _mm512_mask_storeu_epi64(keys, static_cast<__mmask8>(first_lanes(n)), vector);
  }
  AVX512 static Sums load(const std::byte* data) noexcept { return _mm512_loadu_pd(data); }
  AVX512 static Sums load(const std::byte* data, __mmask16 lanes) noexcept {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), data);
  }
  AVX512 static Sums permute(__m512i order, Sums sums) noexcept {
    return _mm512_permutexvar_pd(order, sums);
  }
  AVX512 static void transpose(Sums* blocks) noexcept;
};

/// Transposes 4 × 4 quarters of vectors.
AVX512 void transpose_quarters(__m512& a, __m512& b, __m512& c, __m512& d) noexcept {
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
AVX512 void transpose_within_quarters(__m512& a, __m512& b, __m512& c, __m512& d) noexcept {
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
  const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
  const __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  a = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
  b = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
  c = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
  d = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
}

AVX512 void Floats::transpose(__m512* v) noexcept {
  for (int i = 0; i < 16; i += 4) transpose_within_quarters(v[i], v[i + 1], v[i + 2], v[i + 3]);
  for (int i = 0; i < 4; ++i) transpose_quarters(v[i], v[i + 4], v[i + 8], v[i + 12]);
}

AVX512 void Float64::transpose(__m512d* v) noexcept {
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

template <class Element, int norm>
AVX512 typename Element::Sums magnitude(typename Element::Sums x) noexcept {
  if constexpr (norm == 0) {
    return Element::absolute(x);
  } else {
    return Element::multiply(x, x);
  }
}

/// Divides by the number of elements: by multiplication where that gives the same bits.
template <class Element>
class Mean {
 public:
  AVX512 explicit Mean(std::int64_t elements) noexcept
      : elements_(static_cast<typename Element::Number>(elements)),
        is_power_of_two_((elements & (elements - 1)) == 0) {}
  AVX512 typename Element::Sums of(typename Element::Sums sums) const noexcept {
    return is_power_of_two_ ? Element::multiply(sums, 1 / elements_)
                            : Element::divide(sums, elements_);
  }

 private:
  typename Element::Number elements_;
  bool is_power_of_two_;
};

/// `width` vectors hold a row of narrow blocks that lie side by side, one element after another.
/// Puts the first elements of all blocks into the first vector, and so on; the blocks are in an
/// order then that is undone once, for the sums.
template <int width>
AVX512 void gather(__m512* v) noexcept {
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

template <int width>
AVX512 void gather(__m512d* v) noexcept {
  if constexpr (width == 8) {
    Float64::transpose(v);
    return;
  }
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

/// Lane i of the sums in order is this lane of those that gather() has led to.
template <class Element, int width>
AVX512 __m512i order_of_rows() noexcept {
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
  return _mm512_load_si512(order);
}

/// Keys of blocks that lie side by side, a vector at a time.
template <class Element, int norm, int width>
class Narrow {
 public:
  static constexpr int columns = width;
  AVX512 explicit Narrow(const Blocks& blocks) noexcept
      : blocks_(blocks), order_(order_of_rows<Element, width>()), mean_(blocks.rows * width) {}
  AVX512 __m512i keys_at(std::int64_t block) const noexcept {
    const std::byte* row = blocks_.data + block * blocks_.step;
    auto sums = Element::zero();
    for (std::int64_t r = 0; r < blocks_.rows; ++r, row += blocks_.pitch) {
      typename Element::Sums v[width];
      for (int i = 0; i < width; ++i) {
        v[i] = magnitude<Element, norm>(Element::load(row + i * Element::size * Element::item));
      }
      gather<width>(v);
      for (int i = 0; i < width; ++i) sums = Element::add(sums, v[i]);
    }
    return Element::key(mean_.of(Element::permute(order_, sums)));
  }

 private:
  const Blocks& blocks_;
  __m512i order_;
  Mean<Element> mean_;
};

/// The same for blocks of one element.
template <class Element, int norm>
class Single {
 public:
  static constexpr int columns = 1;
  AVX512 explicit Single(const Blocks& blocks) noexcept : data_(blocks.data) {}
  AVX512 __m512i keys_at(std::int64_t block) const noexcept {
    return Element::key(magnitude<Element, norm>(Element::load(data_ + block * Element::item)));
  }

 private:
  const std::byte* data_;
};

/// Calls work(keys) with the Single or Narrow that suits the blocks; if there is none, returns 0,
/// else what work returns.
template <class Element, int norm, class Work>
AVX512 std::int64_t with_fast_keys(const Blocks& blocks, const Work& work) noexcept {
  if (blocks.step != blocks.width * Element::item) return 0;
  if (blocks.width == 1 && blocks.rows == 1) return work(Single<Element, norm>(blocks));
  if (blocks.width == 2) return work(Narrow<Element, norm, 2>(blocks));
  if (blocks.width == 4) return work(Narrow<Element, norm, 4>(blocks));
  if (blocks.width == 8) return work(Narrow<Element, norm, 8>(blocks));
  return 0;
}

/// Blocks of any width, as many at a time as there are sums in a vector: as many elements of each
/// are transposed in registers. data_of(i) is where the i-th of n blocks begins.
template <class Element, int norm, class DataOf>
AVX512 void score_any(typename Element::Key* keys, const Blocks& blocks, std::int64_t n,
                      const DataOf& data_of) noexcept {
  constexpr int size = Element::size;
  const Mean<Element> mean(blocks.rows * blocks.width);
  for (std::int64_t b = 0; b < n; b += size) {
    const std::int64_t together = n - b < size ? n - b : size;
    const std::byte* data[size];
    for (int t = 0; t < size; ++t) data[t] = data_of(b + (t < together ? t : together - 1));
    auto sums = Element::zero();
    for (std::int64_t r = 0; r < blocks.rows; ++r) {
      for (std::int64_t i = 0; i < blocks.width; i += size) {
        const std::int64_t left = blocks.width - i;
        const __mmask16 lanes = first_lanes(left < size ? left : size);
        typename Element::Sums v[size];
        for (int t = 0; t < size; ++t) {
          const std::byte* const from = data[t] + r * blocks.pitch + i * Element::item;
          v[t] = magnitude<Element, norm>(Element::load(from, lanes));
        }
        Element::transpose(v);
        for (int t = 0; t < size && t < left; ++t) sums = Element::add(sums, v[t]);
      }
    }
    Element::store(keys + b, together, Element::key(mean.of(sums)));
  }
}

template <class Element, int norm>
AVX512 void score(void* out, const Blocks& blocks) noexcept {
  auto* const keys = static_cast<typename Element::Key*>(out);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) AVX512 {
    std::int64_t b = 0;
    for (; b + Element::size <= blocks.count; b += Element::size) {
      _mm512_storeu_si512(keys + b, fast.keys_at(b));
    }
    return b;
  });
  score_any<Element, norm>(keys + done, blocks, blocks.count - done,
                           [&](std::int64_t b) { return blocks.data + (done + b) * blocks.step; });
}

template <class Element, int norm>
AVX512 void score_at(void* out, const Blocks& blocks, const std::uint16_t* places,
                     std::int64_t n) noexcept {
  auto* const keys = static_cast<typename Element::Key*>(out);
  if (blocks.width > 1 || blocks.rows > 1) {
    score_any<Element, norm>(keys, blocks, n,
                             [&](std::int64_t i) { return blocks.data + places[i] * blocks.step; });
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

/// What was asked for, where whole lines begin at multiples of 64 bytes.
AVX512 Store store_to(const std::uint8_t* bytes, Store store) noexcept {
  return reinterpret_cast<std::uintptr_t>(bytes) % 64 == 0 ? store : Store::ordinary;
}

/// Calls work(b, n, keys) for blocks [b, b + n) from `done` on, some at a time, with their keys.
template <class Element, int norm, class Work>
AVX512 void with_keys(const Blocks& blocks, std::int64_t done, const Work& work) noexcept {
  constexpr std::int64_t together = 256;
  alignas(64) typename Element::Key keys[together];
  for (std::int64_t b = done; b < blocks.count; b += together) {
    Blocks some = blocks;
    some.data += b * blocks.step;
    some.count = blocks.count - b < together ? blocks.count - b : together;
    score<Element, norm>(keys, some);
    work(b, some.count, keys);
  }
}

/// The bracket among single elements of 16 bits, compared as they are: their keys are in the order
/// of their bits.
template <class Element, int norm, bool ends>
class HalfBracketing {
 public:
  AVX512 HalfBracketing(std::uint16_t* inside, std::uint64_t from, std::uint64_t first,
                        std::uint64_t width) noexcept
      : inside_(inside),
        from_(least_with(from)),
        within_(between(least_with(first), least_with(first + width))) {
    if constexpr (ends) {
      if (first > 0) before_ = between(least_with(first - 1), within_.first);
      behind_ = between(least_with(first + width), least_with(first + width + 1));
    }
  }

  /// Up to 64 elements from the i-th on. Returns a bit for each that is kept.
  AVX512 std::uint64_t add(std::int64_t i, std::int64_t n, const std::byte* data) noexcept {
    const std::uint64_t lanes = first_bits(n);
    const __m512i vectors[2] = {load(data, static_cast<__mmask32>(lanes)),
                                load(data + 64, static_cast<__mmask32>(lanes >> 32))};
    const __m512i from = _mm512_set1_epi16(static_cast<short>(from_));
    const std::uint64_t kept = lanes & both(_mm512_cmpge_epu16_mask(vectors[0], from),
                                            _mm512_cmpge_epu16_mask(vectors[1], from));
    const std::uint64_t within = lanes & in(within_, vectors);
    if constexpr (ends) {
      counts_.before += __builtin_popcountll(lanes & in(before_, vectors));
      counts_.behind += __builtin_popcountll(lanes & in(behind_, vectors));
    }
    store_places(inside_ + counts_.counts.inside, i, within);
    counts_.counts.kept += __builtin_popcountll(kept);
    counts_.counts.inside += __builtin_popcountll(within);
    return kept;
  }

  AVX512 BracketEndCounts counts() const noexcept { return counts_; }

 private:
  struct Range {
    std::uint16_t first, width;
  };
  AVX512 static Range between(std::uint16_t first, std::uint16_t end) noexcept {
    return {first, static_cast<std::uint16_t>(end - first)};
  }

  AVX512 static std::uint64_t both(__mmask32 low, __mmask32 high) noexcept {
    return low | std::uint64_t{high} << 32;
  }
  /// Without signs. NaN differ here, but bounds lie below or above all of them.
  AVX512 static __m512i load(const std::byte* data, __mmask32 lanes) noexcept {
    return _mm512_and_si512(_mm512_maskz_loadu_epi16(lanes, data), _mm512_set1_epi16(0x7FFF));
  }
  AVX512 static std::uint64_t in(Range range, const __m512i* vectors) noexcept {
    const __m512i first = _mm512_set1_epi16(static_cast<short>(range.first));
    const __m512i width = _mm512_set1_epi16(static_cast<short>(range.width));
    return both(_mm512_cmplt_epu16_mask(_mm512_sub_epi16(vectors[0], first), width),
                _mm512_cmplt_epu16_mask(_mm512_sub_epi16(vectors[1], first), width));
  }

  /// The least bits whose key is not below this one; above all others where there are none. Keys
  /// rise with the bits: sixteen of these at a time tell in which sixteenth to look on.
  AVX512 static std::uint16_t least_with(std::uint64_t key) noexcept {
    const __m512i rising = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i bound = Vector32::all(static_cast<std::uint32_t>(key));
    int low = 0;
    constexpr int steps[] = {2048, 128, 8, 1};
    for (const int step : steps) {
      const __m512i bits =
          _mm512_min_epi32(_mm512_add_epi32(_mm512_set1_epi32(low),
                                            _mm512_mullo_epi32(rising, _mm512_set1_epi32(step))),
                           _mm512_set1_epi32(0x7FFF));
      const __m512i keys =
          Element::key(magnitude<Element, norm>(Element::widen(_mm512_cvtepi32_epi16(bits))));
      const int below = count(Vector32::less(first_lanes(16), keys, bound));
      if (step == 1) {
        low += below;
      } else if (below > 0) {
        low += (below - 1) * step;
      }
    }
    return static_cast<std::uint16_t>(low);
  }

  std::uint16_t* inside_;
  std::uint16_t from_;
  Range within_;
  Range before_{}, behind_{};
  BracketEndCounts counts_{};
};

/// Whether blocks are single elements side by side of 16 bits.
template <class Element>
bool are_halves(const Blocks& blocks) noexcept {
  return Element::item == 2 && blocks.width == 1 && blocks.rows == 1 &&
         blocks.step == Element::item;
}

template <class Element, int norm, bool ends>
AVX512 BracketEndCounts bracket_halves(std::uint8_t* keep, std::uint16_t* inside,
                                       const Blocks& blocks, std::uint64_t from,
                                       std::uint64_t first, std::uint64_t width,
                                       Store store) noexcept {
  HalfBracketing<Element, norm, ends> bracketing(inside, from, first, width);
  std::int64_t b = 0;
  for (; b + bundle <= blocks.count; b += bundle) {
    const std::uint64_t kept = bracketing.add(b, bundle, blocks.data + b * Element::item);
    store_blocks<1>(keep + b, 0, 1, kept, store);
  }
  if (b < blocks.count) {
    const std::int64_t left = blocks.count - b;
    store_bytes(keep + b, left, bracketing.add(b, left, blocks.data + b * Element::item));
  }
  return bracketing.counts();
}

/// Each vector of keys is compared as soon as it is there. Nothing branches on the data, so that
/// the processor reads far ahead.
template <class Element, int norm, bool ends>
AVX512 BracketEndCounts bracket_ends(std::uint8_t* keep, std::uint16_t* inside,
                                     const Blocks& blocks, std::uint64_t from, std::uint64_t first,
                                     std::uint64_t width, Store wanted) noexcept {
  const Store store = store_to(keep, wanted);
  if constexpr (Element::item == 2) {
    if (are_halves<Element>(blocks)) {
      return bracket_halves<Element, norm, ends>(keep, inside, blocks, from, first, width, store);
    }
  }
  Bracketing<typename Element::Vector, ends> bracketing(inside, from, first, width);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) AVX512 {
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      const std::uint64_t kept =
          bracketing.add(b, bundle, [&](int v, __mmask16) AVX512 { return fast.keys_at(b + v); });
      store_blocks<1>(keep + b, 0, 1, kept, store);
    }
    return b;
  });
  with_keys<Element, norm>(blocks, done,
                           [&](std::int64_t b, std::int64_t n, const auto* keys)
                               AVX512 { bracketing.add_keys(keep + b, b, keys, n); });
  return bracketing.counts_and_ends();
}

template <class Element, int norm>
AVX512 BracketCounts bracket_blocks(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                                    std::uint64_t from, std::uint64_t first, std::uint64_t width,
                                    Store store) noexcept {
  return bracket_ends<Element, norm, false>(keep, inside, blocks, from, first, width, store).counts;
}

/// The same, but the mask of the blocks takes the place of a byte for each.
template <class Element, int norm>
AVX512 BracketCounts bracket_mask(std::uint8_t* mask, std::ptrdiff_t pitch, std::uint16_t* inside,
                                  const Blocks& blocks, std::uint64_t from, std::uint64_t first,
                                  std::uint64_t width, Store wanted) noexcept {
  // Lines of several rows in turn leave the buffers of such stores half filled.
  const Store store = blocks.rows > 1 ? Store::ordinary : store_to(mask, wanted);
  if constexpr (Element::item == 2) {
    if (are_halves<Element>(blocks)) {
      return bracket_halves<Element, norm, false>(mask, inside, blocks, from, first, width, store)
          .counts;
    }
  }
  Bracketing<typename Element::Vector> bracketing(inside, from, first, width);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) AVX512 {
    constexpr int columns = std::remove_reference_t<decltype(fast)>::columns;
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      const std::uint64_t kept =
          bracketing.add(b, bundle, [&](int v, __mmask16) AVX512 { return fast.keys_at(b + v); });
      store_blocks<columns>(mask + b * columns, pitch, blocks.rows, kept, store);
    }
    return b;
  });
  with_keys<Element, norm>(
      blocks, done, [&](std::int64_t b, std::int64_t n, const auto* keys) AVX512 {
        std::uint8_t keep[256];
        bracketing.add_keys(keep, b, keys, n);
        for (std::int64_t r = 0; r < blocks.rows; ++r) {
          repeat_any(mask + b * blocks.width + r * pitch, keep, n, blocks.width);
        }
      });
  return bracketing.counts();
}

/// The least elements of blocks side by side. Where |x| or x·x rise with the bits of |x|, 16-bit
/// elements are compared as they are: not squares of bfloat16, which overflow and vanish.
template <class Element, int norm>
AVX512 void zero_least_elements(std::uint8_t* mask, const std::byte* data, std::int64_t blocks,
                                std::int64_t width, std::int64_t zeros, Store wanted) noexcept {
  const std::int64_t n = blocks * width;
  const Store store = store_to(mask, wanted);
  if constexpr (Element::item == 2 && (norm == 0 || Element::dtype == Float16::dtype)) {
    const __m512i magnitude_bits = _mm512_set1_epi16(0x7FFF);
    const __m512i nan = _mm512_set1_epi16(Element::infinity + 1);
    zero_least_narrow<Vector16>(
        mask, n, width, zeros, store, [&](std::int64_t i, __mmask32 lanes) AVX512 {
          const __m512i bits = _mm512_maskz_loadu_epi16(lanes, data + i * Element::item);
          return _mm512_min_epu16(_mm512_and_si512(bits, magnitude_bits), nan);
        });
  } else {
    zero_least_narrow<typename Element::Vector>(
        mask, n, width, zeros, store, [&](std::int64_t i, auto lanes) AVX512 {
          return Element::key(
              magnitude<Element, norm>(Element::load(data + i * Element::item, lanes)));
        });
  }
}

// --- memory --------------------------------------------------------------------------------------

/// Every other element by two loads and a permutation; what lies between is read with them, but
/// nothing behind the last one.
AVX512 void copy_run(std::byte* out, const std::byte* in, std::ptrdiff_t stride,
                     std::int64_t n) noexcept {
  std::int64_t i = 0;
  if (stride == 8) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (; i + 16 < n; i += 16) {
      const __m512i low = _mm512_loadu_si512(in + i * 8);
      const __m512i high = _mm512_loadu_si512(in + i * 8 + 64);
      _mm512_storeu_si512(out + i * 4, _mm512_permutex2var_epi32(low, even, high));
    }
  }
  scalar_kernels().copy_run(out + i * 4, in + i * stride, stride, n - i);
}

/// Transposes 8 × 8 numbers.
AVX512 void transpose_eight(__m256* v) noexcept {
  for (__m256* half = v; half < v + 8; half += 4) {
    const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(half[0], half[1]));
    const __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(half[0], half[1]));
    const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(half[2], half[3]));
    const __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(half[2], half[3]));
    half[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
    half[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
    half[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
    half[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
  }
  for (int i = 0; i < 4; ++i) {
    const __m256 low = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    v[i] = low;
  }
}

/// Sixteen columns at a time. Where they are far apart, no prefetcher of the processor foresees the
/// next ones; they are asked into the second cache, since strides of whole pages leave few places
/// for them in the first.
AVX512 void transpose(std::byte* out, std::ptrdiff_t pitch, const std::byte* in,
                      std::ptrdiff_t stride, std::int64_t rows, std::int64_t columns) noexcept {
  constexpr int size = 16;
  constexpr int half = 8;
  constexpr std::int64_t ahead = 32;
  constexpr std::ptrdiff_t far = 256;
  std::int64_t c = 0;
  for (; c + size <= columns; c += size) {
    const std::byte* const column = in + c * stride;
    std::byte* const target = out + c * 4;
    if (stride >= far || stride <= -far) {
      const auto* line = reinterpret_cast<const char*>(
          column + (c + size + ahead <= columns ? ahead * stride : 0));
      for (int i = 0; i < size; ++i, line += stride) {
        // Where the columns do not begin with a cache line, there is one more.
        for (std::int64_t r = 0; r < rows; r += size) _mm_prefetch(line + r * 4, _MM_HINT_T1);
        if (rows > 0) _mm_prefetch(line + rows * 4 - 1, _MM_HINT_T1);
      }
    }
    std::int64_t r = 0;
    for (; r + size <= rows; r += size) {
      __m512 v[size];
      for (int i = 0; i < size; ++i) v[i] = _mm512_loadu_ps(column + i * stride + r * 4);
      Floats::transpose(v);
      std::byte* to = target + r * pitch;
      for (int i = 0; i < size; ++i, to += pitch) _mm512_storeu_ps(to, v[i]);
    }
    for (; r + half <= rows; r += half) {
      for (int first = 0; first < size; first += half) {
        __m256 v[half];
        for (int i = 0; i < half; ++i) {
          const std::byte* const from = column + (first + i) * stride + r * 4;
          v[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(from));
        }
        transpose_eight(v);
        std::byte* to = target + r * pitch + first * 4;
        for (int i = 0; i < half; ++i, to += pitch) {
          _mm256_storeu_ps(reinterpret_cast<float*>(to), v[i]);
        }
      }
    }
    for (; r < rows; ++r) {
      for (int i = 0; i < size; i += 4) {
        float x[4];
        for (int j = 0; j < 4; ++j) __builtin_memcpy(x + j, column + (i + j) * stride + r * 4, 4);
        const __m128 four = _mm_setr_ps(x[0], x[1], x[2], x[3]);
        _mm_storeu_ps(reinterpret_cast<float*>(target + r * pitch + i * 4), four);
      }
    }
  }
  scalar_kernels().transpose(out + c * 4, pitch, in + c * stride, stride, rows, columns - c);
}

// --- bytes ---------------------------------------------------------------------------------------

/// Words of 64 bits, one for each of 64 columns, from eight vectors that hold a byte of each.
AVX512 void join_bytes(std::uint64_t* words, const __m512i* v) noexcept {
  __m512i pairs[8], fours[8];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm512_unpacklo_epi8(v[2 * i], v[2 * i + 1]);
    pairs[i + 4] = _mm512_unpackhi_epi8(v[2 * i], v[2 * i + 1]);
  }
  for (int high = 0; high < 2; ++high) {
    for (int i = 0; i < 2; ++i) {
      const __m512i a = pairs[4 * high + 2 * i], b = pairs[4 * high + 2 * i + 1];
      fours[4 * high + i] = _mm512_unpacklo_epi16(a, b);
      fours[4 * high + 2 + i] = _mm512_unpackhi_epi16(a, b);
    }
  }
  // Vector i has two columns of each sixteen.
  for (int i = 0; i < 4; ++i) {
    const __m512i low = _mm512_unpacklo_epi32(fours[2 * i], fours[2 * i + 1]);
    const __m512i high = _mm512_unpackhi_epi32(fours[2 * i], fours[2 * i + 1]);
    const auto put = [&](std::uint64_t* to, __m512i vector) AVX512 {
      const auto at = [&](int quarter) { return reinterpret_cast<__m128i*>(to + 16 * quarter); };
      _mm_storeu_si128(at(0), _mm512_castsi512_si128(vector));
      _mm_storeu_si128(at(1), _mm512_extracti32x4_epi32(vector, 1));
      _mm_storeu_si128(at(2), _mm512_extracti32x4_epi32(vector, 2));
      _mm_storeu_si128(at(3), _mm512_extracti32x4_epi32(vector, 3));
    };
    put(words + 4 * i, low);
    put(words + 4 * i + 2, high);
  }
}

/// A bit for each of some rows, at most eight, in the bytes of their columns.
AVX512 __m512i bits_of_rows(const std::uint8_t* in, std::ptrdiff_t pitch, std::int64_t rows,
                            std::uint64_t columns) noexcept {
  __m512i bits = _mm512_setzero_si512();
  for (std::int64_t r = rows - 1; r >= 0; --r) {
    const __m512i bytes = _mm512_maskz_loadu_epi8(columns, in + r * pitch);
    bits = _mm512_or_si512(_mm512_add_epi8(bits, bits), bytes);
  }
  return bits;
}

/// Writes columns of `rows` bytes that follow each other without a gap, as many at a time as a
/// vector holds, from words that have a bit for each byte. A vector may write over the next column,
/// which is written later, but not past `end`. `fixed` is the number of rows, or 0.
template <int fixed>
AVX512 void write_columns(std::uint8_t* out, const std::uint8_t* end, const std::uint16_t* words,
                          std::int64_t columns, std::int64_t rows) noexcept {
  const std::int64_t height = fixed > 0 ? fixed : rows;
  const std::int64_t together = bundle / height;
  for (std::int64_t c = 0; c < columns; c += together, out += together * height) {
    const std::int64_t some = columns - c < together ? columns - c : together;
    std::uint64_t bits = 0;
    for (std::int64_t i = 0; i < some; ++i) bits |= std::uint64_t{words[c + i]} << (i * height);
    store_bytes(out, end - out < bundle ? some * height : bundle, bits);
  }
}

/// transpose_mask() for up to 16 rows, whose columns follow each other without a gap.
AVX512 void transpose_few(std::uint8_t* out, const std::uint8_t* in, std::ptrdiff_t pitch,
                          std::int64_t rows, std::int64_t columns) noexcept {
  constexpr std::int64_t size = bundle;
  constexpr std::int64_t room = 7 * size;  // whole vectors of nine rows
  const std::uint8_t* const end = out + rows * columns;
  const std::int64_t high = rows > 8 ? rows - 8 : 0;
  const __m512i first_half = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second_half = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  std::uint16_t words[room];
  for (std::int64_t c = 0; c < columns; c += room, out += room * rows) {
    const std::int64_t some = columns - c < room ? columns - c : room;
    for (std::int64_t i = 0; i < some; i += size) {
      const std::uint64_t lanes = first_bits(some - i);
      const std::uint8_t* const from = in + c + i;
      const __m512i low_bits = bits_of_rows(from, pitch, rows - high, lanes);
      const __m512i high_bits = bits_of_rows(from + (rows - high) * pitch, pitch, high, lanes);
      const __m512i low = _mm512_unpacklo_epi8(low_bits, high_bits);
      const __m512i other = _mm512_unpackhi_epi8(low_bits, high_bits);
      _mm512_storeu_si512(words + i, _mm512_permutex2var_epi64(low, first_half, other));
      _mm512_storeu_si512(words + i + size / 2, _mm512_permutex2var_epi64(low, second_half, other));
    }
    if (rows == 9) {  // the places of a kernel of 3 × 3
      write_columns<9>(out, end, words, some, rows);
    } else {
      write_columns<0>(out, end, words, some, rows);
    }
  }
}

/// Up to 64 × 64: eight rows at a time become bits of bytes, those of a column a word, and its bits
/// bytes again.
AVX512 void transpose_mask(std::uint8_t* out, std::ptrdiff_t out_pitch, const std::uint8_t* in,
                           std::ptrdiff_t in_pitch, std::int64_t rows,
                           std::int64_t columns) noexcept {
  constexpr std::int64_t size = bundle;
  if (rows == 0) return;
  if (out_pitch == rows && rows <= 16) return transpose_few(out, in, in_pitch, rows, columns);
  for (std::int64_t c = 0; c < columns; c += size) {
    const std::int64_t some_columns = columns - c < size ? columns - c : size;
    const std::uint64_t lanes = first_bits(some_columns);
    for (std::int64_t r = 0; r < rows; r += size) {
      const std::int64_t some_rows = rows - r < size ? rows - r : size;
      __m512i v[8];
      for (std::int64_t i = 0; i < 8; ++i) {
        const std::int64_t here = some_rows - 8 * i < 8 ? some_rows - 8 * i : 8;
        v[i] = bits_of_rows(in + (r + 8 * i) * in_pitch + c, in_pitch, here, lanes);
      }
      std::uint64_t words[size];
      join_bytes(words, v);
      std::uint8_t* to = out + c * out_pitch + r;
      std::int64_t i = 0;
      if (out_pitch == rows && rows < size) {  // as transpose_few() does
        const std::int64_t last = columns - c - (size - 1 + rows) / rows;
        for (; i < some_columns && i <= last; ++i, to += out_pitch) store_bytes(to, size, words[i]);
      }
      for (; i < some_columns; ++i, to += out_pitch) store_bytes(to, some_rows, words[i]);
    }
  }
}

AVX512 std::int64_t count_zeros(const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t zeros = 0;
  for (std::int64_t i = 0; i < n; i += bundle) {
    const std::uint64_t here = first_bits(n - i);
    const __m512i vector = _mm512_maskz_loadu_epi8(here, bytes + i);
    zeros += __builtin_popcountll(_mm512_mask_testn_epi8_mask(here, vector, vector));
  }
  return zeros;
}

AVX512 void pack(std::uint8_t* bits, const std::uint8_t* bytes, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; i += bundle) {
    const __m512i vector = _mm512_maskz_loadu_epi8(first_bits(n - i), bytes + i);
    const std::uint64_t ones = _mm512_test_epi8_mask(vector, vector);
    const std::int64_t left = (n - i + 7) / 8;
    __builtin_memcpy(bits + i / 8, &ones, static_cast<std::size_t>(left < 8 ? left : 8));
  }
}

AVX512 void unpack(std::uint8_t* bytes, const std::uint8_t* bits, std::int64_t n,
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

// Masked stores write the chosen elements only.

AVX512 void zero_masked16(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                          std::int64_t n) noexcept {
  std::int64_t i = 0;
  if (stride == 2) {
    for (; i + 32 <= n; i += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + i));
      const __mmask32 pruned = _mm256_testn_epi8_mask(bytes, bytes);
      if (pruned != 0) _mm512_mask_storeu_epi16(dst + i * 2, pruned, _mm512_setzero_si512());
    }
  }
  scalar_kernels().zero_masked[Float16::dtype](dst + i * stride, stride, mask + i, n - i);
}

AVX512 void zero_masked32(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                          std::int64_t n) noexcept {
  std::int64_t i = 0;
  if (stride == 4) {
    for (; i + 16 <= n; i += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask + i));
      const __mmask16 pruned = _mm_testn_epi8_mask(bytes, bytes);
      if (pruned != 0) _mm512_mask_storeu_epi32(dst + i * 4, pruned, _mm512_setzero_si512());
    }
  }
  scalar_kernels().zero_masked[Float32::dtype](dst + i * stride, stride, mask + i, n - i);
}

AVX512 void zero_masked64(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                          std::int64_t n) noexcept {
  std::int64_t i = 0;
  if (stride == 8) {
    for (; i + 8 <= n; i += 8) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + i));
      const auto pruned = static_cast<__mmask8>(_mm_testn_epi8_mask(bytes, bytes));
      if (pruned != 0) _mm512_mask_storeu_epi64(dst + i * 8, pruned, _mm512_setzero_si512());
    }
  }
  scalar_kernels().zero_masked[Float64::dtype](dst + i * stride, stride, mask + i, n - i);
}

// --- the table -----------------------------------------------------------------------------------

template <class Vector, class Key = typename Vector::Key>
void use(SelectionKernels<Key>& kernels) noexcept {
  kernels.count_below = count_below<Vector>;
  kernels.count_equal = count_equal<Vector>;
  kernels.split = split<Vector>;
  kernels.bracket = bracket<Vector>;
  kernels.threshold = threshold<Vector>;
  kernels.zero_least = zero_least<Vector>;
}

template <class Element>
void use(Kernels& table) noexcept {
  constexpr int dtype = Element::dtype;
  table.score[dtype][0] = score<Element, 0>;
  table.score[dtype][1] = score<Element, 1>;
  table.score_at[dtype][0] = score_at<Element, 0>;
  table.score_at[dtype][1] = score_at<Element, 1>;
  table.bracket[dtype][0] = bracket_blocks<Element, 0>;
  table.bracket[dtype][1] = bracket_blocks<Element, 1>;
  table.bracket_ends[dtype][0] = bracket_ends<Element, 0, true>;
  table.bracket_ends[dtype][1] = bracket_ends<Element, 1, true>;
  table.bracket_mask[dtype][0] = bracket_mask<Element, 0>;
  table.bracket_mask[dtype][1] = bracket_mask<Element, 1>;
  table.zero_least[dtype][0] = zero_least_elements<Element, 0>;
  table.zero_least[dtype][1] = zero_least_elements<Element, 1>;
}

Kernels make_table() noexcept {
  Kernels table = scalar_kernels();
  table.name = "avx512";
  use<Vector32>(table.select32);
  use<Vector64>(table.select64);
  use<Float16>(table);
  use<BFloat16>(table);
  use<Float32>(table);
  use<Float64>(table);
  table.copy_run = copy_run;
  table.transpose = transpose;
  table.transpose_mask = transpose_mask;
  table.repeat = repeat_any;
  table.zero_masked[Float16::dtype] = zero_masked16;
  table.zero_masked[BFloat16::dtype] = zero_masked16;
  table.zero_masked[Float32::dtype] = zero_masked32;
  table.zero_masked[Float64::dtype] = zero_masked64;
  table.count_zeros = count_zeros;
  table.pack = pack;
  table.unpack = unpack;
  return table;
}

}  // namespace

const Kernels& avx512_kernels() noexcept {
  static const Kernels table = make_table();
  return table;
}

}  // namespace datasparse
