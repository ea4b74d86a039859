/// What a sparsifier holds, and the lock around it: shared by its sources.
#pragma once

#include <algorithm>
#include <any>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/layout.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/device.hpp"
#include "datasparse/error.hpp"
#include "device/by_device.hpp"
#include "mask/mask_bits.hpp"

namespace datasparse {

/// A group's config: the two are replaced together or not at all.
struct BaseDataSparsifier::Config {
  ParamMap written;   // by the user: saved, and kept when data are replaced
  std::any compiled;  // MaskRule::compile() of it; nothing without a rule
};

/// Elements that stay zero, packed as Mask::pack() packs, and how many they are.
struct BaseDataSparsifier::KeptZeros {
  PackedBits bits;
  std::int64_t count;

  /// The same in the memory of a device.
  Device::Content on(Device& device, const Axes& shape) const {
    return device.unpack(shape, bits.data());
  }

  /// nullptr where there are none.
  static std::shared_ptr<const KeptZeros> of(PackedBits bits) {
    const std::int64_t count = count_bits(bits.data(), bits.size());
    if (count == 0) return nullptr;
    return std::make_shared<const KeptZeros>(KeptZeros{std::move(bits), count});
  }
};

struct BaseDataSparsifier::Group {
  std::string name;
  std::shared_ptr<DataSource> source;  // none once squashed
  Config config;
  bool updates = true;  // here, since schedulers look at it, and at nothing below
  bool warned_of_death = false;
  /// Squashed, but a state from before that was loaded since: add_data() takes it over.
  bool awaits_data = false;
  bool ever_is_behind = false;  // the array of ever_active_key, in CPU memory

  Mask mask;
  Axes layout;                            // none: the order of memory
  std::shared_ptr<const KeptZeros> kept;  // or none
  Device::Content kept_there;             // the same for a mask on a device; or none yet

  // Below is what no ordinary step looks at.
  ParamMap state;
  KeptArrays arrays;
  Mask ever_there;  // ever_active_key's, beside a mask on a device; or none

  bool squashed() const noexcept { return source == nullptr; }
  /// What a config is compiled for.
  Axes viewed_shape() const { return datasparse::viewed_shape(mask.shape(), layout); }
  const std::uint8_t* kept_bits() const noexcept {
    return kept == nullptr ? nullptr : kept->bits.data();
  }
  /// Prunes what stays zero, in the group's mask or another one that lies beside it.
  void prune_kept(const Mask& of) const {
    if (kept == nullptr) return;
    if (of.there() != nullptr) return of.device().prune(of, *kept_there);
    prune_bits(of.data(), kept->bits.data(), of.size());
  }
  /// Has the mask, and what stays zero, in the memory of the device that the data are on. Counts
  /// where the mask moves.
  void bring_to(Device& device, std::int64_t& moves) {
    if (&mask.device() != &device) {
      keep_ever_here();
      Mask moved = mask.on(device);
      kept_there = nullptr;
      mask = std::move(moved);
      ++moves;
    }
    if (mask.there() != nullptr && kept != nullptr && kept_there == nullptr) {
      kept_there = kept->on(device, mask.shape());
    }
  }
  RuleJob job(const ArrayView& ranked) const noexcept {
    return {ranked,
            config.compiled,
            mask.data(),
            mask.hint(),
            layout,
            kept_bits(),
            &mask.device(),
            nullptr,
            nullptr,
            &mask,
            kept == nullptr ? nullptr : kept_there.get()};
  }
  /// How many elements a step zeroes, where the rule alone would zero as many as `rule`.
  ZeroCount with_kept(const ZeroCount& rule) const noexcept {
    if (kept == nullptr) return rule;
    return {std::max(rule.least, kept->count), std::min(rule.most + kept->count, mask.size())};
  }
  /// Throws where the data have another shape than the mask.
  void require_shape(const Axes& shape) const;
  /// Sends the warning, unless the config asks for a mask that keeps nothing.
  void warn_of_death(bool in_turn);

