#include "datasparse/adaptive_data_scheduler.hpp"

#include "copying.hpp"
#include "gil.hpp"
#include "initialise.hpp"
#include "scheduler_trampoline.hpp"
#include "state.hpp"

namespace py = pybind11;
using datasparse::AdaptiveDataScheduler;
using datasparse::AdaptiveRule;
using datasparse::BaseDataScheduler;
using datasparse::TypeError;

namespace {

using Trampoline = PyScheduler<AdaptiveDataScheduler>;
using SelfScheduler = Self<BaseDataScheduler>;
using SelfAdaptive = Self<AdaptiveDataScheduler>;

AdaptiveRule::Mode to_mode(const std::string& mode) {
  if (mode == "min") return AdaptiveRule::Mode::min;
  if (mode == "max") return AdaptiveRule::Mode::max;
  throw datasparse::ValueError("mode must be 'min' or 'max', got '" + mode + "'");
}

const char* name_of(AdaptiveRule::Mode mode) {
  return mode == AdaptiveRule::Mode::max ? "max" : "min";
}

/// A number, or what has one: an array or a tensor of a single element.
double to_metric(const py::object& metric) {
  try {
    const py::object number = py::hasattr(metric, "item") ? metric.attr("item")() : metric;
    const double value = PyBool_Check(number.ptr()) ? 0 : PyFloat_AsDouble(number.ptr());
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (!PyBool_Check(number.ptr())) return value;
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
  }
  throw TypeError("metric must be a number, got " + std::string(py::repr(metric)) + " (" +
                  class_name(metric) + ")");
}

py::object float_or_none(const std::optional<double>& value) {
  return value ? py::object(py::float_(*value)) : py::object(py::none());
}

}  // namespace

