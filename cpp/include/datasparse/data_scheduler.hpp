/// Data schedulers vary one config parameter of a sparsifier over the training: the base of all,
/// and the one that is told how by schedules.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/param.hpp"
#include "datasparse/plain_data.hpp"
#include "datasparse/plan.hpp"
#include "datasparse/schedule.hpp"

namespace datasparse {

/// What is saved of a scheduler.
struct SchedulerState {
  /// Written; 1 is read too, that of datasparse 0.1.0.
  static constexpr std::int64_t current_version = 2;

  std::int64_t version = current_version;
  std::string schedule_param;
  std::int64_t last_epoch = 0;
  ParamMap base_param;
  ParamMap last_param;
  ParamMap own;  ///< what a subclass in C++ adds: own_state()
  /// What its steps count where a training drives it: BaseDataScheduler::counts_renewals(). Not
  /// looked at in a state of version 1, which means true.
  bool counts_renewals = false;
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
class DATASPARSE_API BaseDataScheduler {
 public:
  /// ValueError, with the nearest known key, where neither a group nor the defaults have
  /// `schedule_param`; for last_epoch < −1, or beyond 2^53, which no step passes.
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
  /// As of BaseDataSparsifier.
  virtual std::function<void()> prepare_attributes(const Attributes& saved);

  /// Advances last_epoch and writes what get_schedule_param() returns into the sparsifier. If the
  /// override throws, or the sparsifier refuses a value, everything is as before the call. Warns
  /// once when called before the sparsifier's first step, unless it leads().
  void step();

  /// The parameter's value of each group after the last step.
  ParamMap get_last_param() const;
  /// Each group's value when this scheduler first saw it. Groups added later are picked up at the
  /// next step, removed ones dropped.
  ParamMap base_param() const;
  /// Replaces those that are given: schedules start from these values from the next step on.
  /// UnknownNameError for a group that is not there, ValueError for a value that is refused.
  void set_base_param(ParamMap values);
  /// How often step() has succeeded, plus what the constructor was given: 0 after the initial step
  /// of a new training. Inside an override, that of the step being made.
  std::int64_t last_epoch() const;
  /// As if so many steps had been made; no value is written before the next one.
  void set_last_epoch(std::int64_t epoch);
  /// Whether its steps come before the sparsifier's on purpose, so that a step's masks are those of
  /// the step's own value: then nobody is warned of that order. False at first, and not saved: who
  /// drives the scheduler says so.
  bool leads() const noexcept { return leads_; }
  void set_leads(bool leads) noexcept { leads_ = leads; }
  /// What its steps count where a training drives it, as follow() of Python's datasparse.torch
  /// does: every step of the optimizer, or, if true, only those at which masks are renewed, as in
  /// version 0.1.0. False at first, and saved; a state of 0.1.0 makes it true. step() itself does
  /// not look.
  bool counts_renewals() const;
  void set_counts_renewals(bool counts);
  /// Whether each step sends its values to the message handler.
  bool verbose() const noexcept { return verbose_; }

  /// The sparsifier whose parameter this varies; the scheduler keeps it alive.
  const std::shared_ptr<BaseDataSparsifier>& data_sparsifier() const noexcept {
    return sparsifier_;
  }
  /// The config key that this varies.
  const std::string& schedule_param() const noexcept { return param_; }

  /// A copy of all that load_state() needs. O(groups).
  SchedulerState save_state() const;
  /// Restores the state and writes its last values into the sparsifier; groups that are not there
  /// are left out. ValueError for a later version or another parameter; nothing has changed then.
  void load_state(const SchedulerState& state);

 protected:
  /// Replaces `values`, which are those of the step before, by what step() shall write:
  /// get_schedule_param(). A subclass may override this too, for speed: by ParamMap::rewrite(),
  /// where only the values change from step to step.
  virtual void write_schedule_param(ParamMap& values);
  /// What a subclass saves beside its base's state. set_own_state() takes it back, or throws and
  /// has changed nothing; it is also how a step that fails is undone.
  virtual ParamMap own_state() const { return {}; }
  virtual void set_own_state(const ParamMap& own);
  /// step(), with a change of the subclass's own state before it, in the same transaction.
  void step(const std::function<void()>& change);

  /// base_param(), without a copy.
  std::shared_ptr<const ParamMap> base_values() const;

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

  /// A state that was checked, to be put into place where nothing can fail any more.
  struct Loading {
    std::shared_ptr<const ParamMap> base_param;
    ParamMap last_param;
    std::int64_t last_epoch;
    bool counts_renewals;
  };
  Loading prepare_load(const SchedulerState& state) const;
  void commit(Loading& loading) noexcept;
  void advance(bool warn_if_early, const std::function<void()>& change = {});
  std::shared_ptr<const ParamMap> pick_up_groups();
  void forget_those_that_came();

