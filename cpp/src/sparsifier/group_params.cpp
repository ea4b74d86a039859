// How configs change over all groups: all or nothing.

#include "datasparse/group_params.hpp"

#include <unordered_map>

#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {

/// What was checked for a group, and waits until all others are checked too: one value and the
/// place in the written config where it belongs, or else a whole config.
struct BaseDataSparsifier::Change {
  Group* group;
  std::unique_ptr<Config> config;
  ParamValue* place = nullptr;
  ParamValue value = {};

  /// Puts what is new into place, and what is old where the new was.
  void exchange(const MaskRule* rule, const std::string& key) noexcept {
    if (config != nullptr) {
      std::swap(group->config, *config);
    } else {
      std::swap(*place, value);
      if (rule != nullptr) rule->put_value(group->config.compiled, key, *place);
    }
  }
};

std::vector<std::string> GroupParams::known() const {
  const Entry entry(sparsifier_);
  ParamMap known = sparsifier_.impl_->defaults;
  for (const auto& group : sparsifier_.impl_->groups) known.update(group->config.written);
  return known.keys();
}

ParamMap GroupParams::get(const std::string& key, ParamMap into) const {
  const Entry entry(sparsifier_);
  const auto& impl = *sparsifier_.impl_;
  std::size_t count = 0;
  into.reserve(impl.groups.size());
  for (const auto& group : impl.groups) {
    const auto* const value = group->config.written.find(key);
    if (value != nullptr)
      into.rewrite(count++, group->name, impl.shown(group->config, key, *value));
  }
  into.truncate(count);
  return into;
}

/// What of `values` is to be written, in their order.
std::vector<GroupParams::Change> GroupParams::changes(const Checker& checked,
                                                      const std::string& key,
                                                      const ParamMap& values) const {
  const auto& impl = *sparsifier_.impl_;
  const bool by_rule = !checked.foreign().check_config;
  std::vector<Change> changes;
  changes.reserve(values.size());
  std::size_t likely = 0;  // the groups are mostly named in their own order
  for (const auto& [name, value] : values) {
    auto& group = impl.at(name, likely++);
    if (holds_nan(value)) {
      throw ValueError(label(key, name) + " must not be NaN, got " + to_string(value));
    }
    ParamValue* const place = group.config.written.find(key);
    if (by_rule && place != nullptr && !place->is_none() && !value.is_none()) {
      if (impl.rule == nullptr || impl.rule->check_value(group.config.compiled, name, key, value)) {
        changes.push_back({&group, nullptr, place, value});
        continue;
      }
    }
    ParamMap config = group.config.written;
    config.set(key, value);
    auto made = std::make_unique<Config>(checked(group, std::move(config)));
    changes.push_back({&group, std::move(made)});
  }
  return changes;
}

/// What work() returns, while the changes are in place, if they are possible together. They stay
/// only where they are `kept`, and nothing throws.
template <class Work>
auto GroupParams::during(std::vector<Change>& changes, const std::string& key, bool kept,
                         const Work& work) const {
  struct Exchanged {
    std::vector<Change>& changes;
    const MaskRule* rule;
    const std::string& key;
    bool stays = false;
    void exchange() noexcept {
      for (auto& change : changes) change.exchange(rule, key);
    }
    ~Exchanged() {
      if (!stays) exchange();
    }
  } exchanged{changes, sparsifier_.impl_->rule, key};
  exchanged.exchange();
  sparsifier_.impl_->require_possible();
  auto result = work();
  exchanged.stays = kept;
  return result;
}

ParamMap GroupParams::set(const std::string& key, const ParamMap& values, ParamMap into) {
  const Entry entry(sparsifier_, "writing a config");
  auto made = changes(Checker(sparsifier_), key, values);
  return during(made, key, true, [&] { return get(key, std::move(into)); });
}

