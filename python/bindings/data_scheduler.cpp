#include "datasparse/data_scheduler.hpp"

#include "collector.hpp"
#include "copying.hpp"
#include "datasparse/error.hpp"
#include "gil.hpp"
#include "initialise.hpp"
#include "override.hpp"
#include "params.hpp"
#include "register.hpp"
#include "self.hpp"
#include "state.hpp"

namespace py = pybind11;
using datasparse::BaseDataScheduler;
using datasparse::BaseDataSparsifier;
using datasparse::ParamMap;

namespace {

class PyScheduler final : public BaseDataScheduler, public py::trampoline_self_life_support {
 public:
  /// `core` is borrowed(sparsifier). Needs no interpreter's lock: it waits for the sparsifier's.
  PyScheduler(py::object&& sparsifier, std::shared_ptr<BaseDataSparsifier> core,
              const std::string& schedule_param, std::int64_t last_epoch, bool verbose)
      : BaseDataScheduler(std::move(core), schedule_param, last_epoch, verbose),
        sparsifier_(std::move(sparsifier)) {}

  PyScheduler() = default;

  using BaseDataScheduler::start;

  /// The core's pointer owns nothing: a cycle through it would be invisible to the collector, which
  /// sees sparsifier_ instead.
  static std::shared_ptr<BaseDataSparsifier> borrowed(const py::object& sparsifier) {
    if (!py::isinstance<BaseDataSparsifier>(sparsifier)) {
      throw datasparse::TypeError("data_sparsifier must be a BaseDataSparsifier, got " +
                                  class_name(sparsifier));
    }
    return {std::shared_ptr<void>(), &*Self<BaseDataSparsifier>(sparsifier)};
  }

  void restore(const py::object& sparsifier, const datasparse::SchedulerState& state,
               bool verbose) {
    BaseDataScheduler::restore(borrowed(sparsifier), state, verbose);
    sparsifier_ = sparsifier;
  }

  /// The Python object, which this one keeps alive; empty once the collector has cleared it.
  py::object& sparsifier() noexcept { return sparsifier_; }

  ParamMap get_schedule_param() override {
    const py::gil_scoped_acquire gil;
    const py::object self = py::cast(static_cast<const BaseDataScheduler*>(this));
    const std::string method = class_name(self) + ".get_schedule_param()";
    const auto override = override_of(self, "get_schedule_param");
    if (!override) {
      py::set_error(PyExc_NotImplementedError,
                    (class_name(self) + " must override get_schedule_param()").c_str());
      throw py::error_already_set();
    }
    const py::object returned = override();
    const py::dict items = to_dict(returned, method + " returned " + class_name(returned));
    ParamMap values;
    values.reserve(items.size());
    for (const auto& item : items) {
      const auto name = item.first.cast<std::string>();
      values.set(name, to_param(item.second, schedule_param(), name));
    }
    return values;
  }

  datasparse::Attributes attributes() const override {
    const py::gil_scoped_acquire gil;
    return plain_attributes_of(py::cast(static_cast<const BaseDataScheduler*>(this)));
  }
  std::function<void()> prepare_attributes(const datasparse::Attributes& saved) override {
    const py::gil_scoped_acquire gil;
    return prepared_attributes(py::cast(static_cast<const BaseDataScheduler*>(this)), saved);
  }

 private:
  void use_make_scheduler() const override {}

  py::object sparsifier_;
};

/// The scheduler, with its sparsifier still there.
PyScheduler& live(const Self<BaseDataScheduler>& self) {
  auto* const scheduler = dynamic_cast<PyScheduler*>(&*self);
  if (scheduler == nullptr || !scheduler->sparsifier()) {
    throw datasparse::StateError("the sparsifier of this scheduler is gone");
  }
  return *scheduler;
}

struct SchedulerAccess {
  static int traverse(BaseDataScheduler& scheduler, visitproc visit, void* arg) {
    if (auto* const owner = dynamic_cast<PyScheduler*>(&scheduler))
      Py_VISIT(owner->sparsifier().ptr());
    return 0;
  }
  static void clear(BaseDataScheduler& scheduler) {
    if (auto* const owner = dynamic_cast<PyScheduler*>(&scheduler)) {
      const py::object taken = std::move(owner->sparsifier());
    }
  }
};

}  // namespace

