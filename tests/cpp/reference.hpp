/// What a mask is, written as plainly as possible: one loop per rule, so that each can be checked
/// by eye against block_mask.hpp. Slow on purpose; shares no code and no idea with the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "datasparse/array_view.hpp"

namespace reference {

/// The fields of an IEEE number: a sign bit, then these.
struct Format {
  int exponent_bits, fraction_bits;
};

inline Format format_of(datasparse::DType dtype) {
  switch (dtype) {
    case datasparse::DType::float16: return {5, 10};
    case datasparse::DType::bfloat16: return {8, 7};
    case datasparse::DType::float32: return {8, 23};
    case datasparse::DType::float64: return {11, 52};
  }
  return {};
}

/// The number that a bit pattern stands for. Exact: every format's numbers are doubles.
inline double value_of_bits(Format format, std::uint64_t bits) {
  const std::uint64_t fraction = bits & ((std::uint64_t{1} << format.fraction_bits) - 1);
  const int exponent_limit = (1 << format.exponent_bits) - 1;
  const int exponent = static_cast<int>(bits >> format.fraction_bits) & exponent_limit;
  const bool negative = (bits >> (format.fraction_bits + format.exponent_bits) & 1) != 0;
  const int bias = exponent_limit / 2;

  double magnitude = 0;
  if (exponent == exponent_limit) {
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<double>(fraction), 1 - bias - format.fraction_bits);
  } else {
    const std::uint64_t significand = fraction | (std::uint64_t{1} << format.fraction_bits);
    magnitude =
        std::ldexp(static_cast<double>(significand), exponent - bias - format.fraction_bits);
  }
  return negative ? -magnitude : magnitude;
}

/// Where the element with that index in C order lies, in bytes from the view's first.
inline std::int64_t offset_of(const datasparse::Axes& shape, const datasparse::Axes& strides,
                              std::int64_t index) {
  std::int64_t offset = 0;
  for (int axis = shape.size() - 1; axis >= 0; --axis) {
    offset += index % shape[axis] * strides[axis];
    index /= shape[axis];
  }
  return offset;
}

/// All elements in C order.
inline std::vector<double> values_of(const datasparse::ArrayView& view) {
  const auto format = format_of(view.dtype());
  std::vector<double> values;
  for (std::int64_t i = 0; i < view.size(); ++i) {
    const auto* element =
        static_cast<const char*>(view.data()) + offset_of(view.shape(), view.strides(), i);
    std::uint64_t bits = 0;  // the machine is little-endian
    std::memcpy(&bits, element, datasparse::item_size(view.dtype()));
    values.push_back(value_of_bits(format, bits));
  }
  return values;
}

/// What of an element counts: |x|, x·x, or x itself.
enum class Norm { L1, L2, none };

struct Rules {
  double sparsity_level;
  std::int64_t block_height, block_width;       // -1: the whole axis
  std::optional<std::int64_t> zeros_per_block;  // none: all
  Norm norm;
  std::int64_t min_kept = 0;  // blocks
  bool monotone = false;
  std::optional<std::int64_t> pruned = {};  // so many blocks, whatever the level
};

/// 113 bits: a square has 106 of them.
#if defined(__aarch64__)
using Quad = long double;
#else
__extension__ using Quad = __float128;
#endif

/// A block of a group, in the order in which its group loses them.
struct Ranked {
  bool was_pruned;
  double score;
};

/// What a mask is made of besides data and rules, in C order of the data's own shape.
struct Past {
  std::vector<std::uint8_t> mask;  // before; none: all ones
  std::vector<bool> stays_zero;    // none: nowhere
};

/// Python's round(): to the nearest integer, a half to the even one.
inline std::int64_t rounded_half_to_even(double x) {
  const double below = std::floor(x);
  const auto integer = static_cast<std::int64_t>(below);
  if (x - below < 0.5) return integer;
  if (x - below > 0.5) return integer + 1;
  return integer % 2 == 0 ? integer : integer + 1;
}

