#include "datasparse/data_scheduler.hpp"

#include <pybind11/numpy.h>

#include "copying.hpp"
#include "gil.hpp"
#include "initialise.hpp"
#include "scheduler_trampoline.hpp"
#include "state.hpp"

namespace py = pybind11;
using datasparse::BaseDataScheduler;
using datasparse::BaseDataSparsifier;
using datasparse::DataScheduler;

namespace {

using SchedulerTrampoline = PyScheduler<BaseDataScheduler>;
using SelfScheduler = Self<BaseDataScheduler>;

/// One column of a plan, of any kind that all its values have: int64 or float64.
py::array column(const datasparse::Plan& plan, std::size_t group) {
  const auto steps = static_cast<std::size_t>(plan.steps);
  const auto at = [&](std::size_t row) -> const datasparse::ParamValue& {
    return plan.values[row * plan.groups.size() + group];
  };
  bool integers = true;
  for (std::size_t row = 0; row < steps; ++row)
    integers &= at(row).get_if<std::int64_t>() != nullptr;
  if (integers) {
    py::array_t<std::int64_t> values(plan.steps);
    for (std::size_t row = 0; row < steps; ++row)
      values.mutable_data()[row] = *at(row).get_if<std::int64_t>();
    return values;
  }
  py::array_t<double> values(plan.steps);
  for (std::size_t row = 0; row < steps; ++row)
    values.mutable_data()[row] = at(row).as_number(plan.param, plan.groups[group]);
  return values;
}

/// One column of a table of counts.
py::array zeros(const std::vector<datasparse::ZeroCount>& table, std::int64_t steps,
                std::size_t column, std::int64_t datasparse::ZeroCount::* bound) {
  py::array_t<std::int64_t> counts(steps);
  const auto rows = static_cast<std::size_t>(steps);
  for (std::size_t row = 0; row < rows; ++row)
    counts.mutable_data()[row] = table[row * (table.size() / rows) + column].*bound;
  return counts;
}

/// A datasparse.plan.Plan.
py::object to_plan(const datasparse::Plan& plan) {
  py::dict values, least, most, elements, pools, pool_least, pool_most;
  for (std::size_t group = 0; group < plan.groups.size(); ++group) {
    const py::str name(plan.groups[group]);
    values[name] = column(plan, group);
    elements[name] = plan.elements[group];
    if (plan.zeros.empty()) continue;
    least[name] = zeros(plan.zeros, plan.steps, group, &datasparse::ZeroCount::least);
    most[name] = zeros(plan.zeros, plan.steps, group, &datasparse::ZeroCount::most);
  }
  for (std::size_t pool = 0; pool < plan.pools.size(); ++pool) {
    const auto& [pool_name, groups] = plan.pools[pool];
    const py::str name(pool_name);
    py::list names;
    for (const std::size_t group : groups) names.append(plan.groups[group]);
    pools[name] = names;
    pool_least[name] = zeros(plan.pool_zeros, plan.steps, pool, &datasparse::ZeroCount::least);
    pool_most[name] = zeros(plan.pool_zeros, plan.steps, pool, &datasparse::ZeroCount::most);
  }
  return py::module_::import("datasparse.plan")
      .attr("Plan")(plan.param, plan.first, plan.steps, values, elements, least, most, pools,
                    pool_least, pool_most);
}

}  // namespace

DataScheduler::Schedules to_schedules(const py::object& schedule) {
  if (py::isinstance<datasparse::Schedule>(schedule))
    return {{"*", to_schedule(schedule, "schedule")}};
  DataScheduler::Schedules schedules;
  if (!py::hasattr(schedule, "keys")) {
    throw datasparse::TypeError(
        "schedule must be a schedule, or a mapping from patterns to schedules, got " +
        std::string(py::repr(schedule)) + " (" + class_name(schedule) + ")");
  }
  for (const auto& item : to_dict(schedule, "schedule is a " + class_name(schedule))) {
    const auto pattern = to_text(item.first);
    schedules.emplace_back(pattern, to_schedule(item.second, "schedule['" + pattern + "']"));
  }
  return schedules;
}

py::object to_python(const DataScheduler::Schedules& schedules) {
  if (schedules.size() == 1 && schedules.front().first == "*") {
    return to_python(schedules.front().second);
  }
  py::dict by_pattern;
  for (const auto& [pattern, schedule] : schedules)
    by_pattern[py::str(pattern)] = to_python(schedule);
  return by_pattern;
}

std::shared_ptr<BaseDataSparsifier> borrowed(const py::object& sparsifier) {
  if (!py::isinstance<BaseDataSparsifier>(sparsifier)) {
    throw datasparse::TypeError("data_sparsifier must be a BaseDataSparsifier, got " +
                                class_name(sparsifier));
  }
  return {std::shared_ptr<void>(), &*Self<BaseDataSparsifier>(sparsifier)};
}

