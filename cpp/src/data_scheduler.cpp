#include "datasparse/data_scheduler.hpp"

#include <algorithm>
#include <vector>

#include "data_scheduler_impl.hpp"
#include "message.hpp"

namespace datasparse {

BaseDataScheduler::BaseDataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                                     std::string schedule_param, std::int64_t last_epoch,
                                     bool verbose)
    : sparsifier_(std::move(data_sparsifier)),
      param_(std::move(schedule_param)),
      last_epoch_(last_epoch),
      verbose_(verbose) {
  if (sparsifier_ == nullptr)
    throw TypeError("data_sparsifier must be a data sparsifier, got none");
  if (last_epoch < -1) {
    throw ValueError("last_epoch must be at least -1, got " + std::to_string(last_epoch));
  }
  const auto known = sparsifier_->known_params();
  if (std::find(known.begin(), known.end(), param_) == known.end()) {
    throw ValueError("schedule_param must be a config key of the sparsifier, got '" + param_ + "'" +
                     did_you_mean(param_, known));
  }
}

BaseDataScheduler::~BaseDataScheduler() = default;

void BaseDataScheduler::start() { advance(false); }

void BaseDataScheduler::step() { advance(true); }

void BaseDataScheduler::advance(bool warn_if_early) {
  const Stepping stepping(*this, "step()");
  if (warn_if_early && !warned_ && sparsifier_->step_count() == 0) {
    send_message(Severity::warning,
                 "scheduler.step() was called before the first sparsifier.step(): call the "
                 "sparsifier's step() first, or the first value of the schedule is never used");
    warned_ = true;
  }
  const std::int64_t epoch_before = last_epoch();
  ParamMap base_before = pick_up_groups();
  set_last_epoch(epoch_before + 1);
  ParamMap last;
  try {
    last = sparsifier_->set_param(param_, get_schedule_param());
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_epoch_ = epoch_before;
    base_param_ = std::move(base_before);
    throw;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_param_ = std::move(last);
  }
  if (!verbose_) return;
  for (const auto& [name, value] : get_last_param()) {
    send_message(Severity::info, "epoch " + std::to_string(last_epoch()) + ": " +
                                     label(param_, name) + " = " + to_string(value));
  }
}

/// New groups enter base_param with their present value, removed ones leave it. Returns what it
/// was.
ParamMap BaseDataScheduler::pick_up_groups() {
  ParamMap base = sparsifier_->get_param(param_);
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [name, value] : base_param_) {
    if (auto* const now = base.find(name)) *now = value;
  }
  return std::exchange(base_param_, std::move(base));
}

void BaseDataScheduler::restore(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                                const SchedulerState& state, bool verbose) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sparsifier_ = std::move(data_sparsifier);
  param_ = state.schedule_param;
  base_param_ = state.base_param;
  last_param_ = state.last_param;
  last_epoch_ = state.last_epoch;
  verbose_ = verbose;
}

ParamMap BaseDataScheduler::get_last_param() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_param_;
}

ParamMap BaseDataScheduler::base_param() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return base_param_;
}

void BaseDataScheduler::set_base_param(ParamMap values) {
  const std::lock_guard<std::mutex> lock(mutex_);
  base_param_ = std::move(values);
}

std::int64_t BaseDataScheduler::last_epoch() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_epoch_;
}

void BaseDataScheduler::set_last_epoch(std::int64_t epoch) {
  if (epoch < -1) throw ValueError("last_epoch must be at least -1, got " + std::to_string(epoch));
  const std::lock_guard<std::mutex> lock(mutex_);
  last_epoch_ = epoch;
}

SchedulerState BaseDataScheduler::save_state() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {SchedulerState::current_version, param_, last_epoch_, base_param_, last_param_};
}

/// Throws where load_state() must refuse the state, whatever the sparsifier says of its values.
void BaseDataScheduler::check_loadable(const SchedulerState& state) const {
  if (state.version != SchedulerState::current_version) {
    throw ValueError("version of the state must be " +
                     std::to_string(SchedulerState::current_version) + ", got " +
                     std::to_string(state.version));
  }
  if (state.schedule_param != param_) {
    throw ValueError("schedule_param of the state must be '" + param_ + "', got '" +
                     state.schedule_param + "'");
  }
  if (state.last_epoch < -1) {
    throw ValueError("last_epoch of the state must be at least -1, got " +
                     std::to_string(state.last_epoch));
  }
}

/// Puts the state into place, and what was there into `state`.
void BaseDataScheduler::commit(SchedulerState& state) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::swap(base_param_, state.base_param);
  std::swap(last_param_, state.last_param);
  std::swap(last_epoch_, state.last_epoch);
}

void BaseDataScheduler::load_state(const SchedulerState& state) {
  const Stepping stepping(*this, "load_state_dict()");
  check_loadable(state);
  const auto present = [this](const ParamMap& saved) {
    ParamMap values;
    for (const auto& [name, value] : saved) {
      if (sparsifier_->contains(name)) values.set(name, value);
    }
    return values;
  };
  SchedulerState loaded = state;
  sparsifier_->check_param(param_, present(loaded.base_param));
  sparsifier_->set_param(param_, present(loaded.last_param));
  commit(loaded);
}

std::function<void()> BaseDataScheduler::prepare_attributes(const Attributes& saved) {
  refuse_attributes(saved, "the scheduler");
  return [] {};
}

}  // namespace datasparse
