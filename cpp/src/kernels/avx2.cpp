// Kernels for AVX2 with BMI1 and F16C (Haswell, Zen and later): a vector of keys at a time, without
// the masks and the compression of AVX-512. What is not here is the scalar one, and so are ends
// shorter than a vector.
//
// Every function carries its own target, and the file includes no header with code in it: a
// template compiled here for AVX2 could become the copy that the linker keeps for everyone.

#include <immintrin.h>

#include "kernels/kernels.hpp"

#define AVX2 __attribute__((target("avx2,bmi,f16c,popcnt")))

namespace datasparse {
namespace {

AVX2 __m256i load_bytes(const void* bytes) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

AVX2 void store_bytes(void* bytes, __m256i vector) noexcept {
  _mm256_storeu_si256(static_cast<__m256i*>(bytes), vector);
}

/// A mask of bytes as bits.
AVX2 std::uint32_t bits(__m256i bytes) noexcept {
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
}

/// Puts 0 4 1 5 2 6 3 7 in order.
AVX2 __m256i interleave(__m256i vector) noexcept {
  return _mm256_permutevar8x32_epi32(vector, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// --- vectors of keys of either width, under one set of names -------------------------------------
//
// Compares are signed: keys are less than 2^31 or 2^63, and so are bounds.

/// So many keys at a time make a vector of mask bytes.
constexpr int group = 32;

struct Vector32 {
  using Key = std::uint32_t;
  static constexpr int size = 8;
  AVX2 static __m256i all(Key key) noexcept { return _mm256_set1_epi32(static_cast<int>(key)); }
  AVX2 static __m256i less(__m256i a, __m256i b) noexcept { return _mm256_cmpgt_epi32(b, a); }
  AVX2 static __m256i equal(__m256i a, __m256i b) noexcept { return _mm256_cmpeq_epi32(a, b); }
  AVX2 static __m256i add(__m256i a, __m256i b) noexcept { return _mm256_add_epi32(a, b); }
  AVX2 static __m256i subtract(__m256i a, __m256i b) noexcept { return _mm256_sub_epi32(a, b); }
  AVX2 static int count(__m256i lanes) noexcept {
    return __builtin_popcount(
        static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes))));
  }
  /// A byte for each lane of a group.
  AVX2 static __m256i bytes(const __m256i* lanes) noexcept {
    return interleave(_mm256_packs_epi16(_mm256_packs_epi32(lanes[0], lanes[1]),
                                         _mm256_packs_epi32(lanes[2], lanes[3])));
  }
};

struct Vector64 {
  using Key = std::uint64_t;
  static constexpr int size = 4;
  AVX2 static __m256i all(Key key) noexcept {
    return _mm256_set1_epi64x(static_cast<long long>(key));
  }
  AVX2 static __m256i less(__m256i a, __m256i b) noexcept { return _mm256_cmpgt_epi64(b, a); }
  AVX2 static __m256i equal(__m256i a, __m256i b) noexcept { return _mm256_cmpeq_epi64(a, b); }
  AVX2 static __m256i add(__m256i a, __m256i b) noexcept { return _mm256_add_epi64(a, b); }
  AVX2 static __m256i subtract(__m256i a, __m256i b) noexcept { return _mm256_sub_epi64(a, b); }
  AVX2 static int count(__m256i lanes) noexcept {
    return __builtin_popcount(
        static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(lanes))));
  }
  AVX2 static __m256i bytes(const __m256i* lanes) noexcept {
    __m256i narrow[4];
    for (int i = 0; i < 4; ++i) {
      narrow[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(lanes[2 * i], lanes[2 * i + 1]),
                                           _MM_SHUFFLE(3, 1, 2, 0));
    }
    return Vector32::bytes(narrow);
  }
};

/// With this added to both sides, a signed compare orders as an unsigned one.
template <class Key>
constexpr Key top = Key{1} << KeyTraits<Key>::bits;

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
AVX2 __m256i compress(__m256i lanes, __m256i vector) noexcept {
  const auto* const numbers = lane_numbers.of[_mm256_movemask_ps(_mm256_castsi256_ps(lanes))];
  const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(numbers));
  return _mm256_permutevar8x32_epi32(vector, _mm256_cvtepu8_epi32(order));
}

