/// The table of kernels: everything that touches elements one by one.
///
/// Kernels are plain: noexcept, raw pointers, no allocation, no check; they rely on what the layer
/// above has checked. One file per instruction set fills one table; dispatch.cpp chooses. Every
/// table gives the same bits as the scalar one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace datasparse {

constexpr int dtype_count = 4;  // in the order of DType
constexpr int norm_count = 3;   // in the order of Norm

/// Scores are means of |x|, of x·x or of x, taken in float (double for float64 data). Keys order as
/// unsigned integers as scores do, of whatever norm. That of a score that is not below 0 is its bit
/// pattern with the highest bit set; that of one below 0 lies as far below the key of 0 as that of
/// its magnitude above. So −0 is +0, and Inf is above all numbers; every NaN is made the same key,
/// above Inf.
template <class Key>
struct KeyTraits;
template <>
struct KeyTraits<std::uint32_t> {
  using Score = float;
  static constexpr int bits = 32;
  static constexpr int fraction_bits = 23;
  static constexpr std::uint32_t zero = 0x80000000U;
  static constexpr std::uint32_t nan = 0xFF800001U;
};
template <>
struct KeyTraits<std::uint64_t> {
  using Score = double;
  static constexpr int bits = 64;
  static constexpr int fraction_bits = 52;
  static constexpr std::uint64_t zero = 0x8000000000000000ULL;
  static constexpr std::uint64_t nan = 0xFFF0000000000001ULL;
};

/// What splitting keys by a range [lo, hi) found: how many lie below it, and how many inside.
struct SplitCounts {
  std::int64_t below, inside;
};

/// How bytes of a mask are written: past the cache where they are not read again soon, as far as
/// they are aligned. Other threads see those after the next fence only.
enum class Store : bool { ordinary, past_cache };

/// bracket() may write so many places beyond the last one found.
constexpr std::int64_t places_slack = 64;

/// What a pass over a tile found: how many keys it kept, and how many are candidates.
struct BracketCounts {
  std::int64_t kept, inside;
};

/// The same, and how many keys equal the one before the candidates, and the one behind them.
struct BracketEndCounts {
  BracketCounts counts;
  std::int64_t before, behind;
};

template <class Key>
struct SelectionKernels {
  using Score = typename KeyTraits<Key>::Score;

  /// keys[i] = key of sums[i] / elements, for i in [0, n).
  void (*make_keys)(Key* keys, const Score* sums, std::int64_t n, std::int64_t elements) noexcept;

  /// ++counts[(key >> shift) & (2^bits − 1)] for every key with key >> (shift + bits) == prefix.
  void (*histogram)(std::int64_t* counts, const Key* keys, std::int64_t n, Key prefix, int shift,
                    int bits) noexcept;

  /// How many keys are less than `pivot`.
  std::int64_t (*count_below)(const Key* keys, std::int64_t n, Key pivot) noexcept;

  /// How many keys equal `key`.
  std::int64_t (*count_equal)(const Key* keys, std::int64_t n, Key key) noexcept;

  /// Copies the keys in [lo, hi) to `out`, in order, up to `room` of them, and counts them all.
  /// Writes nothing beyond the last one copied. `out` may be `keys`.
  SplitCounts (*split)(Key* out, std::int64_t room, const Key* keys, std::int64_t n, Key lo,
                       Key hi) noexcept;

  /// keep[i] = keys[i] >= from. The places of the `width` keys from `first` on go to `inside`, in
  /// order; n <= 65536, and `inside` has room for n + places_slack.
  BracketCounts (*bracket)(std::uint8_t* keep, std::uint16_t* inside, const Key* keys,
                           std::int64_t n, Key from, Key first, Key width) noexcept;

  /// keep[i] = 0 for the keys below `threshold` and the first `ties` of those that equal it,
  /// else 1.
  void (*threshold)(std::uint8_t* keep, const Key* keys, std::int64_t n, Key threshold,
                    std::int64_t ties) noexcept;

  /// mask[i] = 0 for the `zeros` least of each `width` keys, the first of equal ones, else 1. The
  /// width is 2, 4, 8 or 16; 0 < zeros < width.
  void (*zero_least)(std::uint8_t* mask, const Key* keys, std::int64_t blocks, std::int64_t width,
                     std::int64_t zeros) noexcept;

