// Kernels for NEON, which every 64-bit ARM has: a vector of keys at a time. What is not here is the
// scalar one, and so are ends shorter than a vector.

#include <arm_neon.h>

#include "kernels/kernels.hpp"

namespace datasparse {
namespace {

uint8x16_t load_bytes(const void* bytes) noexcept {
  return vld1q_u8(static_cast<const std::uint8_t*>(bytes));
}

// --- vectors of keys of either width, under one set of names -------------------------------------

/// So many keys at a time make a vector of mask bytes, and so many of these make a mask of bits:
/// bit i belongs to key i.
constexpr int group = 16;
constexpr int bundle = 4 * group;

struct Vector32 {
  using Key = std::uint32_t;
  using Keys = uint32x4_t;
  static constexpr int size = 4;
  static Keys all(Key key) noexcept { return vdupq_n_u32(key); }
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

struct Vector64 {
  using Key = std::uint64_t;
  using Keys = uint64x2_t;
  static constexpr int size = 2;
  static Keys all(Key key) noexcept { return vdupq_n_u64(key); }
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

/// The bits of a bundle, of which `bytes` are the groups.
std::uint64_t bits(const uint8x16_t* bytes) noexcept {
  const uint8x16_t weights = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201U));
  const uint8x16_t low = vpaddq_u8(vandq_u8(bytes[0], weights), vandq_u8(bytes[1], weights));
  const uint8x16_t high = vpaddq_u8(vandq_u8(bytes[2], weights), vandq_u8(bytes[3], weights));
  const uint8x16_t all = vpaddq_u8(low, high);
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(all, all)), 0);
}

/// The first of some bits; 64 where there is none, which takes no branch.
int first_of(std::uint64_t bits) noexcept { return bits == 0 ? 64 : __builtin_ctzll(bits); }

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
std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  const auto pivots = Vector::all(pivot);
  std::int64_t below = 0;
  std::int64_t i = 0;
  for (; i + Vector::size <= n; i += Vector::size) {
    below += Vector::count(Vector::less(Vector::load(keys + i), pivots));
  }
  return below + scalar_selection<Key>().count_below(keys + i, n - i, pivot);
}

template <class Vector, class Key = typename Vector::Key>
std::int64_t count_equal(const Key* keys, std::int64_t n, Key key) noexcept {
  const auto wanted = Vector::all(key);
  std::int64_t equal = 0;
  std::int64_t i = 0;
  for (; i + Vector::size <= n; i += Vector::size) {
    equal += Vector::count(Vector::equal(Vector::load(keys + i), wanted));
  }
  return equal + scalar_selection<Key>().count_equal(keys + i, n - i, key);
}

template <class Vector, class Key = typename Vector::Key>
SplitCounts split(Key* out, std::int64_t room, const Key* keys, std::int64_t n, Key lo,
                  Key hi) noexcept {
  const auto low = Vector::all(lo);
  const auto width = Vector::all(hi - lo);
  SplitCounts counts{};
  std::int64_t i = 0;
  for (; i + Vector::size <= n && counts.inside + Vector::size <= room; i += Vector::size) {
    const auto vector = Vector::load(keys + i);
    const auto inside = Vector::less(Vector::subtract(vector, low), width);
    counts.below += Vector::count(Vector::less(vector, low));
    Vector::store(out + counts.inside, compress<Vector>(inside, vector));
    counts.inside += Vector::count(inside);
  }
  const SplitCounts rest = scalar_selection<Key>().split(out + counts.inside, room - counts.inside,
                                                         keys + i, n - i, lo, hi);
  return {counts.below + rest.below, counts.inside + rest.inside};
}

/// Stores the places of the bits in `within`, counted from `first` on. Where candidates are few,
/// they come unpredictably: no branch depends on them unless there are many.
void store_places(std::uint16_t* places, std::int64_t first, std::uint64_t within) noexcept {
  constexpr int few = 4;
  const int found = __builtin_popcountll(within);
  for (int p = 0; p < few || p < found; ++p) {
    places[p] = static_cast<std::uint16_t>(first + first_of(within));
    within &= within - 1;
  }
}

/// The bounds of a bracket in vectors, and what was found so far.
template <class Vector>
class Bracketing {
 public:
  using Key = typename Vector::Key;
  using Keys = typename Vector::Keys;
  Bracketing(std::uint8_t* keep, std::uint16_t* inside, Key from, Key first, Key width) noexcept
      : keep_(keep),
        inside_(inside),
        from_(Vector::all(from)),
        first_(Vector::all(first)),
        width_(Vector::all(width)) {}

