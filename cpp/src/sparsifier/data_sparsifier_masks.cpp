// What happens to masks and data: step, apply, squash.

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "base/message.hpp"
#include "base/random.hpp"
#include "datasparse/regrowth.hpp"
#include "select/limits.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {

namespace {

/// Fewer bytes of scores are held at the same time, unless a group or a pool has more of them. So
/// many still lie in a core's own cache when they are ranked, and the next ones use their memory
/// again. They are too few elements to wake a second thread for.
constexpr std::int64_t max_score_bytes = 2 * parallel_from;

std::int64_t bytes_of(const ArrayView& view) {
  return view.size() * static_cast<std::int64_t>(item_size(view.dtype()));
}

}  // namespace

void BaseDataSparsifier::Group::require_shape(const Axes& shape) const {
  if (shape == mask.shape()) return;
  throw ValueError("data of '" + name + "' must keep the shape " + to_string(mask.shape()) +
                   ", got " + to_string(shape) +
                   "; call add_data again with reuse_mask=False for data of another shape");
}

std::vector<BaseDataSparsifier::Group*> BaseDataSparsifier::Impl::unsquashed(
    const std::vector<std::string>& names, const char* call) const {
  std::vector<Group*> named;
  std::unordered_set<const Group*> seen;  // names may be many, and come twice
  named.reserve(names.size());
  seen.reserve(names.size());
  for (const auto& name : names) {
    Group& group = at(name);
    if (group.squashed()) {
      throw ValueError(std::string(call) + " of '" + name +
                       "' is impossible: it was squashed already");
    }
    if (seen.insert(&group).second) named.push_back(&group);
  }
  return named;
}

// --- step -------------------------------------------------------------------------------------

void BaseDataSparsifier::step() {
  const Entry entry(*this, "step()");
  std::vector<Group*> groups;
  bool in_turn = true;
  if (impl_->enable_mask_update) {
    groups = impl_->updated();
    try {
      in_turn = update(groups);
    } catch (...) {
      for (Device* const device : impl_->computing(groups)) device->give_up();
      throw;
    }
  }
  ++impl_->step_count;
  impl_->warn_of_death(groups, in_turn);
}

/// New masks, or it throws and has changed none. Returns whether overrides have made them, one
/// after the other.
bool BaseDataSparsifier::update(const std::vector<Group*>& groups) {
  const Pins pins(*this, groups, Pins::Of::scores);
  const ForeignHooks foreign = foreign_hooks();
  if (impl_->rule == nullptr || foreign.update_mask) {
    update_in_turn(groups, pins.views(), foreign.get_scores);
    return true;
  }
  if (foreign.growth) {
    move_masks(groups, pins.views(), foreign, false);
  } else if (foreign.get_scores != nullptr) {
    update_by_scores(groups, pins.views(), foreign.get_scores);
  } else {
    update_together(groups, pins.views());
  }
  return false;
}

/// The devices that compute the masks of these groups, each once, in the order of groups.
std::vector<Device*> BaseDataSparsifier::Impl::computing(const std::vector<Group*>& some) const {
  std::vector<Device*> devices;
  access([&] {
    for (const auto* group : some) {
      Device* const device = &group->source->device().together();
      if (std::find(devices.begin(), devices.end(), device) == devices.end()) {
        devices.push_back(device);
      }
    }
  });
  return devices;
}

/// Whether a step has left no element of a mask. Of one on a device, only what is known without a
/// look at it: nobody shall wait for a device because of a warning.
bool BaseDataSparsifier::Impl::is_dead(const Group& group, bool in_turn) const {
  const std::int64_t weights = group.mask.size();
  if (group.warned_of_death || weights == 0) return false;
  if (group.mask.there() == nullptr) return !keeps_any(group.mask.data(), weights);
  if (in_turn || !rule->pool(group.config.compiled).empty()) return false;
  const auto zeros = rule->count_zeros({{&group.config.compiled, group.viewed_shape()}});
  return group.with_kept(zeros.groups.front()).least == weights;
}