  /// The same for columns of `height` keys: rows lie `pitch` keys apart, and those of the mask
  /// `mask_pitch` bytes. The height is 2 at least, and small; 0 < zeros < height.
  void (*zero_least_down)(std::uint8_t* mask, std::ptrdiff_t mask_pitch, const Key* keys,
                          std::int64_t pitch, std::int64_t columns, std::int64_t height,
                          std::int64_t zeros) noexcept;

  /// keys[i] = nan + 1 where eligible[i] is 0: of blocks that may not be chosen. Elsewhere it is 1.
  void (*rank_others)(Key* keys, const std::uint8_t* eligible, std::int64_t n) noexcept;

  /// The keys of n elements as they rank within their blocks: what is pruned whatever they say
  /// comes first. `drops`: of what survives some are dropped; else what does not may grow, and what
  /// does becomes nan + 1.
  void (*rank_within)(Key* keys, const std::uint8_t* states, std::int64_t n, bool drops) noexcept;
};

/// Blocks in memory: `rows` × `width` elements each. The elements of a row follow each other
/// without a gap, rows are `pitch` bytes apart, and blocks `step` bytes.
struct Blocks {
  const std::byte* data;
  std::ptrdiff_t pitch, step;
  std::int64_t count, rows, width;
};

struct Kernels {
  const char* name;

  /// The keys of blocks: of the mean of |x|, x·x or x, summed row by row, one element after
  /// another. `keys` is uint32_t*, uint64_t* for float64.
  using Score = void (*)(void* keys, const Blocks& blocks) noexcept;
  Score score[dtype_count][norm_count];

  /// The same of n of the blocks only: those at `places`. nullptr where bracket() is nullptr.
  using ScoreAt = void (*)(void* keys, const Blocks& blocks, const std::uint16_t* places,
                           std::int64_t n) noexcept;
  ScoreAt score_at[dtype_count][norm_count];

  /// SelectionKernels::bracket for the keys of blocks, which are never in memory: the pass over
  /// large data. The bounds are as wide as the keys of the data. nullptr for values as they are, of
  /// no norm, if they are not float32: these are rare, and score() and SelectionKernels do.
  using Bracket = BracketCounts (*)(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                                    std::uint64_t from, std::uint64_t first, std::uint64_t width,
                                    Store store) noexcept;
  Bracket bracket[dtype_count][norm_count];

  /// bracket() that also counts the keys that equal first - 1, and first + width. nullptr where
  /// score() and SelectionKernels do as well.
  using BracketEnds = BracketEndCounts (*)(std::uint8_t* keep, std::uint16_t* inside,
                                           const Blocks& blocks, std::uint64_t from,
                                           std::uint64_t first, std::uint64_t width,
                                           Store store) noexcept;
  BracketEnds bracket_ends[dtype_count][norm_count];

  /// bracket() for blocks side by side whose mask is all 0 or all 1, written in place of `keep`:
  /// its rows lie `pitch` bytes apart. nullptr where bracket() and repeat() do as well.
  using BracketMask = BracketCounts (*)(std::uint8_t* mask, std::ptrdiff_t pitch,
                                        std::uint16_t* inside, const Blocks& blocks,
                                        std::uint64_t from, std::uint64_t first,
                                        std::uint64_t width, Store store) noexcept;
  BracketMask bracket_mask[dtype_count][norm_count];

  /// SelectionKernels::zero_least for the keys of elements that follow each other without a gap,
  /// which are never in memory. The width is 2, 4 or 8. nullptr in the scalar table, and for norms
  /// that are rare.
  using ZeroLeast = void (*)(std::uint8_t* mask, const std::byte* data, std::int64_t blocks,
                             std::int64_t width, std::int64_t zeros, Store store) noexcept;
  ZeroLeast zero_least[dtype_count][norm_count];

  /// sums[(phase + i) / block_width] += |x_i|, x_i·x_i or x_i for i in [0, n), one after another.
  /// `sums` is float*, double* for float64. x_i lies at src + i × stride bytes, at any alignment. 0
  /// <= phase < block_width. For what score() cannot take, and in no hurry.
  using Accumulate = void (*)(void* sums, const std::byte* src, std::ptrdiff_t stride,
                              std::int64_t n, std::int64_t phase,
                              std::int64_t block_width) noexcept;
  Accumulate accumulate[dtype_count][norm_count];

  SelectionKernels<std::uint32_t> select32;
  SelectionKernels<std::uint64_t> select64;

  /// Copies n elements of 4 bytes that lie `stride` bytes apart to one after another.
  void (*copy_run)(std::byte* out, const std::byte* in, std::ptrdiff_t stride,
                   std::int64_t n) noexcept;