void register_adaptive_data_scheduler(py::module_& module) {
  py::class_<AdaptiveDataScheduler, datasparse::DataScheduler, Trampoline, py::smart_holder> cls(
      module, "AdaptiveDataScheduler",
      R"(A DataScheduler that goes on while a metric holds, and back where it does not.

data_sparsifier, schedule_param, schedule, strict, last_epoch, verbose: as in DataScheduler.
mode: "min" for a metric that is better when it is less, as a loss; "max" for one as accuracy.
tolerance: how much worse than the best metric so far is good still; at least 0.
patience: at so many bad metrics in a row it waits; at least 0.
back_off: how far it then goes back, in positions; at least 1.
steps: the last position; None for the end of the schedules. ValueError for None where one never ends.

The schedules are read at `position`, which starts at 0 and stays in [0, steps]. step(metric) moves it once:
a good metric by 1; a bad one not at all, until more than `patience` were bad in a row, and then back by
`back_off`. A metric that is NaN or infinite is bad, and never the best. The same metrics always give the
same positions. position, best and bad_steps are a part of the state. Where a schedule holds its value for
`every` steps, give as many for back_off.

>>> import numpy as np
>>> from datasparse.schedules import Linear
>>> sparsifier = DataNormSparsifier([("w", np.ones(8))])
>>> scheduler = AdaptiveDataScheduler(
...     sparsifier, "sparsity_level", Linear(final=0.8, end=4), mode="max", tolerance=0.02)
>>> for accuracy in [0.90, 0.92, 0.91, 0.85, 0.91]:
...     sparsifier.step()
...     scheduler.step(accuracy)
...     print(scheduler.position, round(scheduler.get_last_param()["w"], 3))
1 0.2
2 0.4
3 0.6
2 0.4
3 0.6)",
      collected<BaseDataScheduler, SchedulerAccess>());

  cls.def(py::init([](py::object sparsifier, const Name& schedule_param, const py::object& schedule,
                      const std::string& mode, double tolerance, std::int64_t patience,
                      std::int64_t back_off, const py::object& steps, bool strict,
                      std::int64_t last_epoch, bool verbose) {
    auto core = borrowed(sparsifier);
    auto schedules = to_schedules(schedule);
    AdaptiveRule rule{to_mode(mode), tolerance, patience, back_off, std::nullopt};
    if (!steps.is_none()) rule.steps = to_param(steps, "steps", "").as_integer("steps");
    return without_gil([&] {
      return new Trampoline(std::move(sparsifier), std::move(core), schedule_param,
                            std::move(schedules), rule, strict, last_epoch, verbose);
    });
  }));
  cls.def(py::init([] { return new Trampoline(); }));
  const py::object construct = cls.attr("__init__");
  def_plainly(
      cls, "__init__",
      [construct](const py::object& self, const py::object& data_sparsifier,
                  const py::object& schedule_param, const py::object& schedule,
                  const py::object& mode, const py::object& tolerance, const py::object& patience,
                  const py::object& back_off, const py::object& steps, const py::object& strict,
                  const py::object& last_epoch, const py::object& verbose) {
        refuse_second_init(self);
        require_key(schedule_param);
        construct(self, data_sparsifier, schedule_param, schedule, mode, tolerance, patience,
                  back_off, steps, strict, last_epoch, verbose);
        auto& side = live(SelfScheduler(self));
        without_gil([&] { side.start(); });
      },
      py::arg("data_sparsifier"), py::arg("schedule_param"), py::arg("schedule") = py::none(),
      py::kw_only(), py::arg("mode") = "min", py::arg("tolerance") = 0.0, py::arg("patience") = 0,
      py::arg("back_off") = 1, py::arg("steps") = py::none(), py::arg("strict") = true,
      py::arg("last_epoch") = -1, py::arg("verbose") = false);

  def_plainly(cls, "__setstate__", [](const SelfAdaptive& self, const py::tuple& full_state) {
    set_attributes(self.handle(), full_state[3]);
    const py::tuple rule = full_state[6];
    dynamic_cast<Trampoline&>(*self).restore(
        full_state[1], to_scheduler_state(full_state[0]), full_state[2].cast<bool>(),
        to_schedules(full_state[4]), full_state[5].cast<bool>(),
        AdaptiveRule{to_mode(rule[0].cast<std::string>()), rule[1].cast<double>(),
                     rule[2].cast<std::int64_t>(), rule[3].cast<std::int64_t>(),
                     rule[4].cast<std::int64_t>()});
  });
  cls.def("__reduce__",
          [](const SelfAdaptive& self) {
            const auto& rule = self->rule();
            return reduce(
                self.handle(),
                py::make_tuple(to_state_dict(self->save_state()),
                               live(SelfScheduler(self.handle())).sparsifier(), self->verbose(),
                               attributes_of(self.handle()), to_python(self->schedules()),
                               self->strict(),
                               py::make_tuple(name_of(rule.mode), rule.tolerance, rule.patience,
                                              rule.back_off, *rule.steps)));
          })
      .def("_construct_empty", [construct](const py::object& self) { construct(self); })
      .def(
          "step",
          [](const SelfAdaptive& self, const py::object& metric) {
            live(SelfScheduler(self.handle()));
            const double value = to_metric(metric);
            without_gil([&] { self->step(value); });
          },
          py::arg("metric"),
          R"(Move the position by the metric, advance last_epoch, and write the values at the position.

metric: a number, or an array or a tensor of one element. If anything raises, all is as before the call.)")
      .def_property_readonly(
          "position", [](const SelfAdaptive& self) { return self->position(); },
          "Where the schedules are read: in [0, steps].")
      .def_property_readonly(
          "best", [](const SelfAdaptive& self) { return float_or_none(self->best()); },
          "The best metric so far; None before the first that is a number.")
      .def_property_readonly(
          "bad_steps", [](const SelfAdaptive& self) { return self->bad_steps(); },
          "Bad metrics in a row, since the position last moved.")
      .def_property_readonly(
          "mode", [](const SelfAdaptive& self) { return name_of(self->rule().mode); },
          "\"min\" or \"max\".")
      .def_property_readonly(
          "tolerance", [](const SelfAdaptive& self) { return self->rule().tolerance; },
          "How much worse than the best metric is good still.")
      .def_property_readonly(
          "patience", [](const SelfAdaptive& self) { return self->rule().patience; },
          "At so many bad metrics in a row it waits.")
      .def_property_readonly(
          "back_off", [](const SelfAdaptive& self) { return self->rule().back_off; },
          "How far it then goes back.")
      .def_property_readonly(
          "steps",
          [](const SelfAdaptive& self) {
            live(SelfScheduler(self.handle()));
            return *self->rule().steps;
          },
          "The last position.");
}
