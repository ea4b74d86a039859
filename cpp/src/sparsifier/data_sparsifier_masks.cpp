// What happens to masks and data: step, apply, squash.

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "base/message.hpp"
#include "sparsifier/data_sparsifier_impl.hpp"

namespace datasparse {
namespace {

/// What Impl::inside is in that override.
constexpr const char* update_mask_call = "update_mask()";

/// Scores that are held at the same time, unless a pool has more of them.
constexpr std::int64_t max_score_bytes = std::int64_t{256} << 20;

std::int64_t bytes_of(const ArrayView& view) {
  return view.size() * static_cast<std::int64_t>(item_size(view.dtype()));
}

}  // namespace

/// Throws where the data of a group have another shape than its mask.
void BaseDataSparsifier::require_shape_of_mask(const Group& group, const Axes& shape) {
  if (shape == group.mask.shape()) return;
  throw ValueError("data of '" + group.name + "' must keep the shape " +
                   to_string(group.mask.shape()) + ", got " + to_string(shape) +
                   "; call add_data again with reuse_mask=False for data of another shape");
}

/// Pins the tensors of many groups for the length of a scope, all or none, and sees that they have
/// kept their shapes, unless any will do.
class BaseDataSparsifier::Pins {
 public:
  enum class Of { zeroed, data_of_any_shape, scores };