void GroupParams::check(const std::string& key, const ParamMap& values) const {
  const Entry entry(sparsifier_, "checking a config");
  auto made = changes(Checker(sparsifier_), key, values);
  during(made, key, false, [] { return true; });
}

std::string GroupParams::refusal(const std::string& key, const ParamMap& values) const {
  const Entry entry(sparsifier_, "checking a config");
  const Checker checked(sparsifier_);
  if (checked.foreign().check_config) return "";
  try {
    auto made = changes(checked, key, values);
    return during(made, key, false, [] { return std::string(); });
  } catch (const ValueError& error) {
    return error.what();
  }
}

ZeroCounts GroupParams::count_zeros(const std::string& key, const ParamMap& values) const {
  const Entry entry(sparsifier_, "planning");
  const Checker checked(sparsifier_);
  auto made = changes(checked, key, values);
  const auto& impl = *sparsifier_.impl_;
  if (impl.rule == nullptr || checked.foreign().update_mask) return {};
  return during(made, key, false, [&] {
    // All that a step renews: what a pool prunes of one depends on the others.
    const auto updated = impl.updated();
    ZeroCounts all = impl.rule->count_zeros(impl.as_rule_groups(updated));
    std::unordered_map<const BaseDataSparsifier::Group*, std::size_t> place_in_step, place;
    for (std::size_t i = 0; i < updated.size(); ++i) place_in_step.emplace(updated[i], i);
    ZeroCounts counts;
    for (const auto& change : made) {
      const auto& group = *change.group;
      place.emplace(&group, counts.groups.size());
      const auto found = place_in_step.find(&group);
      if (found == place_in_step.end()) {
        const std::int64_t as_it_is = group.mask.zeros();
        counts.groups.push_back({as_it_is, as_it_is});
      } else {
        counts.groups.push_back(group.with_kept(all.groups[found->second]));
      }
    }
    for (auto& pool : all.pools) {
      ZeroCounts::Pool shown{pool.name, {}, {pool.zeros.least, pool.zeros.most}};
      for (const std::size_t i : pool.groups) {
        const auto found = place.find(updated[i]);
        if (found != place.end()) shown.groups.push_back(found->second);
        if (updated[i]->kept != nullptr) shown.zeros.most += updated[i]->kept->count;
      }
      if (!shown.groups.empty()) counts.pools.push_back(std::move(shown));
    }
    return counts;
  });
}

void GroupParams::replace(const std::vector<std::pair<std::string, ParamMap>>& configs) {
  const Entry entry(sparsifier_, "writing a config");
  const Checker checked(sparsifier_);
  std::vector<Change> changed;
  for (const auto& [name, given] : configs) {
    auto& group = sparsifier_.impl_->at(name);
    ParamMap config = sparsifier_.impl_->defaults;
    config.update(given);
    changed.push_back({&group, std::make_unique<Config>(checked(group, std::move(config)))});
  }
  for (auto& change : changed) change.exchange(nullptr, {});
}

void GroupParams::erase(const std::string& name, const std::string& key) {
  const Entry entry(sparsifier_, "writing a config");
  auto& group = sparsifier_.impl_->at(name);
  ParamMap config = group.config.written;
  config.at(key);  // for its message
  config.erase(key);
  group.config = Checker(sparsifier_)(group, std::move(config));
}

void GroupParams::change_state(const std::string& name,
                               const std::function<void(ParamMap&)>& change) {
  const Entry entry(sparsifier_);  // a subclass's own: also in an override
  ParamMap& state = sparsifier_.impl_->at(name).state;
  ParamMap changed = state;
  change(changed);
  state = std::move(changed);
}

void GroupParams::change_defaults(const std::function<void(ParamMap&)>& change) {
  const Entry entry(sparsifier_, "writing the defaults");
  ParamMap defaults = sparsifier_.impl_->defaults;
  change(defaults);
  sparsifier_.impl_->defaults = Checker(sparsifier_)("", std::move(defaults), nullptr).written;
}

}  // namespace datasparse
