#include "datasparse/block_mask.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <string_view>

#include "datasparse/error.hpp"
#include "select/mask_engine.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t whole_axis = -1;
constexpr std::int64_t axis_max = std::int64_t{1} << 60;

std::int64_t block_axis(const ParamValue::Variant& value, std::size_t axis,
                        const std::string& group) {
  if (const auto* integers = std::get_if<ParamValue::Ints>(&value)) return (*integers)[axis];
  return ParamValue(std::get<ParamValue::Floats>(value)[axis])
      .as_integer("sparse_block_shape", group);
}

/// The number of elements of a block, or ValueError where it leaves 63 bits.
std::int64_t block_size(std::int64_t height, std::int64_t width, const std::string& group) {
  if (height > std::numeric_limits<std::int64_t>::max() / width) {
    throw ValueError(label("sparse_block_shape", group) +
                     " must have fewer than 2^63 elements, got (" + std::to_string(height) + ", " +
                     std::to_string(width) + ")");
  }
  return height * width;
}

}  // namespace

bool BlockSpec::set(const std::string& key, const ParamValue& value, const std::string& group) {
  const auto what = [&] { return label(key, group); };
  const std::string_view field = key;  // whose comparison with a literal looks at the length first
  if (field == "sparsity_level") {
    sparsity_level = value.as_number(key, group);
  } else if (field == "sparse_block_shape") {
    const auto* integers = value.get_if<ParamValue::Ints>();
    const auto* floats = value.get_if<ParamValue::Floats>();
    if (integers == nullptr && floats == nullptr) {
      throw TypeError(what() + " must be a tuple of two integers, got " + to_string(value) + " (" +
                      kind_of(value) + ")");
    }
    if ((integers != nullptr ? integers->size() : floats->size()) != 2) {
      throw ValueError(what() + " must be a tuple of two integers, got " + to_string(value));
    }
    block_height = block_axis(value.variant(), 0, group);
    block_width = block_axis(value.variant(), 1, group);
  } else if (field == "zeros_per_block") {
    zeros_per_block.reset();
    if (!value.is_none()) zeros_per_block = value.as_integer(key, group);
  } else if (field == "norm") {
    const auto* text = value.get_if<std::string>();
    if (text == nullptr) {
      throw TypeError(what() + " must be 'L1' or 'L2', got " + to_string(value) + " (" +
                      kind_of(value) + ")");
    }
    if (*text != "L1" && *text != "L2") {
      throw ValueError(what() + " must be 'L1' or 'L2', got " + to_string(value));
    }
    norm = *text == "L1" ? Norm::L1 : Norm::L2;
  } else if (field == "monotone") {
    const auto* flag = value.get_if<bool>();
    if (flag == nullptr) {
      throw TypeError(what() + " must be True or False, got " + to_string(value) + " (" +
                      kind_of(value) + ")");
    }
    monotone = *flag;
  } else if (field == "min_kept") {
    min_kept = value.as_integer(key, group);
  } else {
    return false;
  }
  return true;
}

BlockSpec BlockSpec::from_config(const ParamMap& config, const std::string& group) {
  BlockSpec spec;
  for (const auto& [key, value] : config) {
    if (!spec.set(key, value, group)) {
      auto known = BlockSpec().to_config().keys();
      known.emplace_back("monotone");
      known.emplace_back("min_kept");
      require_known_keys(config, known, group);
    }
  }
  spec.check(group);
  return spec;
}

ParamMap BlockSpec::to_config() const {
  ParamMap config{
      {"sparsity_level", sparsity_level},
      {"sparse_block_shape", ParamValue::Ints{block_height, block_width}},
      {"zeros_per_block", zeros_per_block ? ParamValue(*zeros_per_block) : ParamValue()},
      {"norm", norm == Norm::L1 ? "L1" : "L2"}};
  if (monotone) config.set("monotone", true);
  if (min_kept != 0) config.set("min_kept", min_kept);
  return config;
}

