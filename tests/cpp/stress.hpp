/// Cases that are hard on the mask engine, and what is right for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "base/layout.hpp"
#include "select/cut_hint.hpp"
#include "select/limits.hpp"
#include "select/mask_engine.hpp"
#include "support.hpp"

namespace datasparse {
constexpr bool limits_are_small = in_memory_max < 1000;

/// How many cases a test runs: of the ci tier, or all.
inline bool is_full() { return std::getenv("DATASPARSE_FULL") != nullptr; }
inline int cases(int ci, int full) { return (is_full() ? full : ci) / slowdown; }

/// Data, what is asked of them, and the mask between bytes that nobody may touch.
struct Case {
  Tensor tensor;
  BlockSpec spec;
  std::size_t misalignment = 0;
  Bytes buffer;
  Bytes expected;
  CutHint* hint = nullptr;
  Axes layout{};
  reference::Past past{};  // a mask before, and what stays zero
  Bytes stays_zero{};      // the latter in bits

  static constexpr std::size_t guard = 128;
  static constexpr std::uint8_t untouched = 0xA5;

  MaskJob job() {
    const ArrayView view = tensor.view();
    buffer.assign(guard + misalignment + static_cast<std::size_t>(view.size()) + guard, untouched);
    std::uint8_t* const mask = buffer.data() + guard + misalignment;
    std::copy(past.mask.begin(), past.mask.end(), mask);
    stays_zero = packed_bits(past.stays_zero);
    return {view,   spec.resolved(viewed_shape(view.shape(), layout)), mask, hint,
            layout, stays_zero.empty() ? nullptr : stays_zero.data()};
  }
  void expect() { expected = reference::mask(tensor.view(), rules_of(spec), layout, past); }
  /// What is wrong, "" if nothing is.
  std::string fault() {
    const auto is_untouched = [](std::uint8_t byte) { return byte == untouched; };
    const auto begin = buffer.begin() + static_cast<std::ptrdiff_t>(guard + misalignment);
    const auto end = begin + static_cast<std::ptrdiff_t>(tensor.size());
    if (!std::all_of(buffer.begin(), begin, is_untouched)) return "wrote before the mask";
    if (!std::all_of(end, buffer.end(), is_untouched)) return "wrote past the mask";
    return difference(Bytes(begin, end), expected);
  }
};

/// The bits of a number that is representable, or of one near it.
inline std::uint64_t bits_of(DType dtype, double x) {
  if (dtype == DType::float64) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
  }
  const auto narrow = static_cast<float>(x);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &narrow, sizeof(bits));
  if (dtype == DType::float32) return bits;
  if (dtype == DType::bfloat16) return bits >> 16;
  if (std::isnan(x)) return 0x7E00;
  if (std::abs(x) >= 65536) return x > 0 ? 0x7C00 : 0xFC00;
  if (x == 0) return 0;
  int exponent = 0;
  const double fraction = std::frexp(std::abs(x), &exponent);  // in [0.5, 1)
  if (exponent < -13) return static_cast<std::uint64_t>(std::abs(x) * 0x1p24);
  return compose(dtype, x < 0, static_cast<std::uint64_t>(exponent + 14),
                 static_cast<std::uint64_t>((2 * fraction - 1) * 1024));
}

/// Numbers for the blocks of a tensor in turn: hard on a selection by sampling.
class HardValues {
 public:
  HardValues(std::int64_t n, double level, Random& random)
      : n_(n), level_(level), kind_(random.below(kinds)), random_(random) {
    distinct_ = std::int64_t{1} << random.below(10);
    spike_ = random.one_in(2) ? 0 : 2;
    period_ = random.between(2, 300);
    length_ = random.between(1, period_);
    steps_ = random.between(1, 40);
    share_ = random.one_in(2) ? random.unit() : level;
    seed_ = random.bits();
  }

  double operator()(std::int64_t i) {
    const double unit = random_.unit();
    switch (kind_) {
      case 0: return unit;
      case 1: return static_cast<double>(random_.below(distinct_));
      case 2: return static_cast<double>(i);
      case 3: return static_cast<double>(n_ - i);
      case 4: return 1;
      case 5: return random_.unit() < share_ ? 1 : 2;                 // the cut near a border
      case 6: return random_.unit() < share_ ? spike_ : unit + 0.01;  // a tie class and others
      case 7: return i % period_ < length_ ? spike_ : unit;           // beside the sample's places
      case 8: return i % period_ < length_ ? 1 + unit / 1e3 : unit * 2;
      case 9: return static_cast<double>(i * steps_ / n_);              // few steps, sorted
      case 10: return static_cast<double>((n_ - i - 1) * steps_ / n_);  // and reversed
      case 11: {  // a cluster narrower than the bracket, at the cut
        const double place = random_.unit();
        if (std::abs(place - level_) > 0.05) return place < level_ ? unit : 3 + unit;
        return 2 + static_cast<double>(random_.below(distinct_)) * 0x1p-10;
      }
      case 12: return run_value(i / 16);  // whole lines alike
      case 13:
        return random_.unit() < share_ ? std::numeric_limits<double>::quiet_NaN()
               : random_.one_in(8)     ? std::numeric_limits<double>::infinity()
                                       : unit;
      case 14: return i < n_ / 4 ? spike_ : unit;  // one piece differs
      case 15: {                                   // three classes that the cut's ends fall into
        const double place = random_.unit();
        return place < level_ - 0.02 ? unit : place < level_ ? 2 : place < level_ + 0.02 ? 3 : 4;
      }
      case 16: return i == n_ / 3 ? 6e4 : unit;
      case 17: return i % period_ == 0 ? 1 : unit;
      default: {  // neighbours in value, a handful of each
        return 1 + static_cast<double>(random_.below(n_ / 3 + 1)) / static_cast<double>(n_);
      }
    }
  }

