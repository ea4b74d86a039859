/// What a sparsifier holds, and the lock around it: shared by its sources.
#pragma once

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

  /// nullptr where there are none.
  static std::shared_ptr<const KeptZeros> of(PackedBits bits) {
    const std::int64_t count = count_bits(bits);
    if (count == 0) return nullptr;
    return std::make_shared<const KeptZeros>(KeptZeros{std::move(bits), count});
  }
};

struct BaseDataSparsifier::Group {
  std::string name;
  std::shared_ptr<DataSource> source;  // none once squashed
  Config config;
  Mask mask;
  ParamMap state;
  Axes layout;                            // none: the order of memory
  std::shared_ptr<const KeptZeros> kept;  // or none
  bool updates = true;
  bool warned_of_death = false;

  /// Squashed, but a state from before that was loaded since: add_data() takes it over.
  bool awaits_data = false;

  bool squashed() const noexcept { return source == nullptr; }
  /// What a config is compiled for.
  Axes viewed_shape() const { return datasparse::viewed_shape(mask.shape(), layout); }
  const std::uint8_t* kept_bits() const noexcept {
    return kept == nullptr ? nullptr : kept->bits.data();
  }
  void prune_kept() const noexcept {
    if (kept != nullptr) prune_bits(mask.data(), kept->bits.data(), mask.size());
  }
};

/// What was checked for a group, and waits until all others are checked too: one value and the
/// place in the written config where it belongs, or else a whole config.
struct BaseDataSparsifier::Change {
  Group* group;
  std::unique_ptr<Config> config;
  ParamValue* place = nullptr;
  ParamValue value = {};
};

struct BaseDataSparsifier::Impl {
  std::mutex mutex;
  std::atomic<std::thread::id> owner{};  // who holds the mutex
  const char* inside = nullptr;          // the override that the owner is in
  std::function<void()> save_masks;      // while that one is get_scores(); else empty

  const MaskRule* rule;  // or none
  ParamMap defaults;
  std::vector<std::unique_ptr<Group>> groups;  // in the order in which they were added
  std::unordered_map<std::string, Group*> by_name;
  std::unordered_map<std::string, GroupState> waiting;  // loaded, for names without data
  bool enable_mask_update = true;
  std::int64_t step_count = 0;

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

  std::any compiled(const std::string& name, const ParamMap& config, const Axes* shape) const {
    return rule == nullptr ? std::any() : rule->compile(name, config, shape);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    result.reserve(groups.size());
    for (const auto& group : groups) result.push_back(group->name);
    return result;
  }

  Group& at(const std::string& name) const {
    const auto found = by_name.find(name);
    if (found != by_name.end()) return *found->second;
    throw UnknownNameError("no data named '" + name + "'" + did_you_mean(name, names()));
  }

  /// The same, without a look-up where the group is the one at `likely`.
  Group& at(const std::string& name, std::size_t likely) const {
    if (likely < groups.size() && groups[likely]->name == name) return *groups[likely];
    return at(name);
  }

  /// Adds the group, or exchanges it for the one with its name, which the caller then destroys
  /// outside the lock. Strong guarantee.
  void put(std::unique_ptr<Group>& group) {
    const auto found = by_name.find(group->name);
    if (found != by_name.end()) {
      std::swap(*found->second, *group);
      return;
    }
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
    Axes layout;
    std::shared_ptr<const KeptZeros> kept;
  };
  std::vector<Attached> attached;
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
      : impl_(*sparsifier.impl_), nested_(sparsifier.in_override()) {
    if (!nested_) {
      impl_.mutex.lock();
      impl_.owner.store(std::this_thread::get_id());
    } else if (change != nullptr) {
      throw StateError(std::string(change) + " must not be called from inside " +
                       (impl_.inside != nullptr ? impl_.inside : "another call") +
                       " of the same sparsifier");
    }
  }
  /// To read, where that means no waiting: else it has not entered.
  Entry(const BaseDataSparsifier& sparsifier, std::try_to_lock_t)
      : impl_(*sparsifier.impl_), nested_(sparsifier.in_override()) {
    entered_ = nested_ || impl_.mutex.try_lock();
    if (entered_ && !nested_) impl_.owner.store(std::this_thread::get_id());
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  bool entered() const noexcept { return entered_; }
  ~Entry() {
    if (nested_ || !entered_) return;
    impl_.owner.store(std::thread::id());
    impl_.mutex.unlock();
  }

 private:
  Impl& impl_;
  bool nested_;
  bool entered_ = true;
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

}  // namespace datasparse
