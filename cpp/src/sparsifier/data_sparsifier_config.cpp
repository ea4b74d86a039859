// Configs: what was written, what of it is shown, and how it changes: all or nothing.

#include <algorithm>

#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {

void BaseDataSparsifier::check_config(const std::string&, const ParamMap&) const {}

ParamValue BaseDataSparsifier::shown(const Config& config, const std::string& key,
                                     const ParamValue& written) const {
  return impl_->rule == nullptr ? written : impl_->rule->shown(config.compiled, key, written);
}

ParamMap BaseDataSparsifier::shown(const Config& config) const {
  ParamMap map;
  for (const auto& [key, value] : config.written) map.set(key, shown(config, key, value));
  return map;
}

// --- reading ----------------------------------------------------------------------------------

ParamMap BaseDataSparsifier::config(const std::string& name) const {
  const Entry entry(*this);
  return shown(impl_->at(name).config);
}

std::vector<std::pair<std::string, ParamMap>> BaseDataSparsifier::configs() const {
  const Entry entry(*this);
  std::vector<std::pair<std::string, ParamMap>> result;
  for (const auto& group : impl_->groups) {
    result.emplace_back(group->name, shown(group->config));
  }
  return result;
}

ParamValue BaseDataSparsifier::config_value(const std::string& name, const std::string& key) const {
  const Entry entry(*this);
  const Config& config = impl_->at(name).config;
  return shown(config, key, config.written.at(key));
}

std::optional<ParamValue> BaseDataSparsifier::try_config_value(const std::string& name,
                                                               const std::string& key,
                                                               std::size_t likely) const {
  const Entry entry(*this, std::try_to_lock);
  if (!entry.entered()) return std::nullopt;
  const Config& config = impl_->at(name, likely).config;
  return shown(config, key, config.written.at(key));
}

ParamMap BaseDataSparsifier::get_param(const std::string& key) const {
  ParamMap values;
  get_param(key, values);
  return values;
}

void BaseDataSparsifier::get_param(const std::string& key, ParamMap& values) const {
  const Entry entry(*this);
  param_of_groups(key, values);
}

void BaseDataSparsifier::param_of_groups(const std::string& key, ParamMap& values) const {
  std::size_t count = 0;
  values.reserve(impl_->groups.size());
  for (const auto& group : impl_->groups) {
    const auto* const value = group->config.written.find(key);
    if (value != nullptr) values.rewrite(count++, group->name, shown(group->config, key, *value));
  }
  values.truncate(count);
}

std::vector<std::string> BaseDataSparsifier::known_params() const {
  const Entry entry(*this);
  ParamMap known = impl_->defaults;
  for (const auto& group : impl_->groups) known.update(group->config.written);
  return known.keys();
}

// --- writing ----------------------------------------------------------------------------------

/// Puts what is new into place, and what is old where the new was.
void BaseDataSparsifier::exchange(std::vector<Change>& changes, const std::string& key) noexcept {
  for (auto& [group, config, place, value] : changes) {
    if (config != nullptr) {
      std::swap(group->config, *config);
    } else {
      std::swap(*place, value);
      if (impl_->rule != nullptr) impl_->rule->put_value(group->config.compiled, key, *place);
    }
  }
}

void BaseDataSparsifier::update_config(const std::string& name, const ParamMap& changes) {
  const Entry entry(*this, "writing a config");
  Group& group = impl_->at(name);
  ParamMap config = group.config.written;
  config.update(changes);
  group.config = Checker(*this)(group, std::move(config));
}

void BaseDataSparsifier::erase_config_key(const std::string& name, const std::string& key) {
  const Entry entry(*this, "writing a config");
  Group& group = impl_->at(name);
  ParamMap config = group.config.written;
  config.at(key);  // for its message
  config.erase(key);
  group.config = Checker(*this)(group, std::move(config));
}

void BaseDataSparsifier::replace_configs(
    const std::vector<std::pair<std::string, ParamMap>>& configs) {
  const Entry entry(*this, "writing a config");
  const Checker checked(*this);
  std::vector<Change> changes;
  for (const auto& [name, given] : configs) {
    Group& group = impl_->at(name);
    ParamMap config = impl_->defaults;
    config.update(given);
    changes.push_back({&group, std::make_unique<Config>(checked(group, std::move(config)))});
  }
  exchange(changes);
}

/// The configs of the groups named in `values`, with `key` changed, in their order.
std::vector<BaseDataSparsifier::Change> BaseDataSparsifier::with_param(
    const Checker& checked, const std::string& key, const ParamMap& values) const {
  const MaskRule* const rule = impl_->rule;
  const bool by_rule = !checked.foreign().check_config;
  std::vector<Change> changes;
  changes.reserve(values.size());
  std::size_t likely = 0;  // the groups are mostly named in their own order
  for (const auto& [name, value] : values) {
    Group& group = impl_->at(name, likely++);
    if (holds_nan(value)) {
      throw ValueError(label(key, name) + " must not be NaN, got " + to_string(value));
    }
    ParamValue* const place = group.config.written.find(key);
    if (by_rule && place != nullptr && !place->is_none() && !value.is_none()) {
      if (rule == nullptr || rule->check_value(group.config.compiled, name, key, value)) {
        changes.push_back({&group, nullptr, place, value});
        continue;
      }
    }
    ParamMap config = group.config.written;
    config.set(key, value);
    changes.push_back({&group, std::make_unique<Config>(checked(group, std::move(config)))});
  }
  return changes;
}

ParamMap BaseDataSparsifier::set_param(const std::string& key, const ParamMap& values) {
  ParamMap now;
  set_param(key, values, now);
  return now;
}

void BaseDataSparsifier::set_param(const std::string& key, const ParamMap& values, ParamMap& now) {
  const Entry entry(*this, "writing a config");
  auto changes = with_param(Checker(*this), key, values);
  exchange(changes, key);
  try {
    param_of_groups(key, now);
  } catch (...) {
    exchange(changes, key);
    throw;
  }
}

void BaseDataSparsifier::check_param(const std::string& key, const ParamMap& values) const {
  const Entry entry(*this, "checking a config");
  with_param(Checker(*this), key, values);
}

/// How many elements a step zeroes in the group, where its rule alone would zero as many as `rule`.
ZeroCount BaseDataSparsifier::zeros_with_kept(const ZeroCount& rule, const Group& group) {
  if (!group.updates) return {group.mask.zeros(), group.mask.zeros()};
  if (group.kept == nullptr) return rule;
  const std::int64_t kept = group.kept->count;
  return {std::max(rule.least, kept), std::min(group.mask.size(), rule.most + kept)};
}

std::vector<ZeroCount> BaseDataSparsifier::count_zeros(const std::string& key,
                                                       const ParamMap& values) const {
  const Entry entry(*this, "planning");
  const Checker checked(*this);
  const auto changes = with_param(checked, key, values);
  const MaskRule* const rule = impl_->rule;
  std::vector<ZeroCount> counts;
  if (rule == nullptr || checked.foreign().update_mask) return counts;
  for (const auto& change : changes) {
    const Group& group = *change.group;
    std::any compiled = change.config != nullptr ? change.config->compiled : group.config.compiled;
    if (change.config == nullptr) rule->put_value(compiled, key, change.value);
    counts.push_back(zeros_with_kept(rule->count_zeros(compiled, group.viewed_shape()), group));
  }
  return counts;
}

// --- defaults ---------------------------------------------------------------------------------

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

}  // namespace datasparse