/// The positions of the scores, lowest score first, NaN last, equal ones in order of position.
template <class Sum>
std::vector<std::size_t> lowest_first(const std::vector<Sum>& scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&scores](std::size_t a, std::size_t b) {
    if (std::isnan(scores[a])) return false;
    return std::isnan(scores[b]) || scores[a] < scores[b];
  });
  return order;
}

/// The same, those that were pruned before all others.
inline std::vector<std::size_t> pruned_first(const std::vector<std::size_t>& order,
                                             const std::vector<bool>& was_pruned) {
  std::vector<std::size_t> result;
  for (const bool pruned : {true, false}) {
    for (const std::size_t i : order) {
      if (was_pruned[i] == pruned) result.push_back(i);
    }
  }
  return result;
}

/// `Sum` is the type in which scores are summed. `was_pruned` counts where rules are monotone.
template <class Sum>
std::vector<std::uint8_t> mask(const std::vector<double>& values, std::int64_t rows,
                               std::int64_t columns, const Rules& rules,
                               const std::vector<bool>& was_pruned = {},
                               std::vector<Ranked>* ranked = nullptr) {
  std::vector<std::uint8_t> keep(values.size(), 1);
  if (values.empty()) return keep;
  const auto height = rules.block_height == -1 ? rows : rules.block_height;
  const auto width = rules.block_width == -1 ? columns : rules.block_width;

  std::vector<Sum> scores;
  for (const double value : values) {
    const auto x = static_cast<Sum>(value);
    scores.push_back(rules.norm == Norm::L1 ? std::abs(x) : rules.norm == Norm::L2 ? x * x : x);
  }
  std::vector<std::vector<std::size_t>> blocks;  // the positions of their elements
  std::vector<Sum> block_scores;
  std::vector<bool> block_was_pruned;
  for (std::int64_t top = 0; top < rows; top += height) {
    for (std::int64_t left = 0; left < columns; left += width) {
      std::vector<std::size_t> block;
      Sum sum = 0;
      bool any_was_pruned = false;
      for (std::int64_t row = top; row < rows && row - top < height; ++row) {
        for (std::int64_t column = left; column < columns && column - left < width; ++column) {
          block.push_back(static_cast<std::size_t>(row * columns + column));
          sum += scores[block.back()];
          any_was_pruned = any_was_pruned || (rules.monotone && was_pruned[block.back()]);
        }
      }
      block_was_pruned.push_back(any_was_pruned);
      block_scores.push_back(sum / static_cast<Sum>(block.size()));
      blocks.push_back(block);
    }
  }

  const auto order = pruned_first(lowest_first(block_scores), block_was_pruned);
  if (ranked != nullptr) {
    for (const auto i : order) ranked->push_back({block_was_pruned[i], block_scores[i]});
  }
  const auto may_go = static_cast<std::int64_t>(blocks.size()) - rules.min_kept;
  const auto pruned = rules.pruned.value_or(
      std::min(rounded_half_to_even(rules.sparsity_level * static_cast<double>(blocks.size())),
               std::max(may_go, std::int64_t{0})));
  for (std::size_t i = 0; i < static_cast<std::size_t>(pruned); ++i) {
    const auto& block = blocks[order[i]];
    const auto zeros = static_cast<std::size_t>(rules.zeros_per_block.value_or(height * width));
    if (zeros >= block.size()) {  // there is nothing to choose
      for (const auto position : block) keep[position] = 0;
      continue;
    }
    std::vector<Sum> within;
    std::vector<bool> within_was_pruned;
    for (const auto position : block) {
      within.push_back(scores[position]);
      within_was_pruned.push_back(rules.monotone && was_pruned[position]);
    }
    const auto least = pruned_first(lowest_first(within), within_was_pruned);
    for (std::size_t z = 0; z < zeros; ++z) keep[block[least[z]]] = 0;
  }
  return keep;
}

/// Rows are the first axis, columns all others; one axis is a row.
inline std::pair<std::int64_t, std::int64_t> matrix_of(const datasparse::Axes& shape) {
  std::int64_t columns = 1;
  for (int axis = shape.size() > 1 ? 1 : 0; axis < shape.size(); ++axis) columns *= shape[axis];
  return {shape.size() > 1 ? shape[0] : 1, columns};
}