 private:
  static constexpr std::int64_t kinds = 19;

  double run_value(std::int64_t run) const {
    const auto hash = (static_cast<std::uint64_t>(run) + seed_) * 0x9E3779B97F4A7C15ULL;
    return static_cast<double>(hash >> 40);
  }

  std::int64_t n_;
  double level_;
  std::int64_t kind_;
  Random& random_;
  std::int64_t distinct_, period_, length_, steps_;
  double spike_, share_;
  std::uint64_t seed_;
};

/// Every element of a block has about the block's number, so that the blocks are as hard as these.
inline void fill_hard(Tensor& tensor, const BlockSpec& spec, std::int64_t rows,
                      std::int64_t columns, Random& random) {
  const std::int64_t height = spec.block_height == -1 ? rows : spec.block_height;
  const std::int64_t width = spec.block_width == -1 ? columns : spec.block_width;
  const std::int64_t across = (columns + width - 1) / width;
  const std::int64_t down = (rows + height - 1) / height;
  HardValues value(across * down, spec.sparsity_level, random);
  std::vector<double> blocks;
  for (std::int64_t b = 0; b < across * down; ++b) blocks.push_back(value(b));
  const bool alike = random.one_in(2);
  const double negative = random.pick<double>({0, 0, 0.5, 0.5, 0.9, 0.999});
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const std::int64_t b = i / columns / height * across + i % columns / width;
    double x = blocks[static_cast<std::size_t>(b)];
    if (!alike && random.one_in(3)) x *= static_cast<double>(random.below(4));
    if (random.unit() < negative) x = -x;
    tensor.set_bits(i, bits_of(tensor.dtype(), x));
  }
}

/// Near where the engine goes another way.
inline std::int64_t hard_count(Random& random) {
  switch (random.below(8)) {
    case 0: return random.between(1, 40);
    case 1: return in_memory_max + random.between(-1, 2);
    case 2: return tile_blocks_max * random.between(1, 4) + random.between(-1, 1);
    case 3: return parallel_from + random.between(-1, limits_are_small ? 500 : 1);
    default:
      return random.between(in_memory_max + 1,
                            limits_are_small ? 16 * in_memory_max : 2 * in_memory_max);
  }
}

inline double hard_level(Random& random, std::int64_t blocks) {
  const auto n = static_cast<double>(blocks);
  switch (random.below(8)) {
    case 0: return random.one_in(2) ? 0 : 1;
    case 1: return 1 / n;
    case 2: return std::max(0., (n - 1) / n);
    case 3: return static_cast<double>(random.between(1, 9)) / 10;
    case 4: return 0.5;
    default: return random.unit();
  }
}

/// Now and then of any shape, up to some that are selections of their own.
inline std::pair<std::int64_t, std::int64_t> hard_block(Random& random) {
  static const std::vector<std::pair<std::int64_t, std::int64_t>> shapes{
      {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 2}, {1, 4},  {1, 8}, {1, 16}, {4, 4},  {8, 8}, {2, 1},
      {4, 1}, {3, 5}, {1, 3}, {7, 1}, {2, 2}, {1, 17}, {5, 9}, {-1, 1}, {1, -1}, {6, 6}, {33, 2}};
  constexpr std::int64_t longest = limits_are_small ? 50 : 300;
  if (random.one_in(10)) return {random.between(1, longest), random.between(1, longest)};
  return random.pick(shapes);
}

/// Makes it monotone, after a mask that the same rule has made of other data or at another level,
/// or that somebody has made by hand.
inline void add_past(Case& one, Random& random) {
  const std::size_t n = static_cast<std::size_t>(one.tensor.size());
  if (random.one_in(4)) {
    const std::int64_t share = random.between(1, 50);
    for (std::size_t i = 0; i < n; ++i) one.past.mask.push_back(random.one_in(share) ? 0 : 1);
  } else {
    BlockSpec before = one.spec;
    before.sparsity_level = std::clamp(before.sparsity_level + random.unit() - 0.5, 0., 1.);
    if (before.zeros_per_block && random.one_in(2)) {
      before.zeros_per_block = random.between(0, *before.zeros_per_block);
    }
    Tensor other = one.tensor;
    for (std::int64_t i = 0; i < other.size(); ++i) {
      if (random.one_in(10)) other.set_bits(i, one.tensor.bits(random.below(other.size())));
    }
    reference::Past none;
    none.stays_zero = one.past.stays_zero;
    one.past.mask = reference::mask(other.view(), rules_of(before), one.layout, none);
  }
  one.spec.monotone = true;
}