/// The last thing in a step, since the handler may throw. A warning that finds no memory is left
/// out: the step has been made, and an error would say that it has not.
void BaseDataSparsifier::Impl::warn_of_death(const std::vector<Group*>& some, bool in_turn) const {
  try {
    for (Group* const group : some) {
      if (is_dead(*group, in_turn)) group->warn_of_death(in_turn);
    }
  } catch (const std::bad_alloc&) {
  }
}

void BaseDataSparsifier::Group::warn_of_death(bool in_turn) {
  const std::int64_t weights = mask.size();
  const auto* const level = config.written.find("sparsity_level");
  if (level != nullptr && (*level == ParamValue(1.0) || *level == ParamValue(1))) return;
  warned_of_death = true;
  const bool all_kept = kept != nullptr && kept->count == weights;
  const bool kept_some = config.written.contains("min_kept");
  const auto* const pool = config.written.find("pool");
  const bool pooled = pool != nullptr && !pool->is_none();
  send_message(Severity::warning,
               "step() pruned all weights of '" + name + "', " + std::to_string(weights) + " of " +
                   std::to_string(weights) + ": " +
                   (all_kept    ? "keep_zeros=True found them all zero; pass "
                                  "keep_zeros=False to add_data()"
                    : in_turn   ? "let update_mask() keep some of them"
                    : pooled    ? "its pool has done without it; set min_kept=1, or a max_level"
                    : kept_some ? "lower its sparsity_level"
                                : "lower its sparsity_level, or set min_kept=1"));
}

/// What a step has changed, to be undone if it fails: an override may have changed the states of
/// any group, their arrays, and their masks.
class BaseDataSparsifier::Before {
 public:
  /// Saves the states and the arrays.
  explicit Before(Impl& impl) : impl_(impl), groups_(impl.groups) {
    states_.reserve(groups_.size());
    arrays_.reserve(groups_.size());
    for (const auto& group : groups_) {
      states_.push_back(group->state);
      // Shared: whoever writes to one copies it first.
      arrays_.push_back({group->arrays, group->ever_there, group->ever_is_behind});
    }
  }
  Before(const Before&) = delete;
  Before& operator=(const Before&) = delete;
  ~Before() { impl_.save_masks = nullptr; }

  /// Saves the masks too: those that are not saved yet.
  void save_masks() {
    if (all_saved_) return;
    std::unordered_set<const Group*> saved;
    for (const auto& mask : masks_) saved.insert(mask.group);
    for (const auto& group : groups_) {
      const Mask& mask = group->mask;
      if (saved.count(group.get()) != 0) continue;
      if (mask.there() != nullptr) {
        there_.push_back({group.get(), {{mask, mask.device().copy(mask)}}});
      } else {
        pack_bits(place_of(*group), mask.data(), mask.size());
      }
    }
    has_saved();
    all_saved_ = true;
  }
  /// Lets go of the masks, and of what was ever active: whoever writes to these undoes it. An array
  /// that is still saved here would be copied first.
  void forget_masks() noexcept {
    impl_.save_masks = nullptr;
    masks_.clear();
    there_.clear();
    bits_ = PackedBits();
    saved_ = 0;
    for (auto& saved : arrays_) saved.arrays.erase(Group::ever_active_key);
    has_forgotten_ = true;
  }
  /// Saves them when somebody asks for one.
  void save_masks_that_are_read() {
    impl_.save_masks = [this] { save_masks(); };
  }
  /// Memory that whoever changes a mask is to save it in first; nullptr where it is saved. Each
  /// group once, and then has_saved().
  std::uint8_t* place_of(Group& group) {
    if (all_saved_) return nullptr;
    if (bits_.empty()) {
      std::size_t bytes = 0;
      for (const auto& each : groups_) bytes += packed_size(each->mask.size());
      bits_ = PackedBits(bytes);
      masks_.reserve(groups_.size());
    }
    masks_.push_back({&group, bits_.data() + used_});
    used_ += packed_size(group.mask.size());
    return masks_.back().bits;
  }
  /// All masks are saved that a place was asked for.
  void has_saved() noexcept { saved_ = masks_.size(); }

