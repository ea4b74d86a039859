/// The scheduler that goes on while a metric holds, and back where it does not.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "datasparse/api.h"
#include "datasparse/data_scheduler.hpp"

namespace datasparse {

/// How an adaptive scheduler moves along its schedules.
struct AdaptiveRule {
  /// See `mode`.
  enum class Mode { min, max };

  Mode mode = Mode::min;      ///< whether a metric is better when it is less, or more
  double tolerance = 0;       ///< how much worse than the best one is good still; at least 0
  std::int64_t patience = 0;  ///< bad metrics in a row at which it waits; at least 0
  std::int64_t back_off = 1;  ///< how far it then goes back; at least 1
  std::optional<std::int64_t> steps =
      std::nullopt;  ///< the last position; none: the schedules' end
};

/// Reads its schedules at a position that a metric moves, and not at the step.
///
/// The position starts at 0 and stays in [0, steps]. step(metric) moves it once:
///  1. A metric that beats all before is the best one.
///  2. One within `tolerance` of the best is good: the position goes on by 1.
///  3. Any other is bad: the position stays, until more than `patience` were bad in a row. Then it
///     goes back by `back_off`, and the count begins anew.
/// A metric that is NaN or infinite is bad and never the best; so the best never has to be taken
/// back, and the same metrics always give the same positions. The level thus rises and falls at the
/// edge of what the model bears; how fast, `patience` and the schedule decide. Where a schedule
/// holds its value for `every` steps, `back_off` should be as many.
///
/// Position, best and count are saved with the state. BaseDataScheduler::step(), without a
/// metric, leaves them alone.
class DATASPARSE_API AdaptiveDataScheduler : public DataScheduler {
 public:
  /// ValueError for a rule that breaks its own, and where `steps` is left out and a schedule never
  /// ends.
  AdaptiveDataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                        std::string schedule_param, Schedules schedules, AdaptiveRule rule,
                        bool strict = true, std::int64_t last_epoch = -1, bool verbose = false);

  /// Moves the position as the class says, and writes the schedules' values there: one transaction,
  /// with the errors of BaseDataScheduler::step().
  void step(double metric);

  std::int64_t position() const override;
  /// Nothing before the first metric that is a number.
  std::optional<double> best() const;
  /// Bad metrics in a row, since the position last moved.
  std::int64_t bad_steps() const;
  /// None: which step comes to an end is for the metric to say.
  std::vector<std::int64_t> ends() const override { return {}; }
  /// `steps` is filled in.
  const AdaptiveRule& rule() const noexcept { return rule_; }

 protected:
  AdaptiveDataScheduler() = default;
  void restore(std::shared_ptr<BaseDataSparsifier> data_sparsifier, const SchedulerState& state,
               bool verbose, Schedules schedules, bool strict, AdaptiveRule rule);

  ParamMap own_state() const override;
  void set_own_state(const ParamMap& own) override;
  /// As if all metrics were good.
  std::int64_t planned_position(std::int64_t step) const override;

 private:
  struct Progress {
    std::int64_t position = 0;
    std::int64_t bad_steps = 0;
    std::optional<double> best;
  };
  void move(double metric);
  Progress progress() const;

  AdaptiveRule rule_;
  mutable std::mutex mutex_;
  Progress progress_;
};

}  // namespace datasparse