void BlockSpec::check(const std::string& group) const {
  if (!(sparsity_level >= 0 && sparsity_level <= 1)) {  // so written, NaN fails
    throw ValueError(label("sparsity_level", group) + " must be in [0, 1], got " +
                     to_string(ParamValue(sparsity_level)));
  }
  const auto valid = [](std::int64_t length) {
    return length == whole_axis || (length >= 1 && length <= axis_max);
  };
  if (!valid(block_height) || !valid(block_width)) {
    throw ValueError(label("sparse_block_shape", group) +
                     " must hold lengths of 1 to 2^60, or -1 for a whole axis, got (" +
                     std::to_string(block_height) + ", " + std::to_string(block_width) + ")");
  }
  if (zeros_per_block && *zeros_per_block < 0) {
    throw ValueError(label("zeros_per_block", group) + " must be at least 0, got " +
                     std::to_string(*zeros_per_block));
  }
  if (zeros_per_block && block_height > 0 && block_width > 0) {
    const auto size = block_size(block_height, block_width, group);
    if (*zeros_per_block > size) {
      throw ValueError(label("zeros_per_block", group) + " must be at most " +
                       std::to_string(size) + ", the size of a block of (" +
                       std::to_string(block_height) + ", " + std::to_string(block_width) +
                       "), got " + std::to_string(*zeros_per_block));
    }
  }
  if (min_kept < 0) {
    throw ValueError(label("min_kept", group) + " must be at least 0, got " +
                     std::to_string(min_kept));
  }
}

BlockSpec BlockSpec::resolved(const Axes& shape, const std::string& group) const {
  check(group);
  require_possible(shape, "shape");
  const std::int64_t rows = shape.size() > 1 ? shape[0] : 1;
  std::int64_t columns = 1;
  for (int axis = shape.size() > 1 ? 1 : 0; axis < shape.size(); ++axis) columns *= shape[axis];

  BlockSpec result = *this;
  if (block_height == whole_axis) result.block_height = std::max<std::int64_t>(rows, 1);
  if (block_width == whole_axis) result.block_width = std::max<std::int64_t>(columns, 1);
  const auto size = block_size(result.block_height, result.block_width, group);
  if (!result.zeros_per_block) result.zeros_per_block = size;
  result.check(group);
  return result;
}

ZeroCount count_zeros(const Axes& shape, const BlockSpec& spec) {
  const BlockSpec resolved = spec.resolved(shape);
  const std::int64_t rows = shape.size() > 1 ? shape[0] : 1;
  const std::int64_t columns = rows == 0 ? 0 : element_count(shape) / rows;
  if (columns == 0) return {};
  const std::int64_t height = std::min(resolved.block_height, rows);
  const std::int64_t width = std::min(resolved.block_width, columns);

  // Whole blocks, and the partial ones at the right, at the bottom, and in the corner.
  struct Kind {
    std::int64_t number, zeros;  // zeros in each
  };
  const auto blocks = [&resolved](std::int64_t number, std::int64_t size) {
    return Kind{number, std::min(size, *resolved.zeros_per_block)};
  };
  const std::int64_t down = rows / height, across = columns / width;
  const std::int64_t below = rows % height, beside = columns % width;
  std::array<Kind, 4> kinds{blocks(down * across, height * width),
                            blocks(beside != 0 ? down : 0, height * beside),
                            blocks(below != 0 ? across : 0, below * width),
                            blocks(below != 0 && beside != 0 ? 1 : 0, below * beside)};

  std::int64_t all = 0;
  for (const auto& kind : kinds) all += kind.number;
  const auto zeros = [&] {
    std::int64_t count = 0, left = pruned_blocks(resolved, all);
    for (const auto& kind : kinds) {
      const std::int64_t pruned = std::min(left, kind.number);
      count += pruned * kind.zeros;
      left -= pruned;
    }
    return count;
  };
  std::sort(kinds.begin(), kinds.end(),
            [](const Kind& a, const Kind& b) { return a.zeros < b.zeros; });
  const std::int64_t least = zeros();
  std::reverse(kinds.begin(), kinds.end());
  return {least, zeros()};
}

void block_mask(const ArrayView& data, const BlockSpec& spec, std::uint8_t* mask) {
  BlockSpec resolved = spec.resolved(data.shape());
  resolved.monotone = false;  // what lies at `mask` is no mask yet
  compute_masks({{data, resolved, mask}});
}

}  // namespace datasparse