template <class Key>
const SelectionKernels<Key>& scalar_selection() noexcept {
  if constexpr (sizeof(Key) == 4) {
    return scalar_kernels().select32;
  } else {
    return scalar_kernels().select64;
  }
}

// --- selection -----------------------------------------------------------------------------------

template <class Vector, class Key = typename Vector::Key>
AVX2 std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  const __m256i pivots = Vector::all(pivot);
  std::int64_t below = 0;
  std::int64_t i = 0;
  for (; i + Vector::size <= n; i += Vector::size) {
    below += Vector::count(Vector::less(load_bytes(keys + i), pivots));
  }
  return below + scalar_selection<Key>().count_below(keys + i, n - i, pivot);
}

template <class Vector, class Key = typename Vector::Key>
AVX2 std::int64_t count_equal(const Key* keys, std::int64_t n, Key key) noexcept {
  const __m256i wanted = Vector::all(key);
  std::int64_t equal = 0;
  std::int64_t i = 0;
  for (; i + Vector::size <= n; i += Vector::size) {
    equal += Vector::count(Vector::equal(load_bytes(keys + i), wanted));
  }
  return equal + scalar_selection<Key>().count_equal(keys + i, n - i, key);
}

template <class Vector, class Key = typename Vector::Key>
AVX2 SplitCounts split(Key* out, std::int64_t room, const Key* keys, std::int64_t n, Key lo,
                       Key hi) noexcept {
  const __m256i low = Vector::all(lo);
  const __m256i first = Vector::all(lo ^ top<Key>);
  const __m256i width = Vector::all((hi - lo) ^ top<Key>);
  SplitCounts counts{};
  std::int64_t i = 0;
  for (; i + Vector::size <= n && counts.inside + Vector::size <= room; i += Vector::size) {
    const __m256i vector = load_bytes(keys + i);
    const __m256i inside = Vector::less(Vector::subtract(vector, first), width);
    counts.below += Vector::count(Vector::less(vector, low));
    store_bytes(out + counts.inside, compress(inside, vector));
    counts.inside += Vector::count(inside);
  }
  const SplitCounts rest = scalar_selection<Key>().split(out + counts.inside, room - counts.inside,
                                                         keys + i, n - i, lo, hi);
  return {counts.below + rest.below, counts.inside + rest.inside};
}

/// Two groups of keys at a time: bit i of a mask belongs to key i.
constexpr int bundle = 2 * group;

/// Stores the places of the bits in `within`, counted from `first` on. Where candidates are few,
/// they come unpredictably: no branch depends on them unless there are many.
AVX2 void store_places(std::uint16_t* places, std::int64_t first, std::uint64_t within) noexcept {
  constexpr int few = 4;
  const int found = __builtin_popcountll(within);
  for (int p = 0; p < few || p < found; ++p) {
    places[p] = static_cast<std::uint16_t>(first + static_cast<std::int64_t>(_tzcnt_u64(within)));
    within = _blsr_u64(within);
  }
}

/// The bounds of a bracket in vectors, and what was found so far.
template <class Vector>
class Bracketing {
 public:
  using Key = typename Vector::Key;
  AVX2 Bracketing(std::uint8_t* keep, std::uint16_t* inside, Key from, Key first,
                  Key width) noexcept
      : keep_(keep),
        inside_(inside),
        from_(Vector::all(from)),
        first_(Vector::all(first ^ top<Key>)),
        width_(Vector::all(width ^ top<Key>)) {}

