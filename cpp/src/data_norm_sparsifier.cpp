#include "datasparse/data_norm_sparsifier.hpp"

#include <typeinfo>

#include "datasparse/error.hpp"
#include "mask_engine.hpp"

namespace datasparse {
namespace {

/// The keys of BlockSpec, without those of a subclass.
ParamMap block_config(const ParamMap& config) {
  static const ParamMap known = BlockSpec().to_config();
  ParamMap result;
  for (const auto& [key, value] : config) {
    if (known.contains(key)) result.set(key, value);
  }
  return result;
}

ParamMap joined(ParamMap map, const ParamMap& more) {
  map.update(more);
  return map;
}

}  // namespace

/// Masks to compute at the end of the step.
struct DataNormSparsifier::Updates {
  std::vector<MaskJob> jobs;
};

DataNormSparsifier::DataNormSparsifier(const BlockSpec& defaults, const ParamMap& own)
    : BaseDataSparsifier(joined(defaults.to_config(), own)), updates_(std::make_unique<Updates>()) {
  defaults.check();
}

DataNormSparsifier::~DataNormSparsifier() = default;

void DataNormSparsifier::update_mask(const std::string& name, const ArrayView& data,
                                     const ParamMap& config) {
  const Mask mask = get_mask(name);
  if (data.shape() != mask.shape()) {
    throw ValueError("data of '" + name + "' must have the shape of its mask, " +
                     to_string(mask.shape()) + ", got " + to_string(data.shape()));
  }
  const auto spec = BlockSpec::from_config(block_config(config), name).resolved(data.shape(), name);
  if (may_put_off()) {
    updates_->jobs.push_back({data, spec, mask.data()});
  } else {
    compute_masks({{data, spec, mask.data()}});
  }
}

void DataNormSparsifier::check_config(const std::string& name, const ParamMap& config) const {
  BlockSpec::from_config(config, name);
}

ParamMap DataNormSparsifier::effective_config(const std::string& name, const ParamMap& config,
                                              const Axes* shape) const {
  auto spec = BlockSpec::from_config(block_config(config), name);
  if (shape != nullptr) spec = spec.resolved(*shape, name);
  ParamMap shown = spec.to_config();
  // Lengths are shown as written: −1 stays −1.
  for (const auto& item : shown) {
    const auto* written = config.find(item.first);
    if (written == nullptr) throw ValueError(label(item.first, name) + " is missing");
    if (item.first == "sparse_block_shape") shown.set(item.first, *written);
  }
  ParamMap result = config;
  result.update(shown);
  return result;
}

void DataNormSparsifier::finish_updates() {
  if (updates_->jobs.empty()) return;
  compute_masks(updates_->jobs);
  updates_->jobs.clear();
}

void DataNormSparsifier::drop_updates() noexcept { updates_->jobs.clear(); }

bool DataNormSparsifier::is_overridden() const {
  return typeid(*this) != typeid(DataNormSparsifier);
}

}  // namespace datasparse
