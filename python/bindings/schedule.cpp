#include "schedule.hpp"

#include <utility>
#include <vector>

#include "collector.hpp"
#include "copying.hpp"
#include "datasparse/error.hpp"
#include "gil.hpp"
#include "params.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::Level;
using datasparse::Schedule;
using datasparse::TypeError;

namespace {

using namespace datasparse::schedules;
using SelfSchedule = Self<Schedule>;

/// A schedule of one kind: the class that Python sees.
template <class Kind>
struct Of : Schedule {
  explicit Of(Schedule schedule) : Schedule(std::move(schedule)) {}
};

// --- arguments and attributes -------------------------------------------------------------------

[[noreturn]] void refuse(const std::string& name, const char* expected, py::handle value) {
  throw TypeError(name + " must be " + expected + ", got " + std::string(py::repr(value)) + " (" +
                  class_name(value) + ")");
}

template <class Field>
Field to_field(py::handle value, const std::string& name);

template <class Item>
std::vector<Item> to_items(py::handle value, const std::string& name) {
  if (!PyList_Check(value.ptr()) && !PyTuple_Check(value.ptr())) refuse(name, "a list", value);
  std::vector<Item> items;
  for (const auto item : value) {
    items.push_back(to_field<Item>(item, name + "[" + std::to_string(items.size()) + "]"));
  }
  return items;
}

/// An argument as the field that it is for.
template <class Field>
Field to_field(py::handle value, const std::string& name) {
  if constexpr (std::is_same_v<Field, std::int64_t>) {
    return to_param(value, name, "").as_integer(name);
  } else if constexpr (std::is_same_v<Field, double>) {
    return to_param(value, name, "").as_number(name);
  } else if constexpr (std::is_same_v<Field, Level>) {
    return value.is_none() ? Level() : to_field<double>(value, name);
  } else if constexpr (std::is_same_v<Field, Schedule>) {
    return to_schedule(value, name);
  } else if constexpr (std::is_same_v<Field, decltype(Piecewise::values)>) {
    if (!PyDict_Check(value.ptr())) refuse(name, "a dict of values by step", value);
    Field values;
    for (const auto& item : py::reinterpret_borrow<py::dict>(value)) {
      const auto step = to_field<std::int64_t>(item.first, "a step of " + name);
      const std::string place = name + "[" + std::to_string(step) + "]";
      values.emplace_back(step, to_field<Level>(item.second, place));
    }
    return values;
  } else {
    return to_items<typename Field::value_type>(value, name);
  }
}

py::object shown(std::int64_t field) { return py::int_(field); }
py::object shown(double field) { return py::float_(field); }
py::object shown(const Level& field) {
  return field ? py::object(py::float_(*field)) : py::object(py::none());
}
py::object shown(const Schedule& field) { return to_python(field); }
template <class T>
py::object shown(const std::vector<T>& field) {
  py::tuple items(field.size());
  for (std::size_t i = 0; i < field.size(); ++i) items[i] = shown(field[i]);
  return items;
}
py::object shown(const std::vector<std::pair<std::int64_t, Level>>& field) {
  py::dict items;
  for (const auto& [step, value] : field) items[py::int_(step)] = shown(value);
  return items;
}

// --- functions of Python ------------------------------------------------------------------------

/// A callable: schedules are copied, and let go of, without the interpreter's lock.
struct PythonFunction {
  std::shared_ptr<PyObject> callable;

  explicit PythonFunction(py::object function)
      : callable(function.release().ptr(),
                 [](PyObject* last) { let_go([last] { Py_DECREF(last); }); }) {}

