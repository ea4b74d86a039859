#include "datasparse/schedule.hpp"

#include <optional>
#include <vector>

#include "c_abi/handles.hpp"
#include "c_abi/status.hpp"

namespace datasparse::c_abi {
namespace {

using namespace schedules;

Level level(double value) { return value == DATASPARSE_BASE_VALUE ? std::nullopt : Level(value); }

Ramp ramp(double initial, double final_value, int64_t begin, int64_t end, int64_t every) {
  return {level(initial), level(final_value), begin, end, every};
}

/// Makes a schedule by `make`, which may throw.
template <class Make>
datasparse_status create(datasparse_schedule** schedule, Make&& make) {
  return hand_out(schedule, "schedule", [&] { return Schedule(make()); });
}

std::vector<Schedule> list(const datasparse_schedule* const* schedules, std::size_t count) {
  items(schedules, count, "schedules");
  std::vector<Schedule> result;
  result.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    result.push_back(required(schedules[i], "an item of schedules").value);
  }
  return result;
}

std::vector<int64_t> list(const int64_t* steps, std::size_t count, const char* name) {
  items(steps, count, name);
  return {steps, steps + count};
}

}  // namespace
}  // namespace datasparse::c_abi

using namespace datasparse;
using namespace datasparse::c_abi;

datasparse_status datasparse_schedule_constant(double value, datasparse_schedule** schedule) {
  return create(schedule, [&] { return schedules::Constant{level(value)}; });
}
datasparse_status datasparse_schedule_step(int64_t step_size, double gamma,
                                           datasparse_schedule** schedule) {
  return create(schedule, [&] { return schedules::Step{step_size, gamma}; });
}
datasparse_status datasparse_schedule_multi_step(const int64_t* milestones, size_t count,
                                                 double gamma, datasparse_schedule** schedule) {
  return create(schedule,
                [&] { return schedules::MultiStep{list(milestones, count, "milestones"), gamma}; });
}
datasparse_status datasparse_schedule_exponential(double gamma, int64_t every,
                                                  datasparse_schedule** schedule) {
  return create(schedule, [&] { return schedules::Exponential{gamma, every}; });
}
datasparse_status datasparse_schedule_linear(double initial, double final_value, int64_t begin,
                                             int64_t end, int64_t every,
                                             datasparse_schedule** schedule) {
  return create(schedule,
                [&] { return schedules::Linear{ramp(initial, final_value, begin, end, every)}; });
}
datasparse_status datasparse_schedule_polynomial(double initial, double final_value, int64_t begin,
                                                 int64_t end, int64_t every, double power,
                                                 datasparse_schedule** schedule) {
  return create(schedule, [&] {
    return schedules::Polynomial{ramp(initial, final_value, begin, end, every), power};
  });
}
datasparse_status datasparse_schedule_cosine(double initial, double final_value, int64_t begin,
                                             int64_t end, int64_t every,
                                             datasparse_schedule** schedule) {
  return create(schedule,
                [&] { return schedules::Cosine{ramp(initial, final_value, begin, end, every)}; });
}
datasparse_status datasparse_schedule_cyclic(double low, double high, int64_t period,
                                             datasparse_schedule** schedule) {
  return create(schedule, [&] { return schedules::Cyclic{level(low), level(high), period}; });
}
datasparse_status datasparse_schedule_one_shot(int64_t at, double before, double value,
                                               datasparse_schedule** schedule) {
  return create(schedule, [&] { return schedules::OneShot{at, level(before), level(value)}; });
}
datasparse_status datasparse_schedule_piecewise(const int64_t* steps, const double* values,
                                                size_t count, datasparse_schedule** schedule) {
  return create(schedule, [&] {
    items(steps, count, "steps");
    items(values, count, "values");
    schedules::Piecewise made;
    for (std::size_t i = 0; i < count; ++i) made.values.emplace_back(steps[i], level(values[i]));
    return made;
  });
}
datasparse_status datasparse_schedule_sequential(const datasparse_schedule* const* schedules,
                                                 size_t count, const int64_t* milestones,
                                                 datasparse_schedule** schedule) {
  return create(schedule, [&] {
    const std::size_t between = count == 0 ? 0 : count - 1;
    return schedules::Sequential{list(schedules, count), list(milestones, between, "milestones")};
  });
}
datasparse_status datasparse_schedule_product(const datasparse_schedule* const* schedules,
                                              size_t count, datasparse_schedule** schedule) {
  return create(schedule, [&] { return schedules::Product{list(schedules, count)}; });
}
datasparse_status datasparse_schedule_clamp(const datasparse_schedule* inner, double low,
                                            double high, datasparse_schedule** schedule) {
  return create(schedule, [&] {
    return schedules::Clamp{required(inner, "inner").value, level(low), level(high)};
  });
}
datasparse_status datasparse_schedule_round(const datasparse_schedule* inner,
                                            datasparse_schedule** schedule) {
  return create(schedule, [&] { return schedules::Round{required(inner, "inner").value}; });
}

datasparse_status datasparse_schedule_value(const datasparse_schedule* schedule, int64_t step,
                                            double base, double* value) {
  return guarded(
      [&] { required(value, "value") = required(schedule, "schedule").value(step, base); });
}

void datasparse_schedule_release(datasparse_schedule* schedule) { delete schedule; }