  /// A bundle of keys from the i-th on; vector_at(v) gives those from the (i + v)-th on.
  template <class Load>
  void add(std::int64_t i, const Load& vector_at) noexcept {
    uint8x16_t kept = vdupq_n_u8(0);
    uint8x16_t within[bundle / group];
    for (int g = 0; g < bundle / group; ++g) {
      Keys below[group / Vector::size];
      Keys inside[group / Vector::size];
      for (int v = 0; v < group / Vector::size; ++v) {
        const Keys vector = vector_at(g * group + v * Vector::size);
        below[v] = Vector::less(vector, from_);
        inside[v] = Vector::less(Vector::subtract(vector, first_), width_);
      }
      const uint8x16_t keep = vaddq_u8(Vector::bytes(below), vdupq_n_u8(1));
      vst1q_u8(keep_ + i + g * group, keep);
      kept = vaddq_u8(kept, keep);
      within[g] = Vector::bytes(inside);
    }
    const std::uint64_t found = bits(within);
    store_places(inside_ + counts_.inside, i, found);
    counts_.kept += vaddvq_u8(kept);
    counts_.inside += __builtin_popcountll(found);
  }

  BracketCounts counts() const noexcept { return counts_; }

 private:
  std::uint8_t* keep_;
  std::uint16_t* inside_;
  Keys from_, first_, width_;
  BracketCounts counts_{};
};

