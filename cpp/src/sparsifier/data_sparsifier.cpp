// A sparsifier's groups: adding, removing, finding.

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

}  // namespace

BaseDataSparsifier::BaseDataSparsifier(ParamMap defaults, const MaskRule* rule)
    : impl_(std::make_unique<Impl>()) {
  impl_->rule = rule;
  impl_->defaults = std::move(defaults);
}

BaseDataSparsifier::~BaseDataSparsifier() = default;

bool BaseDataSparsifier::add_data(const std::string& name, std::shared_ptr<DataSource> data,
                                  const ParamMap& config, bool reuse_mask, const std::uint8_t* mask,
                                  const GroupOptions& options) {
  if (data == nullptr) throw TypeError("data of '" + name + "' must be a source, got none");
  auto group = std::make_unique<Group>();
  const Entry entry(*this, "add_data()");
  if (name.empty()) throw ValueError("name of data must not be empty");

  Axes shape;
  std::shared_ptr<const KeptZeros> zeros;
  access_data([&] {
    const Pin pin(*data);
    shape = pin.view().shape();
    if (options.keep_zeros.value_or(false)) {
      zeros = KeptZeros::of(data->device().zeros_in(pin.view()));
    }
  });

  // What the new group starts from: the group that it replaces, a loaded state, or the defaults.
  const auto old = impl_->by_name.find(name);
  const bool goes_on =
      old != impl_->by_name.end() && (!old->second->squashed() || old->second->awaits_data);
  const Group* const replaced = goes_on ? old->second : nullptr;
  const auto loaded = impl_->waiting.find(name);
  group->name = name;
  ParamMap written = impl_->defaults;
  Axes shape_before;
  if (replaced != nullptr) {
    written = replaced->config.written;
    shape_before = replaced->mask.shape();
    group->layout = replaced->layout;
    group->kept = replaced->kept;
    group->updates = replaced->updates;
    group->warned_of_death = replaced->warned_of_death && replaced->mask.shape() == shape;
    if (reuse_mask) {
      group->mask = replaced->mask;
      group->state = replaced->state;
    }
  } else if (loaded != impl_->waiting.end()) {
    const GroupState& saved = loaded->second;
    written = saved.config;
    shape_before = saved.shape;
    group->layout = as_layout(saved.layout, saved.shape.size(), label("layout", name));
    group->kept = KeptZeros::of(saved.kept_zeros);
    group->updates = saved.updates;
    if (reuse_mask) {
      group->mask = Mask(saved.shape);
      group->mask.unpack(saved.mask_bits.data());
      group->state = saved.state;
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

  const bool has_mask = mask != nullptr || group->mask.data() != nullptr;
  if (mask != nullptr) {
    group->mask = checked_mask(name, shape, mask);
  } else if (!has_mask) {
    group->mask = Mask(shape);
  } else if (group->mask.shape() != shape) {
    throw ValueError("mask of '" + name +
                     "' must have the shape of its data to be reused: it has " +
                     to_string(group->mask.shape()) + ", the data have " + to_string(shape) +
                     "; pass reuse_mask=False");
  }
  group->source = std::move(data);
  const Mask reused = group->mask;  // the memory that the user may hold: written to last
  const auto kept = group->kept;
  impl_->put(group);
  if (kept != nullptr) prune_bits(reused.data(), kept->bits.data(), reused.size());
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

std::vector<std::string> BaseDataSparsifier::active(const std::vector<std::string>& names) const {
  const Entry entry(*this);
  std::vector<std::string> result;
  result.reserve(names.size());
  for (const auto& name : names) {
    const auto group = impl_->by_name.find(name);
    if (group != impl_->by_name.end() && !group->second->squashed()) result.push_back(name);
  }
  return result;
}

bool BaseDataSparsifier::contains(const std::string& name) const {
  const Entry entry(*this);
  return impl_->by_name.count(name) != 0;
}

bool BaseDataSparsifier::squashed(const std::string& name) const {
  const Entry entry(*this);
  return impl_->at(name).squashed();
}

bool BaseDataSparsifier::frozen(const std::string& name) const {
  const Entry entry(*this);
  return !impl_->at(name).updates;
}

Axes BaseDataSparsifier::layout(const std::string& name) const {
  const Entry entry(*this);
  return impl_->at(name).layout;
}

std::shared_ptr<const std::uint8_t> BaseDataSparsifier::kept_zeros(const std::string& name) const {
  const Entry entry(*this);
  const auto& kept = impl_->at(name).kept;
  return kept == nullptr ? nullptr : std::shared_ptr<const std::uint8_t>(kept, kept->bits.data());
}

bool BaseDataSparsifier::awaits_data(const std::string& name) const {
  const Entry entry(*this);
  const auto group = impl_->by_name.find(name);
  return impl_->waiting.count(name) != 0 ||
         (group != impl_->by_name.end() && group->second->awaits_data);
}

std::shared_ptr<DataSource> BaseDataSparsifier::get_data(const std::string& name) const {
  const Entry entry(*this);
  const Group& group = impl_->at(name);
  if (group.squashed()) {
    throw ValueError("data of '" + name +
                     "' were squashed and released; its mask can still be read");
  }
  return group.source;
}

std::pair<std::shared_ptr<DataSource>, Mask> BaseDataSparsifier::get_data_and_mask(
    const std::string& name) const {
  const Entry entry(*this);
  const Group& group = impl_->at(name);
  return {group.source, impl_->mask_of(group)};
}

Mask BaseDataSparsifier::get_mask(const std::string& name) const {
  const Entry entry(*this);
  return impl_->mask_of(impl_->at(name));
}

ParamMap BaseDataSparsifier::state(const std::string& name) const {
  const Entry entry(*this);
  return impl_->at(name).state;
}

std::vector<std::pair<std::string, ParamMap>> BaseDataSparsifier::states() const {
  const Entry entry(*this);
  std::vector<std::pair<std::string, ParamMap>> result;
  for (const auto& group : impl_->groups) result.emplace_back(group->name, group->state);
  return result;
}

void BaseDataSparsifier::replace_state(const std::string& name, const ParamMap& state) {
  const Entry entry(*this);  // a subclass's own: also in an override
  impl_->at(name).state = state;
}

bool BaseDataSparsifier::in_override() const noexcept {
  return impl_->owner.load() == std::this_thread::get_id();
}

}  // namespace datasparse
