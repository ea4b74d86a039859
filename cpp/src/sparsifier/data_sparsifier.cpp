// A sparsifier's groups: adding, removing, finding, and the config of each.

#include "datasparse/data_sparsifier.hpp"

#include <algorithm>

#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {
namespace {

/// A copy of the caller's mask.
Mask checked_mask(const std::string& name, const Axes& shape, const std::uint8_t* bytes) {
  Mask mask(shape);
  const auto* const wrong =
      std::find_if(bytes, bytes + mask.size(), [](std::uint8_t byte) { return byte > 1; });
  if (wrong != bytes + mask.size()) {
    throw ValueError("mask of '" + name + "' must hold 0 and 1 only, got " +
                     std::to_string(*wrong));
  }
  std::copy(bytes, bytes + mask.size(), mask.data());
  return mask;
}

/// A bit for each element that a mask keeps, without those that stay zero.
KeptArray bits_of(const Mask& mask, const std::uint8_t* kept_zeros) {
  PackedBits bits = mask.pack();
  if (kept_zeros != nullptr) {
    std::transform(bits.begin(), bits.end(), kept_zeros, bits.begin(),
                   [](std::uint8_t own, std::uint8_t zeros) {
                     return static_cast<std::uint8_t>(own & ~zeros);
                   });
  }
  const Axes shape{static_cast<std::int64_t>(bits.size())};
  return KeptArray(KeptArray::Type::uint8, shape, std::move(bits));
}

}  // namespace

BaseDataSparsifier::BaseDataSparsifier(ParamMap defaults, const MaskRule* rule)
    : impl_(std::make_unique<Impl>()) {
  impl_->rule = rule;
  impl_->defaults = std::move(defaults);
}

BaseDataSparsifier::~BaseDataSparsifier() = default;

void BaseDataSparsifier::access_data_by(Access access) { impl_->access = std::move(access); }

bool BaseDataSparsifier::add_data(const std::string& name, std::shared_ptr<DataSource> data,
                                  const ParamMap& config, bool reuse_mask, const std::uint8_t* mask,
                                  const GroupOptions& options) {
  if (data == nullptr) throw TypeError("data of '" + name + "' must be a source, got none");
  auto group = std::make_unique<Group>();
  const Entry entry(*this, "add_data()");
  if (name.empty()) throw ValueError("name of data must not be empty");

  Axes shape;
  Device* device = nullptr;
  std::shared_ptr<const KeptZeros> zeros;
  impl_->access([&] {
    const Pin pin(*data);
    shape = pin.view().shape();
    device = &data->device();
    if (options.keep_zeros.value_or(false)) {
      zeros = KeptZeros::of(std::move(device->zeros_in({pin.view()}).front()));
    }
  });

  // What the new group starts from: the group that it replaces, a loaded state, or the defaults.
  Group* before = impl_->find(name);
  if (before != nullptr && before->squashed() && !before->awaits_data) before = nullptr;
  const auto loaded = impl_->waiting.find(name);
  std::unique_ptr<Group> restored;
  if (before == nullptr && loaded != impl_->waiting.end()) {
    restored = Group::restored(loaded->second, {loaded->second.config, {}});
    before = restored.get();
  }
  group->name = name;
  ParamMap written = impl_->defaults;
  Axes shape_before;
  if (before != nullptr) {
    written = before->config.written;
    shape_before = before->mask.shape();
    group->layout = before->layout;
    group->kept = before->kept;
    group->updates = before->updates;
    group->warned_of_death = before->warned_of_death && shape_before == shape;
    if (reuse_mask) {
      group->mask = before->mask;
      group->state = before->state;
      before->bring_ever_here();
      group->arrays = before->arrays;
    }
  }
  if (shape_before.size() != shape.size()) group->layout = {};
  if (options.layout) {
    group->layout = as_layout(*options.layout, shape.size(), label("layout", name));
  }
  if (options.keep_zeros || shape_before != shape) group->kept = std::move(zeros);
  if (options.update) group->updates = *options.update;
  written.update(config);
  const Axes viewed = viewed_shape(shape, group->layout);
  group->config = Checker(*this)(name, std::move(written), &viewed);

  const bool has_mask = mask != nullptr || group->mask;
  if (mask != nullptr) {
    group->mask = checked_mask(name, shape, mask);
    if (impl_->rule != nullptr && impl_->rule->draws_masks()) {
      group->arrays[Group::ever_active_key] = bits_of(group->mask, group->kept_bits());
    }
  } else if (!has_mask) {
    group->mask = device->make_mask(shape);
  } else if (group->mask.shape() != shape) {
    throw ValueError("mask of '" + name +
                     "' must have the shape of its data to be reused: it has " +
                     to_string(group->mask.shape()) + ", the data have " + to_string(shape) +
                     "; pass reuse_mask=False");
  }
  group->bring_to(*device, impl_->moves);
  group->source = std::move(data);
  // The memory of a mask that is reused is what the user may hold: it is written to last.
  Mask own = group->mask;
  std::vector<Device::Change> last;
  if (group->kept != nullptr && device != &cpu()) {
    const Mask pruned = device->make_mask(shape);
    device->put({{pruned, device->copy(own)}});
    group->prune_kept(pruned);
    last.push_back({own, device->copy(pruned)});
  }
  const auto kept = group->kept;
  impl_->put(group);
  if (!last.empty()) {
    device->put(last);
  } else if (kept != nullptr) {
    prune_bits(own.data(), kept->bits.data(), own.size());
  }
  if (loaded != impl_->waiting.end()) impl_->waiting.erase(loaded);
  return has_mask;
}