  /// The key of the array that has a bit for each element that was ever active, of masks that are
  /// drawn: a group without it has no mask yet.
  static constexpr const char* ever_active_key = "ever_active";
  bool is_drawn() const { return arrays.count(ever_active_key) != 0; }
  /// Has in the array what a device knows better. Whoever reads it calls this before.
  void bring_ever_here() {
    if (ever_is_behind) set_ever_here(ever_there.pack());
  }
  void set_ever_here(PackedBits bits) {
    const auto bytes = static_cast<std::int64_t>(bits.size());
    arrays.at(ever_active_key) = KeptArray(KeptArray::Type::uint8, Axes{bytes}, std::move(bits));
    ever_is_behind = false;
  }
  /// The same, and from now on only the array counts. Whoever writes to it calls this before.
  void keep_ever_here() {
    bring_ever_here();
    forget_ever_there();
  }
  void forget_ever_there() noexcept {
    ever_there = Mask();
    ever_is_behind = false;
  }
  /// Has it beside a mask on a device, which counts from now on.
  void bring_ever_there();
  /// How many elements were active at some time; 0 before the first mask.
  std::int64_t count_ever_active() {
    bring_ever_here();
    const auto found = arrays.find(ever_active_key);
    return found == arrays.end() ? 0 : count_bits(found->second.data(), found->second.byte_count());
  }
  /// The array. ValueError where what was loaded is no such one.
  KeptArray& ever_active();
  /// An array without any.
  KeptArray no_bits() const;

  /// The saved group, without a source.
  static std::unique_ptr<Group> restored(const GroupState& saved, Config config);
};

struct BaseDataSparsifier::Impl {
  std::mutex mutex;
  std::atomic<std::thread::id> owner{};  // who holds the mutex
  const char* inside = nullptr;          // the override that the owner is in
  /// BaseDataSparsifier::access_data_by().
  Access access = [](const auto& work) { work(); };
  std::function<void()> save_masks;  // while the override is get_scores(); else empty

  const MaskRule* rule;  // or none
  ParamMap defaults;
  std::vector<std::unique_ptr<Group>> groups;  // in the order in which they were added
  std::unordered_map<std::string, Group*> by_name;
  std::unordered_map<std::string, GroupState> waiting;  // loaded, for names without data
  bool enable_mask_update = true;
  std::int64_t step_count = 0;
  std::int64_t moves = 0;  // GroupTable::moves()

  static constexpr const char* update_mask_call = "update_mask()";

  /// Whether the calling thread holds the mutex.
  bool is_held() const noexcept { return owner.load() == std::this_thread::get_id(); }
  /// Whether the owner is in that override. By its name, not its address: an object that one copy
  /// of the library has made may be stepped by another.
  bool is_inside(const char* call) const noexcept {
    return inside != nullptr && std::strcmp(inside, call) == 0;
  }

  /// The group's mask, for whoever asks: get_scores() might write to it, and throw.
  Mask mask_of(const Group& group) const {
    if (save_masks) save_masks();
    return group.mask;
  }

  /// Group::bring_ever_here() of all groups: a device waits once.
  void bring_ever_here() const {
    std::vector<Group*> behind =
        groups_where([](const Group& group) { return group.ever_is_behind; });
    std::vector<Mask> masks;
    for (const auto* group : behind) masks.push_back(group->ever_there);
    auto bits = pack_all(masks);
    for (std::size_t i = 0; i < behind.size(); ++i) behind[i]->set_ever_here(std::move(bits[i]));
  }

  std::vector<Device*> computing(const std::vector<Group*>& some) const;

  /// Whether step() is to warn of the mask that it has made.
  bool is_dead(const Group& group, bool in_turn) const;
  void warn_of_death(const std::vector<Group*>& some, bool in_turn) const;

