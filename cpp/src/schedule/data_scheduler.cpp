#include "datasparse/data_scheduler.hpp"

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/message.hpp"
#include "datasparse/error.hpp"
#include "datasparse/glob.hpp"
#include "datasparse/group_params.hpp"
#include "datasparse/group_table.hpp"
#include "datasparse/state_entries.hpp"
#include "schedule/data_scheduler_impl.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t max_epoch = std::int64_t{1} << 53;  // a schedule may compute in doubles

/// ValueError for an epoch that no training reaches, beginning with `what`.
void require_epoch(std::int64_t epoch, const char* what, std::int64_t least = -1) {
  if (epoch < least || epoch > max_epoch) {
    throw ValueError(std::string(what) + " must be at least " + std::to_string(least) +
                     (epoch > max_epoch ? " and at most 2^53" : "") + ", got " +
                     std::to_string(epoch));
  }
}

/// What 0.1.0 counted, whose states do not say.
bool counts_renewals_in(const SchedulerState& state) {
  return state.version == 1 || state.counts_renewals;
}

}  // namespace

BaseDataScheduler::BaseDataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                                     std::string schedule_param, std::int64_t last_epoch,
                                     bool verbose)
    : sparsifier_(std::move(data_sparsifier)),
      param_(std::move(schedule_param)),
      last_epoch_(last_epoch),
      verbose_(verbose) {
  if (sparsifier_ == nullptr)
    throw TypeError("data_sparsifier must be a data sparsifier, got none");
  require_epoch(last_epoch, "last_epoch");
  const auto known = GroupParams(*sparsifier_).known();
  if (std::find(known.begin(), known.end(), param_) == known.end()) {
    throw ValueError("schedule_param must be a config key of the sparsifier, got '" + param_ + "'" +
                     did_you_mean(param_, known));
  }
}

BaseDataScheduler::~BaseDataScheduler() = default;

void BaseDataScheduler::start() { advance(false); }

void BaseDataScheduler::step() { advance(true); }

void BaseDataScheduler::step(const std::function<void()>& change) { advance(true, change); }

void BaseDataScheduler::write_schedule_param(ParamMap& values) { values = get_schedule_param(); }

void BaseDataScheduler::set_own_state(const ParamMap& own) {
  if (own.empty()) return;
  throw ValueError("own of the state must be empty for this scheduler, got '" + own.begin()->first +
                   "'");
}

void BaseDataScheduler::advance(bool warn_if_early, const std::function<void()>& change) {
  const Stepping stepping(*this, "step()");
  if (warn_if_early && !leads_ && !warned_ && sparsifier_->step_count() == 0) {
    send_message(Severity::warning,
                 "scheduler.step() was called before the first sparsifier.step(): call the "
                 "sparsifier's step() first, or the first value of the schedule is never used");
    warned_ = true;
  }
  const std::int64_t epoch_before = last_epoch();
  const ParamMap own_before = own_state();
  auto base_before = pick_up_groups();
  ParamMap spare;
  try {
    // Two maps take turns; at the end, nothing may be allocated.
    if (last_param_.empty()) spare = now_;
    if (change) change();
    set_last_epoch(epoch_before + 1);
    write_schedule_param(values_);
    now_ = GroupParams(*sparsifier_).set(param_, values_, std::move(now_));
  } catch (...) {
    set_own_state(own_before);
    const std::lock_guard<std::mutex> lock(mutex_);
    last_epoch_ = epoch_before;
    base_param_ = std::move(base_before);
    throw;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::swap(last_param_, now_);
    if (now_.empty()) now_ = std::move(spare);
    if (!awaited_.empty()) forget_those_that_came();
  }
  if (!verbose_) return;
  for (const auto& [name, value] : get_last_param()) {
    send_message(Severity::info, "epoch " + std::to_string(last_epoch()) + ": " +
                                     label(param_, name) + " = " + to_string(value));
  }
}