  /// Copies `rows` × `columns` elements of 4 bytes whose columns lie `stride` bytes apart, each
  /// without a gap, to rows without gaps that lie `pitch` bytes apart.
  void (*transpose)(std::byte* out, std::ptrdiff_t pitch, const std::byte* in,
                    std::ptrdiff_t stride, std::int64_t rows, std::int64_t columns) noexcept;

  /// out[c × out_pitch + r] = in[r × in_pitch + c] for r in [0, rows) and c in [0, columns): of
  /// bytes that are 0 or 1. The buffers do not overlap.
  void (*transpose_mask)(std::uint8_t* out, std::ptrdiff_t out_pitch, const std::uint8_t* in,
                         std::ptrdiff_t in_pitch, std::int64_t rows, std::int64_t columns) noexcept;

  /// Writes each of `n` bytes `times` times, one after another. The buffers do not overlap.
  void (*repeat)(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n,
                 std::int64_t times) noexcept;

  /// Writes zero bytes over the i-th element where mask[i] is 0, for i in [0, n), and nothing else.
  /// Elements lie at dst + i × stride bytes, at any alignment.
  void (*zero_masked[dtype_count])(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                                   std::int64_t n) noexcept;

  /// How many of n bytes are 0.
  std::int64_t (*count_zeros)(const std::uint8_t* bytes, std::int64_t n) noexcept;

  /// Eight bytes to one, the first in the lowest bit, which is set where the byte is not 0. The
  /// last one is filled up with zeros.
  void (*pack)(std::uint8_t* bits, const std::uint8_t* bytes, std::int64_t n) noexcept;

  /// The inverse of pack(): n bytes, of 0 and 1.
  void (*unpack)(std::uint8_t* bytes, const std::uint8_t* bits, std::int64_t n,
                 Store store) noexcept;

  /// expand_bits() for elements of two bytes, as long as there are so many values to read at once:
  /// returns how many elements it has done, a multiple of 8. `values` end at `end`, and are never
  /// before the elements that get them.
  std::int64_t (*expand)(std::byte* data, const std::byte* values, const std::byte* end,
                         const std::uint8_t* bits, std::int64_t n) noexcept;

  /// keys[i] = the key of 0, and above it the highest 30 bits of mixed(stream + (first + i) × odd):
  /// base/random.hpp, where the constant is. The same bits everywhere.
  void (*draw)(std::uint32_t* keys, std::uint64_t stream, std::int64_t first,
               std::int64_t n) noexcept;

  /// Replaces n marks: by 1 where the block may be chosen, among the active ones or, `inactive`,
  /// among the others; else by 0. tiles/choice.hpp has the bits.
  void (*find_eligible)(std::uint8_t* states, std::int64_t n, bool inactive) noexcept;
  /// Marks those of n blocks that may be chosen: as dropped where keep[i] is 0, or, `inactive`, as
  /// grown where it is 1; and takes the mark from the others. keep[i] is 0 or 1.
  void (*mark)(std::uint8_t* states, const std::uint8_t* keep, std::int64_t n,
               bool inactive) noexcept;
  /// Makes of n marks what the mask keeps; old[i] = 0 where that is new; active[i] = whether it is
  /// kept, or, with `before`, was active before. Whether any is new.
  bool (*unmark)(std::uint8_t* states, std::uint8_t* old, std::uint8_t* active, std::int64_t n,
                 bool before) noexcept;
};

/// The one symbol of scalar.cpp.
const Kernels& scalar_kernels() noexcept;

#if defined(__x86_64__)
/// The one symbol of avx512.cpp. To be called where the processor has AVX-512 F, BW, VL, DQ and
/// VBMI2.
const Kernels& avx512_kernels() noexcept;

/// The one symbol of avx2.cpp. To be called where the processor has AVX2, BMI1, F16C and POPCNT.
const Kernels& avx2_kernels() noexcept;
#elif defined(__aarch64__)
/// The one symbol of neon.cpp. Every such processor has NEON.
const Kernels& neon_kernels() noexcept;
#endif

/// The tables that run on this machine, best first, up to a nullptr.
struct KernelList {
  const Kernels* tables[4];
  const Kernels* const* begin() const noexcept { return tables; }
  const Kernels* const* end() const noexcept {
    const Kernels* const* last = tables;
    while (*last != nullptr) ++last;
    return last;
  }
};
KernelList available_kernels() noexcept;

/// The table in use: the best one, or the one that DATASPARSE_ISA names. ValueError where it names
/// none that is available.
const Kernels& kernels();

}  // namespace datasparse
