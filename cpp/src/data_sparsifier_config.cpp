// Configs: what was written, what of it is shown, and how it changes: all or nothing.

#include "data_sparsifier_impl.hpp"

namespace datasparse {

void BaseDataSparsifier::check_config(const std::string&, const ParamMap&) const {}

std::any BaseDataSparsifier::compile_config(const std::string&, const ParamMap&,
                                            const Axes*) const {
  return {};
}

ParamValue BaseDataSparsifier::effective_value(const std::string&, const ParamValue& written,
                                               const std::any&) const {
  return written;
}

ParamMap BaseDataSparsifier::effective(const Config& config) const {
  ParamMap shown;
  for (const auto& [key, value] : config.written) {
    shown.set(key, effective_value(key, value, config.compiled));
  }
  return shown;
}

// --- reading ----------------------------------------------------------------------------------

ParamMap BaseDataSparsifier::config(const std::string& name) const {
  const Entry entry(*this, Entry::reads, "config()");
  return effective(impl_->at(name).config);
}

std::vector<std::pair<std::string, ParamMap>> BaseDataSparsifier::configs() const {
  const Entry entry(*this, Entry::reads, "configs()");
  std::vector<std::pair<std::string, ParamMap>> result;
  for (const auto& group : impl_->groups) {
    result.emplace_back(group->name, effective(group->config));
  }
  return result;
}

ParamValue BaseDataSparsifier::config_value(const std::string& name, const std::string& key) const {
  const Entry entry(*this, Entry::reads, "config_value()");
  const Config& config = impl_->at(name).config;
  return effective_value(key, config.written.at(key), config.compiled);
}

ParamMap BaseDataSparsifier::get_param(const std::string& key) const {
  const Entry entry(*this, Entry::reads, "get_param()");
  return param_of_groups(key);
}

ParamMap BaseDataSparsifier::param_of_groups(const std::string& key) const {
  ParamMap values;
  values.reserve(impl_->groups.size());
  for (const auto& group : impl_->groups) {
    const auto& [written, compiled] = group->config;
    if (const auto* value = written.find(key)) {
      values.set(group->name, effective_value(key, *value, compiled));
    }
  }
  return values;
}

std::vector<std::string> BaseDataSparsifier::known_params() const {
  const Entry entry(*this, Entry::reads, "known_params()");
  ParamMap known = impl_->defaults;
  for (const auto& group : impl_->groups) known.update(group->config.written);
  return known.keys();
}

// --- writing ----------------------------------------------------------------------------------

/// Puts the new configs into place, and the old ones where the new ones were.
void BaseDataSparsifier::exchange(std::vector<Change>& changes) noexcept {
  for (auto& change : changes) std::swap(change.group->config, change.config);
}

void BaseDataSparsifier::update_config(const std::string& name, const ParamMap& changes) {
  const Entry entry(*this, Entry::changes, "writing a config");
  Group& group = impl_->at(name);
  ParamMap config = group.config.written;
  config.update(changes);
  group.config = Checker(*this)(name, std::move(config), &group.mask.shape());
}

void BaseDataSparsifier::erase_config_key(const std::string& name, const std::string& key) {
  const Entry entry(*this, Entry::changes, "writing a config");
  Group& group = impl_->at(name);
  ParamMap config = group.config.written;
  config.at(key);  // for its message
  config.erase(key);
  group.config = Checker(*this)(name, std::move(config), &group.mask.shape());
}

void BaseDataSparsifier::replace_configs(
    const std::vector<std::pair<std::string, ParamMap>>& configs) {
  const Entry entry(*this, Entry::changes, "writing a config");
  const Checker checked(*this);
  std::vector<Change> changes;
  for (const auto& [name, given] : configs) {
    Group& group = impl_->at(name);
    ParamMap config = impl_->defaults;
    config.update(given);
    changes.push_back({&group, checked(name, std::move(config), &group.mask.shape())});
  }
  exchange(changes);
}

/// The configs of the groups named in `values`, with `key` changed.
std::vector<BaseDataSparsifier::Change> BaseDataSparsifier::with_param(
    const std::string& key, const ParamMap& values) const {
  const Checker checked(*this);
  std::vector<Change> changes;
  changes.reserve(values.size());
  for (const auto& [name, value] : values) {
    Group& group = impl_->at(name);
    if (holds_nan(value)) {
      throw ValueError(label(key, name) + " must not be NaN, got " + to_string(value));
    }
    ParamMap config = group.config.written;
    config.set(key, value);
    changes.push_back({&group, checked(name, std::move(config), &group.mask.shape())});
  }
  return changes;
}

ParamMap BaseDataSparsifier::set_param(const std::string& key, const ParamMap& values) {
  const Entry entry(*this, Entry::changes, "writing a config");
  auto changes = with_param(key, values);
  exchange(changes);
  try {
    return param_of_groups(key);
  } catch (...) {
    exchange(changes);
    throw;
  }
}

void BaseDataSparsifier::check_param(const std::string& key, const ParamMap& values) const {
  const Entry entry(*this, Entry::changes, "checking a config");
  with_param(key, values);
}

// --- defaults ---------------------------------------------------------------------------------

ParamMap BaseDataSparsifier::defaults() const {
  const Entry entry(*this, Entry::reads, "defaults()");
  return impl_->defaults;
}

void BaseDataSparsifier::replace_defaults(const ParamMap& defaults) {
  const Entry entry(*this, Entry::changes, "writing the defaults");
  impl_->defaults = Checker(*this)("", defaults, nullptr).written;
}

void BaseDataSparsifier::check_defaults() const {
  const Entry entry(*this, Entry::changes, "the constructor");
  Checker (*this)("", impl_->defaults, nullptr);
}

}  // namespace datasparse