  Pins(const BaseDataSparsifier& sparsifier, const std::vector<Group*>& groups, Of what)
      : sparsifier_(sparsifier) {
    pinned_.reserve(groups.size());
    views_.reserve(groups.size());
    sparsifier_.access_data([&] {
      try {
        for (const auto* group : groups) {
          DataSource& source = *group->source;
          views_.push_back(what == Of::scores   ? source.pin_scores()
                           : what == Of::zeroed ? source.pin_to_zero(group->mask)
                                                : source.pin());
          pinned_.push_back(&source);
          if (what != Of::data_of_any_shape) require_shape_of_mask(*group, views_.back().shape());
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
  std::unordered_set<const Group*> seen;  // names may be many, and come twice
  groups.reserve(names.size());
  seen.reserve(names.size());
  for (const auto& name : names) {
    Group& group = impl_->at(name);
    if (group.squashed()) {
      throw ValueError(std::string(call) + " of '" + name +
                       "' is impossible: it was squashed already");
    }
    if (seen.insert(&group).second) groups.push_back(&group);
  }
  return groups;
}

/// Those whose masks a step renews.
std::vector<BaseDataSparsifier::Group*> BaseDataSparsifier::updated() const {
  std::vector<Group*> groups;
  for (const auto& group : impl_->groups) {
    if (!group->squashed() && group->updates) groups.push_back(group.get());
  }
  return groups;
}

// --- step -------------------------------------------------------------------------------------

void BaseDataSparsifier::step() {
  const Entry entry(*this, "step()");
  std::vector<Group*> groups;
  bool in_turn = true;
  if (impl_->enable_mask_update) {
    groups = updated();
    const Pins pins(*this, groups, Pins::Of::scores);
    const ForeignHooks foreign = foreign_hooks();
    in_turn = impl_->rule == nullptr || foreign.update_mask;
    if (in_turn) {
      update_in_turn(groups, pins.views(), foreign.get_scores);
    } else if (foreign.get_scores != nullptr) {
      update_by_scores(groups, pins.views(), foreign.get_scores);
    } else {
      update_together(groups, pins.views());
    }
  }
  ++impl_->step_count;
  warn_of_dead(groups, in_turn);
}

/// The last thing that a step does, since the handler may throw.
void BaseDataSparsifier::warn_of_dead(const std::vector<Group*>& groups, bool in_turn) const {
  for (Group* const group : groups) {
    const std::int64_t weights = group->mask.size();
    if (group->warned_of_death || weights == 0 || keeps_any(group->mask.data(), weights)) continue;
    const auto* const level = group->config.written.find("sparsity_level");
    if (level != nullptr && (*level == ParamValue(1.0) || *level == ParamValue(1))) continue;
    group->warned_of_death = true;
    const bool all_kept = group->kept != nullptr && group->kept->count == weights;
    const bool kept_some = group->config.written.contains("min_kept");
    send_message(Severity::warning,
                 "step() pruned all weights of '" + group->name + "', " + std::to_string(weights) +
                     " of " + std::to_string(weights) + ": " +
                     (all_kept    ? "keep_zeros=True found them all zero; pass "
                                    "keep_zeros=False to add_data()"
                      : in_turn   ? "let update_mask() keep some of them"
                      : kept_some ? "lower its sparsity_level"
                                  : "lower its sparsity_level, or set min_kept=1"));
  }
}

/// What a step has changed, to be undone if it fails: an override may have changed the states of
/// any group, and their masks.
class BaseDataSparsifier::Before {
 public:
  /// Saves the states.
  explicit Before(Impl& impl) : impl_(impl), groups_(impl.groups) {
    states_.reserve(groups_.size());
    for (const auto& group : groups_) states_.push_back(group->state);
  }
  Before(const Before&) = delete;
  Before& operator=(const Before&) = delete;
  ~Before() { impl_.save_masks = nullptr; }

  /// Saves the masks too, once.
  void save_masks() {
    if (!masks_.empty()) return;
    std::vector<PackedBits> masks;
    masks.reserve(groups_.size());
    for (const auto& group : groups_) masks.push_back(group->mask.pack());
    masks_ = std::move(masks);
  }
  /// Saves them when somebody asks for one.
  void save_masks_that_are_read() {
    impl_.save_masks = [this] { save_masks(); };
  }
  void bring_back() noexcept {
    for (std::size_t i = 0; i < masks_.size(); ++i) bring_back_mask(i);
    for (std::size_t i = 0; i < states_.size(); ++i) groups_[i]->state = std::move(states_[i]);
  }
  void bring_back_mask(std::size_t i) const noexcept { groups_[i]->mask.unpack(masks_[i].data()); }

 private:
  Impl& impl_;
  const std::vector<std::unique_ptr<Group>>& groups_;
  std::vector<ParamMap> states_;
  std::vector<PackedBits> masks_;
};

/// Scores that were asked for, pinned for the length of a scope.
class BaseDataSparsifier::Scores {
 public:
  /// Of at most so many groups.
  Scores(BaseDataSparsifier& sparsifier, GetScores get_scores, std::size_t most)
      : sparsifier_(sparsifier), get_scores_(get_scores) {
    held_.reserve(most);
  }
  Scores(const Scores&) = delete;
  Scores& operator=(const Scores&) = delete;
  ~Scores() {
    sparsifier_.access_data([this]() noexcept {
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
    const Inside inside(sparsifier_.impl_->inside, "get_scores()");
    auto source = get_scores_(sparsifier_, group.name, data, sparsifier_.shown(group.config));
    if (source == nullptr) return nullptr;
    const ArrayView view = source->pin();
    held_.push_back({std::move(source), view});
    if (view.shape() != group.mask.shape()) {
      throw ValueError("scores of '" + group.name + "' must have the shape of its data, " +
                       to_string(group.mask.shape()) + ", got " + to_string(view.shape()));
    }
    bytes_ += bytes_of(view);
    return &held_.back();
  }
  std::int64_t bytes() const noexcept { return bytes_; }

 private:
  BaseDataSparsifier& sparsifier_;
  const GetScores get_scores_;
  std::vector<Held> held_;
  std::int64_t bytes_ = 0;
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
  Before before(*impl_);
  before.save_masks();
  try {
    impl_->rule->compute(jobs);
  } catch (...) {
    before.bring_back();
    throw;
  }
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

  Before before(*impl_);
  before.save_masks_that_are_read();
  try {
    for (auto place = places.begin(); place != places.end();) {
      const auto left = static_cast<std::size_t>(places.end() - place);
      Scores scores(*this, get_scores, left);
      std::vector<RuleJob> jobs;
      jobs.reserve(left);
      bool on_cpu = true;
      access_data([&] {
        const auto goes_on = [&] {
          return place->first == (place - 1)->first ||
                 scores.bytes() + bytes_of(data[place->group]) <= max_score_bytes;
        };
        do {
          const Group& group = *groups[place->group];
          const ArrayView& own = data[place->group];
          const auto* const asked = scores.ask(group, own);
          Device& device = (asked == nullptr ? group.source : asked->source)->device();
          on_cpu = on_cpu && &device == &cpu();
          jobs.push_back({asked == nullptr ? own : asked->view, group.config.compiled,
                          group.mask.data(), group.mask.hint(), group.layout, group.kept_bits(),
                          &device});
        } while (++place != places.end() && goes_on());
      });
      if (place != places.end() || !on_cpu) before.save_masks();
      impl_->rule->compute(jobs);
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
  const Inside inside(impl_->inside, update_mask_call);
  try {
    for (std::size_t i = 0; i < groups.size(); ++i) {
      Scores scores(*this, get_scores, 1);
      const auto* const asked = scores.ask(*groups[i], data[i]);
      update_mask(groups[i]->name, asked == nullptr ? data[i] : asked->view,
                  shown(groups[i]->config));
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
  const bool may_change = !in_override() || in_update_mask();
  const Entry entry(*this, may_change ? nullptr : update_mask_call);
  const Inside inside(impl_->inside, update_mask_call);
  work();
}

bool BaseDataSparsifier::in_update_mask() const noexcept {
  return in_override() && impl_->is_inside(update_mask_call);
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
  const Pins pins(*this, groups, Pins::Of::zeroed);
  for (std::size_t i = 0; i < groups.size(); ++i) {
    require_writable(pins.views()[i], std::string(call) + " of '" + groups[i]->name + "'");
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    groups[i]->source->device().zero(pins.views()[i], groups[i]->mask.data());
  }
  access_data([&groups] {
    for (auto* group : groups) group->source->mark_written();
  });
}

void BaseDataSparsifier::apply_kept_zeros() {
  const Entry entry(*this, "apply_kept_zeros()");
  std::vector<Group*> groups;
  for (auto* const group : unsquashed()) {
    if (group->kept != nullptr) groups.push_back(group);
  }
  if (groups.empty()) return;
  const Pins pins(*this, groups, Pins::Of::data_of_any_shape);
  std::vector<Mask> masks;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const std::string& name = groups[i]->name;
    require_shape_of_mask(*groups[i], pins.views()[i].shape());
    require_writable(pins.views()[i], "apply_kept_zeros of '" + name + "'");
    masks.emplace_back(groups[i]->mask.shape());
    prune_bits(masks[i].data(), groups[i]->kept_bits(), masks[i].size());
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    groups[i]->source->device().zero(pins.views()[i], masks[i].data());
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

namespace {

/// The lengths of the blocks that a config asks for. A class may use the key for something else:
/// then there are none.
std::optional<std::pair<std::int64_t, std::int64_t>> block_in(const ParamMap& config,
                                                              const Axes& viewed) {
  constexpr std::int64_t longest = std::int64_t{1} << 60;
  const auto* const value = config.find("sparse_block_shape");
  const auto* const lengths = value == nullptr ? nullptr : value->get_if<ParamValue::Ints>();
  if (lengths == nullptr || lengths->size() != 2) return std::nullopt;
  for (const std::int64_t length : *lengths) {
    if (length != -1 && (length < 1 || length > longest)) return std::nullopt;
  }
  BlockSpec spec;
  spec.block_height = (*lengths)[0];
  spec.block_width = (*lengths)[1];
  spec = spec.resolved(viewed);
  return std::pair(spec.block_height, spec.block_width);
}

}  // namespace

/// Those that need no data.
GroupFigures BaseDataSparsifier::figures_of(const Group& group, GroupFigures::Status status) const {
  const Mask& mask = group.mask;
  const Axes& shape = mask.shape();
  GroupFigures figures;
  figures.name = group.name;
  figures.status = status;
  figures.shape = shape;
  figures.zeros = mask.zeros();
  figures.config = shown(group.config);
  figures.block = block_in(group.config.written, group.viewed_shape());
  figures.dead = mask.size() > 0 && figures.zeros == mask.size();
  if (shape.size() > 1) {
    const auto& layout = group.layout;
    const std::int64_t rows = layout.size() == 0 ? 0 : layout[0];
    const std::int64_t channels = layout.size() == 0 ? 1 : layout[layout.size() - 1];
    figures.dead_rows = count_dead(mask.data(), shape, static_cast<int>(rows));
    figures.dead_channels = count_dead(mask.data(), shape, static_cast<int>(channels));
  }
  figures.frozen = !group.updates;
  return figures;
}

std::vector<GroupFigures> BaseDataSparsifier::figures() const {
  using Status = GroupFigures::Status;
  const Entry entry(*this);
  std::vector<GroupFigures> result;
  for (const auto& group : impl_->groups) {
    const Status status = group->awaits_data  ? Status::awaits_data
                          : group->squashed() ? Status::squashed
                                              : Status::active;
    result.push_back(figures_of(*group, status));
  }
  {
    const auto groups = unsquashed();
    const Pins pins(*this, groups, Pins::Of::data_of_any_shape);
    auto view = pins.views().begin();
    for (std::size_t i = 0; i < result.size(); ++i) {
      const Group& group = *impl_->groups[i];
      if (group.squashed()) continue;
      result[i].dtype = view->dtype();
      if (view->shape() == group.mask.shape()) {
        result[i].zeros_in_data =
            group.source->device().count_pruned_zeros(*view, group.mask.data());
      }
      ++view;
    }
  }
  for (const auto& [name, saved] : impl_->waiting) {
    const Axes viewed = viewed_shape(saved.shape, saved.layout);
    Config config{saved.config, impl_->compiled(name, saved.config, &viewed)};
    result.push_back(figures_of(*restored_group(saved, std::move(config)), Status::awaits_data));
  }
  std::sort(result.begin() + static_cast<std::ptrdiff_t>(impl_->groups.size()), result.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return result;
}

}  // namespace datasparse
