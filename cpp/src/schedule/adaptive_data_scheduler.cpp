#include "datasparse/adaptive_data_scheduler.hpp"

#include <algorithm>
#include <cmath>

#include "datasparse/error.hpp"

namespace datasparse {
namespace {

/// The last step at which any of the schedules may change.
std::int64_t end_of(const DataScheduler::Schedules& schedules) {
  std::int64_t latest = 0;
  for (const auto& item : schedules) {
    const auto end = item.second.end();
    if (!end) {
      throw ValueError("steps must be given for a schedule that never ends, got None for " +
                       to_string(item.second));
    }
    latest = std::max(latest, *end);
  }
  return latest;
}

AdaptiveRule checked(AdaptiveRule rule, const DataScheduler::Schedules& schedules) {
  const auto at_least = [](const char* name, std::int64_t minimum, std::int64_t value) {
    if (value >= minimum) return;
    throw ValueError(std::string(name) + " must be at least " + std::to_string(minimum) + ", got " +
                     std::to_string(value));
  };
  if (!(std::isfinite(rule.tolerance) && rule.tolerance >= 0)) {
    throw ValueError("tolerance must be finite and at least 0, got " +
                     to_string(ParamValue(rule.tolerance)));
  }
  at_least("patience", 0, rule.patience);
  at_least("back_off", 1, rule.back_off);
  if (!rule.steps) rule.steps = end_of(schedules);
  at_least("steps", 0, *rule.steps);
  return rule;
}

}  // namespace

AdaptiveDataScheduler::AdaptiveDataScheduler(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                                             std::string schedule_param, Schedules schedules,
                                             AdaptiveRule rule, bool strict,
                                             std::int64_t last_epoch, bool verbose)
    : DataScheduler(std::move(data_sparsifier), std::move(schedule_param), std::move(schedules),
                    strict, last_epoch, verbose),
      rule_(checked(rule, this->schedules())) {}

void AdaptiveDataScheduler::restore(std::shared_ptr<BaseDataSparsifier> data_sparsifier,
                                    const SchedulerState& state, bool verbose, Schedules schedules,
                                    bool strict, AdaptiveRule rule) {
  rule_ = rule;
  DataScheduler::restore(std::move(data_sparsifier), state, verbose, std::move(schedules), strict);
}

void AdaptiveDataScheduler::step(double metric) {
  DataScheduler::step([this, metric] { move(metric); });
}

void AdaptiveDataScheduler::move(double metric) {
  // Seen as a loss: less is better.
  const double sign = rule_.mode == AdaptiveRule::Mode::max ? -1 : 1;
  const double loss = sign * metric;
  const std::lock_guard<std::mutex> lock(mutex_);
  auto& [position, bad_steps, best] = progress_;
  bool good = false;
  if (std::isfinite(metric)) {
    if (!best || loss < sign * *best) best = metric;
    good = loss <= sign * *best + rule_.tolerance;
  }
  if (good) {
    if (position < *rule_.steps) ++position;
    bad_steps = 0;
  } else if (bad_steps < rule_.patience) {
    ++bad_steps;
  } else {
    position = std::max(position - rule_.back_off, std::int64_t{0});
    bad_steps = 0;
  }
}

AdaptiveDataScheduler::Progress AdaptiveDataScheduler::progress() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return progress_;
}

std::int64_t AdaptiveDataScheduler::position() const { return progress().position; }

std::optional<double> AdaptiveDataScheduler::best() const { return progress().best; }

std::int64_t AdaptiveDataScheduler::bad_steps() const { return progress().bad_steps; }

std::int64_t AdaptiveDataScheduler::planned_position(std::int64_t step) const {
  return std::min(step, *rule_.steps);
}

ParamMap AdaptiveDataScheduler::own_state() const {
  const Progress now = progress();
  return {{"position", now.position},
          {"bad_steps", now.bad_steps},
          {"best", now.best ? ParamValue(*now.best) : ParamValue()}};
}

void AdaptiveDataScheduler::set_own_state(const ParamMap& own) {
  const auto at = [&own](const char* key) -> const ParamValue& {
    const auto* const value = own.find(key);
    if (value == nullptr)
      throw ValueError(std::string("own of the state has no entry '") + key + "'");
    return *value;
  };
  const auto count = [&at](const char* key, std::int64_t most) {
    const auto* const value = at(key).get_if<std::int64_t>();
    if (value == nullptr || *value < 0 || *value > most) {
      throw ValueError(std::string(key) + " of the state must be an integer in [0, " +
                       std::to_string(most) + "], got " + to_string(at(key)));
    }
    return *value;
  };
  Progress loaded;
  loaded.position = count("position", *rule_.steps);
  loaded.bad_steps = count("bad_steps", rule_.patience);
  if (!at("best").is_none()) {
    const auto* const best = at("best").get_if<double>();
    if (best == nullptr || !std::isfinite(*best)) {
      throw ValueError("best of the state must be None or a finite float, got " +
                       to_string(at("best")));
    }
    loaded.best = *best;
  }
  if (own.size() != 3)
    throw ValueError("own of the state must have three entries, got " + std::to_string(own.size()));
  const std::lock_guard<std::mutex> lock(mutex_);
  progress_ = loaded;
}

}  // namespace datasparse
