#include "datasparse/distribution.hpp"

#include <string>
#include <vector>

#include "datasparse/error.hpp"
#include "params.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::Axes;
using datasparse::TypeError;
using datasparse::distributions::Shapes;

namespace {

std::string described(py::handle value) {
  return std::string(py::repr(value)) + " (" + class_name(value) + ")";
}

bool is_sequence(py::handle value) {
  return PyTuple_Check(value.ptr()) || PyList_Check(value.ptr());
}

[[noreturn]] void refuse_shape(py::handle value, const std::string& name) {
  throw TypeError("shapes must hold tuples of integers, or arrays that have a shape, got " +
                  described(value) + " for '" + name + "'");
}

/// The shape of whatever has one.
py::object shape_of(py::handle given, const std::string& name) {
  try {
    return given.attr("shape");
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_AttributeError)) throw;
  }
  refuse_shape(given, name);
}

Axes to_axes(py::handle given, const std::string& name) {
  const py::object shape =
      is_sequence(given) ? py::reinterpret_borrow<py::object>(given) : shape_of(given, name);
  if (!is_sequence(shape)) refuse_shape(given, name);
  Axes axes;
  for (const auto length : shape) {
    if (PyIndex_Check(length.ptr()) == 0 || PyBool_Check(length.ptr())) refuse_shape(given, name);
    const py::object integer = py::reinterpret_steal<py::object>(PyNumber_Index(length.ptr()));
    if (!integer) throw py::error_already_set();
    axes.push_back(to_param(integer, "a length", name).as_integer("a length", name));
  }
  return axes;
}

/// A mapping of names to shapes, or pairs of them.
Shapes to_shapes(const py::object& given) {
  const py::object pairs = py::hasattr(given, "items") ? given.attr("items")() : given;
  if (!py::isinstance<py::iterable>(pairs)) {
    throw TypeError("shapes must be a mapping of names to shapes, or (name, shape) pairs, got " +
                    described(given));
  }
  Shapes shapes;
  for (const auto item : pairs) {
    const auto pair =
        py::isinstance<py::tuple>(item) ? py::reinterpret_borrow<py::tuple>(item) : py::tuple();
    if (pair.size() != 2 || !PyUnicode_Check(py::object(pair[0]).ptr())) {
      throw TypeError("shapes must hold (name, shape) pairs with a str as name, got " +
                      described(item));
    }
    const auto name = to_text(py::object(pair[0]));
    shapes.emplace_back(name, to_axes(py::object(pair[1]), name));
  }
  return shapes;
}

/// One pattern, or several.
std::vector<std::string> to_patterns(const py::object& given) {
  if (PyUnicode_Check(given.ptr())) return {to_text(given)};
  if (!py::isinstance<py::iterable>(given)) {
    throw TypeError("dense must be a str or several, got " + described(given));
  }
  std::vector<std::string> patterns;
  for (const auto item : given) {
    if (!PyUnicode_Check(item.ptr())) {
      throw TypeError("dense must hold str, got " + described(item));
    }
    patterns.push_back(to_text(item));
  }
  return patterns;
}

double to_number(const py::object& given, const char* name) {
  return to_param(given, name, "").as_number(name);
}

py::dict uniform(const py::object& shapes, const py::object& level) {
  return to_python(
      datasparse::distributions::uniform(to_shapes(shapes), to_number(level, "level")));
}

py::dict erk(const py::object& shapes, const py::object& level, const py::object& power,
             const py::object& dense) {
  return to_python(datasparse::distributions::erk(to_shapes(shapes), to_number(level, "level"),
                                                  to_number(power, "power"), to_patterns(dense)));
}

}  // namespace

void register_distributions(py::module_& module) {
  const py::object outer_name = module.attr("__name__");
  module.attr("__name__") = "datasparse.distributions";
  module.def("uniform", &uniform, py::arg("shapes"), py::arg("level"),
             R"(The same level for every layer, but for rounding.

shapes: a mapping of names to shapes, or (name, shape) pairs. A shape is a tuple of integers; whatever has
    one, an array, a tensor, a parameter, stands for it.
level: the share of zeros in all layers together, in [0, 1].

Returns a dict of levels by name, in the order of shapes. All layers together have
round(level * elements) zeros, half to even, if each is pruned by its own level and single elements. A
layer's part of them is rounded down; what is left goes to the largest remainders, ties in the order of
shapes. Larger blocks have the same levels, and the sum as exactly as whole blocks allow. A layer without
elements has level 0. ValueError for a level out of range, and for more than 2**51 elements.

>>> from datasparse.distributions import uniform
>>> uniform({"first": (4, 3), "second": (2, 4)}, 0.5)
{'first': 0.5, 'second': 0.5})");
  module.def("erk", &erk, py::arg("shapes"), py::arg("level"), py::arg("power") = 1,
             py::arg("dense") = py::tuple(),
             R"(ERK: large layers are pruned most (Evci et al., "Rigging the Lottery", 2020).

The density of a layer, 1 - its level, is in proportion to (sum of its lengths / their product)**power. A
layer that would keep more than all of its elements is dense, and the others share the rest; in as many
rounds as it takes.

shapes, level: as in uniform(), which also says how zeros are rounded.
power: 0 or above; 0 is uniform, 1 is the paper's.
dense: names of layers that are left at level 0, for which the others make up; or globs of names (*, ?,
    [seq]). A str, or several. One that is a layer's very name stands for that layer alone.

Returns a dict of levels by name, in the order of shapes: base values for any schedule. ValueError where
the other layers have fewer elements than are to be zeros: it names the possible range of level.
UnknownNameError, with the nearest name, for a dense that matches no layer.

>>> from datasparse.distributions import erk
>>> lenet = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
>>> levels = erk(lenet, 0.9)
>>> {name: round(level, 4) for name, level in levels.items()}
{'fc1': 0.9204, 'fc2': 0.7698, 'fc3': 0.0}
>>> sum(round(levels[name] * rows * columns) for name, (rows, columns) in lenet.items())
239580)");
  module.attr("__name__") = outer_name;
}