  void bring_back() noexcept {
    bring_back_masks([](const Group&) { return true; });
    for (std::size_t i = 0; i < states_.size(); ++i) {
      groups_[i]->state = std::move(states_[i]);
      auto& [arrays, ever_there, ever_is_behind] = arrays_[i];
      if (has_forgotten_) arrays.insert(groups_[i]->arrays.extract(Group::ever_active_key));
      groups_[i]->arrays = std::move(arrays);
      groups_[i]->ever_there = std::move(ever_there);
      groups_[i]->ever_is_behind = ever_is_behind;
    }
  }
  template <class Which>
  void bring_back_masks(const Which& which) const noexcept {
    for (std::size_t i = 0; i < saved_; ++i) {
      const Mask& mask = masks_[i].group->mask;
      if (which(*masks_[i].group)) unpack_bits(mask.data(), masks_[i].bits, mask.size());
    }
    for (const auto& saved : there_) {
      if (which(*saved.group)) saved.group->mask.device().put(saved.change);
    }
  }

 private:
  struct Saved {
    Group* group;
    std::uint8_t* bits;
  };
  struct SavedArrays {
    KeptArrays arrays;
    Mask ever_there;
    bool ever_is_behind;
  };
  struct SavedThere {
    Group* group;
    std::vector<Device::Change> change;  // one
  };

  Impl& impl_;
  const std::vector<std::unique_ptr<Group>>& groups_;
  std::vector<ParamMap> states_;
  std::vector<SavedArrays> arrays_;
  PackedBits bits_;  // of all groups, in one piece: many small ones, between one array of scores
                     // and the next, would take the memory that these use again and again
  std::size_t used_ = 0, saved_ = 0;
  std::vector<Saved> masks_;
  std::vector<SavedThere> there_;  // of masks on devices, which save them there
  bool all_saved_ = false, has_forgotten_ = false;
};

/// Scores that were asked for, or gradients, pinned for the length of a scope.
class BaseDataSparsifier::Scores {
 public:
  struct Hook {
    const char* call;
    const char* what;  // in messages
  };
  static constexpr Hook of_scores{"get_scores()", "scores"};
  static constexpr Hook of_gradients{"get_gradients()", "gradient"};

  /// Of at most so many groups.
  Scores(BaseDataSparsifier& sparsifier, GetScores get_scores, std::size_t most,
         const Hook& hook = of_scores)
      : sparsifier_(sparsifier), get_scores_(get_scores), hook_(hook) {
    held_.reserve(most);
  }
  Scores(const Scores&) = delete;
  Scores& operator=(const Scores&) = delete;
  ~Scores() {
    sparsifier_.impl_->access([this]() noexcept {
      for (const auto& scores : held_) scores.source->unpin();
      held_.clear();
    });
  }

  struct Held {
    std::shared_ptr<DataSource> source;
    ArrayView view;
  };

  /// Those of a group; nullptr where its data are ranked themselves.
  const Held* ask(const Group& group, const ArrayView& data) {
    if (get_scores_ == nullptr) return nullptr;
    const Inside inside(sparsifier_.impl_->inside, hook_.call);
    auto source =
        get_scores_(sparsifier_, group.name, data, sparsifier_.impl_->shown(group.config));
    if (source == nullptr) return nullptr;
    const ArrayView view = source->pin();
    held_.push_back({std::move(source), view});
    require_beside(group, held_.back().source->device());
    if (view.shape() != group.mask.shape()) {
      throw ValueError(label(hook_.what, group.name) + " must have the shape of its data, " +
                       to_string(group.mask.shape()) + ", got " + to_string(view.shape()));
    }
    bytes_ += bytes_of(view);
    return &held_.back();
  }
  /// The same where there must be one.
  const ArrayView& ask_for_gradient(const Group& group, const ArrayView& data) {
    const Held* const asked = ask(group, data);
    if (asked == nullptr) {
      throw ValueError(label("gradient", group.name) +
                       " is missing, and masks move by it: call step() after backward(), or hand "
                       "it in before, by set_gradients({'" +
                       group.name + "': array})");
    }
    return asked->view;
  }
  std::int64_t bytes() const noexcept { return bytes_; }

 private:
  void require_beside(const Group& group, const Device& device) const {
    if (&device == &group.mask.device()) return;
    throw TypeError(label(hook_.what, group.name) + " must be on the device of its data, " +
                    group.mask.device().name() + ", got " + device.name());
  }