/// New groups enter base_param with their present value, or with that of a state that waited for
/// them; removed ones leave it. Returns what it was.
std::shared_ptr<const ParamMap> BaseDataScheduler::pick_up_groups() {
  now_ = GroupParams(*sparsifier_).get(param_, std::move(now_));
  auto before = base_values();
  ParamMap known, awaited;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    known = awaited_;
  }
  const auto same_name = [](const auto& a, const auto& b) { return a.first == b.first; };
  if (known.empty() &&
      std::equal(now_.begin(), now_.end(), before->begin(), before->end(), same_name)) {
    return before;
  }
  const GroupTable table(*sparsifier_);
  const auto base = std::make_shared<ParamMap>(now_);
  known.update(*before);
  for (const auto& [name, value] : known) {
    if (auto* const now = base->find(name)) *now = value;
    // Also of one that is there: the step may fail, which brings back what was there before.
    if (table.awaits_data(name) || (base->contains(name) && !before->contains(name))) {
      awaited.set(name, value);
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  base_param_ = base;
  awaited_ = std::move(awaited);
  return before;
}

void BaseDataScheduler::forget_those_that_came() {
  ParamMap awaited;
  for (const auto& [name, value] : awaited_) {
    if (!base_param_->contains(name)) awaited.set(name, value);
  }
  awaited_ = std::move(awaited);
}

void BaseDataScheduler::restore(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                                const SchedulerState& state, bool verbose) {
  set_own_state(state.own);
  const std::lock_guard<std::mutex> lock(mutex_);
  sparsifier_ = std::move(data_sparsifier);
  param_ = state.schedule_param;
  base_param_ = std::make_shared<ParamMap>(state.base_param);
  last_param_ = state.last_param;
  last_epoch_ = state.last_epoch;
  counts_renewals_ = counts_renewals_in(state);
  verbose_ = verbose;
}

ParamMap BaseDataScheduler::get_last_param() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_param_;
}

ParamMap BaseDataScheduler::base_param() const { return *base_values(); }

std::shared_ptr<const ParamMap> BaseDataScheduler::base_values() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return base_param_;
}

void BaseDataScheduler::set_base_param(ParamMap values) {
  const GroupTable table(*sparsifier_);
  ParamMap present;
  for (const auto& [name, value] : values) {
    if (!table.awaits_data(name)) present.set(name, value);
  }
  GroupParams(*sparsifier_).check(param_, present);
  auto base = std::make_shared<ParamMap>(std::move(values));
  for (const auto& [name, value] : *base_values()) {
    if (!base->contains(name) && sparsifier_->contains(name)) base->set(name, value);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  base_param_ = std::move(base);
  forget_those_that_came();
}

std::int64_t BaseDataScheduler::last_epoch() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_epoch_;
}

void BaseDataScheduler::set_last_epoch(std::int64_t epoch) {
  require_epoch(epoch, "last_epoch");
  const std::lock_guard<std::mutex> lock(mutex_);
  last_epoch_ = epoch;
}

bool BaseDataScheduler::counts_renewals() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return counts_renewals_;
}

void BaseDataScheduler::set_counts_renewals(bool counts) {
  const std::lock_guard<std::mutex> lock(mutex_);
  counts_renewals_ = counts;
}

SchedulerState BaseDataScheduler::save_state() const {
  ParamMap own = own_state();  // before the lock: an override may read the scheduler
  const std::lock_guard<std::mutex> lock(mutex_);
  ParamMap base = awaited_;
  base.update(*base_param_);
  return {SchedulerState::current_version,
          param_,
          last_epoch_,
          std::move(base),
          last_param_,
          std::move(own),
          counts_renewals_};
}

/// Throws where load_state() must refuse the state, whatever the sparsifier says of its values and
/// set_own_state() of the rest.
BaseDataScheduler::Loading BaseDataScheduler::prepare_load(const SchedulerState& state) const {
  require_version(state.version);
  if (state.schedule_param != param_) {
    throw ValueError("schedule_param of the state must be '" + param_ + "', got '" +
                     state.schedule_param + "'");
  }
  require_epoch(state.last_epoch, "last_epoch of the state");
  const auto base = std::make_shared<ParamMap>(state.base_param);
  ParamMap last = state.last_param;
  // A group that the state does not know keeps its base: what it has now may be a scheduled value,
  // of which the next step would make one.
  const ParamMap last_here = get_last_param();
  for (const auto& [name, value] : *base_values()) {
    if (base->contains(name) || !sparsifier_->contains(name)) continue;
    base->set(name, value);
    if (const auto* const own = last_here.find(name)) last.set(name, *own);
  }
  return {base, std::move(last), state.last_epoch, counts_renewals_in(state)};
}

/// Puts the state into place, and what was there into `loading`.
void BaseDataScheduler::commit(Loading& loading) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  awaited_ = {};
  std::swap(base_param_, loading.base_param);
  std::swap(last_param_, loading.last_param);
  std::swap(last_epoch_, loading.last_epoch);
  std::swap(counts_renewals_, loading.counts_renewals);
}

