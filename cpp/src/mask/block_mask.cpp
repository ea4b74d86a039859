#include "datasparse/block_mask.hpp"

#include <limits>
#include <string>
#include <string_view>

#include "base/float_environment.hpp"
#include "datasparse/error.hpp"
#include "mask/pattern.hpp"
#include "mask/pruned_share.hpp"
#include "select/mask_engine.hpp"

namespace datasparse {
namespace {

std::string pair_of(std::int64_t height, std::int64_t width) {
  return to_string(ParamValue(ParamValue::Ints{height, width}));
}

/// The number of elements of a block, or ValueError where it leaves 63 bits.
std::int64_t block_size(std::int64_t height, std::int64_t width, const std::string& group) {
  if (height > std::numeric_limits<std::int64_t>::max() / width) {
    refuse_value("sparse_block_shape", group, "have fewer than 2^63 elements",
                 ParamValue::Ints{height, width});
  }
  return height * width;
}

/// The two lengths of a block, under one key.
Field<BlockSpec> shape_field(std::string_view key) {
  return {key,
          [](BlockSpec& spec, const std::string& name, const ParamValue& value,
             const std::string& group) {
            const auto* const integers = value.get_if<ParamValue::Ints>();
            const auto* const floats = value.get_if<ParamValue::Floats>();
            constexpr const char* rule = "be a tuple of two integers";
            if (integers == nullptr && floats == nullptr) refuse_kind(name, group, rule, value);
            if ((integers != nullptr ? integers->size() : floats->size()) != 2) {
              refuse_value(name, group, rule, value);
            }
            const auto length = [&](std::size_t axis) {
              return integers != nullptr ? (*integers)[axis]
                                         : ParamValue((*floats)[axis]).as_integer(name, group);
            };
            spec.block_height = length(0);
            spec.block_width = length(1);
          },
          [](const BlockSpec& spec, std::string_view) {
            return ParamValue(ParamValue::Ints{spec.block_height, spec.block_width});
          },
          [](const BlockSpec& spec, std::string_view name, const std::string& group) {
            for (const std::int64_t length : {spec.block_height, spec.block_width}) {
              if (is_length(length)) continue;
              refuse_value(name, group, "hold lengths of 1 to 2^60, or -1 for a whole axis",
                           ParamValue::Ints{spec.block_height, spec.block_width});
            }
          },
          {false, false, true}};
}

Field<BlockSpec> norm_field(std::string_view key) {
  return {key,
          [](BlockSpec& spec, const std::string& name, const ParamValue& value,
             const std::string& group) {
            constexpr const char* rule = "be 'L1', 'L2' or None";
            const auto* const text = value.get_if<std::string>();
            if (text == nullptr && !value.is_none()) refuse_kind(name, group, rule, value);
            if (text != nullptr && *text != "L1" && *text != "L2") {
              refuse_value(name, group, rule, value);
            }
            spec.norm = text == nullptr ? Norm::none : *text == "L1" ? Norm::L1 : Norm::L2;
          },
          [](const BlockSpec& spec, std::string_view) {
            if (spec.norm == Norm::none) return ParamValue();
            return ParamValue(spec.norm == Norm::L1 ? "L1" : "L2");
          },
          [](const BlockSpec&, std::string_view, const std::string&) {}};
}

/// The level. Of a group by itself, max_level bounds it; a pool has a budget: pool.hpp.
Field<BlockSpec> level_field(std::string_view key) {
  auto field = share_field<&BlockSpec::sparsity_level>(key);
  field.check = [](const BlockSpec& spec, std::string_view name, const std::string& group) {
    static const auto share = share_field<&BlockSpec::sparsity_level>({});
    share.check(spec, name, group);
    if (!spec.pool.empty() || spec.sparsity_level <= spec.max_level) return;
    refuse_value(name, group, "be at most max_level, " + to_string(ParamValue(spec.max_level)),
                 spec.sparsity_level);
  };
  return field;
}

/// min_level and max_level, which hang on each other and on the level.
template <auto member>
Field<BlockSpec> bound_field(std::string_view key) {
  auto field = share_field<member>(key, {true});
  field.traits.is_alone = false;
  return field;
}

Field<BlockSpec> pool_field(std::string_view key) {
  return {key,
          [](BlockSpec& spec, const std::string& name, const ParamValue& value,
             const std::string& group) {
            constexpr const char* rule = "be None or the name of a pool";
            const auto* const text = value.get_if<std::string>();
            if (text == nullptr && !value.is_none()) refuse_kind(name, group, rule, value);
            if (text != nullptr && text->empty()) refuse_value(name, group, rule, value);
            spec.pool = text != nullptr ? *text : std::string();
          },
          [](const BlockSpec& spec, std::string_view) {
            return spec.pool.empty() ? ParamValue() : ParamValue(spec.pool);
          },
          [](const BlockSpec&, std::string_view, const std::string&) {},
          {true}};
}

Field<BlockSpec> normalize_field(std::string_view key) {
  return {key,
          [](BlockSpec& spec, const std::string& name, const ParamValue& value,
             const std::string& group) {
            constexpr const char* rule = "be None or 'l2'";
            const auto* const text = value.get_if<std::string>();
            if (text == nullptr && !value.is_none()) refuse_kind(name, group, rule, value);
            if (text != nullptr && *text != "l2") refuse_value(name, group, rule, value);
            spec.normalize = text != nullptr;
          },
          [](const BlockSpec& spec, std::string_view) {
            return spec.normalize ? ParamValue("l2") : ParamValue();
          },
          [](const BlockSpec&, std::string_view, const std::string&) {},
          {true}};
}

}  // namespace

const Fields<BlockSpec>& BlockSpec::fields() {
  constexpr FieldTraits optional{true};
  static const Fields<BlockSpec> all{level_field("sparsity_level"),
                                     shape_field("sparse_block_shape"),
                                     count_field<&BlockSpec::zeros_per_block>("zeros_per_block"),
                                     norm_field("norm"),
                                     flag_field<&BlockSpec::monotone>("monotone", optional),
                                     count_field<&BlockSpec::min_kept>("min_kept", optional),
                                     pool_field("pool"),
                                     bound_field<&BlockSpec::min_level>("min_level"),
                                     bound_field<&BlockSpec::max_level>("max_level"),
                                     normalize_field("normalize")};
  return all;
}

BlockSpec BlockSpec::from_config(const ParamMap& config, const std::string& group) {
  return spec_of<BlockSpec>(config, group, OtherKeys::refuse);
}

bool BlockSpec::set(const std::string& key, const ParamValue& value, const std::string& group) {
  const auto* const field = find_field<BlockSpec>(key);
  if (field != nullptr) field->set(*this, key, value, group);
  return field != nullptr;
}

ParamMap BlockSpec::to_config() const { return config_of(*this); }

void BlockSpec::check(const std::string& group) const {
  check_fields(*this, group);
  if (min_level > max_level) {
    refuse_value("min_level", group, "be at most max_level, " + to_string(ParamValue(max_level)),
                 min_level);
  }
  if (!zeros_per_block || block_height < 0 || block_width < 0) return;
  const auto size = block_size(block_height, block_width, group);
  if (*zeros_per_block <= size) return;
  refuse_value("zeros_per_block", group,
               "be at most " + std::to_string(size) + ", the size of a block of " +
                   pair_of(block_height, block_width),
               *zeros_per_block);
}

BlockSpec BlockSpec::resolved(const Axes& shape, const std::string& group) const {
  check(group);
  require_possible(shape, "shape");
  const auto [rows, columns] = MatrixShape::of(shape);
  BlockSpec result = *this;
  result.block_height = filled_in(block_height, rows);
  result.block_width = filled_in(block_width, columns);
  const auto size = block_size(result.block_height, result.block_width, group);
  if (!result.zeros_per_block) result.zeros_per_block = size;
  result.check(group);
  return result;
}

ZeroCount count_zeros(const Axes& shape, const BlockSpec& spec) {
  const DefaultFloatEnvironment environment;
  const BlockSpec resolved = spec.resolved(shape);
  const MatrixShape matrix = MatrixShape::of(shape);
  const Pattern pattern = Pattern::of(resolved, matrix);
  return pattern.zeros_in(matrix, PrunedShare::of(resolved).pruned_of(pattern.blocks_of(matrix)));
}

void block_mask(const ArrayView& data, const BlockSpec& spec, std::uint8_t* mask) {
  BlockSpec resolved = spec.resolved(data.shape());
  resolved.monotone = false;  // what lies at `mask` is no mask yet
  compute_masks({{data, resolved, mask}});
}

}  // namespace datasparse