  BaseDataSparsifier& sparsifier_;
  const GetScores get_scores_;
  const Hook& hook_;
  std::vector<Held> held_;
  std::int64_t bytes_ = 0;
};

void BaseDataSparsifier::update_together(const std::vector<Group*>& groups,
                                         const std::vector<ArrayView>& data) {
  std::vector<RuleJob> jobs;
  jobs.reserve(groups.size());
  for (std::size_t i = 0; i < groups.size(); ++i) jobs.push_back(groups[i]->job(data[i]));
  impl_->rule->compute(jobs);
}

/// Asks for the scores of as many groups as may be held together, and computes these, until all are
/// done. If it throws, all masks and states are as before.
void BaseDataSparsifier::update_by_scores(const std::vector<Group*>& groups,
                                          const std::vector<ArrayView>& data,
                                          GetScores get_scores) {
  // A pool's groups follow each other, in their order, where the first of them stands.
  struct Place {
    std::size_t first, group;
  };
  std::vector<Place> places;
  places.reserve(groups.size());
  std::unordered_map<std::string_view, std::size_t> first_of_pool;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const std::string_view pool = impl_->rule->pool(groups[i]->config.compiled);
    places.push_back({pool.empty() ? i : first_of_pool.emplace(pool, i).first->second, i});
  }
  if (!first_of_pool.empty()) {
    std::stable_sort(places.begin(), places.end(),
                     [](const Place& a, const Place& b) { return a.first < b.first; });
  }

  // Who computes with several others asks for all scores at once: were one of them missing, not all
  // of these would be waiting for it.
  const bool at_once = impl_->computing(groups).size() > 1;
  Before before(*impl_);
  before.save_masks_that_are_read();
  try {
    for (auto place = places.begin(); place != places.end();) {
      const auto left = static_cast<std::size_t>(places.end() - place);
      Scores scores(*this, get_scores, left);
      std::vector<RuleJob> jobs;
      std::vector<Group*> batch;
      bool on_cpu = true;
      impl_->access([&] {
        const auto goes_on = [&] {
          return at_once || place->first == (place - 1)->first ||
                 scores.bytes() + bytes_of(data[place->group]) < max_score_bytes;
        };
        do {
          Group& group = *groups[place->group];
          const ArrayView& own = data[place->group];
          const auto* const asked = scores.ask(group, own);
          jobs.push_back(group.job(asked == nullptr ? own : asked->view));
          on_cpu = on_cpu && group.mask.there() == nullptr;
          batch.push_back(&group);
        } while (++place != places.end() && goes_on());
      });
      if (place == places.end()) {
        // The last batch changes all masks or none.
      } else if (!on_cpu) {
        before.save_masks();
      } else {
        for (std::size_t i = 0; i < jobs.size(); ++i) jobs[i].before = before.place_of(*batch[i]);
      }
      impl_->rule->compute(jobs);
      before.has_saved();
    }
  } catch (...) {
    before.bring_back();
    throw;
  }
}

/// Calls the override for each group. If it throws, all masks and states are as before.
void BaseDataSparsifier::update_in_turn(const std::vector<Group*>& groups,
                                        const std::vector<ArrayView>& data, GetScores get_scores) {
  Before before(*impl_);
  before.save_masks();
  const Inside inside(impl_->inside, Impl::update_mask_call);
  try {
    for (std::size_t i = 0; i < groups.size(); ++i) {
      Scores scores(*this, get_scores, 1);
      const auto* const asked = scores.ask(*groups[i], data[i]);
      update_mask(groups[i]->name, asked == nullptr ? data[i] : asked->view,
                  impl_->shown(groups[i]->config));
    }
    for (const auto& group : impl_->groups) {
      if (group->updates) group->prune_kept(group->mask);
    }
    before.bring_back_masks([](const Group& group) { return !group.updates; });
    for (Device* const device : impl_->computing(groups)) device->meet({});
  } catch (...) {
    before.bring_back();
    throw;
  }
}

// --- masks that move ---------------------------------------------------------------------------