  /// A bundle of keys from the i-th on; vector_at(v) gives those from the (i + v)-th on.
  template <class Load>
  AVX2 void add(std::int64_t i, const Load& vector_at) noexcept {
    std::uint64_t within = 0;
    for (int g = 0; g < bundle; g += group) {
      __m256i below[group / Vector::size];
      __m256i inside[group / Vector::size];
      for (int v = 0; v < group / Vector::size; ++v) {
        const __m256i vector = vector_at(g + v * Vector::size);
        below[v] = Vector::less(vector, from_);
        inside[v] = Vector::less(Vector::subtract(vector, first_), width_);
      }
      const __m256i pruned = Vector::bytes(below);
      store_bytes(keep_ + i + g, _mm256_add_epi8(pruned, _mm256_set1_epi8(1)));
      counts_.kept += group - __builtin_popcount(bits(pruned));
      within |= std::uint64_t{bits(Vector::bytes(inside))} << g;
    }
    store_places(inside_ + counts_.inside, i, within);
    counts_.inside += __builtin_popcountll(within);
  }

  AVX2 BracketCounts counts() const noexcept { return counts_; }

 private:
  std::uint8_t* keep_;
  std::uint16_t* inside_;
  __m256i from_, first_, width_;
  BracketCounts counts_{};
};

template <class Vector, class Key = typename Vector::Key>
AVX2 BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys,
                           std::int64_t n, Key from, Key first, Key width) noexcept {
  Bracketing<Vector> bracketing(keep, inside, from, first, width);
  std::int64_t i = 0;
  for (; i + bundle <= n; i += bundle) {
    bracketing.add(i, [&](int v) AVX2 { return load_bytes(keys + i + v); });
  }
  BracketCounts counts = bracketing.counts();
  for (; i < n; ++i) {
    keep[i] = keys[i] >= from ? 1 : 0;
    counts.kept += keep[i];
    if (keys[i] - first < width) inside[counts.inside++] = static_cast<std::uint16_t>(i);
  }
  return counts;
}

template <class Vector, class Key = typename Vector::Key>
AVX2 void threshold(std::uint8_t* keep, const Key* keys, std::int64_t n, Key cut,
                    std::int64_t ties) noexcept {
  const __m256i cuts = Vector::all(cut);
  std::int64_t i = 0;
  for (; i + group <= n; i += group) {
    __m256i below[group / Vector::size];
    __m256i equal[group / Vector::size];
    for (int v = 0; v < group / Vector::size; ++v) {
      const __m256i vector = load_bytes(keys + i + v * Vector::size);
      below[v] = Vector::less(vector, cuts);
      equal[v] = Vector::equal(vector, cuts);
    }
    store_bytes(keep + i, _mm256_add_epi8(Vector::bytes(below), _mm256_set1_epi8(1)));
    std::uint32_t tied = bits(Vector::bytes(equal));
    for (; tied != 0 && ties > 0; --ties, tied = _blsr_u32(tied)) keep[i + _tzcnt_u32(tied)] = 0;
  }
  scalar_selection<Key>().threshold(keep + i, keys + i, n - i, cut, ties);
}

/// For each key, how many keys of its block come before it: vectors are compared with rotations of
/// themselves, or, where a block is longer than a vector, of all vectors of the block.
template <class Vector, int width, class Key = typename Vector::Key>
AVX2 std::int64_t zero_least(std::uint8_t* mask, const Key* keys, std::int64_t n,
                             std::int64_t zeros) noexcept {
  constexpr int span = width < Vector::size ? width : Vector::size;
  constexpr int vectors = group / Vector::size;
  constexpr int together = width / span;  // vectors of a block
  constexpr int item = static_cast<int>(sizeof(Key)) / 4;
  __m256i orders[span];
  __m256i earlier[span];  // 1 where the other key stands before: it wins a tie
  for (int r = 0; r < span; ++r) {
    alignas(32) int order[8];
    alignas(32) Key first[Vector::size];
    for (int lane = 0; lane < Vector::size; ++lane) {
      const int place = lane % span;
      const int other = lane - place + (place + r) % span;
      for (int i = 0; i < item; ++i) order[lane * item + i] = other * item + i;
      first[lane] = place + r >= span ? 1 : 0;
    }
    orders[r] = load_bytes(order);
    earlier[r] = load_bytes(first);
  }
  const __m256i one = Vector::all(1);
  const __m256i wanted = Vector::all(static_cast<Key>(zeros));
  std::int64_t i = 0;
  for (; i + group <= n; i += group) {
    __m256i pruned[vectors];
    for (int v = 0; v < vectors; ++v) {
      const __m256i vector = load_bytes(keys + i + v * Vector::size);
      const int begin = v - v % together;
      __m256i before = _mm256_setzero_si256();
      for (int w = begin; w < begin + together; ++w) {
        const __m256i others = load_bytes(keys + i + w * Vector::size);
        for (int r = w == v ? 1 : 0; r < span; ++r) {
          const __m256i bound = w == v  ? Vector::add(vector, earlier[r])
                                : w < v ? Vector::add(vector, one)
                                        : vector;
          const __m256i other = _mm256_permutevar8x32_epi32(others, orders[r]);
          before = Vector::subtract(before, Vector::less(other, bound));
        }
      }
      pruned[v] = Vector::less(before, wanted);
    }
    store_bytes(mask + i, _mm256_add_epi8(Vector::bytes(pruned), _mm256_set1_epi8(1)));
  }
  return i;
}