  // Two locks: one held through a step, which waits for the sparsifier and calls the override; and
  // one held for moments only, so that whoever reads, an override in another thread say, never
  // waits long.
  mutable std::mutex step_mutex_;
  mutable std::atomic<std::thread::id> stepper_{};  // who holds step_mutex_
  mutable std::mutex mutex_;                        // guards what follows

  std::shared_ptr<BaseDataSparsifier> sparsifier_;
  std::string param_;
  std::shared_ptr<const ParamMap> base_param_ = std::make_shared<ParamMap>();
  ParamMap awaited_;  // base values of a loaded state, of groups that wait for their data
  ParamMap last_param_;
  std::int64_t last_epoch_ = -1;
  bool counts_renewals_ = false;
  bool verbose_ = false;
  bool warned_ = false;
  std::atomic<bool> leads_{false};

  // Used by steps only, so that those of a training that goes its way allocate nothing.
  ParamMap values_;  // from write_schedule_param()
  ParamMap now_;     // becomes last_param_
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

/// Sets a parameter by schedules: the value of a group at step last_epoch() is that of its schedule
/// there, given its base value. It is an integer where the sparsifier's is_integer_param() says so,
/// which each step asks once, and where a schedule of integers has an integer for a base.
///
///     auto scheduler = make_scheduler<DataScheduler>(
///         sparsifier, "sparsity_level", schedules::Polynomial{{0.0, 0.9, 0, 1000, 100}});
///
/// With patterns, the pattern that is a group's very name has it; else the first one given that
/// matches. `*` stands for any characters, `?` for one, `[ab]` and `[!a-c]` for one of these, or
/// none of these. Groups that none matches keep their values. What is saved is what any scheduler
/// saves: the schedules are a part of the program.
///
/// Errors: TypeError for a parameter that is not a number. With `strict`, ValueError for a pattern
/// that no group needs: because it matches none, or because others take all that it matches;
/// strict = false is for groups to come. A warning for a schedule that ends at a value which the
/// sparsifier would refuse. Both are looked at once, in the first step that finds any group.
/// Cost of a step: about 0.2 µs a group.
class DATASPARSE_API DataScheduler : public BaseDataScheduler {
 public:
  /// Schedules by pattern, in the order in which patterns are tried.
  using Schedules = std::vector<std::pair<std::string, Schedule>>;

  /// One schedule for all groups: that of the pattern "*".
  DataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier, std::string schedule_param,
                Schedule schedule, std::int64_t last_epoch = -1, bool verbose = false);
  /// ValueError for no pattern at all, or the same twice.
  DataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier, std::string schedule_param,
                Schedules schedules, bool strict = true, std::int64_t last_epoch = -1,
                bool verbose = false);

  ParamMap get_schedule_param() override;

  /// What would be at steps [first, first + steps), without taking any. Groups are those of the
  /// sparsifier now, squashed ones left out; other parameters are as they are now. ValueError where
  /// the sparsifier would refuse a value, and beyond 10^8 values. O(steps × groups) in time and
  /// memory.
  Plan plan(std::int64_t steps, std::int64_t first = 0) const;

  /// As given to the constructor.
  const Schedules& schedules() const noexcept { return schedules_; }
  /// Whether every pattern must be needed.
  bool strict() const noexcept { return strict_; }
  /// The steps from which on a schedule stays what it is, increasing, each once; those of schedules
  /// that never end are left out. So are all where it is not the steps that schedules go by.
  virtual std::vector<std::int64_t> ends() const;

 protected:
  DataScheduler() = default;
  void restore(std::shared_ptr<BaseDataSparsifier> data_sparsifier, const SchedulerState& state,
               bool verbose, Schedules schedules, bool strict);
  /// Lets go of the schedules; nothing else may be called afterwards. For a binding's collector.
  void forget_schedules() noexcept;

  void write_schedule_param(ParamMap& values) override;
  /// The step at which the schedules are read.
  virtual std::int64_t position() const { return last_epoch(); }
  /// The same for a plan.
  virtual std::int64_t planned_position(std::int64_t step) const { return step; }

 private:
  /// The schedule of a group, by the group's place in a map of all.
  struct Assigned {
    std::size_t place;
    const Schedule* schedule;
  };
  std::vector<Assigned> assign(const ParamMap& groups) const;
  std::vector<Assigned> assign_strictly(const ParamMap& groups) const;
  bool integer_key() const;
  void warn_of_ends(const std::vector<Assigned>& assigned, const ParamMap& base,
                    bool integers) const;
  void write(const std::vector<Assigned>& assigned, const ParamMap& base, std::int64_t step,
             bool integer_key, ParamMap& values) const;

  Schedules schedules_;
  bool strict_ = true;

  // Of the last step:
  std::shared_ptr<const ParamMap> base_;
  std::vector<Assigned> assigned_;
  bool checked_ = false;  // patterns and ends
};

}  // namespace datasparse
