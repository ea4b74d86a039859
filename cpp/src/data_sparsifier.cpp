#include "datasparse/data_sparsifier.hpp"

#include <algorithm>

#include "data_sparsifier_impl.hpp"
#include "kernels/kernels.hpp"
#include "zero_masked.hpp"

namespace datasparse {
namespace {

/// Pins many sources for the length of a scope, all or none.
class Pins {
 public:
  using Access = std::function<void(const std::function<void()>&)>;

  Pins(const std::vector<DataSource*>& sources, Access access) : access_(std::move(access)) {
    pinned_.reserve(sources.size());
    views_.reserve(sources.size());
    access_([&] {
      try {
        for (auto* source : sources) {
          views_.push_back(source->pin());
          pinned_.push_back(source);
        }
      } catch (...) {
        unpin();
        throw;
      }
    });
  }
  Pins(const Pins&) = delete;
  Pins& operator=(const Pins&) = delete;
  ~Pins() {
    access_([this] { unpin(); });
  }

  const std::vector<ArrayView>& views() const noexcept { return views_; }

 private:
  void unpin() noexcept {
    for (auto* source : pinned_) source->unpin();
    pinned_.clear();
  }

  Access access_;
  std::vector<DataSource*> pinned_;
  std::vector<ArrayView> views_;
};

void require_shape(const std::string& name, const Axes& now, const Axes& expected) {
  if (now == expected) return;
  throw ValueError("data of '" + name + "' must keep the shape " + to_string(expected) + ", got " +
                   to_string(now) +
                   "; call add_data again with reuse_mask=False for data of another shape");
}

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

BaseDataSparsifier::BaseDataSparsifier(ParamMap defaults) : impl_(std::make_unique<Impl>()) {
  impl_->defaults = std::move(defaults);
}

BaseDataSparsifier::~BaseDataSparsifier() = default;

// --- groups -----------------------------------------------------------------------------------

bool BaseDataSparsifier::add_data(const std::string& name, std::shared_ptr<DataSource> data,
                                  const ParamMap& config, bool reuse_mask,
                                  const std::uint8_t* mask) {
  if (data == nullptr) throw TypeError("data of '" + name + "' must be a source, got none");
  auto group = std::make_unique<Group>();
  const Entry entry(*this, Entry::changes, "add_data()");
  if (name.empty()) throw ValueError("name of data must not be empty");

  Axes shape;
  access_data([&] { shape = Pin(*data).view().shape(); });

  // What the new group starts from: the group that it replaces, a loaded state, or the defaults.
  const auto old = impl_->by_name.find(name);
  const bool goes_on =
      old != impl_->by_name.end() && (!old->second->squashed() || old->second->awaits_data);
  const Group* const replaced = goes_on ? old->second : nullptr;
  const auto loaded = impl_->waiting.find(name);
  group->name = name;
  group->written = impl_->defaults;
  if (replaced != nullptr) {
    group->written = replaced->written;
    if (reuse_mask) {
      group->mask = replaced->mask;
      group->state = replaced->state;
    }
  } else if (loaded != impl_->waiting.end()) {
    group->written = loaded->second.config;
    if (reuse_mask) {
      group->mask = Mask(loaded->second.shape);
      group->mask.unpack(loaded->second.mask_bits.data());
      group->state = loaded->second.state;
    }
  }
  group->written.update(config);
  group->effective = checked_config(name, group->written, &shape);

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
  impl_->put(group);
  if (loaded != impl_->waiting.end()) impl_->waiting.erase(loaded);
  return has_mask;
}

void BaseDataSparsifier::remove_data(const std::string& name) {
  std::unique_ptr<Group> removed;  // destroyed last, outside the lock: its source may wait
  const Entry entry(*this, Entry::changes, "remove_data()");
  Group* const group = &impl_->at(name);
  const auto place = std::find_if(impl_->groups.begin(), impl_->groups.end(),
                                  [group](const auto& item) { return item.get() == group; });
  removed = std::move(*place);
  impl_->groups.erase(place);
  impl_->by_name.erase(name);
}

std::vector<std::string> BaseDataSparsifier::names() const {
  const Entry entry(*this, Entry::reads, "names()");
  return impl_->names();
}

bool BaseDataSparsifier::contains(const std::string& name) const {
  const Entry entry(*this, Entry::reads, "contains()");
  return impl_->by_name.count(name) != 0;
}

bool BaseDataSparsifier::squashed(const std::string& name) const {
  const Entry entry(*this, Entry::reads, "squashed()");
  return impl_->at(name).squashed();
}

std::shared_ptr<DataSource> BaseDataSparsifier::get_data(const std::string& name) const {
  const Entry entry(*this, Entry::reads, "get_data()");
  const Group& group = impl_->at(name);
  if (group.squashed()) {
    throw ValueError("data of '" + name +
                     "' were squashed and released; its mask can still be read");
  }
  return group.source;
}

std::pair<std::shared_ptr<DataSource>, Mask> BaseDataSparsifier::get_data_and_mask(
    const std::string& name) const {
  const Entry entry(*this, Entry::reads, "get_data_and_mask()");
  const Group& group = impl_->at(name);
  return {group.source, group.mask};
}

Mask BaseDataSparsifier::get_mask(const std::string& name) const {
  const Entry entry(*this, Entry::reads, "get_mask()");
  return impl_->at(name).mask;
}

// --- config -----------------------------------------------------------------------------------

ParamMap BaseDataSparsifier::config(const std::string& name) const {
  const Entry entry(*this, Entry::reads, "config()");
  return impl_->at(name).effective;
}

std::vector<std::pair<std::string, ParamMap>> BaseDataSparsifier::configs() const {
  const Entry entry(*this, Entry::reads, "configs()");
  std::vector<std::pair<std::string, ParamMap>> result;
  for (const auto& group : impl_->groups) result.emplace_back(group->name, group->effective);
  return result;
}

ParamValue BaseDataSparsifier::config_value(const std::string& name, const std::string& key) const {
  const Entry entry(*this, Entry::reads, "config_value()");
  return impl_->at(name).effective.at(key);
}

/// The one place where configs of groups change: all are checked before any is written. Returns
/// what get_param(key) returns from then on, where a key is given.
ParamMap BaseDataSparsifier::write_configs(std::vector<std::pair<Group*, ParamMap>> written,
                                           const std::string* key) {
  std::unordered_map<const Group*, ParamMap> effective;
  for (const auto& [group, config] : written) {
    effective[group] = checked_config(group->name, config, &group->mask.shape());
  }
  ParamMap values;
  for (std::size_t i = 0; key != nullptr && i < impl_->groups.size(); ++i) {
    const Group* const group = impl_->groups[i].get();
    const auto changed = effective.find(group);
    const auto& shown = changed != effective.end() ? changed->second : group->effective;
    if (const auto* value = shown.find(*key)) values.set(group->name, *value);
  }
  for (auto& [group, config] : written) {
    group->written = std::move(config);
    group->effective = std::move(effective.find(group)->second);
  }
  return values;
}

void BaseDataSparsifier::update_config(const std::string& name, const ParamMap& changes) {
  const Entry entry(*this, Entry::changes, "writing a config");
  Group& group = impl_->at(name);
  ParamMap config = group.written;
  config.update(changes);
  write_configs({{&group, std::move(config)}});
}

void BaseDataSparsifier::replace_configs(
    const std::vector<std::pair<std::string, ParamMap>>& configs) {
  const Entry entry(*this, Entry::changes, "writing a config");
  std::vector<std::pair<Group*, ParamMap>> written;
  for (const auto& [name, given] : configs) {
    ParamMap config = impl_->defaults;
    config.update(given);
    written.emplace_back(&impl_->at(name), std::move(config));
  }
  write_configs(std::move(written));
}

void BaseDataSparsifier::erase_config_key(const std::string& name, const std::string& key) {
  const Entry entry(*this, Entry::changes, "writing a config");
  Group& group = impl_->at(name);
  group.effective.at(key);  // for its message
  ParamMap config = group.written;
  config.erase(key);
  write_configs({{&group, std::move(config)}});
}

/// The configs of the groups named in `values`, with `key` changed.
std::vector<std::pair<BaseDataSparsifier::Group*, ParamMap>> BaseDataSparsifier::with_param(
    const std::string& key, const ParamMap& values) const {
  std::vector<std::pair<Group*, ParamMap>> changed;
  changed.reserve(values.size());
  for (const auto& [name, value] : values) {
    Group& group = impl_->at(name);
    if (holds_nan(value)) {
      throw ValueError(label(key, name) + " must not be NaN, got " + to_string(value));
    }
    ParamMap config = group.written;
    config.set(key, value);
    changed.emplace_back(&group, std::move(config));
  }
  return changed;
}

ParamMap BaseDataSparsifier::set_param(const std::string& key, const ParamMap& values) {
  const Entry entry(*this, Entry::changes, "writing a config");
  return write_configs(with_param(key, values), &key);
}

void BaseDataSparsifier::check_param(const std::string& key, const ParamMap& values) const {
  const Entry entry(*this, Entry::changes, "checking a config");
  for (const auto& [group, config] : with_param(key, values)) {
    checked_config(group->name, config, &group->mask.shape());
  }
}

ParamMap BaseDataSparsifier::get_param(const std::string& key) const {
  const Entry entry(*this, Entry::reads, "get_param()");
  ParamMap values;
  for (const auto& group : impl_->groups) {
    if (const auto* value = group->effective.find(key)) values.set(group->name, *value);
  }
  return values;
}

ParamMap BaseDataSparsifier::defaults() const {
  const Entry entry(*this, Entry::reads, "defaults()");
  return impl_->defaults;
}

void BaseDataSparsifier::replace_defaults(const ParamMap& defaults) {
  const Entry entry(*this, Entry::changes, "writing the defaults");
  checked_config("", defaults, nullptr);
  impl_->defaults = defaults;
}

ParamMap BaseDataSparsifier::state(const std::string& name) const {
  const Entry entry(*this, Entry::reads, "state()");
  return impl_->at(name).state;
}

std::vector<std::pair<std::string, ParamMap>> BaseDataSparsifier::states() const {
  const Entry entry(*this, Entry::reads, "states()");
  std::vector<std::pair<std::string, ParamMap>> result;
  for (const auto& group : impl_->groups) result.emplace_back(group->name, group->state);
  return result;
}

void BaseDataSparsifier::replace_state(const std::string& name, const ParamMap& state) {
  const Entry entry(*this, Entry::reads,
                    "writing a state");  // a subclass's own: also in an override
  impl_->at(name).state = state;
}

bool BaseDataSparsifier::in_override() const noexcept {
  return impl_->owner.load() == std::this_thread::get_id();
}

std::vector<std::string> BaseDataSparsifier::known_params() const {
  const Entry entry(*this, Entry::reads, "known_params()");
  ParamMap known = impl_->defaults;
  for (const auto& group : impl_->groups) known.update(group->effective);
  std::vector<std::string> keys;
  for (const auto& item : known) keys.push_back(item.first);
  return keys;
}

// --- masks ------------------------------------------------------------------------------------

void BaseDataSparsifier::step() {
  const Entry entry(*this, Entry::changes, "step()");
  if (!impl_->enable_mask_update) {
    ++impl_->step_count;
    return;
  }
  const auto groups = unsquashed();
  std::vector<DataSource*> sources;
  for (const auto* group : groups) sources.push_back(group->source.get());
  const Pins pins(sources, [this](const auto& work) { access_data(work); });
  for (std::size_t i = 0; i < groups.size(); ++i) {
    require_shape(groups[i]->name, pins.views()[i].shape(), groups[i]->mask.shape());
  }

  struct Saved {
    std::vector<std::uint8_t> mask_bits;
    ParamMap state;
  };
  std::vector<Saved> saved;
  const bool overridden = is_overridden();
  if (overridden) {
    for (const auto& group : impl_->groups) saved.push_back({group->mask.pack(), group->state});
  }
  const Inside inside(impl_->inside, "update_mask()");
  impl_->may_put_off = !overridden;
  try {
    for (std::size_t i = 0; i < groups.size(); ++i) {
      update_mask(groups[i]->name, pins.views()[i], groups[i]->effective);
    }
    finish_updates();
  } catch (...) {
    impl_->may_put_off = false;
    drop_updates();
    for (std::size_t i = 0; i < saved.size(); ++i) {
      impl_->groups[i]->mask.unpack(saved[i].mask_bits.data());
      impl_->groups[i]->state = std::move(saved[i].state);
    }
    throw;
  }
  impl_->may_put_off = false;
  ++impl_->step_count;
}

bool BaseDataSparsifier::enable_mask_update() const {
  const Entry entry(*this, Entry::reads, "enable_mask_update");
  return impl_->enable_mask_update;
}

void BaseDataSparsifier::set_enable_mask_update(bool enable) {
  const Entry entry(*this, Entry::changes, "writing enable_mask_update");
  impl_->enable_mask_update = enable;
}

std::int64_t BaseDataSparsifier::step_count() const {
  const Entry entry(*this, Entry::reads, "step_count");
  return impl_->step_count;
}

std::vector<BaseDataSparsifier::Group*> BaseDataSparsifier::unsquashed() const {
  std::vector<Group*> groups;
  for (const auto& group : impl_->groups) {
    if (!group->squashed()) groups.push_back(group.get());
  }
  return groups;
}

std::vector<BaseDataSparsifier::Group*> BaseDataSparsifier::unsquashed(
    const std::vector<std::string>& names, const char* call) const {
  std::vector<Group*> groups;
  for (const auto& name : names) {
    Group& group = impl_->at(name);
    if (group.squashed()) {
      throw ValueError(std::string(call) + " of '" + name +
                       "' is impossible: it was squashed already");
    }
    if (std::find(groups.begin(), groups.end(), &group) == groups.end()) groups.push_back(&group);
  }
  return groups;
}

void BaseDataSparsifier::zero_masked(const std::vector<Group*>& groups, const char* call) {
  std::vector<DataSource*> sources;
  for (const auto* group : groups) sources.push_back(group->source.get());
  const Pins pins(sources, [this](const auto& work) { access_data(work); });
  const Kernels& table = kernels();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    require_shape(groups[i]->name, pins.views()[i].shape(), groups[i]->mask.shape());
    require_writable(pins.views()[i], std::string(call) + " of '" + groups[i]->name + "'");
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    datasparse::zero_masked(table, pins.views()[i], groups[i]->mask.data());
  }
  access_data([&sources] {
    for (auto* source : sources) source->mark_written();
  });
}

/// Zeroes, and hands the sources out, so that the caller lets them go outside the lock.
std::vector<std::shared_ptr<DataSource>> BaseDataSparsifier::squash(
    const std::vector<Group*>& groups) {
  std::vector<std::shared_ptr<DataSource>> released;
  released.reserve(groups.size());
  zero_masked(groups, "squash_mask");
  for (auto* group : groups) released.push_back(std::move(group->source));
  return released;
}

void BaseDataSparsifier::apply_mask(const std::vector<std::string>& names) {
  const Entry entry(*this, Entry::changes, "apply_mask()");
  zero_masked(unsquashed(names, "apply_mask"), "apply_mask");
}

void BaseDataSparsifier::apply_mask() {
  const Entry entry(*this, Entry::changes, "apply_mask()");
  zero_masked(unsquashed(), "apply_mask");
}

void BaseDataSparsifier::squash_mask(const std::vector<std::string>& names) {
  std::vector<std::shared_ptr<DataSource>> released;
  const Entry entry(*this, Entry::changes, "squash_mask()");
  released = squash(unsquashed(names, "squash_mask"));
}

void BaseDataSparsifier::squash_mask() {
  std::vector<std::shared_ptr<DataSource>> released;
  const Entry entry(*this, Entry::changes, "squash_mask()");
  released = squash(unsquashed());
}

// --- to override ------------------------------------------------------------------------------

void BaseDataSparsifier::check_config(const std::string&, const ParamMap&) const {}

ParamMap BaseDataSparsifier::effective_config(const std::string&, const ParamMap& config,
                                              const Axes*) const {
  return config;
}

void BaseDataSparsifier::check_defaults() const {
  const Entry entry(*this, Entry::changes, "the constructor");
  checked_config("", impl_->defaults, nullptr);
}

ParamMap BaseDataSparsifier::checked_config(const std::string& name, const ParamMap& config,
                                            const Axes* shape) const {
  const Inside inside(impl_->inside, "check_config()");
  check_config(name, config);
  return effective_config(name, config, shape);
}

bool BaseDataSparsifier::may_put_off() const noexcept { return impl_->may_put_off; }

void BaseDataSparsifier::run_as_update(const std::function<void()>& work) {
  const Entry entry(*this, Entry::reads, "update_mask()");
  const Inside inside(impl_->inside, "update_mask()");
  work();
}

}  // namespace datasparse