template <class Vector, class Key = typename Vector::Key>
BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys, std::int64_t n,
                      Key from, Key first, Key width) noexcept {
  Bracketing<Vector> bracketing(keep, inside, from, first, width);
  std::int64_t i = 0;
  for (; i + bundle <= n; i += bundle) {
    bracketing.add(i, [&](int v) { return Vector::load(keys + i + v); });
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
void threshold(std::uint8_t* keep, const Key* keys, std::int64_t n, Key cut,
               std::int64_t ties) noexcept {
  const auto cuts = Vector::all(cut);
  std::int64_t i = 0;
  for (; i + bundle <= n; i += bundle) {
    uint8x16_t tied_bytes[bundle / group];
    for (int g = 0; g < bundle / group; ++g) {
      typename Vector::Keys below[group / Vector::size];
      typename Vector::Keys equal[group / Vector::size];
      for (int v = 0; v < group / Vector::size; ++v) {
        const auto vector = Vector::load(keys + i + g * group + v * Vector::size);
        below[v] = Vector::less(vector, cuts);
        equal[v] = Vector::equal(vector, cuts);
      }
      vst1q_u8(keep + i + g * group, vaddq_u8(Vector::bytes(below), vdupq_n_u8(1)));
      tied_bytes[g] = Vector::bytes(equal);
    }
    std::uint64_t tied = bits(tied_bytes);
    for (; tied != 0 && ties > 0; --ties, tied &= tied - 1) keep[i + first_of(tied)] = 0;
  }
  scalar_selection<Key>().threshold(keep + i, keys + i, n - i, cut, ties);
}

/// For each key, how many keys of its block come before it: vectors are compared with rotations of
/// themselves, or, where a block is longer than a vector, of all vectors of the block.
template <class Vector, int width, class Key = typename Vector::Key>
std::int64_t zero_least(std::uint8_t* mask, const Key* keys, std::int64_t n,
                        std::int64_t zeros) noexcept {
  constexpr int span = width < Vector::size ? width : Vector::size;
  constexpr int vectors = group / Vector::size;
  constexpr int together = width / span;  // vectors of a block
  constexpr int item = static_cast<int>(sizeof(Key));
  uint8x16_t orders[span];
  typename Vector::Keys earlier[span];  // 1 where the other key stands before: it wins a tie
  for (int r = 0; r < span; ++r) {
    std::uint8_t order[16];
    Key first[Vector::size];
    for (int lane = 0; lane < Vector::size; ++lane) {
      const int place = lane % span;
      const int other = lane - place + (place + r) % span;
      for (int i = 0; i < item; ++i) {
        order[lane * item + i] = static_cast<std::uint8_t>(other * item + i);
      }
      first[lane] = place + r >= span ? 1 : 0;
    }
    orders[r] = load_bytes(order);
    earlier[r] = Vector::load(first);
  }
  const auto one = Vector::all(1);
  const auto wanted = Vector::all(static_cast<Key>(zeros));
  std::int64_t i = 0;
  for (; i + group <= n; i += group) {
    typename Vector::Keys pruned[vectors];
    for (int v = 0; v < vectors; ++v) {
      const auto vector = Vector::load(keys + i + v * Vector::size);
      const int begin = v - v % together;
      auto before = Vector::all(0);
      for (int w = begin; w < begin + together; ++w) {
        const auto others = Vector::load(keys + i + w * Vector::size);
        for (int r = w == v ? 1 : 0; r < span; ++r) {
          const auto bound = w == v  ? Vector::add(vector, earlier[r])
                             : w < v ? Vector::add(vector, one)
                                     : vector;
          const auto other = Vector::permute(orders[r], others);
          before = Vector::subtract(before, Vector::less(other, bound));
        }
      }
      pruned[v] = Vector::less(before, wanted);
    }
    vst1q_u8(mask + i, vaddq_u8(Vector::bytes(pruned), vdupq_n_u8(1)));
  }
  return i;
}

template <class Vector, class Key = typename Vector::Key>
void zero_least(std::uint8_t* mask, const Key* keys, std::int64_t blocks, std::int64_t width,
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
  static Sums zero() noexcept { return vdupq_n_f32(0); }
  static Sums add(Sums a, Sums b) noexcept { return vaddq_f32(a, b); }
  static Sums absolute(Sums x) noexcept { return vabsq_f32(x); }
  static Sums multiply(Sums a, Sums b) noexcept { return vmulq_f32(a, b); }
  static Sums multiply(Sums a, float b) noexcept { return vmulq_n_f32(a, b); }
  static Sums divide(Sums a, float b) noexcept { return vdivq_f32(a, vdupq_n_f32(b)); }
  static uint32x4_t key(Sums mean) noexcept {
    return vminq_u32(vreinterpretq_u32_f32(absolute(mean)), Vector32::all(KeyTraits<Key>::nan));
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

  /// The same for two vectors of four blocks of two elements.
  static void transpose_pairs(Sums* v) noexcept {
    const Sums first = vuzp1q_f32(v[0], v[1]);
    v[1] = vuzp2q_f32(v[0], v[1]);
    v[0] = first;
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
  static Sums widen(uint16x4_t halves) noexcept {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(halves), 16));
  }
};

struct Float16 : Halves<Float16> {
  static constexpr int dtype = 0;
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
  static Sums zero() noexcept { return vdupq_n_f64(0); }
  static Sums add(Sums a, Sums b) noexcept { return vaddq_f64(a, b); }
  static Sums absolute(Sums x) noexcept { return vabsq_f64(x); }
  static Sums multiply(Sums a, Sums b) noexcept { return vmulq_f64(a, b); }
  static Sums multiply(Sums a, double b) noexcept { return vmulq_n_f64(a, b); }
  static Sums divide(Sums a, double b) noexcept { return vdivq_f64(a, vdupq_n_f64(b)); }
  static uint64x2_t key(Sums mean) noexcept {
    const uint64x2_t bits = vreinterpretq_u64_f64(absolute(mean));
    const uint64x2_t nan = Vector64::all(KeyTraits<Key>::nan);
    return vbslq_u64(Vector64::less(bits, nan), bits, nan);
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
};

template <class Element, int norm>
typename Element::Sums magnitude(typename Element::Sums x) noexcept {
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
  explicit Mean(std::int64_t elements) noexcept
      : elements_(static_cast<typename Element::Number>(elements)),
        is_power_of_two_((elements & (elements - 1)) == 0) {}
  typename Element::Sums of(typename Element::Sums sums) const noexcept {
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
  explicit Narrow(const Blocks& blocks) noexcept : blocks_(blocks), mean_(blocks.rows * width) {}
  auto keys_at(std::int64_t block) const noexcept {
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
        if constexpr (together == size) {
          Element::transpose(v);
        } else if constexpr (together == 2) {
          Element::transpose_pairs(v);
        }
        for (int t = 0; t < together; ++t) sums = Element::add(sums, v[t]);
      }
    }
    return Element::key(mean_.of(sums));
  }

 private:
  const Blocks& blocks_;
  Mean<Element> mean_;
};

/// The same for blocks of one element.
template <class Element, int norm>
class Single {
 public:
  explicit Single(const Blocks& blocks) noexcept : data_(blocks.data) {}
  auto keys_at(std::int64_t block) const noexcept {
    return Element::key(magnitude<Element, norm>(Element::load(data_ + block * Element::item)));
  }

 private:
  const std::byte* data_;
};

/// Calls work(keys) with the Single or Narrow that suits the blocks; if there is none, returns 0,
/// else what work returns.
template <class Element, int norm, class Work>
std::int64_t with_fast_keys(const Blocks& blocks, const Work& work) noexcept {
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
void score_any(typename Element::Key* keys, const Blocks& blocks, std::int64_t n,
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
    Element::Vector::store(found, Element::key(mean.of(sums)));
    for (std::int64_t t = 0; t < together; ++t) keys[b + t] = found[t];
  }
}

template <class Element, int norm>
void score(void* out, const Blocks& blocks) noexcept {
  auto* const keys = static_cast<typename Element::Key*>(out);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) {
    std::int64_t b = 0;
    for (; b + Element::size <= blocks.count; b += Element::size) {
      Element::Vector::store(keys + b, fast.keys_at(b));
    }
    return b;
  });
  score_any<Element, norm>(keys + done, blocks, blocks.count - done,
                           [&](std::int64_t b) { return blocks.data + (done + b) * blocks.step; });
}

