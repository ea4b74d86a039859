// What happens to masks and data: step, apply, squash.

#include <algorithm>

#include "data_sparsifier_impl.hpp"
#include "kernels/kernels.hpp"
#include "zero_masked.hpp"

namespace datasparse {
namespace {

/// What Impl::inside points to in that override. An array, whose address is its own: equal string
/// literals may or may not share one.
constexpr char update_mask_call[] = "update_mask()";

}  // namespace

/// Pins the tensors of many groups for the length of a scope, all or none, and sees that they have
/// kept their shapes.
class BaseDataSparsifier::Pins {
 public:
  Pins(const BaseDataSparsifier& sparsifier, const std::vector<Group*>& groups)
      : sparsifier_(sparsifier) {
    pinned_.reserve(groups.size());
    views_.reserve(groups.size());
    sparsifier_.access_data([&] {
      try {
        for (const auto* group : groups) {
          views_.push_back(group->source->pin());
          pinned_.push_back(group->source.get());
          require_shape(*group, views_.back().shape());
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
    sparsifier_.access_data([this] { unpin(); });
  }

  const std::vector<ArrayView>& views() const noexcept { return views_; }

 private:
  static void require_shape(const Group& group, const Axes& shape) {
    if (shape == group.mask.shape()) return;
    throw ValueError("data of '" + group.name + "' must keep the shape " +
                     to_string(group.mask.shape()) + ", got " + to_string(shape) +
                     "; call add_data again with reuse_mask=False for data of another shape");
  }

  void unpin() noexcept {
    for (auto* source : pinned_) source->unpin();
    pinned_.clear();
  }

  const BaseDataSparsifier& sparsifier_;
  std::vector<DataSource*> pinned_;
  std::vector<ArrayView> views_;
};

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

// --- step -------------------------------------------------------------------------------------

void BaseDataSparsifier::step() {
  const Entry entry(*this, "step()");
  if (impl_->enable_mask_update) {
    const auto groups = unsquashed();
    const Pins pins(*this, groups);
    look_up_overrides();
    if (is_overridden()) {
      update_in_turn(groups, pins.views());
    } else {
      update_together(groups, pins.views());
    }
  }
  ++impl_->step_count;
}

void BaseDataSparsifier::update_together(const std::vector<Group*>& groups,
                                         const std::vector<ArrayView>& data) {
  std::vector<Update> updates;
  updates.reserve(groups.size());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    updates.push_back({data[i], groups[i]->config.compiled, groups[i]->mask});
  }
  update_masks(updates);
}

/// Calls the override for each group. If it throws, all masks and states are as before: an override
/// may have changed those of any group.
void BaseDataSparsifier::update_in_turn(const std::vector<Group*>& groups,
                                        const std::vector<ArrayView>& data) {
  struct Saved {
    PackedBits mask_bits;
    ParamMap state;
  };
  std::vector<Saved> saved;
  for (const auto& group : impl_->groups) saved.push_back({group->mask.pack(), group->state});
  const Inside inside(impl_->inside, update_mask_call);
  try {
    for (std::size_t i = 0; i < groups.size(); ++i) {
      update_mask(groups[i]->name, data[i], effective(groups[i]->config));
    }
  } catch (...) {
    for (std::size_t i = 0; i < saved.size(); ++i) {
      impl_->groups[i]->mask.unpack(saved[i].mask_bits.data());
      impl_->groups[i]->state = std::move(saved[i].state);
    }
    throw;
  }
}

void BaseDataSparsifier::run_as_update(const std::function<void()>& work) {
  const Entry entry(*this);
  const Inside inside(impl_->inside, update_mask_call);
  work();
}

bool BaseDataSparsifier::in_update_mask() const noexcept {
  return in_override() && impl_->inside == update_mask_call;
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

void BaseDataSparsifier::zero_masked(const std::vector<Group*>& groups, const char* call) {
  const Pins pins(*this, groups);
  const Kernels& table = kernels();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    require_writable(pins.views()[i], std::string(call) + " of '" + groups[i]->name + "'");
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    datasparse::zero_masked(table, pins.views()[i], groups[i]->mask.data());
  }
  access_data([&groups] {
    for (auto* group : groups) group->source->mark_written();
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
  const Entry entry(*this, "apply_mask()");
  zero_masked(unsquashed(names, "apply_mask"), "apply_mask");
}

void BaseDataSparsifier::apply_mask() {
  const Entry entry(*this, "apply_mask()");
  zero_masked(unsquashed(), "apply_mask");
}

void BaseDataSparsifier::squash_mask(const std::vector<std::string>& names) {
  std::vector<std::shared_ptr<DataSource>> released;
  const Entry entry(*this, "squash_mask()");
  released = squash(unsquashed(names, "squash_mask"));
}

void BaseDataSparsifier::squash_mask() {
  std::vector<std::shared_ptr<DataSource>> released;
  const Entry entry(*this, "squash_mask()");
  released = squash(unsquashed());
}

// --- figures ----------------------------------------------------------------------------------

std::vector<GroupFigures> BaseDataSparsifier::figures() const {
  using Status = GroupFigures::Status;
  const Entry entry(*this);
  std::vector<GroupFigures> result;
  for (const auto& group : impl_->groups) {
    const Status status = group->awaits_data  ? Status::awaits_data
                          : group->squashed() ? Status::squashed
                                              : Status::active;
    result.push_back({group->name, status, group->mask.shape(), std::nullopt, group->mask.zeros(),
                      effective(group->config)});
  }
  access_data([&] {
    for (std::size_t i = 0; i < result.size(); ++i) {
      auto* const source = impl_->groups[i]->source.get();
      if (source != nullptr) result[i].dtype = Pin(*source).view().dtype();
    }
  });
  for (const auto& [name, saved] : impl_->waiting) {
    Mask mask(saved.shape);
    mask.unpack(saved.mask_bits.data());
    result.push_back({name, Status::awaits_data, saved.shape, std::nullopt, mask.zeros(),
                      effective({saved.config, compile_config(name, saved.config, &saved.shape)})});
  }
  std::sort(result.begin() + static_cast<std::ptrdiff_t>(impl_->groups.size()), result.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return result;
}

}  // namespace datasparse