void register_data_scheduler(py::module_& module) {
  // What a scheduler itself holds is read under the interpreter's lock: nobody waits for that lock
  // while holding the scheduler's inner one.
  using SelfScheduler = Self<BaseDataScheduler>;
  py::class_<BaseDataScheduler, PyScheduler, py::smart_holder> cls(
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
>>> sparsifier = DataNormSparsifier([("w", np.ones(8))], sparsity_level=0.8)
>>> scheduler = Halving(sparsifier, "sparsity_level")
>>> for epoch in range(2):
...     sparsifier.step()
...     scheduler.step()
>>> scheduler.get_last_param()
{'w': 0.2})",
      collected<BaseDataScheduler, SchedulerAccess>());

  cls.def(py::init([](py::object sparsifier, const std::string& schedule_param,
                      std::int64_t last_epoch, bool verbose) {
    auto core = PyScheduler::borrowed(sparsifier);
    return without_gil([&] {
      return new PyScheduler(std::move(sparsifier), std::move(core), schedule_param, last_epoch,
                             verbose);
    });
  }));
  cls.def(py::init([] { return new PyScheduler(); }));
  const py::object construct = cls.attr("__init__");
  def_plainly(
      cls, "__init__",
      [construct](const py::object& self, const py::object& data_sparsifier,
                  const py::object& schedule_param, const py::object& last_epoch,
                  const py::object& verbose) {
        refuse_second_init(self);
        construct(self, data_sparsifier, schedule_param, last_epoch, verbose);
        auto& scheduler = live(SelfScheduler(self));
        without_gil([&] { scheduler.start(); });
      },
      py::arg("data_sparsifier"), py::arg("schedule_param"), py::arg("last_epoch") = -1,
      py::arg("verbose") = false);

  def_plainly(cls, "__setstate__", [](const SelfScheduler& self, const py::tuple& full_state) {
    set_attributes(self.handle(), full_state[3]);
    dynamic_cast<PyScheduler&>(*self).restore(full_state[1], to_scheduler_state(full_state[0]),
                                              full_state[2].cast<bool>());
  });

  cls.def(
         "get_schedule_param",
         [](const SelfScheduler& self) -> py::object {
           py::set_error(
               PyExc_NotImplementedError,
               (class_name(self.handle()) + " must override get_schedule_param()").c_str());
           throw py::error_already_set();
         },
         R"(The values for the next step, {name: value}: override this. Called by step() only.

last_epoch is already advanced. Groups that are left out keep their value.)")
      .def(
          "step",
          [](const SelfScheduler& self) {
            auto& scheduler = live(self);
            without_gil([&] { scheduler.step(); });
          },
          R"(Advance last_epoch and write what get_schedule_param() returns into the sparsifier.

If the override raises, or the sparsifier refuses a value, everything is as before the call. Warns once
when called before the sparsifier's first step.)")
      .def("__reduce__",
           [](const SelfScheduler& self) {
             auto& scheduler = live(self);
             return reduce(
                 self.handle(),
                 py::make_tuple(to_state_dict(scheduler.save_state()), scheduler.sparsifier(),
                                scheduler.verbose(), attributes_of(self.handle())));
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
            const auto attributes = saved_attributes(state_dict);
            require_room_for(self.handle(), attributes);
            auto& scheduler = live(self);
            without_gil([&] { scheduler.load_state(state); });
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
          "Each group's value when this scheduler first saw it: a copy, as a dict.")
      .def_property(
          "last_epoch", [](const SelfScheduler& self) { return self->last_epoch(); },
          [](const SelfScheduler& self, std::int64_t epoch) { self->set_last_epoch(epoch); },
          "Steps made so far, the initial one not counted.")
      .def_property_readonly(
          "verbose", [](const SelfScheduler& self) { return self->verbose(); },
          "Whether each new value is printed.");
}
