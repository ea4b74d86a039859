/// Schedulers that Python may subclass.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "collector.hpp"
#include "copying.hpp"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/error.hpp"
#include "gil.hpp"
#include "override.hpp"
#include "params.hpp"
#include "schedule.hpp"
#include "self.hpp"

/// The Python side of any scheduler that was made in Python.
class PySchedulerSide {
 public:
  /// BaseDataScheduler::start().
  virtual void start() = 0;
  /// The Python object, which this one keeps alive; empty once the collector has cleared it.
  pybind11::object& sparsifier() noexcept { return sparsifier_; }

  virtual int traverse(visitproc visit, void* arg) {
    Py_VISIT(sparsifier_.ptr());
    return 0;
  }
  virtual void clear() { const pybind11::object taken = std::move(sparsifier_); }

 protected:
  PySchedulerSide() = default;
  explicit PySchedulerSide(pybind11::object&& sparsifier) : sparsifier_(std::move(sparsifier)) {}
  ~PySchedulerSide() = default;

  pybind11::object sparsifier_;
};

/// The core's pointer owns nothing: a cycle through it would be invisible to the collector, which
/// sees PySchedulerSide::sparsifier() instead.
std::shared_ptr<datasparse::BaseDataSparsifier> borrowed(const pybind11::object& sparsifier);
/// TypeError for what is no name of a config key.
void require_key(const pybind11::object& schedule_param);

template <class Base>
class PyScheduler : public WithPythonAttributes<Base>,
                    public PySchedulerSide,
                    public pybind11::trampoline_self_life_support {
 public:
  PyScheduler() = default;
  /// `core` is borrowed(sparsifier). Needs no interpreter's lock: it waits for the sparsifier's.
  template <class... Arguments>
  PyScheduler(pybind11::object&& sparsifier, std::shared_ptr<datasparse::BaseDataSparsifier> core,
              Arguments&&... arguments)
      : WithPythonAttributes<Base>(std::move(core), std::forward<Arguments>(arguments)...),
        PySchedulerSide(std::move(sparsifier)) {}

  void start() override { Base::start(); }

  template <class... Arguments>
  void restore(const pybind11::object& sparsifier, Arguments&&... arguments) {
    Base::restore(borrowed(sparsifier), std::forward<Arguments>(arguments)...);
    sparsifier_ = sparsifier;
  }

  static constexpr bool is_abstract = std::is_same_v<Base, datasparse::BaseDataScheduler>;

  datasparse::ParamMap get_schedule_param() override {
    datasparse::ParamMap values;
    read_override(values);
    return values;
  }

  int traverse(visitproc visit, void* arg) override {
    if constexpr (!is_abstract) {
      for (const auto& item : this->schedules()) {
        if (const int stop = ::traverse(item.second, visit, arg)) return stop;
      }
    }
    return PySchedulerSide::traverse(visit, arg);
  }
  void clear() override {
    if constexpr (!is_abstract) Base::forget_schedules();
    PySchedulerSide::clear();
  }

 protected:
  /// Without an override, the values are computed without Python.
  void write_schedule_param(datasparse::ParamMap& values) override {
    if constexpr (!is_abstract) {
      if (!is_overridden()) return Base::write_schedule_param(values);
    }
    read_override(values);
  }

 private:
  void use_make_scheduler() const override {}

  /// What get_schedule_param() in Python returns.
  void read_override(datasparse::ParamMap& values) {
    const AcquiredGil gil;
    const pybind11::object self = pybind11::cast(static_cast<const Base*>(this));
    const std::string method = class_name(self) + ".get_schedule_param()";
    const auto override = override_of(self, "get_schedule_param");
    if (!override) must_override(self, "get_schedule_param()");
    const pybind11::object returned = call_python(override);
    const pybind11::dict items = to_dict(returned, method + " returned " + class_name(returned));
    std::size_t count = 0;
    values.reserve(items.size());
    for (const auto& item : items) {
      const auto name = to_text(item.first);
      values.rewrite(count++, name, to_param(item.second, this->schedule_param(), name));
    }
    values.truncate(count);
  }

  bool is_overridden() const {
    const AcquiredGil gil;
    const pybind11::object self = pybind11::cast(static_cast<const Base*>(this));
    return static_cast<bool>(override_of(self, "get_schedule_param"));
  }
};

/// The Python side of a scheduler, with its sparsifier still there.
PySchedulerSide& live(const Self<datasparse::BaseDataScheduler>& self);

struct SchedulerAccess {
  static int traverse(datasparse::BaseDataScheduler& scheduler, visitproc visit, void* arg) {
    auto* const side = dynamic_cast<PySchedulerSide*>(&scheduler);
    return side != nullptr ? side->traverse(visit, arg) : 0;
  }
  static void clear(datasparse::BaseDataScheduler& scheduler) {
    if (auto* const side = dynamic_cast<PySchedulerSide*>(&scheduler)) side->clear();
  }
};

/// The schedules of an argument: one for all groups, or a dict of them by pattern.
datasparse::DataScheduler::Schedules to_schedules(const pybind11::object& schedule);
/// The argument again.
pybind11::object to_python(const datasparse::DataScheduler::Schedules& schedules);
