/// The lock around a scheduler's step: shared by its sources.
#pragma once

#include <string>

#include "datasparse/data_scheduler.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_table.hpp"

namespace datasparse {

/// Holds step_mutex_, for calls that change both the scheduler and its sparsifier.
class BaseDataScheduler::Stepping {
 public:
  Stepping(const BaseDataScheduler& scheduler, const char* call) : scheduler_(scheduler) {
    const auto refuse = [call](const char* where) {
      throw StateError(std::string(call) + " of a scheduler must not be called from inside " +
                       where);
    };
    if (scheduler.stepper_.load() == std::this_thread::get_id()) refuse("its get_schedule_param()");
    if (GroupTable(*scheduler.sparsifier_).in_override()) refuse("an override of its sparsifier");
    scheduler_.step_mutex_.lock();
    scheduler_.stepper_.store(std::this_thread::get_id());
  }
  Stepping(const Stepping&) = delete;
  Stepping& operator=(const Stepping&) = delete;
  ~Stepping() {
    scheduler_.stepper_.store(std::thread::id());
    scheduler_.step_mutex_.unlock();
  }

 private:
  const BaseDataScheduler& scheduler_;
};

}  // namespace datasparse