  std::any compiled(const std::string& name, const ParamMap& config, const Axes* shape) const {
    return rule == nullptr ? std::any() : rule->compile(name, config, shape);
  }
  ParamValue shown(const Config& config, const std::string& key, const ParamValue& written) const {
    return rule == nullptr ? written : rule->shown(config.compiled, key, written);
  }
  ParamMap shown(const Config& config) const {
    ParamMap map;
    for (const auto& [key, value] : config.written) map.set(key, shown(config, key, value));
    return map;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    result.reserve(groups.size());
    for (const auto& group : groups) result.push_back(group->name);
    return result;
  }

  Group* find(const std::string& name) const {  // or nullptr
    const auto found = by_name.find(name);
    return found != by_name.end() ? found->second : nullptr;
  }

  Group& at(const std::string& name) const {
    if (Group* const group = find(name)) return *group;
    throw UnknownNameError("no data named '" + name + "'" + did_you_mean(name, names()));
  }

  /// The same, without a look-up where the group is the one at `likely`.
  Group& at(const std::string& name, std::size_t likely) const {
    if (likely < groups.size() && groups[likely]->name == name) return *groups[likely];
    return at(name);
  }

  /// Those for which `chosen` is true.
  template <class Chosen>
  std::vector<Group*> groups_where(const Chosen& chosen) const {
    std::vector<Group*> result;
    for (const auto& group : groups) {
      if (chosen(*group)) result.push_back(group.get());
    }
    return result;
  }
  std::vector<Group*> unsquashed() const {
    return groups_where([](const Group& group) { return !group.squashed(); });
  }
  /// Those whose masks a step renews.
  std::vector<Group*> updated() const {
    return groups_where([](const Group& group) { return !group.squashed() && group.updates; });
  }
  static std::vector<RuleGroup> as_rule_groups(const std::vector<Group*>& some) {
    std::vector<RuleGroup> result;
    result.reserve(some.size());
    for (const auto* group : some) {
      result.push_back({&group->config.compiled, group->viewed_shape()});
    }
    return result;
  }
  /// Throws where the configs of groups that share something are impossible together.
  void require_possible() const {
    if (rule == nullptr) return;
    const auto shared = groups_where([this](const Group& group) {
      return !group.squashed() && group.updates && !rule->pool(group.config.compiled).empty();
    });
    if (!shared.empty()) rule->require_possible(as_rule_groups(shared));
  }
  /// The groups of these names, each once; ValueError, naming the call, for one that is squashed.
  std::vector<Group*> unsquashed(const std::vector<std::string>& names, const char* call) const;

  /// Adds the group, or exchanges it for the one with its name, which the caller then destroys
  /// outside the lock. Strong guarantee.
  void put(std::unique_ptr<Group>& group) {
    if (Group* const found = find(group->name)) return std::swap(*found, *group);
    const auto place = by_name.emplace(group->name, group.get()).first;
    try {
      groups.push_back(std::move(group));
    } catch (...) {
      by_name.erase(place);
      throw;
    }
  }
};

/// A state that was checked and is ready to be put into place, where nothing can fail any more.
struct BaseDataSparsifier::Loading {
  struct Attached {
    Group* group;
    const GroupState* saved;
    Config config;
    ParamMap state;
    KeptArrays arrays;
    Axes layout;
    std::shared_ptr<const KeptZeros> kept;
    Device::Content kept_there;
    Mask ever_there;  // none: the array counts
  };
  std::vector<Attached> attached;
  ByDevice<Device::Change> masks;
  std::vector<std::unique_ptr<Group>> squashed;  // not here yet
  std::unordered_map<std::string, Group*> by_name;
  std::unordered_map<std::string, GroupState> waiting;
  ParamMap defaults;
  bool enable_mask_update = true;
  std::int64_t step_count = 0;
  std::vector<std::shared_ptr<DataSource>> released;
};

/// The layout as groups have it: none for the order of memory, which may be given in full.
/// ValueError from require_layout().
inline Axes as_layout(const Axes& layout, int axes, const std::string& what) {
  require_layout(layout, axes, what);
  for (int axis = 0; axis < layout.size(); ++axis) {
    if (layout[axis] != axis) return layout;
  }
  return {};
}

/// Every public call holds one. The lock is not waited for by the thread that holds it already,
/// which is in an override then: there, reading is allowed, changing is not.
class BaseDataSparsifier::Entry {
 public:
  /// `change` is what the call does, unless it only reads.
  explicit Entry(const BaseDataSparsifier& sparsifier, const char* change = nullptr)
      : impl_(*sparsifier.impl_), nested_(impl_.is_held()) {
    if (!nested_) {
      lock_ = std::unique_lock(impl_.mutex);
      impl_.owner.store(std::this_thread::get_id());
    } else if (change != nullptr) {
      throw StateError(std::string(change) + " must not be called from inside " +
                       (impl_.inside != nullptr ? impl_.inside : "another call") +
                       " of the same sparsifier");
    }
  }
  /// To read, where that means no waiting: else it has not entered.
  Entry(const BaseDataSparsifier& sparsifier, std::try_to_lock_t)
      : impl_(*sparsifier.impl_), nested_(impl_.is_held()) {
    if (!nested_) lock_ = std::unique_lock(impl_.mutex, std::try_to_lock);
    if (lock_) impl_.owner.store(std::this_thread::get_id());
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry() {
    if (lock_) impl_.owner.store(std::thread::id());
  }
  bool entered() const noexcept { return nested_ || lock_; }

 private:
  Impl& impl_;
  bool nested_;
  std::unique_lock<std::mutex> lock_;  // not held where nested
};

/// Names the override that runs for the length of a scope.
class Inside {
 public:
  Inside(const char*& place, const char* name)
      : place_(place), before_(std::exchange(place, name)) {}
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  ~Inside() { place_ = before_; }