  double operator()(std::int64_t step) const {
    const AcquiredGil gil;
    const std::string call = "fn(" + std::to_string(step) + ")";
    return to_param(call_python(callable.get(), py::make_tuple(step)), call, "").as_number(call);
  }
};

Lambda to_lambda(const py::object& fn) {
  if (PyCallable_Check(fn.ptr()) == 0) refuse("fn", "callable", fn);
  const PythonFunction function(fn);
  return Lambda(function, function.callable, py::repr(fn));
}

py::object function_of(const Lambda& lambda) {
  const auto* const function = lambda.function.target<PythonFunction>();
  if (function == nullptr) throw TypeError("this function is not Python's");
  return py::reinterpret_borrow<py::object>(function->callable.get());
}

// --- classes ------------------------------------------------------------------------------------

struct ScheduleAccess {
  static int traverse(Schedule& schedule, visitproc visit, void* arg) {
    return ::traverse(schedule, visit, arg);
  }
  static void clear(Schedule& schedule) { ::clear(schedule); }
};

template <class Kind>
using Class = py::class_<Of<Kind>, Schedule, py::smart_holder>;

/// Puts a schedule into a new object. pybind11 calls this for new ones only, so that a second
/// __init__ changes nothing.
template <class Kind>
void construct(py::detail::value_and_holder& self, Kind kind) {
  self.value_ptr() = new Of<Kind>(Schedule(std::move(kind)));
}

template <std::size_t>
using Argument = const py::object&;

/// One argument and one attribute for each field.
template <class Kind, std::size_t... I, class... Arguments>
void def_fields(Class<Kind>& cls, std::index_sequence<I...>, const Arguments&... arguments) {
  using Fields = decltype(std::declval<const Kind&>().fields());
  cls.def(
      "__init__",
      [](py::detail::value_and_holder& self, Argument<I>... given) {
        construct(self, Kind{to_field<std::decay_t<std::tuple_element_t<I, Fields>>>(
                            given, Kind::names[I])...});
      },
      py::detail::is_new_style_constructor(), arguments...);
  (cls.def_property_readonly(
       Kind::names[I],
       [](const SelfSchedule& self) {
         return shown(std::get<I>(std::get<Kind>(self->kind()).fields()));
       },
       "As it was given."),
   ...);
  // By name: which arguments may be given by place is for __init__ to say.
  cls.def("__reduce__", [](const SelfSchedule& self) {
    py::dict arguments_of;
    const auto fields = std::get<Kind>(self->kind()).fields();
    ((arguments_of[Kind::names[I]] = shown(std::get<I>(fields))), ...);
    return recreate(self.handle(), arguments_of);
  });
}

template <class Kind, class... Arguments>
void def_schedule(py::module_& module, const char* doc, const Arguments&... arguments) {
  Class<Kind> cls(module, Kind::name, doc, collected<Schedule, ScheduleAccess>());
  using Fields = decltype(std::declval<const Kind&>().fields());
  def_fields(cls, std::make_index_sequence<std::tuple_size_v<Fields>>(), arguments...);
}

void def_lambda(py::module_& module, const char* doc) {
  Class<Lambda> cls(module, Lambda::name, doc, collected<Schedule, ScheduleAccess>());
  cls.def(
         "__init__",
         [](py::detail::value_and_holder& self, const py::object& fn) {
           construct(self, to_lambda(fn));
         },
         py::detail::is_new_style_constructor(), py::arg("fn"))
      .def_property_readonly(
          "fn",
          [](const SelfSchedule& self) { return function_of(std::get<Lambda>(self->kind())); },
          "As it was given.")
      .def("__reduce__", [](const SelfSchedule& self) {
        py::dict arguments;
        arguments["fn"] = function_of(std::get<Lambda>(self->kind()));
        return recreate(self.handle(), arguments);
      });
}

/// What stands for the schedules that the collector has cleared.
const Schedule& nothing() {
  static const Schedule constant = Constant{};
  return constant;
}

}  // namespace

Schedule to_schedule(py::handle value, const std::string& name) {
  if (!py::isinstance<Schedule>(value)) refuse(name, "a schedule", value);
  const Schedule& schedule = *SelfSchedule(value);
  const py::object plain = to_python(schedule);
  if (!py::type::handle_of(plain).is(py::type::handle_of(value))) {
    throw datasparse::TypeError(name + " must be a schedule of datasparse.schedules, got " +
                                class_name(value) + ", a subclass of " + class_name(plain) +
                                ", whose methods nobody would call: a function of the step is a "
                                "Lambda; for more, override a scheduler's get_schedule_param()");
  }
  return schedule;
}

py::object to_python(const Schedule& schedule) {
  return std::visit(
      [&schedule](const auto& kind) {
        return py::cast(Of<std::decay_t<decltype(kind)>>(schedule));
      },
      schedule.kind());
}

int traverse(const Schedule& schedule, visitproc visit, void* arg) {
  if (!schedule.unique()) return 0;
  if (const auto* const lambda = std::get_if<Lambda>(&schedule.kind())) {
    const auto* const function = lambda->function.target<PythonFunction>();
    if (function != nullptr) Py_VISIT(function->callable.get());
  }
  int stop = 0;
  schedule.for_each_part([&](const Schedule& part) {
    if (stop == 0) stop = traverse(part, visit, arg);
  });
  return stop;
}

void clear(Schedule& schedule) noexcept { schedule = nothing(); }

