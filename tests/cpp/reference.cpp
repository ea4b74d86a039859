#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace reference {
namespace {

/// 113 bits: a square has 106 of them.
#if defined(__aarch64__)
using Quad = long double;
#else
__extension__ using Quad = __float128;
#endif

/// Python's round(): to the nearest integer, a half to the even one.
std::int64_t rounded_half_to_even(double x) {
  const double below = std::floor(x);
  const auto integer = static_cast<std::int64_t>(below);
  if (x - below < 0.5) return integer;
  if (x - below > 0.5) return integer + 1;
  return integer % 2 == 0 ? integer : integer + 1;
}

/// A block, or an element of one, that may be pruned.
template <class Sum>
struct Candidate {
  bool was_pruned;
  Sum score;
  std::size_t place;
};

/// In the order in which they are pruned: those that were pruned before all others, then the lowest
/// score first, NaN last, equal ones in order of place.
template <class Sum>
void rank(std::vector<Candidate<Sum>>& candidates) {
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate<Sum>& a, const Candidate<Sum>& b) {
              if (a.was_pruned != b.was_pruned) return a.was_pruned;
              if (std::isnan(a.score) != std::isnan(b.score)) return std::isnan(b.score);
              if (a.score < b.score || b.score < a.score) return a.score < b.score;
              return a.place < b.place;
            });
}

/// Rows [top, bottom) and columns [left, right) of a matrix.
struct Block {
  std::int64_t top, bottom, left, right;

  std::int64_t size() const { return (bottom - top) * (right - left); }
  template <class Visit>
  void visit(std::int64_t columns, Visit visit_position) const {
    for (std::int64_t row = top; row < bottom; ++row) {
      for (std::int64_t column = left; column < right; ++column) {
        visit_position(static_cast<std::size_t>(row * columns + column));
      }
    }
  }
};

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
  scores.reserve(values.size());
  for (const double value : values) {
    const auto x = static_cast<Sum>(value);
    scores.push_back(rules.norm == Norm::L1 ? std::abs(x) : rules.norm == Norm::L2 ? x * x : x);
  }
  std::vector<Block> blocks;
  std::vector<Candidate<Sum>> order;
  for (std::int64_t top = 0; top < rows; top += height) {
    for (std::int64_t left = 0; left < columns; left += width) {
      const Block block{top, top + std::min(height, rows - top), left,
                        left + std::min(width, columns - left)};
      Sum sum = 0;
      bool any_was_pruned = false;
      block.visit(columns, [&](std::size_t position) {
        sum += scores[position];
        any_was_pruned = any_was_pruned || (rules.monotone && was_pruned[position]);
      });
      order.push_back({any_was_pruned, sum / static_cast<Sum>(block.size()), blocks.size()});
      blocks.push_back(block);
    }
  }

  rank(order);
  if (ranked != nullptr) {
    for (const auto& block : order) ranked->push_back({block.was_pruned, block.score});
  }
  const auto may_go = static_cast<std::int64_t>(blocks.size()) - rules.min_kept;
  const auto pruned = rules.pruned.value_or(
      std::min(rounded_half_to_even(rules.sparsity_level * static_cast<double>(blocks.size())),
               std::max(may_go, std::int64_t{0})));
  std::vector<Candidate<Sum>> within;
  for (std::size_t i = 0; i < static_cast<std::size_t>(pruned); ++i) {
    const Block& block = blocks[order[i].place];
    const std::int64_t zeros = rules.zeros_per_block.value_or(block.size());
    if (zeros >= block.size()) {  // there is nothing to choose
      block.visit(columns, [&](std::size_t position) { keep[position] = 0; });
      continue;
    }
    within.clear();
    block.visit(columns, [&](std::size_t position) {
      within.push_back({rules.monotone && was_pruned[position], scores[position], position});
    });
    rank(within);
    for (std::size_t z = 0; z < static_cast<std::size_t>(zeros); ++z) keep[within[z].place] = 0;
  }
  return keep;
}

/// Whether the order of columns is no matter to what the blocks are; the rules then are about the
/// data as they lie in memory. `rules` are for the permuted matrix, and become those for memory.
bool ignores_layout(const datasparse::Axes& shape, const datasparse::Axes& layout, Rules& rules) {
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

}  // namespace

Format format_of(datasparse::DType dtype) {
  switch (dtype) {
    case datasparse::DType::float16: return {5, 10};
    case datasparse::DType::bfloat16: return {8, 7};
    case datasparse::DType::float32: return {8, 23};
    case datasparse::DType::float64: return {11, 52};
  }
  return {};
}

double value_of_bits(Format format, std::uint64_t bits) {
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

std::int64_t offset_of(const datasparse::Axes& shape, const datasparse::Axes& strides,
                       std::int64_t index) {
  std::int64_t offset = 0;
  for (int axis = shape.size() - 1; axis >= 0; --axis) {
    offset += index % shape[axis] * strides[axis];
    index /= shape[axis];
  }
  return offset;
}

std::vector<double> values_of(const datasparse::ArrayView& view) {
  const auto format = format_of(view.dtype());
  const auto item_size = datasparse::item_size(view.dtype());
  const std::int64_t size = view.size();
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) {
    const auto* element =
        static_cast<const char*>(view.data()) + offset_of(view.shape(), view.strides(), i);
    std::uint64_t bits = 0;  // the machine is little-endian
    std::memcpy(&bits, element, item_size);
    values.push_back(value_of_bits(format, bits));
  }
  return values;
}

std::pair<std::int64_t, std::int64_t> matrix_of(const datasparse::Axes& shape) {
  std::int64_t columns = 1;
  for (int axis = shape.size() > 1 ? 1 : 0; axis < shape.size(); ++axis) columns *= shape[axis];
  return {shape.size() > 1 ? shape[0] : 1, columns};
}

datasparse::Axes permuted(const datasparse::Axes& axes, const datasparse::Axes& layout) {
  datasparse::Axes result;
  for (int i = 0; i < layout.size(); ++i) {
    result.push_back(axes[static_cast<int>(layout[i])]);
  }
  return result;
}

std::vector<std::uint8_t> mask(const datasparse::ArrayView& view, const Rules& rules,
                               const Past& past, std::vector<Ranked>* ranked) {
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

std::vector<std::uint8_t> mask(const datasparse::ArrayView& view, Rules rules,
                               const datasparse::Axes& layout, const Past& past,
                               std::vector<Ranked>* ranked) {
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

std::optional<std::vector<std::int64_t>> walk(std::vector<PoolGroup> groups) {
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