/// The mask of a view.
inline std::vector<std::uint8_t> mask(const datasparse::ArrayView& view, const Rules& rules,
                                      const Past& past = {},
                                      std::vector<Ranked>* ranked = nullptr) {
  const auto values = values_of(view);
  std::vector<bool> stays_zero = past.stays_zero;
  stays_zero.resize(values.size());
  const auto [rows, columns] = matrix_of(view.shape());
  const auto length = [](std::int64_t of_block, std::int64_t of_axis) {
    return of_block == -1 ? of_axis : std::min(of_block, of_axis);
  };
  const bool single =
      length(rules.block_height, rows) == 1 && length(rules.block_width, columns) == 1;
  std::vector<bool> was_pruned(values.size());
  for (std::size_t i = 0; i < past.mask.size(); ++i) {
    was_pruned[i] = past.mask[i] == 0 && (single || !stays_zero[i]);
  }
  auto keep = view.dtype() == datasparse::DType::float64
                  ? mask<double>(values, rows, columns, rules, was_pruned, ranked)
                  : mask<float>(values, rows, columns, rules, was_pruned, ranked);
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (stays_zero[i]) keep[i] = 0;
  }
  return keep;
}

inline datasparse::Axes permuted(const datasparse::Axes& axes, const datasparse::Axes& layout) {
  datasparse::Axes result;
  for (int i = 0; i < layout.size(); ++i) {
    result.push_back(axes[static_cast<int>(layout[i])]);
  }
  return result;
}

/// Whether the order of columns is no matter to what the blocks are; the rules then are about the
/// data as they lie in memory. `rules` are for the permuted matrix, and become those for memory.
inline bool ignores_layout(const datasparse::Axes& shape, const datasparse::Axes& layout,
                           Rules& rules) {
  const auto [rows, columns] = matrix_of(permuted(shape, layout));
  const std::int64_t height = rules.block_height == -1 ? rows : std::min(rules.block_height, rows);
  const std::int64_t width =
      rules.block_width == -1 ? columns : std::min(rules.block_width, columns);
  const bool single = height == 1 && width == 1;
  const bool same_rows = layout.size() > 0 && layout[0] == 0;
  if (!single && !(same_rows && (width == 1 || width == columns))) return false;
  rules.block_height = height;
  rules.block_width = width;
  return true;
}

/// The mask of data whose axes make the matrix in the order of `layout`: that of the permuted data,
/// permuted back.
inline std::vector<std::uint8_t> mask(const datasparse::ArrayView& view, Rules rules,
                                      const datasparse::Axes& layout, const Past& past = {},
                                      std::vector<Ranked>* ranked = nullptr) {
  if (layout.size() == 0 || ignores_layout(view.shape(), layout, rules)) {
    return mask(view, rules, past, ranked);
  }
  const datasparse::ArrayView turned(view.data(), view.dtype(), permuted(view.shape(), layout),
                                     permuted(view.strides(), layout), true);
  datasparse::Axes steps;  // from one element to the next, in C order of the data's own shape
  std::vector<std::int64_t> own(static_cast<std::size_t>(view.shape().size()));
  std::int64_t step = 1;
  for (int axis = view.shape().size() - 1; axis >= 0; --axis) {
    own[static_cast<std::size_t>(axis)] = step;
    step *= view.shape()[axis];
  }
  for (const auto value : own) steps.push_back(value);
  const auto place = [&](std::int64_t i) {
    return static_cast<std::size_t>(offset_of(turned.shape(), permuted(steps, layout), i));
  };
  Past turned_past;
  for (std::int64_t i = 0; i < view.size(); ++i) {
    if (!past.mask.empty()) turned_past.mask.push_back(past.mask[place(i)]);
    if (!past.stays_zero.empty()) turned_past.stays_zero.push_back(past.stays_zero[place(i)]);
  }
  const auto there = mask(turned, rules, turned_past, ranked);
  std::vector<std::uint8_t> keep(there.size());
  for (std::int64_t i = 0; i < view.size(); ++i) {
    keep[place(i)] = there[static_cast<std::size_t>(i)];
  }
  return keep;
}