void require_key(const py::object& schedule_param) {
  if (py::isinstance<py::str>(schedule_param)) return;
  throw datasparse::TypeError(
      "schedule_param must be a str, the config key that is scheduled, \"sparsity_level\" say, "
      "got " +
      class_name(schedule_param));
}

PySchedulerSide& live(const SelfScheduler& self) {
  auto* const side = dynamic_cast<PySchedulerSide*>(&*self);
  if (side == nullptr || !side->sparsifier()) {
    throw datasparse::StateError("the sparsifier of this scheduler is gone");
  }
  return *side;
}

void register_base_data_scheduler(py::module_& module) {
  // What a scheduler itself holds is read under the interpreter's lock: nobody waits for that lock
  // while holding the scheduler's inner one.
  py::class_<BaseDataScheduler, SchedulerTrampoline, py::smart_holder> cls(
      module, "BaseDataScheduler",
      R"(Varies one config parameter of a sparsifier over the training. Subclass it and override
get_schedule_param(); call step() after the sparsifier's.

data_sparsifier: the sparsifier whose parameter is scheduled.
schedule_param: a config key of it, such as "sparsity_level". ValueError for an unknown one.
last_epoch: the last epoch that is over; -1 to start.
verbose: print each new value.

The constructor makes the initial step: last_epoch advances by one, and get_schedule_param() is called.

>>> import numpy as np
>>> class Halving(BaseDataScheduler):
...     def get_schedule_param(self):
...         if self.last_epoch == 0:
...             return self.base_param
...         return {name: config["sparsity_level"] * 0.5
...                 for name, config in self.data_sparsifier.data_groups.items()}
>>> sparsifier = DataNormSparsifier([("w", np.ones(80))], sparsity_level=0.8)
>>> scheduler = Halving(sparsifier, "sparsity_level")
>>> for epoch in range(2):
...     sparsifier.step()
...     scheduler.step()
>>> scheduler.get_last_param()
{'w': 0.2})",
      collected<BaseDataScheduler, SchedulerAccess>());

  cls.def(py::init(
      [](py::object sparsifier, const Name& schedule_param, std::int64_t last_epoch, bool verbose) {
        auto core = borrowed(sparsifier);
        return without_gil([&] {
          return new SchedulerTrampoline(std::move(sparsifier), std::move(core), schedule_param,
                                         last_epoch, verbose);
        });
      }));
  cls.def(py::init([] { return new SchedulerTrampoline(); }));
  const py::object construct = cls.attr("__init__");
  def_plainly(
      cls, "__init__",
      [construct](const py::object& self, const py::object& data_sparsifier,
                  const py::object& schedule_param, const py::object& last_epoch,
                  const py::object& verbose) {
        refuse_second_init(self);
        require_key(schedule_param);
        construct(self, data_sparsifier, schedule_param, last_epoch, verbose);
        auto& side = live(SelfScheduler(self));
        without_gil([&] { side.start(); });
      },
      py::arg("data_sparsifier"), py::arg("schedule_param"), py::arg("last_epoch") = -1,
      py::arg("verbose") = false);

  def_plainly(cls, "__setstate__", [](const SelfScheduler& self, const py::tuple& full_state) {
    set_attributes(self.handle(), full_state[3]);
    dynamic_cast<SchedulerTrampoline&>(*self).restore(
        full_state[1], to_scheduler_state(full_state[0]), full_state[2].cast<bool>());
  });

  cls.def(
         "get_schedule_param",
         [](const SelfScheduler& self) -> py::object {
           must_override(self.handle(), "get_schedule_param()");
         },
         R"(The values for the next step, {name: value}: override this. Called by step() only.

last_epoch is already advanced. Groups that are left out keep their value.)")
      .def(
          "step",
          [](const SelfScheduler& self) {
            live(self);
            without_gil([&] { self->step(); });
          },
          R"(Advance last_epoch and write what get_schedule_param() returns into the sparsifier.

If the override raises, or the sparsifier refuses a value, everything is as before the call. Warns once
when called before the sparsifier's first step, unless `leads` is set.)")
      .def("__reduce__",
           [](const SelfScheduler& self) {
             return reduce(self.handle(), py::make_tuple(to_state_dict(self->save_state()),
                                                         live(self).sparsifier(), self->verbose(),
                                                         attributes_of(self.handle())));
           })
      .def("_construct_empty", [construct](const py::object& self) { construct(self); })
      .def(
          "get_last_param",
          [](const SelfScheduler& self) { return to_python(self->get_last_param()); },
          "Each group's value after the last step, as a dict.")
      .def("__repr__",
           [](const SelfScheduler& self) {
             return class_name(self.handle()) + "(schedule_param='" + self->schedule_param() +
                    "', last_epoch=" + std::to_string(self->last_epoch()) + ")";
           })
      .def(
          "state_dict",
          [](const SelfScheduler& self) {
            live(self);
            py::dict state = to_state_dict(self->save_state());
            state["attributes"] = to_python(plain_attributes_of(self.handle()));
            return state;
          },
          R"(last_epoch, base and last values as plain data, so that torch.load takes it by default.

Attributes that a Python subclass has set are saved too, those that begin with '_' aside; TypeError
names one that is not plain.)")
      .def(
          "load_state_dict",
          [](const SelfScheduler& self, const py::object& state_dict) {
            const auto state = to_scheduler_state(state_dict);
            const py::dict attributes = saved_attributes(state_dict);
            require_room_for(self.handle(), attributes);
            live(self);
            without_gil([&] { self->load_state(state); });
            set_attributes(self.handle(), attributes);
          },
          py::arg("state_dict"),
          R"(Restore what state_dict() returned, and write its last values into the sparsifier.

ValueError, naming the entry, if anything does not fit; nothing has changed then.)")
      .def_property_readonly(
          "data_sparsifier", [](const SelfScheduler& self) { return live(self).sparsifier(); },
          "The sparsifier whose parameter is scheduled.")
      .def_property_readonly(
          "schedule_param", [](const SelfScheduler& self) { return self->schedule_param(); },
          "The config key that is scheduled.")
      .def_property(
          "base_param", [](const SelfScheduler& self) { return to_python(self->base_param()); },
          [](const SelfScheduler& self, const py::object& values) {
            self->set_base_param(to_param_map(values, "base_param"));
          },
          R"(Each group's value when this scheduler first saw it: a copy, as a dict.

Assigning sets those that are given; those of other groups stay. KeyError for an unknown name, ValueError for
what the sparsifier would refuse.)")
      .def_property(
          "last_epoch", [](const SelfScheduler& self) { return self->last_epoch(); },
          [](const SelfScheduler& self, std::int64_t epoch) { self->set_last_epoch(epoch); },
          "Steps made so far, the initial one not counted.")
      .def_property(
          "leads", [](const SelfScheduler& self) { return self->leads(); },
          [](const SelfScheduler& self, bool leads) { self->set_leads(leads); },
          R"(Whether its steps come before the sparsifier's on purpose.

Then a step's masks are those of the step's own value, and nobody is warned of that order. False at first,
and neither saved nor copied: whoever drives the scheduler sets it.)")
      .def_property(
          "counts_renewals", [](const SelfScheduler& self) { return self->counts_renewals(); },
          [](const SelfScheduler& self, bool counts) { self->set_counts_renewals(counts); },
          R"(What its steps count where datasparse.torch.follow() drives it.

False: every step of the optimizer. True: only those at which masks are renewed, as version 0.1.0 did.
False at first, and saved; loading a state or a checkpoint of 0.1.0 makes it True, so that a training that
began with it goes on as it began. step() itself does not look at it.)")
      .def_property_readonly(
          "_step_count", [](const SelfScheduler& self) { return self->last_epoch() + 1; },
          "As in torch.ao.pruning: steps made so far, the initial one counted.")
      .def_property_readonly(
          "_last_param",
          [](const SelfScheduler& self) { return to_python(self->get_last_param()); },
          "As in torch.ao.pruning: get_last_param().")
      .def_property_readonly(
          "verbose", [](const SelfScheduler& self) { return self->verbose(); },
          "Whether each new value is printed.");
}