KeptArray& BaseDataSparsifier::Group::ever_active() {
  KeptArray& array = arrays.at(ever_active_key);
  const std::size_t bytes = packed_size(mask.size());
  if (array.type() != KeptArray::Type::uint8 || array.byte_count() != bytes) {
    throw ValueError("array 'ever_active' of '" + name + "' must have " + std::to_string(bytes) +
                     " bytes of uint8, got " + std::to_string(array.byte_count()) + " of " +
                     name_of(array.type()));
  }
  return array;
}

void BaseDataSparsifier::Group::bring_ever_there() {
  if (ever_there) return;
  Mask there = mask.device().make_mask(mask.shape());
  there.unpack(ever_active().data());
  ever_there = std::move(there);
}

KeptArray BaseDataSparsifier::Group::no_bits() const {
  const auto bytes = static_cast<std::int64_t>(packed_size(mask.size()));
  return KeptArray(KeptArray::Type::uint8, Axes{bytes});
}

/// Draws the masks that are to be drawn, and moves the others, unless it `only_draws`. If it
/// throws, nothing has changed.
void BaseDataSparsifier::move_masks(const std::vector<Group*>& groups,
                                    const std::vector<ArrayView>& data, const ForeignHooks& foreign,
                                    bool only_draws) {
  const Growth growth = *foreign.growth;
  std::vector<Group*> drawn, moved;
  std::vector<RuleJob> jobs;  // of those that are moved, and then of the others
  jobs.reserve(groups.size());
  const auto add_job = [&](Group& group, const ArrayView& ranked) {
    jobs.push_back(group.job(ranked));
    jobs.back().hint = nullptr;
  };
  std::vector<const ArrayView*> moved_data;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (!groups[i]->is_drawn() || only_draws || growth == Growth::none) continue;
    moved.push_back(groups[i]);
    moved_data.push_back(&data[i]);
  }
  const Pins written(*this, moved, Pins::Of::zeroed);
  Scores scores(*this, foreign.get_scores, moved.size());
  Scores gradients(*this, foreign.get_gradients, moved.size(), Scores::of_gradients);
  std::vector<MaskMove> moves(groups.size());

  Before before(*impl_);
  before.save_masks_that_are_read();
  try {
    impl_->access([&] {
      for (std::size_t i = 0; i < moved.size(); ++i) {
        const Group& group = *moved[i];
        moves[i].weights = written.views()[i];
        require_writable(moves[i].weights, "step() of '" + group.name + "'");
        const auto* const asked = scores.ask(group, *moved_data[i]);
        add_job(*moved[i], asked == nullptr ? *moved_data[i] : asked->view);
        if (growth != Growth::by_gradient) continue;
        moves[i].gradient = gradients.ask_for_gradient(group, *moved_data[i]);
      }
    });
  } catch (...) {
    before.bring_back();
    throw;
  }
  before.forget_masks();

  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (groups[i]->is_drawn()) continue;
    add_job(*groups[i], data[i]);
    drawn.push_back(groups[i]);
  }
  try {
    for (auto* group : drawn) group->arrays.emplace(Group::ever_active_key, group->no_bits());
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const bool draws = i >= moved.size();
      Group& group = draws ? *drawn[i - moved.size()] : *moved[i];
      const auto& spec = std::any_cast<const RegrowthSpec&>(group.config.compiled);
      moves[i].growth = growth;
      moves[i].draws = draws;
      moves[i].stream = random_stream(spec.seed, group.name, draws ? 0 : impl_->step_count + 1);
      jobs[i].move = &moves[i];
      const bool is_there = group.mask.there() != nullptr;
      if (is_there) {
        if (draws) group.ever_there = group.mask.device().make_mask(group.mask.shape());
        group.bring_ever_there();
        moves[i].ever_there = &group.ever_there;
      }
      if (draws || !is_there) moves[i].ever_active = group.ever_active().write();
    }
    impl_->rule->compute(jobs);
  } catch (...) {
    for (auto* group : drawn) {
      group->arrays.erase(Group::ever_active_key);
      group->forget_ever_there();
    }
    before.bring_back();
    throw;
  }
  for (auto* group : moved) group->ever_is_behind = static_cast<bool>(group->ever_there);
  impl_->access([&moved] {
    for (auto* group : moved) group->source->mark_written();
  });
}