template <class Vector, class Key = typename Vector::Key>
AVX2 void zero_least(std::uint8_t* mask, const Key* keys, std::int64_t blocks, std::int64_t width,
                     std::int64_t zeros) noexcept {
  const std::int64_t n = blocks * width;
  const std::int64_t done = width == 2   ? zero_least<Vector, 2>(mask, keys, n, zeros)
                            : width == 4 ? zero_least<Vector, 4>(mask, keys, n, zeros)
                            : width == 8 ? zero_least<Vector, 8>(mask, keys, n, zeros)
                                         : zero_least<Vector, 16>(mask, keys, n, zeros);
  scalar_selection<Key>().zero_least(mask + done, keys + done, (n - done) / width, width, zeros);
}

// --- scores --------------------------------------------------------------------------------------

template <class T>
AVX2 T read(const std::byte* data) noexcept {
  T value;
  __builtin_memcpy(&value, data, sizeof(value));
  return value;
}

/// Sums of eight blocks in a vector of floats, elements of 16 and 32 bits being widened to float.
struct Floats {
  using Sums = __m256;
  using Vector = Vector32;
  using Key = std::uint32_t;
  using Number = float;
  static constexpr int size = 8;
  AVX2 static Sums zero() noexcept { return _mm256_setzero_ps(); }
  AVX2 static Sums add(Sums a, Sums b) noexcept { return _mm256_add_ps(a, b); }
  AVX2 static Sums absolute(Sums x) noexcept {
    return _mm256_and_ps(x, _mm256_castsi256_ps(Vector32::all(0x7FFFFFFFU)));
  }
  AVX2 static Sums multiply(Sums a, Sums b) noexcept { return _mm256_mul_ps(a, b); }
  AVX2 static Sums multiply(Sums a, float b) noexcept {
    return _mm256_mul_ps(a, _mm256_set1_ps(b));
  }
  AVX2 static Sums divide(Sums a, float b) noexcept { return _mm256_div_ps(a, _mm256_set1_ps(b)); }
  AVX2 static __m256i key(Sums mean) noexcept {
    return _mm256_min_epu32(_mm256_castps_si256(absolute(mean)),
                            Vector32::all(KeyTraits<Key>::nan));
  }

  /// Transposes 4 × 4 numbers within each half.
  AVX2 static void transpose_within_halves(Sums* v) noexcept {
    const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
    const __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
    const __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
    v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
    v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
    v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
  }

  /// Vector i of `v` holds elements of block i; vector i of the result holds their i-th ones.
  AVX2 static void transpose(Sums* v) noexcept {
    transpose_within_halves(v);
    transpose_within_halves(v + 4);
    for (int i = 0; i < 4; ++i) {
      const Sums low = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
      v[i] = low;
    }
  }