/// A group of a pool: its blocks in the order in which it loses them, and what is asked of it.
struct PoolGroup {
  std::vector<Ranked> blocks;
  double level;
  std::int64_t zeros;  // in each pruned block
  double min_level = 0, max_level = 1;
  std::int64_t min_kept = 0;
  bool normalize = false;
};

/// How many blocks each group loses: the walk of pool.hpp, block by block. Nothing where the budget
/// is more than the bounds leave.
inline std::optional<std::vector<std::int64_t>> walk(std::vector<PoolGroup> groups) {
  std::int64_t divisor = 0;
  for (const auto& group : groups) {
    if (!group.blocks.empty()) divisor = std::gcd(divisor, group.zeros);
  }
  std::vector<std::int64_t> weights, pruned(groups.size(), 0);
  std::int64_t all = 0, kept = 0;
  double budgets = 0;
  bool one_level = true;
  std::optional<double> common_level;
  for (const auto& group : groups) {
    const auto blocks = static_cast<std::int64_t>(group.blocks.size());
    weights.push_back(divisor == 0 || blocks == 0 ? 0 : group.zeros / divisor);
    all += weights.back() * blocks;
    kept += weights.back() * std::min(blocks, group.min_kept);
    budgets += group.level * static_cast<double>(weights.back() * blocks);
    if (weights.back() * blocks == 0) continue;
    one_level = one_level && common_level.value_or(group.level) == group.level;
    common_level = group.level;
  }
  if (all == 0) return pruned;
  std::int64_t left =
      rounded_half_to_even(one_level ? *common_level * static_cast<double>(all) : budgets);
  left = std::min(left, all - kept);
  const std::int64_t budget = left;
  std::vector<std::int64_t> least, most;
  std::int64_t at_most = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto blocks = static_cast<std::int64_t>(groups[g].blocks.size());
    const auto share = [&](double level) { return level * static_cast<double>(blocks); };
    most.push_back(std::min(static_cast<std::int64_t>(std::ceil(share(groups[g].max_level))),
                            std::max<std::int64_t>(0, blocks - groups[g].min_kept)));
    least.push_back(std::min(
        {static_cast<std::int64_t>(std::floor(share(groups[g].min_level))),
         static_cast<std::int64_t>(static_cast<long double>(budget) * blocks / all), most.back()}));
    at_most += weights[g] * most[g];
    left -= weights[g] * least[g];
  }
  if (budget > at_most) return std::nullopt;

  struct Block {
    bool was_pruned;
    double key;
    std::size_t group;
  };
  std::vector<Block> order;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    double norm = 1;
    if (groups[g].normalize) {
      Quad squares = 0;
      for (const auto& block : groups[g].blocks) {
        if (!std::isfinite(block.score)) continue;
        squares += static_cast<Quad>(block.score) * block.score;
      }
      norm = std::sqrt(static_cast<double>(squares));
      if (norm == 0) norm = 1;
    }
    for (const auto& block : groups[g].blocks) {
      const double key = std::isinf(block.score) ? block.score : block.score / norm;
      order.push_back({block.was_pruned, key, g});
    }
  }
  std::stable_sort(order.begin(), order.end(), [](const Block& a, const Block& b) {
    if (a.was_pruned != b.was_pruned) return a.was_pruned;
    if (std::isnan(a.key)) return false;
    return std::isnan(b.key) || a.key < b.key;
  });
  for (const auto& block : order) {
    const std::size_t g = block.group;
    if (weights[g] == 0 || pruned[g] == most[g]) continue;
    const std::int64_t cost = pruned[g] < least[g] ? 0 : weights[g];
    if (cost > left) break;
    left -= cost;
    ++pruned[g];
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (weights[g] > 0) pruned[g] = std::max(pruned[g], least[g]);
  }
  return pruned;
}

}  // namespace reference
