#include "datasparse/data_norm_sparsifier.hpp"

#include <typeinfo>

#include "datasparse/error.hpp"
#include "mask_engine.hpp"

namespace datasparse {
namespace {

/// The spec in a config that may hold keys of a subclass too.
BlockSpec spec_in(const ParamMap& config, const std::string& name) {
  BlockSpec spec;
  for (const auto& [key, value] : config) spec.set(key, value, name);
  spec.check(name);
  return spec;
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
  compute_masks({{data, spec_in(config, name).resolved(data.shape(), name), mask.data()}});
}

void DataNormSparsifier::check_config(const std::string& name, const ParamMap& config) const {
  BlockSpec::from_config(config, name);
}

std::any DataNormSparsifier::compile_config(const std::string& name, const ParamMap& config,
                                            const Axes* shape) const {
  static const ParamMap required = BlockSpec().to_config();
  const BlockSpec spec = spec_in(config, name);
  const BlockSpec compiled = shape != nullptr ? spec.resolved(*shape, name) : spec;
  for (const auto& item : required) {
    if (!config.contains(item.first)) throw ValueError(label(item.first, name) + " is missing");
  }
  return compiled;
}

ParamValue DataNormSparsifier::effective_value(const std::string& key, const ParamValue& written,
                                               const std::any& compiled) const {
  const auto& spec = std::any_cast<const BlockSpec&>(compiled);
  if (key == "sparsity_level") return spec.sparsity_level;
  if (key == "zeros_per_block") return *spec.zeros_per_block;
  return written;  // lengths among them: −1 stays −1
}

void DataNormSparsifier::update_masks(const std::vector<Update>& updates) {
  std::vector<MaskJob> jobs;
  jobs.reserve(updates.size());
  for (const auto& update : updates) {
    jobs.push_back({update.data, std::any_cast<const BlockSpec&>(update.config), update.mask});
  }
  compute_masks(jobs);
}

bool DataNormSparsifier::is_overridden() const {
  return typeid(*this) != typeid(DataNormSparsifier);
}

}  // namespace datasparse