void BaseDataScheduler::load_state(const SchedulerState& state) {
  Loading loading;  // what it replaces is destroyed last
  const Stepping stepping(*this, "loading a state");
  loading = prepare_load(state);
  const auto present = [this](const ParamMap& saved) {
    ParamMap values;
    for (const auto& [name, value] : saved) {
      if (sparsifier_->contains(name)) values.set(name, value);
    }
    return values;
  };
  const ParamMap own_before = own_state();
  set_own_state(state.own);
  try {
    GroupParams(*sparsifier_).check(param_, present(state.base_param));
    GroupParams(*sparsifier_).set(param_, present(state.last_param));
  } catch (...) {
    set_own_state(own_before);
    throw;
  }
  commit(loading);
}

std::function<void()> BaseDataScheduler::prepare_attributes(const Attributes& saved) {
  refuse_attributes(saved, "the scheduler");
  return [] {};
}

// --- DataScheduler ------------------------------------------------------------------------------

DataScheduler::DataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                             std::string schedule_param, Schedule schedule, std::int64_t last_epoch,
                             bool verbose)
    : DataScheduler(std::move(data_sparsifier), std::move(schedule_param),
                    Schedules{{"*", std::move(schedule)}}, true, last_epoch, verbose) {}

DataScheduler::DataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                             std::string schedule_param, Schedules schedules, bool strict,
                             std::int64_t last_epoch, bool verbose)
    : BaseDataScheduler(std::move(data_sparsifier), std::move(schedule_param), last_epoch, verbose),
      schedules_(std::move(schedules)),
      strict_(strict) {
  if (schedules_.empty()) throw ValueError("schedule must hold one pattern at least, got none");
  for (auto one = schedules_.begin(); one != schedules_.end(); ++one) {
    const auto same = [one](const auto& item) { return item.first == one->first; };
    if (std::any_of(schedules_.begin(), one, same)) {
      throw ValueError("schedule must hold every pattern once, got '" + one->first + "' twice");
    }
  }
  // Groups are looked at in every step; where there are none yet, the defaults tell.
  const ParamMap defaults = this->data_sparsifier()->defaults();
  const auto* const value = defaults.find(this->schedule_param());
  if (value != nullptr && !value->is_none()) value->as_number(this->schedule_param());
}

void DataScheduler::restore(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                            const SchedulerState& state, bool verbose, Schedules schedules,
                            bool strict) {
  schedules_ = std::move(schedules);
  strict_ = strict;
  checked_ = !state.base_param.empty();
  BaseDataScheduler::restore(std::move(data_sparsifier), state, verbose);
}

std::vector<std::int64_t> DataScheduler::ends() const {
  std::vector<std::int64_t> ends;
  for (const auto& item : schedules_) {
    const auto end = item.second.end();
    if (!end) continue;
    const auto place = std::lower_bound(ends.begin(), ends.end(), *end);
    if (place == ends.end() || *place != *end) ends.insert(place, *end);
  }
  return ends;
}

void DataScheduler::forget_schedules() noexcept {
  assigned_.clear();
  schedules_.clear();
}

std::vector<DataScheduler::Assigned> DataScheduler::assign(const ParamMap& groups) const {
  std::vector<Assigned> assigned;
  std::size_t place = 0;
  for (const auto& item : groups) {
    const auto& name = item.first;
    auto found = std::find_if(schedules_.begin(), schedules_.end(),
                              [&name](const auto& one) { return one.first == name; });
    if (found == schedules_.end()) {
      found = std::find_if(schedules_.begin(), schedules_.end(),
                           [&name](const auto& one) { return matches(one.first, name); });
    }
    if (found != schedules_.end()) assigned.push_back({place, &found->second});
    ++place;
  }
  return assigned;
}

/// assign(), where every pattern has at least one of the groups.
std::vector<DataScheduler::Assigned> DataScheduler::assign_strictly(const ParamMap& groups) const {
  auto assigned = assign(groups);
  for (const auto& [pattern, schedule] : schedules_) {
    const auto* const own = &schedule;
    if (std::any_of(assigned.begin(), assigned.end(),
                    [own](const Assigned& one) { return one.schedule == own; })) {
      continue;
    }
    std::vector<std::string> names;
    for (const auto& item : groups) {
      names.push_back(item.first);
      if (!matches(pattern, item.first)) continue;
      throw ValueError("pattern '" + pattern + "' must be of use to a group, but others have '" +
                       item.first + "' and all that it matches: a name comes first, then the " +
                       "patterns in their order");
    }
    throw ValueError("pattern '" + pattern + "' must match a group, and matches none" +
                     did_you_mean(pattern, names) +
                     " (pass strict=False for groups that are added later)");
  }
  return assigned;
}

/// Whether the parameter takes integers only.
bool DataScheduler::integer_key() const {
  return data_sparsifier()->is_integer_param(schedule_param());
}