  /// The same for `width` vectors of narrower blocks, which come in an order that in_order() undoes
  /// once, for their keys.
  template <int width>
  AVX2 static void transpose_narrow(Sums* v) noexcept {
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
  AVX2 static Sums load(const std::byte* data) noexcept {
    return _mm256_castsi256_ps(load_bytes(data));
  }
  /// One element from each of eight places, `offset` bytes on.
  AVX2 static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const auto at = [&](int i) AVX2 { return read<float>(data[i] + offset); };
    return _mm256_setr_ps(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  }
};

/// Eight elements of 16 bits, which Derived widens.
template <class Derived>
struct Halves : Floats {
  static constexpr std::ptrdiff_t item = 2;
  AVX2 static Sums load(const std::byte* data) noexcept {
    return Derived::widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
  }
  AVX2 static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const auto at = [&](int i) AVX2 { return read<short>(data[i] + offset); };
    return Derived::widen(_mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)));
  }
};

struct BFloat16 : Halves<BFloat16> {
  static constexpr int dtype = 1;
  AVX2 static Sums widen(__m128i halves) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
};

struct Float16 : Halves<Float16> {
  static constexpr int dtype = 0;
  AVX2 static Sums widen(__m128i halves) noexcept { return _mm256_cvtph_ps(halves); }
};

struct Float64 {
  using Sums = __m256d;
  using Vector = Vector64;
  using Key = std::uint64_t;
  using Number = double;
  static constexpr int size = 4;
  static constexpr int dtype = 3;
  static constexpr std::ptrdiff_t item = 8;
  AVX2 static Sums zero() noexcept { return _mm256_setzero_pd(); }
  AVX2 static Sums add(Sums a, Sums b) noexcept { return _mm256_add_pd(a, b); }
  AVX2 static Sums absolute(Sums x) noexcept {
    return _mm256_and_pd(x, _mm256_castsi256_pd(Vector64::all(0x7FFFFFFFFFFFFFFFULL)));
  }
  AVX2 static Sums multiply(Sums a, Sums b) noexcept { return _mm256_mul_pd(a, b); }
  AVX2 static Sums multiply(Sums a, double b) noexcept {
    return _mm256_mul_pd(a, _mm256_set1_pd(b));
  }
  AVX2 static Sums divide(Sums a, double b) noexcept { return _mm256_div_pd(a, _mm256_set1_pd(b)); }
  AVX2 static __m256i key(Sums mean) noexcept {
    const __m256i bits = _mm256_castpd_si256(absolute(mean));
    const __m256i nan = Vector64::all(KeyTraits<Key>::nan);
    return _mm256_blendv_epi8(bits, nan, Vector64::less(nan, bits));
  }
  AVX2 static Sums load(const std::byte* data) noexcept {
    return _mm256_castsi256_pd(load_bytes(data));
  }
  AVX2 static Sums collect(const std::byte* const* data, std::ptrdiff_t offset) noexcept {
    const auto at = [&](int i) AVX2 { return read<double>(data[i] + offset); };
    return _mm256_setr_pd(at(0), at(1), at(2), at(3));
  }
  AVX2 static void transpose(Sums* v) noexcept {
    transpose_narrow<2>(v);
    transpose_narrow<2>(v + 2);
    for (int i = 0; i < 2; ++i) {
      const Sums low = _mm256_permute2f128_pd(v[i], v[i + 2], 0x20);
      v[i + 2] = _mm256_permute2f128_pd(v[i], v[i + 2], 0x31);
      v[i] = low;
    }
  }
  template <int width>
  AVX2 static void transpose_narrow(Sums* v) noexcept {
    if constexpr (width == 2) {
      const Sums first = _mm256_unpacklo_pd(v[0], v[1]);
      v[1] = _mm256_unpackhi_pd(v[0], v[1]);
      v[0] = first;
    }
  }
};

/// Undoes the order in which transpose_narrow() leaves blocks.
template <class Element, int width>
AVX2 __m256i in_order(__m256i keys) noexcept {
  if constexpr (width == 2) {
    return _mm256_permute4x64_epi64(keys, _MM_SHUFFLE(3, 1, 2, 0));
  } else if constexpr (width == 4 && Element::size == 8) {
    return interleave(keys);
  } else {
    return keys;
  }
}