void BaseDataSparsifier::draw_masks() {
  const Entry entry(*this, "draw()");
  const auto groups = impl_->updated();
  try {
    const Pins pins(*this, groups, Pins::Of::scores);
    move_masks(groups, pins.views(), foreign_hooks(), true);
  } catch (...) {
    for (Device* const device : impl_->computing(groups)) device->give_up();
    throw;
  }
  impl_->warn_of_death(groups, false);
}

void BaseDataSparsifier::run_as_update(const std::function<void()>& work) {
  const bool is_nested = impl_->is_held() && !impl_->is_inside(Impl::update_mask_call);
  const Entry entry(*this, is_nested ? Impl::update_mask_call : nullptr);
  const Inside inside(impl_->inside, Impl::update_mask_call);
  work();
}

bool BaseDataSparsifier::enable_mask_update() const {
  const Entry entry(*this);
  return impl_->enable_mask_update;
}

void BaseDataSparsifier::set_enable_mask_update(bool enable) {
  const Entry entry(*this, "writing enable_mask_update");
  impl_->enable_mask_update = enable;
}

std::int64_t BaseDataSparsifier::step_count() const {
  const Entry entry(*this);
  return impl_->step_count;
}

// --- apply and squash -------------------------------------------------------------------------

/// Zeroes what the masks prune, or, with `kept`, the elements that stay zero.
void BaseDataSparsifier::zero(const std::vector<Group*>& groups, const std::string& call,
                              bool kept) {
  const Pins pins(*this, groups, kept ? Pins::Of::data_of_any_shape : Pins::Of::zeroed);
  std::vector<Mask> kept_masks;
  if (kept) kept_masks.reserve(groups.size());
  ByDevice<Device::Zeroing> zeroings;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Group& group = *groups[i];
    group.require_shape(pins.views()[i].shape());
    require_writable(pins.views()[i], call + " of '" + group.name + "'");
    Device& device = group.mask.device();
    const Mask* mask = &group.mask;
    if (kept) {
      mask = &kept_masks.emplace_back(device.make_mask(group.mask.shape()));
      group.prune_kept(*mask);
    }
    items_of(device, zeroings).push_back({pins.views()[i], mask});
  }
  // What the CPU does cannot fail, so it comes last.
  for (const bool on_cpu : {false, true}) {
    for (const auto& [device, some] : zeroings) {
      if ((device == &cpu()) == on_cpu) device->zero(some);
    }
  }
  impl_->access([&groups] {
    for (auto* group : groups) group->source->mark_written();
  });
}

void BaseDataSparsifier::apply_kept_zeros() {
  const Entry entry(*this, "apply_kept_zeros()");
  const auto groups = impl_->groups_where(
      [](const Group& group) { return !group.squashed() && group.kept != nullptr; });
  if (!groups.empty()) zero(groups, "apply_kept_zeros", true);
}

/// Zeroes, and hands the sources out, so that the caller lets them go outside the lock.
std::vector<std::shared_ptr<DataSource>> BaseDataSparsifier::squash(
    const std::vector<Group*>& groups) {
  std::vector<std::shared_ptr<DataSource>> released;
  released.reserve(groups.size());
  zero(groups, "squash_mask");
  for (auto* group : groups) released.push_back(std::move(group->source));
  return released;
}

void BaseDataSparsifier::apply_mask(const std::vector<std::string>& names) {
  const Entry entry(*this, "apply_mask()");
  zero(impl_->unsquashed(names, "apply_mask"), "apply_mask");
}

void BaseDataSparsifier::apply_mask() {
  const Entry entry(*this, "apply_mask()");
  zero(impl_->unsquashed(), "apply_mask");
}

void BaseDataSparsifier::squash_mask(const std::vector<std::string>& names) {
  std::vector<std::shared_ptr<DataSource>> released;
  const Entry entry(*this, "squash_mask()");
  released = squash(impl_->unsquashed(names, "squash_mask"));
}

void BaseDataSparsifier::squash_mask() {
  std::vector<std::shared_ptr<DataSource>> released;
  const Entry entry(*this, "squash_mask()");
  released = squash(impl_->unsquashed());
}

}  // namespace datasparse
