// Saving, loading and restoring a sparsifier.

#include <algorithm>

#include "datasparse/state_entries.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t most_steps = std::int64_t{1} << 53;  // as of a scheduler

/// Throws unless these are a bit for each element, with `entry` in front of the message.
void check_bits(const PackedBits& bits, const Axes& shape, const std::string& entry,
                const char* what) {
  const std::int64_t elements = element_count(shape);
  const std::size_t bytes = packed_size(elements);
  if (bits.size() != bytes) {
    throw ValueError(entry + " must hold " + std::to_string(bytes) + " bytes of " + what +
                     " for shape " + to_string(shape) + ", got " + std::to_string(bits.size()));
  }
  if (elements % 8 != 0 && bits.back() >> (elements % 8) != 0) {
    throw ValueError(entry + " has " + what + " bits beyond its last element");
  }
}

/// Throws unless the entry is whole, so that unpacking its mask stays within its bytes.
void check_state(const GroupState& group) {
  const std::string entry = "state of '" + group.name + "'";
  if (group.name.empty()) throw ValueError("state must not hold an empty name");
  require_possible(group.shape, "shape in the " + entry);
  check_bits(group.mask_bits, group.shape, entry, "mask");
  require_layout(group.layout, group.shape.size(), "layout in the " + entry);
  if (!group.kept_zeros.empty()) check_bits(group.kept_zeros, group.shape, entry, "kept_zeros");
  for (const auto& item : group.arrays) require_array_key(item.first, "arrays in the " + entry);
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

}  // namespace

std::unique_ptr<BaseDataSparsifier::Group> BaseDataSparsifier::Group::restored(
    const GroupState& saved, Config config) {
  auto group = std::make_unique<Group>();
  group->name = saved.name;
  group->config = std::move(config);
  group->mask = Mask(saved.shape);  // on the CPU, until data claim it
  group->mask.unpack(saved.mask_bits.data());
  group->state = saved.state;
  group->arrays = saved.arrays;
  group->layout = as_layout(saved.layout, saved.shape.size(), label("layout", saved.name));
  group->kept = KeptZeros::of(saved.kept_zeros);
  group->updates = saved.updates;
  return group;
}

SparsifierState BaseDataSparsifier::save_state(
    std::unordered_map<std::string, std::shared_ptr<DataSource>>* sources) const {
  const Entry entry(*this);
  SparsifierState saved;
  saved.step_count = impl_->step_count;
  saved.enable_mask_update = impl_->enable_mask_update;
  saved.defaults = impl_->defaults;
  saved.score = score_name();
  impl_->bring_ever_here();
  std::vector<Mask> masks;
  for (const auto& group : impl_->groups) masks.push_back(group->mask);
  auto bits = pack_all(masks);
  for (std::size_t i = 0; i < masks.size(); ++i) {
    const auto& group = impl_->groups[i];
    if (sources != nullptr) sources->emplace(group->name, group->source);
    saved.groups.push_back(
        {group->name, group->config.written, group->mask.shape(), std::move(bits[i]),
         group->squashed() && !group->awaits_data, group->state, group->layout,
         group->kept == nullptr ? PackedBits() : group->kept->bits, group->updates, group->arrays});
  }
  for (const auto& item : impl_->waiting) saved.groups.push_back(item.second);
  std::sort(saved.groups.end() - static_cast<std::ptrdiff_t>(impl_->waiting.size()),
            saved.groups.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return saved;
}

/// Everything of load_state() that can fail.
BaseDataSparsifier::Loading BaseDataSparsifier::prepare_load(const SparsifierState& state,
                                                             bool strict) const {
  require_version(state.version);
  if (state.step_count < 0 || state.step_count > most_steps) {
    throw ValueError("step_count of the state must be in [0, 2^53], got " +
                     std::to_string(state.step_count));
  }
  const std::string own_score = score_name();
  if (!state.score.empty() && state.score != own_score) {
    throw ValueError("score of the state must be that of the sparsifier, " +
                     (own_score.empty() ? "none" : own_score) + ", got " + state.score +
                     ": make the sparsifier with that one");
  }
  const Checker checked(*this);
  checked("", state.defaults, nullptr);

  std::vector<std::string> saved_names;
  for (const auto& saved : state.groups) saved_names.push_back(saved.name);
  auto sorted = saved_names;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) throw ValueError("state holds '" + *twice + "' twice");
  if (strict && !impl_->groups.empty()) {
    std::vector<std::string> missing, unexpected;
    for (const auto& name : impl_->names()) {
      if (!std::binary_search(sorted.begin(), sorted.end(), name)) missing.push_back(name);
    }
    for (const auto& name : saved_names) {
      if (impl_->find(name) == nullptr) unexpected.push_back(name);
    }
    if (!missing.empty() || !unexpected.empty()) {
      throw ValueError("names of the state must be those of the sparsifier" +
                       (missing.empty() ? "" : "; missing from the state: " + listed(missing)) +
                       (unexpected.empty() ? "" : "; without data here: " + listed(unexpected)) +
                       "; pass strict=False to load what fits");
    }
  }

  Loading loading;
  loading.by_name = impl_->by_name;
  for (const auto& saved : state.groups) {
    check_state(saved);
    const Axes viewed = viewed_shape(saved.shape, saved.layout);
    auto config = checked(saved.name, saved.config, &viewed);
    if (Group* const attached = impl_->find(saved.name)) {
      if (attached->mask.shape() != saved.shape) {
        throw ValueError("state of '" + saved.name + "' must have the shape of its data, " +
                         to_string(attached->mask.shape()) + ", got " + to_string(saved.shape));
      }
      Device& device = attached->mask.device();
      auto kept = KeptZeros::of(saved.kept_zeros);
      auto kept_there = kept == nullptr || attached->mask.there() == nullptr
                            ? nullptr
                            : kept->on(device, saved.shape);
      loading.attached.push_back(
          {attached, &saved, std::move(config), saved.state, saved.arrays,
           as_layout(saved.layout, saved.shape.size(), label("layout", saved.name)),
           std::move(kept), std::move(kept_there), Mask()});
      items_of(device, loading.masks)
          .push_back({attached->mask, device.unpack(saved.shape, saved.mask_bits.data())});
    } else if (saved.squashed) {
      loading.squashed.push_back(Group::restored(saved, std::move(config)));
      loading.by_name.emplace(saved.name, loading.squashed.back().get());
    } else {
      loading.waiting.emplace(saved.name, saved);
    }
  }
  loading.defaults = state.defaults;
  loading.enable_mask_update = state.enable_mask_update;
  loading.step_count = state.step_count;
  loading.released.reserve(loading.attached.size());
  impl_->groups.reserve(impl_->groups.size() + loading.squashed.size());
  return loading;
}