template <class Element, int norm>
AVX2 typename Element::Sums magnitude(typename Element::Sums x) noexcept {
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
  AVX2 explicit Mean(std::int64_t elements) noexcept
      : elements_(static_cast<typename Element::Number>(elements)),
        is_power_of_two_((elements & (elements - 1)) == 0) {}
  AVX2 typename Element::Sums of(typename Element::Sums sums) const noexcept {
    return is_power_of_two_ ? Element::multiply(sums, 1 / elements_)
                            : Element::divide(sums, elements_);
  }

 private:
  typename Element::Number elements_;
  bool is_power_of_two_;
};

/// Keys of blocks that lie side by side, a vector at a time. A transpose in registers puts the
/// first elements of all blocks into one vector, and so on.
template <class Element, int norm, int width>
class Narrow {
 public:
  AVX2 explicit Narrow(const Blocks& blocks) noexcept
      : blocks_(blocks), mean_(blocks.rows * width) {}
  AVX2 __m256i keys_at(std::int64_t block) const noexcept {
    const std::byte* row = blocks_.data + block * blocks_.step;
    auto sums = Element::zero();
    for (std::int64_t r = 0; r < blocks_.rows; ++r, row += blocks_.pitch) {
      constexpr int size = Element::size;
      constexpr int apart = width < size ? size : width;  // elements from vector to vector
      constexpr int together = width < size ? width : size;
      for (int i = 0; i < width; i += together) {
        typename Element::Sums v[together];
        for (int t = 0; t < together; ++t) {
          v[t] = magnitude<Element, norm>(Element::load(row + (i + t * apart) * Element::item));
        }
        if constexpr (width < size) {
          Element::template transpose_narrow<width>(v);
        } else {
          Element::transpose(v);
        }
        for (int t = 0; t < together; ++t) sums = Element::add(sums, v[t]);
      }
    }
    return in_order<Element, width>(Element::key(mean_.of(sums)));
  }

 private:
  const Blocks& blocks_;
  Mean<Element> mean_;
};

/// The same for blocks of one element.
template <class Element, int norm>
class Single {
 public:
  AVX2 explicit Single(const Blocks& blocks) noexcept : data_(blocks.data) {}
  AVX2 __m256i keys_at(std::int64_t block) const noexcept {
    return Element::key(magnitude<Element, norm>(Element::load(data_ + block * Element::item)));
  }

 private:
  const std::byte* data_;
};

/// Calls work(keys) with the Single or Narrow that suits the blocks; if there is none, returns 0,
/// else what work returns.
template <class Element, int norm, class Work>
AVX2 std::int64_t with_fast_keys(const Blocks& blocks, const Work& work) noexcept {
  if (blocks.step != blocks.width * Element::item) return 0;
  if (blocks.width == 1 && blocks.rows == 1) return work(Single<Element, norm>(blocks));
  switch (blocks.width) {
    case 1: return work(Narrow<Element, norm, 1>(blocks));
    case 2: return work(Narrow<Element, norm, 2>(blocks));
    case 4: return work(Narrow<Element, norm, 4>(blocks));
    case 8: return work(Narrow<Element, norm, 8>(blocks));
    default: return 0;
  }
}

/// Blocks of any width, as many at a time as there are sums in a vector: as many elements of each
/// are transposed in registers, and the last few collected one by one. data_of(i) is where the i-th
/// of n blocks begins.
template <class Element, int norm, class DataOf>
AVX2 void score_any(typename Element::Key* keys, const Blocks& blocks, std::int64_t n,
                    const DataOf& data_of) noexcept {
  constexpr int size = Element::size;
  const Mean<Element> mean(blocks.rows * blocks.width);
  for (std::int64_t b = 0; b < n; b += size) {
    const std::int64_t together = n - b < size ? n - b : size;
    const std::byte* data[size];
    for (int t = 0; t < size; ++t) data[t] = data_of(b + (t < together ? t : together - 1));
    auto sums = Element::zero();
    for (std::int64_t r = 0; r < blocks.rows; ++r) {
      std::ptrdiff_t offset = r * blocks.pitch;
      std::int64_t i = 0;
      for (; i + size <= blocks.width; i += size, offset += size * Element::item) {
        typename Element::Sums v[size];
        for (int t = 0; t < size; ++t) {
          v[t] = magnitude<Element, norm>(Element::load(data[t] + offset));
        }
        Element::transpose(v);
        for (int t = 0; t < size; ++t) sums = Element::add(sums, v[t]);
      }
      for (; i < blocks.width; ++i, offset += Element::item) {
        const auto x = Element::collect(data, offset);
        sums = Element::add(sums, magnitude<Element, norm>(x));
      }
    }
    typename Element::Key found[size];
    store_bytes(found, Element::key(mean.of(sums)));
    for (std::int64_t t = 0; t < together; ++t) keys[b + t] = found[t];
  }
}