/// Sets the values of the assigned groups at a step, in a map that holds just these or none.
void DataScheduler::write(const std::vector<Assigned>& assigned, const ParamMap& base,
                          std::int64_t step, bool integer_key, ParamMap& values) const {
  // Most groups share a schedule and a base value with the one before.
  const Schedule* schedule = nullptr;
  const ParamValue* given = nullptr;
  ParamValue value;
  std::size_t count = 0;
  values.reserve(assigned.size());
  for (const auto& one : assigned) {
    const auto& [name, own] = base.begin()[static_cast<std::ptrdiff_t>(one.place)];
    if (schedule != one.schedule || *given != own) {
      value = (*one.schedule)(step, own, schedule_param(), name, integer_key);
      schedule = one.schedule;
      given = &own;
    }
    values.rewrite(count++, name, value);
  }
  values.truncate(count);
}

ParamMap DataScheduler::get_schedule_param() {
  const auto base = base_values();
  ParamMap values;
  write(assign(*base), *base, position(), integer_key(), values);
  return values;
}

void DataScheduler::write_schedule_param(ParamMap& values) {
  const auto base = base_values();
  const bool integers = integer_key();
  if (base != base_) {
    const bool check = !checked_ && !base->empty();
    auto assigned = check && strict_ ? assign_strictly(*base) : assign(*base);
    if (check) warn_of_ends(assigned, *base, integers);
    assigned_ = std::move(assigned);
    base_ = base;
    checked_ |= check;
  }
  write(assigned_, *base_, position(), integers, values);
}

/// Warns of a schedule that ends at a value which the sparsifier would refuse as it is now: hours
/// of training may lie between. It is no error, since configs may change until then.
void DataScheduler::warn_of_ends(const std::vector<Assigned>& assigned, const ParamMap& base,
                                 bool integers) const {
  for (const std::int64_t end : ends()) {
    if (end <= position()) continue;
    std::vector<Assigned> ending;
    std::copy_if(assigned.begin(), assigned.end(), std::back_inserter(ending),
                 [end](const Assigned& one) { return one.schedule->end() == end; });
    ParamMap values;
    write(ending, base, end, integers, values);
    const std::string refusal = GroupParams(*data_sparsifier()).refusal(schedule_param(), values);
    if (refusal.empty()) continue;
    send_message(Severity::warning,
                 "step " + std::to_string(end) + " of the schedule will be an error: " + refusal);
  }
}

Plan DataScheduler::plan(std::int64_t steps, std::int64_t first) const {
  if (steps < 0) throw ValueError("steps must be at least 0, got " + std::to_string(steps));
  require_epoch(first, "first", 0);
  Plan plan;
  plan.param = schedule_param();
  plan.first = first;
  plan.steps = steps;

  const auto known = base_values();
  ParamMap base, values;  // of the groups to plan for
  for (const auto& [name, value] : GroupParams(*data_sparsifier()).get(plan.param)) {
    if (data_sparsifier()->squashed(name)) continue;
    const auto* const seen = known->find(name);
    base.set(name, seen != nullptr ? *seen : value);
    values.set(name, value);
    plan.groups.push_back(name);
    plan.elements.push_back(data_sparsifier()->get_mask(name).size());
  }
  constexpr std::int64_t most_values = 100'000'000;  // some gigabytes
  const auto groups = std::max<std::int64_t>(1, static_cast<std::int64_t>(plan.groups.size()));
  if (steps > most_values / groups) {
    throw ValueError("steps * groups must be at most " + std::to_string(most_values) + ", got " +
                     std::to_string(steps) + " * " + std::to_string(groups));
  }
  const auto assigned = assign(base);
  const bool integers = integer_key();

  ParamMap scheduled, row_before;
  ZeroCounts zeros;
  for (std::int64_t row = 0; row < steps; ++row) {
    write(assigned, base, planned_position(first + row), integers, scheduled);
    values.update(scheduled);
    if (row == 0 || values != row_before) {
      try {
        zeros = GroupParams(*data_sparsifier()).count_zeros(plan.param, values);
      } catch (const ValueError& error) {
        throw ValueError("step " + std::to_string(first + row) + ": " + error.what());
      }
      row_before = values;
    }
    if (row == 0) {
      for (const auto& pool : zeros.pools) plan.pools.push_back({pool.name, pool.groups});
    }
    for (const auto& item : values) plan.values.push_back(item.second);
    plan.zeros.insert(plan.zeros.end(), zeros.groups.begin(), zeros.groups.end());
    for (const auto& pool : zeros.pools) plan.pool_zeros.push_back(pool.zeros);
  }
  return plan;
}

}  // namespace datasparse