/// Up to `elements` of them.
inline Case random_case(Random& random, std::int64_t elements_max) {
  const auto [height, width] = hard_block(random);
  std::int64_t elements = hard_count(random);
  elements *= std::abs(height * width);
  elements = std::min(elements, elements_max);
  std::int64_t rows = 1;
  switch (random.below(4)) {
    case 0: rows = 1; break;
    case 1: rows = random.between(1, 40); break;
    case 2:
      rows = std::max<std::int64_t>(
          1, static_cast<std::int64_t>(std::sqrt(static_cast<double>(elements))) +
                 random.between(-3, 3));
      break;
    default: rows = std::max<std::int64_t>(1, elements / random.between(1, 40)); break;
  }
  const std::int64_t columns = std::max<std::int64_t>(1, elements / rows);
  Axes shape{rows, columns};
  if (rows == 1 && random.one_in(2)) shape = Axes{columns};
  if (columns > 8 && random.one_in(5)) {
    const std::int64_t inner = random.between(2, 7);
    shape = random.one_in(2) ? Axes{rows, columns / inner, inner}
                             : Axes{rows, columns / (2 * inner) + 1, 2, inner};
  }

  const DType dtype = random.one_in(3) ? DType::float32 : random.pick(all_dtypes);
  const bool strided = random.one_in(3);
  Tensor tensor =
      strided ? Tensor(dtype, shape, random_strides(random, dtype, shape, false), random.below(9))
              : Tensor(dtype, shape);
  if (!strided && shape.size() == 2 && random.one_in(6)) {  // transposed
    const auto item = static_cast<std::int64_t>(item_size(dtype));
    tensor = Tensor(dtype, shape, Axes{item, item * rows});
  }
  Axes layout;
  if (shape.size() > 1 && random.one_in(3)) layout = random_permutation(random, shape.size());
  const std::int64_t all_columns = tensor.size() / rows;
  const std::int64_t viewed_rows = viewed_shape(shape, layout)[0];
  const std::int64_t viewed_columns = shape.size() > 1 ? tensor.size() / viewed_rows : all_columns;
  const std::int64_t h = height == -1 ? (shape.size() > 1 ? viewed_rows : 1) : height;
  const std::int64_t w = width == -1 ? viewed_columns : width;
  const std::int64_t blocks = ((rows + h - 1) / h) * ((all_columns + w - 1) / w);
  std::optional<std::int64_t> zeros;
  if (h * w > 1 && random.one_in(3)) {
    zeros = random.between(0, std::min<std::int64_t>(h * w, 4 * small_block_max));
  }
  BlockSpec chosen = spec(hard_level(random, blocks), height, width, zeros,
                          random.pick<Norm>({Norm::L1, Norm::L2, Norm::none}));
  if (random.one_in(12)) chosen.min_kept = random.between(1, blocks);
  if (random.one_in(12)) {
    fill(tensor, random_kind(random), random);
  } else {
    fill_hard(tensor, chosen, rows, all_columns, random);
  }
  Case result{std::move(tensor), chosen, static_cast<std::size_t>(random.below(70)), {}, {}};
  result.layout = layout;
  if (random.one_in(8)) {
    for (std::int64_t i = 0; i < result.tensor.size(); ++i) {
      result.past.stays_zero.push_back(random.one_in(5));
    }
  }
  if (random.one_in(4)) add_past(result, random);
  result.expect();
  return result;
}

/// Runs them as one step, and expects right masks and untouched neighbours and data.
inline void expect_right(std::vector<Case>& some, int threads, const Kernels& table) {
  const Threads scope(threads);
  std::vector<MaskJob> jobs;
  std::vector<Bytes> before;
  for (auto& one : some) {
    jobs.push_back(one.job());
    before.push_back(one.tensor.memory());
  }
  compute_masks(jobs, table);
  for (std::size_t i = 0; i < some.size(); ++i) {
    ASSERT_EQ(some[i].fault(), "") << table.name << ", " << threads << " threads, job " << i << ": "
                                   << describe(some[i].tensor.view(), some[i].spec);
    ASSERT_TRUE(before[i] == some[i].tensor.memory()) << "the data changed";
  }
}

/// As a tensor that has changed since, or another one, would leave it.
inline void mislead(CutHint& hint, Random& random) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  switch (random.below(6)) {
    case 0: hint.score *= 1 + (random.unit() - 0.5) / 1e3; break;
    case 1: hint.score = (random.unit() - 0.5) * std::exp2(random.unit() * 260 - 130); break;
    case 2: hint.score = random.pick<double>({0, infinity, -infinity, std::nan("")}); break;
    case 3: hint.density *= std::exp2(random.unit() * 40 - 20); break;
    case 4: hint.pruned = random.between(0, hint.blocks); break;
    case 5: hint.error *= random.unit() * 4; break;
    default: break;
  }
  hint.rest = 0;
}

}  // namespace datasparse
