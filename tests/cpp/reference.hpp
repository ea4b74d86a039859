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

struct Rules {
  double sparsity_level;
  std::int64_t block_height, block_width;       // -1: the whole axis
  std::optional<std::int64_t> zeros_per_block;  // none: all
  bool squared;                                 // L2
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

/// `Sum` is the type in which scores are summed.
template <class Sum>
std::vector<std::uint8_t> mask(const std::vector<double>& values, std::int64_t rows,
                               std::int64_t columns, const Rules& rules) {
  std::vector<std::uint8_t> keep(values.size(), 1);
  if (values.empty()) return keep;
  const auto height = rules.block_height == -1 ? rows : rules.block_height;
  const auto width = rules.block_width == -1 ? columns : rules.block_width;

  std::vector<Sum> scores;
  for (const double value : values) {
    const auto x = static_cast<Sum>(value);
    scores.push_back(rules.squared ? x * x : std::abs(x));
  }
  std::vector<std::vector<std::size_t>> blocks;  // the positions of their elements
  std::vector<Sum> block_scores;
  for (std::int64_t top = 0; top < rows; top += height) {
    for (std::int64_t left = 0; left < columns; left += width) {
      std::vector<std::size_t> block;
      Sum sum = 0;
      for (std::int64_t row = top; row < rows && row - top < height; ++row) {
        for (std::int64_t column = left; column < columns && column - left < width; ++column) {
          block.push_back(static_cast<std::size_t>(row * columns + column));
          sum += scores[block.back()];
        }
      }
      block_scores.push_back(sum / static_cast<Sum>(block.size()));
      blocks.push_back(block);
    }
  }

  const auto order = lowest_first(block_scores);
  const auto pruned =
      rounded_half_to_even(rules.sparsity_level * static_cast<double>(blocks.size()));
  for (std::size_t i = 0; i < static_cast<std::size_t>(pruned); ++i) {
    const auto& block = blocks[order[i]];
    std::vector<Sum> within;
    for (const auto position : block) within.push_back(scores[position]);
    const auto zeros = static_cast<std::size_t>(rules.zeros_per_block.value_or(height * width));
    const auto least = lowest_first(within);
    for (std::size_t z = 0; z < std::min(zeros, block.size()); ++z) keep[block[least[z]]] = 0;
  }
  return keep;
}

/// The mask of a view. Rows are the first axis, columns all others; one axis is a row.
inline std::vector<std::uint8_t> mask(const datasparse::ArrayView& view, const Rules& rules) {
  const auto& shape = view.shape();
  const std::int64_t rows = shape.size() > 1 ? shape[0] : 1;
  std::int64_t columns = 1;
  for (int axis = shape.size() > 1 ? 1 : 0; axis < shape.size(); ++axis) columns *= shape[axis];
  const auto values = values_of(view);
  return view.dtype() == datasparse::DType::float64 ? mask<double>(values, rows, columns, rules)
                                                    : mask<float>(values, rows, columns, rules);
}

}  // namespace reference
