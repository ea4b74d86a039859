#include <memory>
#include <string>
#include <utility>

#include "c_abi/handles.hpp"
#include "c_abi/own_state.hpp"
#include "c_abi/params.hpp"
#include "c_abi/status.hpp"
#include "datasparse/adaptive_data_scheduler.hpp"

namespace datasparse::c_abi {
namespace {

/// A scheduler that calls back.
class Scheduler : public WithOwnState<BaseDataScheduler> {
 public:
  template <class... Arguments>
  explicit Scheduler(const datasparse_scheduler_overrides& overrides, Arguments&&... arguments)
      : WithOwnState(overrides.own, std::forward<Arguments>(arguments)...), overrides_(overrides) {}

  ParamMap get_schedule_param() override {
    const auto base = base_values();
    const ParamMap last = get_last_param();
    const datasparse_params base_view(base.get()), last_view(&last);
    datasparse_params values;
    values.own.reserve(base->size());
    call_back("get_schedule_param", overrides_.get_schedule_param, user_data(), last_epoch(),
              &base_view, &last_view, &values);
    return std::move(values.own);
  }

 private:
  const datasparse_scheduler_overrides overrides_;
};

DataScheduler::Schedules matching(const char* const* patterns,
                                  const datasparse_schedule* const* schedules, std::size_t count) {
  items(patterns, count, "patterns");
  items(schedules, count, "schedules");
  DataScheduler::Schedules result;
  for (std::size_t i = 0; i < count; ++i) {
    result.emplace_back(text(patterns[i], "an item of patterns"),
                        required(schedules[i], "an item of schedules").value);
  }
  return result;
}

AdaptiveRule to_rule(const datasparse_adaptive_rule* rule) {
  const datasparse_adaptive_rule& given = versioned(rule, "rule");
  if (given.mode != DATASPARSE_MIN && given.mode != DATASPARSE_MAX) {
    throw ValueError("rule->mode must be DATASPARSE_MIN or DATASPARSE_MAX, got " +
                     std::to_string(given.mode));
  }
  AdaptiveRule result;
  result.mode = given.mode == DATASPARSE_MIN ? AdaptiveRule::Mode::min : AdaptiveRule::Mode::max;
  result.tolerance = given.tolerance;
  result.patience = given.patience;
  result.back_off = given.back_off;
  if (given.steps != -1) result.steps = given.steps;
  return result;
}

/// Makes a started scheduler, and hands it over to the caller.
template <class T, class... Arguments>
std::shared_ptr<T> create(datasparse_scheduler** scheduler, Arguments&&... arguments) {
  datasparse_scheduler*& result = required(scheduler, "scheduler");
  auto handle = std::make_unique<datasparse_scheduler>();  // before the initial step, which stays
  auto made = make_scheduler<T>(std::forward<Arguments>(arguments)...);
  handle->object = made;
  result = handle.release();
  return made;
}

}  // namespace
}  // namespace datasparse::c_abi

using namespace datasparse;
using namespace datasparse::c_abi;

datasparse_status datasparse_scheduler_create(datasparse_sparsifier* sparsifier,
                                              const char* schedule_param,
                                              const datasparse_scheduler_overrides* overrides,
                                              int64_t last_epoch,
                                              datasparse_scheduler** scheduler) {
  return guarded([&] {
    const datasparse_scheduler_overrides& calls = versioned(overrides, "overrides");
    function(calls.get_schedule_param, "overrides->get_schedule_param");
    create<Scheduler>(scheduler, calls, object(sparsifier), text(schedule_param, "schedule_param"),
                      last_epoch)
        ->adopt();
  });
}

datasparse_status datasparse_data_scheduler_create(datasparse_sparsifier* sparsifier,
                                                   const char* schedule_param,
                                                   const datasparse_schedule* schedule,
                                                   int64_t last_epoch,
                                                   datasparse_scheduler** scheduler) {
  return guarded([&] {
    create<DataScheduler>(scheduler, object(sparsifier), text(schedule_param, "schedule_param"),
                          required(schedule, "schedule").value, last_epoch);
  });
}

datasparse_status datasparse_data_scheduler_create_matching(
    datasparse_sparsifier* sparsifier, const char* schedule_param, const char* const* patterns,
    const datasparse_schedule* const* schedules, size_t count, int32_t strict, int64_t last_epoch,
    datasparse_scheduler** scheduler) {
  return guarded([&] {
    create<DataScheduler>(scheduler, object(sparsifier), text(schedule_param, "schedule_param"),
                          matching(patterns, schedules, count), strict != 0, last_epoch);
  });
}

datasparse_status datasparse_adaptive_data_scheduler_create(
    datasparse_sparsifier* sparsifier, const char* schedule_param, const char* const* patterns,
    const datasparse_schedule* const* schedules, size_t count, int32_t strict,
    const datasparse_adaptive_rule* rule, int64_t last_epoch, datasparse_scheduler** scheduler) {
  return guarded([&] {
    create<AdaptiveDataScheduler>(
        scheduler, object(sparsifier), text(schedule_param, "schedule_param"),
        matching(patterns, schedules, count), to_rule(rule), strict != 0, last_epoch);
  });
}

void datasparse_scheduler_release(datasparse_scheduler* scheduler) { delete scheduler; }

datasparse_status datasparse_scheduler_step(datasparse_scheduler* scheduler) {
  return guarded([&] { object(scheduler)->step(); });
}
datasparse_status datasparse_scheduler_step_with_metric(datasparse_scheduler* scheduler,
                                                        double metric) {
  return guarded([&] {
    const auto adaptive = std::dynamic_pointer_cast<AdaptiveDataScheduler>(object(scheduler));
    if (adaptive == nullptr) throw TypeError("scheduler must be an adaptive one to take a metric");
    adaptive->step(metric);
  });
}
datasparse_status datasparse_scheduler_last_epoch(const datasparse_scheduler* scheduler,
                                                  int64_t* last_epoch) {
  return guarded([&] { required(last_epoch, "last_epoch") = object(scheduler)->last_epoch(); });
}
datasparse_status datasparse_scheduler_last_param(const datasparse_scheduler* scheduler,
                                                  datasparse_params** values) {
  return hand_out(values, "values", [&] { return object(scheduler)->get_last_param(); });
}
datasparse_status datasparse_scheduler_base_param(const datasparse_scheduler* scheduler,
                                                  datasparse_params** values) {
  return hand_out(values, "values", [&] { return object(scheduler)->base_param(); });
}