/// Puts into place what prepare_load() has made, under the same hold of the lock; what it replaces
/// is in `loading` then, to be destroyed outside the lock.
void BaseDataSparsifier::commit(Loading& loading) noexcept {
  for (auto& [group, saved, config, state, arrays, layout, kept, kept_there, ever_there] :
       loading.attached) {
    std::swap(group->config, config);
    std::swap(group->state, state);
    group->arrays.swap(arrays);
    std::swap(group->ever_there, ever_there);
    group->ever_is_behind = false;
    group->layout = layout;
    std::swap(group->kept, kept);
    std::swap(group->kept_there, kept_there);
    group->updates = saved->updates;
    if (saved->squashed) loading.released.push_back(std::move(group->source));
    group->awaits_data = group->squashed() && !saved->squashed;
  }
  for (const auto& [device, changes] : loading.masks) device->put(changes);
  for (auto& group : loading.squashed) impl_->groups.push_back(std::move(group));
  impl_->by_name.swap(loading.by_name);
  impl_->waiting.swap(loading.waiting);
  std::swap(impl_->defaults, loading.defaults);
  impl_->enable_mask_update = loading.enable_mask_update;
  impl_->step_count = loading.step_count;
}

void BaseDataSparsifier::load_state(const SparsifierState& state, bool strict) {
  Loading loading;  // destroyed last
  const Entry entry(*this, "loading a state");
  loading = prepare_load(state, strict);
  commit(loading);
}

std::function<void()> BaseDataSparsifier::prepare_attributes(const Attributes& saved) {
  refuse_attributes(saved, "the sparsifier");
  return [] {};
}

void BaseDataSparsifier::restore(
    const SparsifierState& state,
    std::unordered_map<std::string, std::shared_ptr<DataSource>> sources) {
  const Entry entry(*this, "restoring");
  if (!impl_->groups.empty()) throw StateError("only an empty sparsifier can be restored");
  for (const auto& saved : state.groups) {
    check_state(saved);
    const auto source = sources.find(saved.name);
    if (source == sources.end() && !saved.squashed) {
      impl_->waiting.emplace(saved.name, saved);
      continue;
    }
    const Axes viewed = viewed_shape(saved.shape, saved.layout);
    auto compiled = impl_->compiled(saved.name, saved.config, &viewed);
    auto group = Group::restored(saved, {saved.config, std::move(compiled)});
    if (!saved.squashed) group->source = std::move(source->second);
    group->awaits_data = group->squashed() && !saved.squashed;
    impl_->put(group);
  }
  impl_->defaults = state.defaults;
  impl_->enable_mask_update = state.enable_mask_update;
  impl_->step_count = state.step_count;
}

}  // namespace datasparse