 private:
  const char*& place_;
  const char* before_;
};

/// Checks configs, any number of them.
class BaseDataSparsifier::Checker {
 public:
  explicit Checker(const BaseDataSparsifier& sparsifier)
      : sparsifier_(sparsifier),
        inside_(sparsifier.impl_->inside, "check_config()"),
        foreign_(sparsifier.foreign_hooks()) {}

  const ForeignHooks& foreign() const noexcept { return foreign_; }

  /// Throws what check_config() or the rule throw.
  Config operator()(const std::string& name, ParamMap written, const Axes* shape) const {
    sparsifier_.check_config(name, written);
    auto compiled = sparsifier_.impl_->compiled(name, written, shape);
    return {std::move(written), std::move(compiled)};
  }
  /// The same of a group that is there.
  Config operator()(const Group& group, ParamMap written) const {
    const Axes viewed = group.viewed_shape();
    return (*this)(group.name, std::move(written), &viewed);
  }

 private:
  const BaseDataSparsifier& sparsifier_;
  Inside inside_;
  ForeignHooks foreign_;
};

/// Pins the tensors of many groups for the length of a scope, all or none, and sees that they have
/// kept their shapes, unless any will do, and that their masks lie beside them, unless the data are
/// only summed up.
class BaseDataSparsifier::Pins {
 public:
  enum class Of { zeroed, data_of_any_shape, scores, summed_up };

  Pins(const BaseDataSparsifier& sparsifier, const std::vector<Group*>& groups, Of what)
      : access_(sparsifier.impl_->access) {
    pinned_.reserve(groups.size());
    views_.reserve(groups.size());
    access_([&] {
      try {
        for (auto* group : groups) {
          DataSource& source = *group->source;
          const bool ranked = what == Of::scores || what == Of::summed_up;
          views_.push_back(ranked               ? source.pin_scores()
                           : what == Of::zeroed ? source.pin_to_zero(group->mask)
                                                : source.pin());
          pinned_.push_back(&source);
          const bool fits = views_.back().shape() == group->mask.shape();
          if (!fits && what != Of::data_of_any_shape) group->require_shape(views_.back().shape());
          if (fits && what != Of::summed_up) {
            group->bring_to(source.device(), sparsifier.impl_->moves);
          }
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

  const Access& access_;
  std::vector<DataSource*> pinned_;
  std::vector<ArrayView> views_;
};

}  // namespace datasparse