template <class Element, int norm>
AVX2 void score(void* out, const Blocks& blocks) noexcept {
  auto* const keys = static_cast<typename Element::Key*>(out);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) AVX2 {
    std::int64_t b = 0;
    for (; b + Element::size <= blocks.count; b += Element::size) {
      store_bytes(keys + b, fast.keys_at(b));
    }
    return b;
  });
  score_any<Element, norm>(keys + done, blocks, blocks.count - done,
                           [&](std::int64_t b) { return blocks.data + (done + b) * blocks.step; });
}

template <class Element, int norm>
AVX2 void score_at(void* out, const Blocks& blocks, const std::uint16_t* places,
                   std::int64_t n) noexcept {
  score_any<Element, norm>(static_cast<typename Element::Key*>(out), blocks, n,
                           [&](std::int64_t i) { return blocks.data + places[i] * blocks.step; });
}

/// Each vector of keys is compared as soon as it is there. Nothing branches on the data, so that
/// the processor reads far ahead.
template <class Element, int norm>
AVX2 BracketCounts bracket_blocks(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                                  std::uint64_t from, std::uint64_t first, std::uint64_t width,
                                  Store) noexcept {
  using Vector = typename Element::Vector;
  using Key = typename Element::Key;
  const Key bounds[3] = {static_cast<Key>(from), static_cast<Key>(first), static_cast<Key>(width)};
  Bracketing<Vector> bracketing(keep, inside, bounds[0], bounds[1], bounds[2]);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) AVX2 {
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      bracketing.add(b, [&](int v) AVX2 { return fast.keys_at(b + v); });
    }
    return b;
  });
  BracketCounts counts = bracketing.counts();
  constexpr std::int64_t together = 256;
  Key keys[together];
  for (std::int64_t b = done; b < blocks.count; b += together) {
    Blocks some = blocks;
    some.data += b * blocks.step;
    some.count = blocks.count - b < together ? blocks.count - b : together;
    score<Element, norm>(keys, some);
    std::uint16_t* const places = inside + counts.inside;
    const BracketCounts found =
        bracket<Vector>(keep + b, places, keys, some.count, bounds[0], bounds[1], bounds[2]);
    for (std::int64_t i = 0; i < found.inside; ++i) {
      places[i] = static_cast<std::uint16_t>(places[i] + b);
    }
    counts.kept += found.kept;
    counts.inside += found.inside;
  }
  return counts;
}

// --- bytes ---------------------------------------------------------------------------------------

template <int times>
AVX2 void repeat(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n) noexcept {
  constexpr int taken = 32 / times;
  alignas(32) std::uint8_t order[32];  // within halves, each of which holds all bytes taken
  for (int i = 0; i < 32; ++i) order[i] = static_cast<std::uint8_t>(i / times);
  const __m256i pattern = load_bytes(order);
  std::int64_t i = 0;
  for (; i + taken <= n; i += taken) {
    __m256i few;
    if constexpr (times == 2) {
      few =
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i)));
    } else {
      long long eight = 0;
      __builtin_memcpy(&eight, bytes + i, taken);
      few = _mm256_set1_epi64x(eight);
    }
    store_bytes(out + i * times, _mm256_shuffle_epi8(few, pattern));
  }
  scalar_kernels().repeat(out + i * times, bytes + i, n - i, times);
}

