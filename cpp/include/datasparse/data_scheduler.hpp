/// The base of every data scheduler: varies one config parameter of a sparsifier over the training.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "datasparse/data_sparsifier.hpp"
#include "datasparse/param.hpp"
#include "datasparse/plain_data.hpp"

namespace datasparse {

/// What is saved of a scheduler.
struct SchedulerState {
  static constexpr std::int64_t current_version = 1;

  std::int64_t version = current_version;
  std::string schedule_param;
  std::int64_t last_epoch = 0;
  ParamMap base_param;
  ParamMap last_param;
};

/// Subclass it, override get_schedule_param(), and create it with make_scheduler<T>(...), which
/// also makes the initial step (last_epoch −1 becomes 0). Call step() after the sparsifier's.
///
///     struct Halving : BaseDataScheduler {
///       explicit Halving(std::shared_ptr<BaseDataSparsifier> sparsifier)
///           : BaseDataScheduler(std::move(sparsifier), "sparsity_level") {}
///       ParamMap get_schedule_param() override { ... }
///     };
///     auto scheduler = make_scheduler<Halving>(sparsifier);
///
/// Thread-safe: step() and load_state() are serialised; both are a StateError from inside an
/// override of this scheduler or of its sparsifier. Reading never waits for a step.
class BaseDataScheduler {
 public:
  /// ValueError, with the nearest known key, where neither a group nor the defaults have
  /// `schedule_param`; for last_epoch < −1.
  BaseDataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier, std::string schedule_param,
                    std::int64_t last_epoch = -1, bool verbose = false);
  BaseDataScheduler(const BaseDataScheduler&) = delete;
  BaseDataScheduler& operator=(const BaseDataScheduler&) = delete;
  virtual ~BaseDataScheduler();

  /// The values for the next step by group name; groups that are left out keep theirs. last_epoch()
  /// is already advanced. Called by step() only.
  virtual ParamMap get_schedule_param() = 0;

  /// What a subclass keeps of its own: saved in a checkpoint. Called with the locks of the
  /// scheduler and of its sparsifier held, as an override is.
  virtual Attributes attributes() const { return {}; }
  /// Checks attributes that a checkpoint holds, and returns what puts them into place, which must
  /// not throw. It is called once everything else in the checkpoint has been checked, or not at
  /// all. By default, a ValueError where there are any.
  virtual std::function<void()> prepare_attributes(const Attributes& saved);

  /// Advances last_epoch and writes what get_schedule_param() returns into the sparsifier. If the
  /// override throws, or the sparsifier refuses a value, everything is as before the call. Warns
  /// once when called before the sparsifier's first step.
  void step();

  /// The parameter's value of each group after the last step.
  ParamMap get_last_param() const;
  /// Each group's value when this scheduler first saw it. Groups added later are picked up at the
  /// next step, removed ones dropped.
  ParamMap base_param() const;
  void set_base_param(ParamMap values);
  std::int64_t last_epoch() const;
  void set_last_epoch(std::int64_t epoch);
  bool verbose() const noexcept { return verbose_; }

  const std::shared_ptr<BaseDataSparsifier>& data_sparsifier() const noexcept {
    return sparsifier_;
  }
  const std::string& schedule_param() const noexcept { return param_; }

  SchedulerState save_state() const;
  /// Restores the state and writes its last values into the sparsifier; groups that are not there
  /// are left out. ValueError for another version or parameter; nothing has changed then.
  void load_state(const SchedulerState& state);

 protected:
  /// Without a sparsifier, to be filled by restore(): every other call needs that first.
  BaseDataScheduler() = default;
  /// Fills an empty scheduler from what another one saved: how a binding copies and unpickles. Does
  /// not look at the sparsifier, which may itself be half restored.
  void restore(std::shared_ptr<BaseDataSparsifier> data_sparsifier, const SchedulerState& state,
               bool verbose);
  /// The initial step. make_scheduler() calls it; so does a binding once its object is complete.
  void start();

 private:
  template <class T>
  friend struct StartedScheduler;
  // Only StartedScheduler implements this, so that `Halving scheduler(...)`, which would miss its
  // initial step, does not compile: use make_scheduler<Halving>(...).
  virtual void use_make_scheduler() const = 0;

  class Stepping;
  friend class HeldStill;

  void check_loadable(const SchedulerState& state) const;
  void commit(SchedulerState& state) noexcept;
  void advance(bool warn_if_early);
  ParamMap pick_up_groups();

  // Two locks: one held through a step, which waits for the sparsifier and calls the override; and
  // one held for moments only, so that whoever reads, an override in another thread say, never
  // waits long.
  mutable std::mutex step_mutex_;
  mutable std::atomic<std::thread::id> stepper_{};  // who holds step_mutex_
  mutable std::mutex mutex_;                        // guards what follows

  std::shared_ptr<BaseDataSparsifier> sparsifier_;
  std::string param_;
  ParamMap base_param_;
  ParamMap last_param_;
  std::int64_t last_epoch_ = -1;
  bool verbose_ = false;
  bool warned_ = false;
};

/// T, complete and started.
template <class T>
struct StartedScheduler final : T {
  template <class... Args>
  explicit StartedScheduler(Args&&... args) : T(std::forward<Args>(args)...) {
    this->start();
  }

 private:
  void use_make_scheduler() const override {}
};

/// Creates a scheduler and makes its initial step.
template <class T, class... Args>
std::shared_ptr<T> make_scheduler(Args&&... args) {
  return std::make_shared<StartedScheduler<T>>(std::forward<Args>(args)...);
}

}  // namespace datasparse