void register_schedules(py::module_& module) {
  nothing();  // made now, so that the collector never allocates
  const py::object outer_name = module.attr("__name__");
  module.attr("__name__") = "datasparse.schedules";

  py::class_<Schedule, py::smart_holder>(
      module, "Schedule",
      R"(A pure function of the step: schedule(step, base) -> value.

step: 0 or above, counted in whatever the user steps: batches or epochs.
base: the group's own value. With an int, a schedule of integers gives ints, rounded half to even: one whose
    levels are all None or whole numbers, and its factors whole numbers; a Round is, and a Lambda is not.
    Every other value is a float.

Arguments that are called a level take None for the base value. A schedule never changes; schedules are
compared and hashed by what they hold, and copied, pickled and printed so that the repr evaluates to an
equal one (functions in a Lambda aside). Values are the same on every machine, to the last bit, but for
Polynomial with a power that is no integer. Wrong arguments are a TypeError or a ValueError.)",
      collected<Schedule, ScheduleAccess>())
      .def(
          "__call__",
          [](const SelfSchedule& self, const py::object& step, const py::object& base) {
            const auto value = (*self)(to_field<std::int64_t>(step, "step"),
                                       to_param(base, "base", ""), "base", "");
            return to_python(value);
          },
          py::arg("step"), py::arg("base"))
      .def_property_readonly(
          "end",
          [](const SelfSchedule& self) {
            const auto end = self->end();
            return end ? py::object(py::int_(*end)) : py::object(py::none());
          },
          "The step from which on the value stays what it is; None where it may change for ever.")
      .def("__eq__",
           [](const SelfSchedule& self, const py::object& other) -> py::object {
             if (!py::isinstance<Schedule>(other)) {
               return py::reinterpret_borrow<py::object>(Py_NotImplemented);
             }
             return py::bool_(*self == *SelfSchedule(other));
           })
      .def("__hash__", [](const SelfSchedule& self) { return self->hash(); })
      .def("__repr__", [](const SelfSchedule& self) { return to_string(*self); });

  const auto none = py::none();
  const auto ramp = [&](auto kind, const char* doc, const auto&... more) {
    def_schedule<decltype(kind)>(module, doc, py::kw_only(), py::arg("initial") = 0.0,
                                 py::arg("final") = none, py::arg("begin") = 0, py::arg("end"),
                                 py::arg("every") = 1, more...);
  };

  def_schedule<Constant>(module, R"(The same value at every step.

value: a level.

>>> from datasparse.schedules import Constant
>>> Constant(0.5)(7, 0.9), Constant()(7, 0.9)
(0.5, 0.9))",
                         py::arg("value") = none);
  def_schedule<Step>(module, R"(The base value times gamma, once more every step_size steps.

step_size: 1 or above.
gamma: 0 or above.

>>> from datasparse.schedules import Step
>>> [Step(2, 0.5)(step, 0.8) for step in range(5)]
[0.8, 0.8, 0.4, 0.4, 0.2])",
                     py::arg("step_size"), py::arg("gamma"));
  def_schedule<MultiStep>(module, R"(The base value times gamma, once more at each milestone.

milestones: increasing steps, from 0 or above; one at least.
gamma: 0 or above.

>>> from datasparse.schedules import MultiStep
>>> [MultiStep([1, 3], 0.5)(step, 0.8) for step in range(4)]
[0.8, 0.4, 0.4, 0.2])",
                          py::arg("milestones"), py::arg("gamma"));
  def_schedule<Exponential>(module, R"(The base value times gamma at each step.

gamma: 0 or above.
every: how often the value is updated, 1 or above; it is held between.

>>> from datasparse.schedules import Exponential
>>> [Exponential(0.5, every=2)(step, 0.8) for step in range(5)]
[0.8, 0.8, 0.2, 0.2, 0.05])",
                            py::arg("gamma"), py::arg("every") = 1);
  ramp(Linear(), R"(A straight ramp.

initial: the level up to, and at, step begin.
final: the level from step end on.
begin, end: steps, 0 <= begin <= end. Where they are equal, the ramp is a jump: initial before that step,
    final from it on.
every: how often the value is updated between them, counted from begin; it is held between updates.

>>> from datasparse.schedules import Linear
>>> [Linear(final=0.8, begin=1, end=3)(step, 0.5) for step in range(5)]
[0.0, 0.0, 0.4, 0.8, 0.8])");
  ramp(Polynomial(), R"(A ramp that is steep at first and gentle at the end.

initial, final, begin, end, every: as in Linear.
power: above 0. With t the share of the time that is over, 1 - (1 - t)**power of the way is. The
    default, 3, is equation (1) of Zhu and Gupta, "To prune, or not to prune" (2017).

>>> from datasparse.schedules import Polynomial
>>> [Polynomial(final=1.0, end=4)(step, 0.5) for step in range(5)]
[0.0, 0.578125, 0.875, 0.984375, 1.0])",
       py::arg("power") = 3.0);
  ramp(Cosine(), R"(A ramp that is gentle at both ends.

initial, final, begin, end, every: as in Linear. With t the share of the time that is over,
    (1 - cos(pi t)) / 2 of the way is, as in Loshchilov and Hutter, "SGDR" (2017).

>>> from datasparse.schedules import Cosine
>>> [Cosine(final=0.8, end=2)(step, 0.5) for step in range(3)]
[0.0, 0.4, 0.8])");
  def_schedule<Cyclic>(module, R"(Up from low to high and down again in each period, for ever.

low, high: levels, low <= high.
period: steps, 2 or above.

The triangular policy of Smith, "Cyclical learning rates" (2017).

>>> from datasparse.schedules import Cyclic
>>> [Cyclic(0.2, 0.8, period=4)(step, 0.5) for step in range(6)]
[0.2, 0.5, 0.8, 0.5, 0.2, 0.5])",
                       py::arg("low"), py::arg("high"), py::arg("period"));
  def_schedule<OneShot>(module, R"(One value, and from one step on another.

at: that step, 0 or above.
before, value: levels.

>>> from datasparse.schedules import OneShot
>>> [OneShot(2)(step, 0.9) for step in range(4)]
[0.0, 0.0, 0.9, 0.9])",
                        py::arg("at"), py::arg("before") = 0.0, py::arg("value") = none);
  def_schedule<Piecewise>(module, R"(Each value from its step on; before the first, the base value.

values: a dict of levels by increasing steps, from 0 or above; one at least.

>>> from datasparse.schedules import Piecewise
>>> [Piecewise({1: 0.2, 3: 0.6})(step, 0.9) for step in range(5)]
[0.9, 0.2, 0.2, 0.6, 0.6])",
                          py::arg("values"));
  def_lambda(module, R"(The base value times fn(step).

fn: any callable that returns a number. It must depend on nothing but the step: it is called again for a
    plan, and after a resume. Two Lambdas are equal if they hold the same object. To be pickled, fn must
    be a function that can be imported.

>>> from datasparse.schedules import Lambda
>>> [Lambda(lambda step: step / 4)(step, 0.8) for step in range(3)]
[0.0, 0.2, 0.4])");
  def_schedule<Sequential>(module, R"(One schedule after another.

schedules: one at least.
milestones: the steps at which the second, third, ... begin: increasing, from 1 or above. Each schedule
    counts from its own.

>>> from datasparse.schedules import Constant, Linear, Sequential
>>> warm = Sequential([Constant(0.0), Linear(final=0.8, end=2)], milestones=[3])
>>> [warm(step, 0.5) for step in range(7)]
[0.0, 0.0, 0.0, 0.0, 0.4, 0.8, 0.8])",
                           py::arg("schedules"), py::arg("milestones"));
  def_schedule<Product>(module, R"(The value of the first schedule times those of the others.

schedules: one at least. The base value counts once: the others are factors, for which it is 1.

>>> from datasparse.schedules import Linear, Product, Step
>>> [Product([Linear(final=0.8, end=2), Step(2, 0.5)])(step, 0.5) for step in range(5)]
[0.0, 0.4, 0.4, 0.4, 0.2])",
                        py::arg("schedules"));
  def_schedule<Clamp>(module, R"(Another schedule, kept between two levels.

schedule: a schedule.
low, high: levels, low <= high. Where the base value makes them cross, high wins.

>>> from datasparse.schedules import Clamp, Exponential
>>> [Clamp(Exponential(2.0), 0.0, 0.95)(step, 0.25) for step in range(4)]
[0.25, 0.5, 0.95, 0.95])",
                      py::arg("schedule"), py::arg("low"), py::arg("high"));
  def_schedule<Round>(module, R"(Another schedule, rounded to the nearest integer, half to even.

schedule: a schedule. For a schedule of integers and an int it is not needed, nor for a config key that the
    sparsifier says is_integer_param() of.

>>> from datasparse.schedules import Linear, Round
>>> [Round(Linear(final=2.0, end=4))(step, 0.5) for step in range(5)]
[0.0, 0.0, 1.0, 2.0, 2.0])",
                      py::arg("schedule"));
  module.attr("__name__") = outer_name;
}