template <class Element, int norm>
void score_at(void* out, const Blocks& blocks, const std::uint16_t* places,
              std::int64_t n) noexcept {
  score_any<Element, norm>(static_cast<typename Element::Key*>(out), blocks, n,
                           [&](std::int64_t i) { return blocks.data + places[i] * blocks.step; });
}

/// Each vector of keys is compared as soon as it is there. Nothing branches on the data, so that
/// the processor reads far ahead.
template <class Element, int norm>
BracketCounts bracket_blocks(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                             std::uint64_t from, std::uint64_t first, std::uint64_t width,
                             Store) noexcept {
  using Vector = typename Element::Vector;
  using Key = typename Element::Key;
  const Key bounds[3] = {static_cast<Key>(from), static_cast<Key>(first), static_cast<Key>(width)};
  Bracketing<Vector> bracketing(keep, inside, bounds[0], bounds[1], bounds[2]);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) {
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      bracketing.add(b, [&](int v) { return fast.keys_at(b + v); });
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
void repeat(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n) noexcept {
  constexpr int taken = 16 / times;
  std::uint8_t order[16];
  for (int i = 0; i < 16; ++i) order[i] = static_cast<std::uint8_t>(i / times);
  const uint8x16_t pattern = load_bytes(order);
  std::int64_t i = 0;
  for (; i + taken <= n; i += taken) {
    std::uint64_t eight = 0;
    __builtin_memcpy(&eight, bytes + i, taken);
    const uint8x16_t few = vreinterpretq_u8_u64(vdupq_n_u64(eight));
    vst1q_u8(out + i * times, vqtbl1q_u8(few, pattern));
  }
  scalar_kernels().repeat(out + i * times, bytes + i, n - i, times);
}

void repeat_any(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n,
                std::int64_t times) noexcept {
  switch (times) {
    case 1:
      if (n > 0) __builtin_memcpy(out, bytes, static_cast<std::size_t>(n));
      return;
    case 2: return repeat<2>(out, bytes, n);
    case 4: return repeat<4>(out, bytes, n);
    case 8: return repeat<8>(out, bytes, n);
    default: return scalar_kernels().repeat(out, bytes, n, times);
  }
}

std::int64_t count_zeros(const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t zeros = 0;
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    zeros -= vaddvq_s8(vreinterpretq_s8_u8(vceqzq_u8(load_bytes(bytes + i))));
  return zeros + scalar_kernels().count_zeros(bytes + i, n - i);
}

/// In each half, bit i alone is set in byte i.
uint8x16_t bit_of_byte() noexcept { return vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201U)); }

void pack(std::uint8_t* bits, const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const uint8x16_t vector = load_bytes(bytes + i);
    const uint8x16_t ones = vandq_u8(vtstq_u8(vector, vector), bit_of_byte());
    bits[i / 8] = vaddv_u8(vget_low_u8(ones));
    bits[i / 8 + 1] = vaddv_u8(vget_high_u8(ones));
  }
  scalar_kernels().pack(bits + i / 8, bytes + i, n - i);
}

void unpack(std::uint8_t* bytes, const std::uint8_t* bits, std::int64_t n, Store store) noexcept {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const uint8x16_t spread = vcombine_u8(vdup_n_u8(bits[i / 8]), vdup_n_u8(bits[i / 8 + 1]));
    vst1q_u8(bytes + i, vandq_u8(vtstq_u8(spread, bit_of_byte()), vdupq_n_u8(1)));
  }
  scalar_kernels().unpack(bytes + i, bits + i / 8, n - i, store);
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
  table.name = "neon";
  use<Vector32>(table.select32);
  use<Vector64>(table.select64);
  use<Float16>(table);
  use<BFloat16>(table);
  use<Float32>(table);
  use<Float64>(table);
  table.repeat = repeat_any;
  table.count_zeros = count_zeros;
  table.pack = pack;
  table.unpack = unpack;
  return table;
}

}  // namespace

const Kernels& neon_kernels() noexcept {
  static const Kernels table = make_table();
  return table;
}

}  // namespace datasparse
