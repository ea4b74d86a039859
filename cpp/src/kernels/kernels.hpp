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
constexpr int norm_count = 2;   // in the order of Norm

/// Scores are sums of |x| or x·x, taken in float (double for float64 data). Keys are their bit
/// patterns: for numbers without a sign these order as unsigned integers, Inf above all numbers,
/// and every NaN is made the same key, above Inf.
template <class Key>
struct KeyTraits;
template <>
struct KeyTraits<std::uint32_t> {
  using Score = float;
  static constexpr int bits = 31;
  static constexpr std::uint32_t nan = 0x7F800001U;
};
template <>
struct KeyTraits<std::uint64_t> {
  using Score = double;
  static constexpr int bits = 63;
  static constexpr std::uint64_t nan = 0x7FF0000000000001ULL;
};

/// The least and the greatest of some keys.
template <class Key>
struct KeyRange {
  Key least, greatest;
};

/// How many keys lie where relative to a bracket [lo, hi]. Counts of parts add up.
struct BracketCounts {
  std::int64_t below, at_lo, inside, at_hi;  // key < lo; == lo; lo < key < hi; == hi > lo
};

template <class Key>
struct SelectionKernels {
  using Score = typename KeyTraits<Key>::Score;

  /// keys[i] = key of sums[i] / elements, for i in [0, n).
  void (*make_keys)(Key* keys, const Score* sums, std::int64_t n, std::int64_t elements) noexcept;

  /// ++counts[(key >> shift) & (2^bits − 1)] for every key with key >> (shift + bits) == prefix.
  void (*histogram)(std::int64_t* counts, const Key* keys, std::int64_t n, Key prefix, int shift,
                    int bits) noexcept;

  /// The least and the greatest of n >= 1 keys.
  KeyRange<Key> (*range)(const Key* keys, std::int64_t n) noexcept;

  /// How many keys are less than `pivot`.
  std::int64_t (*count_below)(const Key* keys, std::int64_t n, Key pivot) noexcept;

  /// Copies the keys in [lo, hi) to `out`, in order, and nothing beyond them. `out` may be `keys`.
  void (*keep_range)(Key* out, const Key* keys, std::int64_t n, Key lo, Key hi) noexcept;

  /// keep[i] = keys[i] > lo. The places of the keys between lo and hi go to `inside`, in order;
  /// n <= 4096, and `inside` has room for n.
  BracketCounts (*bracket)(std::uint8_t* keep, std::uint16_t* inside, const Key* keys,
                           std::int64_t n, Key lo, Key hi) noexcept;

  /// How many keys equal `key`.
  std::int64_t (*count_equal)(const Key* keys, std::int64_t n, Key key) noexcept;

  /// keep[i] = 0 for the keys below `threshold` and the first `ties` of those that equal it,
  /// else 1.
  void (*threshold)(std::uint8_t* keep, const Key* keys, std::int64_t n, Key threshold,
                    std::int64_t ties) noexcept;
};

struct Kernels {
  const char* name;

  /// sums[(phase + i) / block_width] += |x_i| or x_i·x_i for i in [0, n), one after another. `sums`
  /// is float*, double* for float64. x_i lies at src + i × stride bytes, at any alignment. 0 <=
  /// phase < block_width.
  using Accumulate = void (*)(void* sums, const std::byte* src, std::ptrdiff_t stride,
                              std::int64_t n, std::int64_t phase,
                              std::int64_t block_width) noexcept;
  Accumulate accumulate[dtype_count][norm_count];

  SelectionKernels<std::uint32_t> select32;
  SelectionKernels<std::uint64_t> select64;

  /// Writes zero bytes over the i-th element where mask[i] is 0, for i in [0, n), and nothing else.
  /// Elements lie at dst + i × stride bytes, at any alignment.
  void (*zero_masked[dtype_count])(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                                   std::int64_t n) noexcept;
};

/// The one symbol of scalar.cpp.
const Kernels& scalar_kernels() noexcept;

#if defined(__x86_64__)
/// The one symbol of avx512.cpp. To be called where the processor has AVX-512 F, BW, VL and DQ.
const Kernels& avx512_kernels() noexcept;
#endif

/// The tables that run on this machine, best first, up to a nullptr.
struct KernelList {
  const Kernels* tables[3];
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
