// What happens to masks and data: step, apply, squash.

#include <unordered_set>

#include "base/message.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {

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
    const Pins pins(*this, groups, Pins::Of::scores);
    in_turn = impl_->rule == nullptr || foreign_hooks().update_mask;
    if (in_turn) {
      update_in_turn(groups, pins.views());
    } else {
      update_together(groups, pins.views());
    }
  }
  ++impl_->step_count;
  // The last thing, since the handler may throw.
  for (Group* const group : groups) group->warn_if_dead(in_turn);
}

void BaseDataSparsifier::Group::warn_if_dead(bool in_turn) {
  const std::int64_t weights = mask.size();
  if (warned_of_death || weights == 0 || keeps_any(mask.data(), weights)) return;
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
                    : pooled    ? "its pool has done without it; set max_level, or min_kept=1"
                    : kept_some ? "lower its sparsity_level"
                                : "lower its sparsity_level, or set min_kept=1"));
}

/// What a step has changed, to be undone if it fails: an override may have changed the masks and
/// states of any group.
class BaseDataSparsifier::Before {
 public:
  explicit Before(const std::vector<std::unique_ptr<Group>>& groups) : groups_(groups) {
    for (const auto& group : groups_) saved_.push_back({group->mask.pack(), group->state});
  }
  void bring_back() noexcept {
    for (std::size_t i = 0; i < saved_.size(); ++i) {
      bring_back_mask(i);
      groups_[i]->state = std::move(saved_[i].state);
    }
  }
  void bring_back_mask(std::size_t i) const noexcept {
    groups_[i]->mask.unpack(saved_[i].mask_bits.data());
  }

 private:
  struct Saved {
    PackedBits mask_bits;
    ParamMap state;
  };
  const std::vector<std::unique_ptr<Group>>& groups_;
  std::vector<Saved> saved_;
};

void BaseDataSparsifier::update_together(const std::vector<Group*>& groups,
                                         const std::vector<ArrayView>& data) {
  std::vector<RuleJob> jobs;
  jobs.reserve(groups.size());
  bool on_cpu = true;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Group& group = *groups[i];
    Device& device = group.source->device();
    on_cpu = on_cpu && &device == &cpu();
    jobs.push_back({data[i], group.config.compiled, group.mask.data(), group.mask.hint(),
                    group.layout, group.kept_bits(), &device});
  }
  if (on_cpu) return impl_->rule->compute(jobs);  // where nothing fails once a mask is written
  Before before(impl_->groups);
  try {
    impl_->rule->compute(jobs);
  } catch (...) {
    before.bring_back();
    throw;
  }
}

/// Calls the override for each group. If it throws, all masks and states are as before.
void BaseDataSparsifier::update_in_turn(const std::vector<Group*>& groups,
                                        const std::vector<ArrayView>& data) {
  Before before(impl_->groups);
  const Inside inside(impl_->inside, Impl::update_mask_call);
  try {
    for (std::size_t i = 0; i < groups.size(); ++i) {
      update_mask(groups[i]->name, data[i], impl_->shown(groups[i]->config));
    }
    for (std::size_t i = 0; i < impl_->groups.size(); ++i) {
      const Group& group = *impl_->groups[i];
      if (group.updates) {
        group.prune_kept();
      } else {
        before.bring_back_mask(i);
      }
    }
  } catch (...) {
    before.bring_back();
    throw;
  }
}

void BaseDataSparsifier::run_as_update(const std::function<void()>& work) {
  const Entry entry(*this);
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
  std::vector<Mask> masks;  // of kept zeros
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Group& group = *groups[i];
    group.require_shape(pins.views()[i].shape());
    require_writable(pins.views()[i], call + " of '" + group.name + "'");
    if (!kept) continue;
    masks.emplace_back(group.mask.shape());
    prune_bits(masks[i].data(), group.kept_bits(), group.mask.size());
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Mask& mask = kept ? masks[i] : groups[i]->mask;
    groups[i]->source->device().zero(pins.views()[i], mask.data());
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
