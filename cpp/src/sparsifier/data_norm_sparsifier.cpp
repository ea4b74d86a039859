#include "datasparse/data_norm_sparsifier.hpp"

#include <algorithm>
#include <string_view>
#include <typeinfo>

#include "base/layout.hpp"
#include "datasparse/error.hpp"
#include "select/mask_engine.hpp"

namespace datasparse {
namespace {

/// Whether a config may lack that key of the spec's.
bool is_optional(std::string_view key) { return key == "monotone" || key == "min_kept"; }

/// The spec in a config that may hold keys of a subclass too, and how many keys are the spec's and
/// must be there.
std::pair<BlockSpec, std::size_t> spec_in(const ParamMap& config, const std::string& name) {
  BlockSpec spec;
  std::size_t keys = 0;
  for (const auto& [key, value] : config) {
    keys += spec.set(key, value, name) && !is_optional(key) ? 1 : 0;
  }
  spec.check(name);
  return {spec, keys};
}

ParamMap joined(ParamMap map, const ParamMap& more) {
  map.update(more);
  return map;
}

}  // namespace

DataNormSparsifier::DataNormSparsifier(const BlockSpec& defaults, const ParamMap& own)
    : BaseDataSparsifier(joined(defaults.to_config(), own)) {
  defaults.check();
}

void DataNormSparsifier::update_mask(const std::string& name, const ArrayView& data,
                                     const ParamMap& config) {
  const Mask mask = get_mask(name);
  if (data.shape() != mask.shape()) {
    throw ValueError("data of '" + name + "' must have the shape of its mask, " +
                     to_string(mask.shape()) + ", got " + to_string(data.shape()));
  }
  const Axes order = layout(name);
  const auto kept = kept_zeros(name);
  const BlockSpec spec = spec_in(config, name).first;
  compute_masks({{data, spec.resolved(viewed_shape(data.shape(), order), name), mask.data(),
                  mask.hint(), order, kept.get()}});
}

void DataNormSparsifier::check_config(const std::string& name, const ParamMap& config) const {
  BlockSpec::from_config(config, name);
}

bool DataNormSparsifier::is_integer_param(const std::string& key) const {
  return key == "zeros_per_block" || key == "min_kept";
}

std::any DataNormSparsifier::compile_config(const std::string& name, const ParamMap& config,
                                            const Axes* shape) const {
  static const ParamMap required = BlockSpec().to_config();
  const auto [spec, keys] = spec_in(config, name);
  if (keys < required.size()) {
    const auto missing = std::find_if(required.begin(), required.end(), [&](const auto& item) {
      return !config.contains(item.first);
    });
    throw ValueError(label(missing->first, name) + " is missing");
  }
  return shape != nullptr ? spec.resolved(*shape, name) : spec;
}

bool DataNormSparsifier::check_value(const std::any& compiled, const std::string& name,
                                     const std::string& key, const ParamValue& value) const {
  return typeid(*this) == typeid(DataNormSparsifier) &&
         check_spec_value(compiled, name, key, value);
}

bool DataNormSparsifier::check_spec_value(const std::any& compiled, const std::string& name,
                                          const std::string& key, const ParamValue& value) {
  const std::string_view field = key;
  if (field == "sparse_block_shape") return false;  // an automatic zeros_per_block hangs on it
  auto spec = std::any_cast<const BlockSpec&>(compiled);
  if (!spec.set(key, value, name)) return false;
  spec.check(name);
  return true;
}

void DataNormSparsifier::put_value(std::any& compiled, const std::string& key,
                                   const ParamValue& value) const noexcept {
  std::any_cast<BlockSpec&>(compiled).set(key, value);
}

std::optional<ZeroCount> DataNormSparsifier::zeros_of(const std::any& compiled,
                                                      const Axes& shape) const {
  if (is_overridden()) return std::nullopt;
  return datasparse::count_zeros(shape, std::any_cast<const BlockSpec&>(compiled));
}

ParamValue DataNormSparsifier::effective_value(const std::string& key, const ParamValue& written,
                                               const std::any& compiled) const {
  const auto& spec = std::any_cast<const BlockSpec&>(compiled);
  const std::string_view field = key;
  if (field == "sparsity_level") return spec.sparsity_level;
  if (field == "zeros_per_block") return *spec.zeros_per_block;
  if (field == "min_kept") return spec.min_kept;  // an integer where 2.0 was written
  return written;                                 // lengths among them: −1 stays −1
}

void DataNormSparsifier::update_masks(const std::vector<Update>& updates) {
  std::vector<MaskJob> jobs;
  jobs.reserve(updates.size());
  for (const auto& update : updates) {
    jobs.push_back({update.data, std::any_cast<const BlockSpec&>(update.config), update.mask.data(),
                    update.mask.hint(), update.layout, update.kept_zeros});
  }
  compute_masks(jobs);
}

bool DataNormSparsifier::is_overridden() const {
  return typeid(*this) != typeid(DataNormSparsifier);
}

}  // namespace datasparse