void BaseDataSparsifier::remove_data(const std::string& name) {
  std::unique_ptr<Group> removed;  // destroyed last, outside the lock: its source may wait
  const Entry entry(*this, "remove_data()");
  Group* const group = &impl_->at(name);
  const auto place = std::find_if(impl_->groups.begin(), impl_->groups.end(),
                                  [group](const auto& item) { return item.get() == group; });
  removed = std::move(*place);
  impl_->groups.erase(place);
  impl_->by_name.erase(name);
}

std::vector<std::string> BaseDataSparsifier::names() const {
  const Entry entry(*this);
  return impl_->names();
}

bool BaseDataSparsifier::contains(const std::string& name) const {
  const Entry entry(*this);
  return impl_->find(name) != nullptr;
}

bool BaseDataSparsifier::squashed(const std::string& name) const {
  const Entry entry(*this);
  return impl_->at(name).squashed();
}

std::shared_ptr<DataSource> BaseDataSparsifier::get_data(const std::string& name) const {
  const Entry entry(*this);
  const Group& group = impl_->at(name);
  if (group.squashed() && group.awaits_data) {
    throw ValueError("data of '" + name + "' are awaited: give them by add_data()");
  }
  if (group.squashed()) {
    throw ValueError("data of '" + name +
                     "' were squashed and released; its mask can still be read");
  }
  return group.source;
}

Mask BaseDataSparsifier::get_mask(const std::string& name) const {
  const Entry entry(*this);
  Group& group = impl_->at(name);
  if (impl_->inside == nullptr && !group.squashed()) {  // a step has brought it along already
    impl_->access([&] { group.bring_to(group.source->device(), impl_->moves); });
  }
  return impl_->mask_of(group);
}

void BaseDataSparsifier::check_config(const std::string&, const ParamMap&) const {}

ParamMap BaseDataSparsifier::config(const std::string& name) const {
  const Entry entry(*this);
  return impl_->shown(impl_->at(name).config);
}

ParamValue BaseDataSparsifier::config_value(const std::string& name, const std::string& key) const {
  const Entry entry(*this);
  const Config& config = impl_->at(name).config;
  return impl_->shown(config, key, config.written.at(key));
}

void BaseDataSparsifier::update_config(const std::string& name, const ParamMap& changes) {
  const Entry entry(*this, "writing a config");
  Group& group = impl_->at(name);
  ParamMap config = group.config.written;
  config.update(changes);
  group.config = Checker(*this)(group, std::move(config));
}

ParamMap BaseDataSparsifier::defaults() const {
  const Entry entry(*this);
  return impl_->defaults;
}

void BaseDataSparsifier::replace_defaults(const ParamMap& defaults) {
  const Entry entry(*this, "writing the defaults");
  impl_->defaults = Checker(*this)("", defaults, nullptr).written;
}

void BaseDataSparsifier::check_defaults() const {
  const Entry entry(*this, "the constructor");
  Checker (*this)("", impl_->defaults, nullptr);
}

ParamMap BaseDataSparsifier::state(const std::string& name) const {
  const Entry entry(*this);
  return impl_->at(name).state;
}

void BaseDataSparsifier::replace_state(const std::string& name, const ParamMap& state) {
  const Entry entry(*this);  // a subclass's own: also in an override
  impl_->at(name).state = state;
}

}  // namespace datasparse
