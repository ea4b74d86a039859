/// What a mask is, written as plainly as possible: one loop per rule, so that each can be checked
/// by eye against block_mask.hpp. Slow on purpose; shares no code and no idea with the library.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "datasparse/array_view.hpp"

namespace reference {

/// The fields of an IEEE number: a sign bit, then these.
struct Format {
  int exponent_bits, fraction_bits;
};

Format format_of(datasparse::DType dtype);

/// The number that a bit pattern stands for. Exact: every format's numbers are doubles.
double value_of_bits(Format format, std::uint64_t bits);

/// Where the element with that index in C order lies, in bytes from the view's first.
std::int64_t offset_of(const datasparse::Axes& shape, const datasparse::Axes& strides,
                       std::int64_t index);

/// All elements in C order.
std::vector<double> values_of(const datasparse::ArrayView& view);

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

/// Rows are the first axis, columns all others; one axis is a row.
std::pair<std::int64_t, std::int64_t> matrix_of(const datasparse::Axes& shape);

/// The mask of a view.
std::vector<std::uint8_t> mask(const datasparse::ArrayView& view, const Rules& rules,
                               const Past& past = {}, std::vector<Ranked>* ranked = nullptr);

datasparse::Axes permuted(const datasparse::Axes& axes, const datasparse::Axes& layout);

/// The mask of data whose axes make the matrix in the order of `layout`: that of the permuted data,
/// permuted back.
std::vector<std::uint8_t> mask(const datasparse::ArrayView& view, Rules rules,
                               const datasparse::Axes& layout, const Past& past = {},
                               std::vector<Ranked>* ranked = nullptr);

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
std::optional<std::vector<std::int64_t>> walk(std::vector<PoolGroup> groups);

}  // namespace reference