AVX2 void repeat_any(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n,
                     std::int64_t times) noexcept {
  switch (times) {
    case 1:
      if (n > 0) __builtin_memcpy(out, bytes, static_cast<std::size_t>(n));
      return;
    case 2: return repeat<2>(out, bytes, n);
    case 4: return repeat<4>(out, bytes, n);
    case 8: return repeat<8>(out, bytes, n);
    case 16: return repeat<16>(out, bytes, n);
    default: return scalar_kernels().repeat(out, bytes, n, times);
  }
}

/// Eight by eight where the columns are near each other, as those of a permuted tensor are. Of
/// those far apart, the scalar one asks for the next in time.
AVX2 void transpose(std::byte* out, std::ptrdiff_t pitch, const std::byte* in,
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

AVX2 std::int64_t count_zeros(const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t zeros = 0;
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    zeros +=
        __builtin_popcount(bits(_mm256_cmpeq_epi8(load_bytes(bytes + i), _mm256_setzero_si256())));
  }
  return zeros + scalar_kernels().count_zeros(bytes + i, n - i);
}

AVX2 void pack(std::uint8_t* packed, const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const std::uint32_t ones =
        ~bits(_mm256_cmpeq_epi8(load_bytes(bytes + i), _mm256_setzero_si256()));
    __builtin_memcpy(packed + i / 8, &ones, sizeof(ones));
  }
  scalar_kernels().pack(packed + i / 8, bytes + i, n - i);
}

AVX2 void unpack(std::uint8_t* bytes, const std::uint8_t* packed, std::int64_t n,
                 Store wanted) noexcept {
  // Byte i of a vector is byte i / 8 of four, in which bit i % 8 tells.
  const __m256i bytes_of =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201U));
  const bool stream =
      wanted == Store::past_cache && reinterpret_cast<std::uintptr_t>(bytes) % 32 == 0;
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    int four = 0;
    __builtin_memcpy(&four, packed + i / 8, sizeof(four));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(four), bytes_of);
    const __m256i ones = _mm256_min_epu8(_mm256_and_si256(spread, bit_of), _mm256_set1_epi8(1));
    if (stream) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(bytes + i), ones);
    } else {
      store_bytes(bytes + i, ones);
    }
  }
  scalar_kernels().unpack(bytes + i, packed + i / 8, n - i, wanted);
}

// Masked stores write the chosen elements only; there are none of 16 bits.

AVX2 void zero_masked32(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                        std::int64_t n) noexcept {
  std::int64_t i = 0;
  if (stride == 4) {
    for (; i + 8 <= n; i += 8) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + i));
      const __m256i pruned =
          _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_setzero_si256());
      _mm256_maskstore_epi32(reinterpret_cast<int*>(dst + i * 4), pruned, _mm256_setzero_si256());
    }
  }
  scalar_kernels().zero_masked[Float32::dtype](dst + i * stride, stride, mask + i, n - i);
}

AVX2 void zero_masked64(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                        std::int64_t n) noexcept {
  std::int64_t i = 0;
  if (stride == 8) {
    for (; i + 4 <= n; i += 4) {
      int bytes = 0;
      __builtin_memcpy(&bytes, mask + i, 4);
      const __m256i pruned = _mm256_cmpeq_epi64(_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes)),
                                                _mm256_setzero_si256());
      _mm256_maskstore_epi64(reinterpret_cast<long long*>(dst + i * 8), pruned,
                             _mm256_setzero_si256());
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
}

Kernels make_table() noexcept {
  Kernels table = scalar_kernels();
  table.name = "avx2";
  use<Vector32>(table.select32);
  use<Vector64>(table.select64);
  use<Float16>(table);
  use<BFloat16>(table);
  use<Float32>(table);
  use<Float64>(table);
  table.transpose = transpose;
  table.repeat = repeat_any;
  table.zero_masked[Float32::dtype] = zero_masked32;
  table.zero_masked[Float64::dtype] = zero_masked64;
  table.count_zeros = count_zeros;
  table.pack = pack;
  table.unpack = unpack;
  return table;
}

}  // namespace

const Kernels& avx2_kernels() noexcept {
  static const Kernels table = make_table();
  return table;
}

}  // namespace datasparse