void register_data_scheduler(py::module_& module) {
  using Scheduler = PyScheduler<DataScheduler>;
  using SelfDataScheduler = Self<DataScheduler>;
  py::class_<DataScheduler, BaseDataScheduler, Scheduler, py::smart_holder> cls(
      module, "DataScheduler",
      R"(Sets a config parameter of a sparsifier by schedules; call step() after the sparsifier's.

data_sparsifier: the sparsifier whose parameter is scheduled.
schedule_param: a config key of it, whose values are numbers. They are ints where the sparsifier says
    is_integer_param() of it, as of zeros_per_block, and where a schedule of integers has an int for a base.
schedule: a schedule for all groups, or a dict of schedules by name pattern. The pattern that is a
    group's very name has it; else the first one given that matches: * is any characters, ? is one, [ab]
    and [!a-c] are one of these, or none of these. Groups that none matches keep their values.
strict: ValueError for a pattern that no group needs: because it matches none, as a mistyped one, or
    because others take all that it matches. Looked at once, in the first step that finds any group;
    False is for groups that are added later. In that step, too, a UserWarning names a schedule that ends
    at a value which the sparsifier would refuse.
last_epoch: the last epoch that is over; -1 to start.
verbose: print each new value.

The value of a group at step last_epoch is schedule(last_epoch, base), with what it was when this scheduler
first saw it for a base. The constructor makes the initial step. Several schedulers may set different
parameters of one sparsifier. The state holds the step and the base values; the schedules are part of your
program. A step takes about 0.2 microseconds a group.

>>> import numpy as np
>>> from datasparse.schedules import Constant, Linear
>>> sparsifier = DataNormSparsifier([("fc1", np.ones(8)), ("fc2", np.ones(8)), ("emb", np.ones(8))])
>>> scheduler = DataScheduler(
...     sparsifier, "sparsity_level", {"fc*": Linear(final=0.8, end=2), "emb": Constant(0.25)})
>>> for batch in range(2):
...     sparsifier.step()
...     scheduler.step()
...     print(scheduler.get_last_param())
{'fc1': 0.4, 'fc2': 0.4, 'emb': 0.25}
{'fc1': 0.8, 'fc2': 0.8, 'emb': 0.25})",
      collected<BaseDataScheduler, SchedulerAccess>());

  cls.def(py::init([](py::object sparsifier, const Name& schedule_param, const py::object& schedule,
                      bool strict, std::int64_t last_epoch, bool verbose) {
    auto core = borrowed(sparsifier);
    auto schedules = to_schedules(schedule);
    return without_gil([&] {
      return new Scheduler(std::move(sparsifier), std::move(core), schedule_param,
                           std::move(schedules), strict, last_epoch, verbose);
    });
  }));
  cls.def(py::init([] { return new Scheduler(); }));
  const py::object construct = cls.attr("__init__");
  def_plainly(
      cls, "__init__",
      [construct](const py::object& self, const py::object& data_sparsifier,
                  const py::object& schedule_param, const py::object& schedule,
                  const py::object& strict, const py::object& last_epoch,
                  const py::object& verbose) {
        refuse_second_init(self);
        require_key(schedule_param);
        construct(self, data_sparsifier, schedule_param, schedule, strict, last_epoch, verbose);
        auto& side = live(SelfScheduler(self));
        without_gil([&] { side.start(); });
      },
      py::arg("data_sparsifier"), py::arg("schedule_param"), py::arg("schedule") = py::none(),
      py::kw_only(), py::arg("strict") = true, py::arg("last_epoch") = -1,
      py::arg("verbose") = false);

  def_plainly(cls, "__setstate__", [](const SelfDataScheduler& self, const py::tuple& full_state) {
    set_attributes(self.handle(), full_state[3]);
    dynamic_cast<Scheduler&>(*self).restore(full_state[1], to_scheduler_state(full_state[0]),
                                            full_state[2].cast<bool>(), to_schedules(full_state[4]),
                                            full_state[5].cast<bool>());
  });
  cls.def("__reduce__",
          [](const SelfDataScheduler& self) {
            return reduce(self.handle(),
                          py::make_tuple(to_state_dict(self->save_state()),
                                         live(SelfScheduler(self.handle())).sparsifier(),
                                         self->verbose(), attributes_of(self.handle()),
                                         to_python(self->schedules()), self->strict()));
          })
      .def("_construct_empty", [construct](const py::object& self) { construct(self); })
      .def(
          "get_schedule_param",
          [](const SelfDataScheduler& self) {
            live(SelfScheduler(self.handle()));
            return to_python(
                without_gil([&] { return self->DataScheduler::get_schedule_param(); }));
          },
          R"(The values at step last_epoch, {name: value}, of the groups that have a schedule.

An override may call this and change some.)")
      .def(
          "plan",
          [](const SelfDataScheduler& self, std::int64_t steps, std::int64_t first) {
            live(SelfScheduler(self.handle()));
            return to_plan(without_gil([&] { return self->plan(steps, first); }));
          },
          py::arg("steps"), py::arg("first") = 0,
          R"(What would be at steps first, first + 1, ...: a datasparse.plan.Plan with `steps` rows.

For all groups that the sparsifier has now, squashed ones aside, from the values with which this scheduler
found them; other parameters are as they are now. Takes no step and changes nothing. Of an override of
get_schedule_param() it knows nothing. ValueError, naming the step, where the sparsifier would refuse a
value; and beyond 10^8 values. Takes time and memory in proportion to steps x groups.)")
      .def_property_readonly(
          "schedule", [](const SelfDataScheduler& self) { return to_python(self->schedules()); },
          "The schedule, or a dict of schedules by pattern.")
      .def_property_readonly(
          "ends", [](const SelfDataScheduler& self) { return py::tuple(py::cast(self->ends())); },
          R"(The steps from which on a schedule stays what it is: a tuple of increasing ints.

Schedules that may change for ever are left out. Empty for an AdaptiveDataScheduler, where the metric says
which step comes to an end.)")
      .def_property_readonly(
          "strict", [](const SelfDataScheduler& self) { return self->strict(); },
          "Whether every pattern must be of use to a group.");
}
