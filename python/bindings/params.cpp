#include "params.hpp"

#include <string>
#include <unordered_map>
#include <vector>

#include "datasparse/error.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::ParamMap;
using datasparse::ParamValue;

namespace {

/// A class of another module. Held for ever: these modules outlive ours.
PyObject* imported(const char* module, const char* name) {
  return py::object(py::module_::import(module).attr(name)).release().ptr();
}

/// A config key as Python's string, the same object each time, up to so many of them. A dict of
/// nine keys takes half the time when their hashes are known.
py::str key_object(const std::string& key) {
  constexpr std::size_t most = 256;
  static auto* const known = new std::unordered_map<std::string, PyObject*>;  // as in imported()
  const auto found = known->find(key);
  if (found != known->end()) return py::reinterpret_borrow<py::str>(found->second);
  PyObject* made = py::str(key).release().ptr();
  PyUnicode_InternInPlace(&made);
  auto object = py::reinterpret_steal<py::str>(made);
  if (known->size() < most) known->emplace(key, py::str(object).release().ptr());
  return object;
}

[[noreturn]] void refuse(py::handle value, const std::string& key, const std::string& group) {
  std::string message = datasparse::label(key, group) +
                        " must be None, bool, int, float, str or a tuple of numbers, got " +
                        std::string(py::repr(value)) + " (" + class_name(value) + ")";
  if (py::isinstance<py::list>(value))
    message += "; write a tuple: " +
               std::string(py::repr(py::tuple(py::reinterpret_borrow<py::object>(value))));
  throw datasparse::TypeError(message);
}

/// NumPy's scalars hold a Python value of the same meaning.
py::object without_numpy(py::handle value) {
  if (PyFloat_CheckExact(value.ptr())) return py::reinterpret_borrow<py::object>(value);
  static PyObject* const numpy_scalar = imported("numpy", "generic");
  if (py::isinstance(value, numpy_scalar) && !PyFloat_Check(value.ptr()) &&
      !PyUnicode_Check(value.ptr())) {
    return value.attr("item")();
  }
  return py::reinterpret_borrow<py::object>(value);
}

std::int64_t to_integer(py::handle value, const std::string& key, const std::string& group) {
  int overflow = 0;
  const std::int64_t integer = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow != 0) {
    throw datasparse::ValueError(datasparse::label(key, group) + " must fit into 64 bits, got " +
                                 std::string(py::repr(value)));
  }
  if (integer == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return integer;
}

ParamValue to_numbers(const py::tuple& values, const std::string& key, const std::string& group) {
  bool integers = true;
  std::vector<py::object> items;
  for (const auto item : values) {
    items.push_back(without_numpy(item));
    PyObject* const number = items.back().ptr();
    if (PyBool_Check(number) || !(PyLong_Check(number) || PyFloat_Check(number)))
      refuse(values, key, group);
    integers = integers && PyLong_Check(number);
  }
  if (integers) {
    ParamValue::Ints result;
    for (const auto& item : items) result.push_back(to_integer(item, key, group));
    return result;
  }
  ParamValue::Floats result;
  for (const auto& item : items) result.push_back(item.cast<double>());
  return result;
}

}  // namespace

std::string to_text(py::handle text) {
  Py_ssize_t size = 0;
  const char* const utf8 = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (utf8 == nullptr) throw py::error_already_set();
  return {utf8, static_cast<std::size_t>(size)};
}

ParamValue to_param(py::handle given, const std::string& key, const std::string& group) {
  const py::object value = without_numpy(given);
  PyObject* const object = value.ptr();
  if (object == Py_None) return {};
  if (PyBool_Check(object)) return object == Py_True;
  if (PyFloat_Check(object)) return PyFloat_AS_DOUBLE(object);
  if (PyLong_Check(object)) return to_integer(value, key, group);
  if (PyUnicode_Check(object)) return to_text(value);
  if (PyTuple_Check(object))
    return to_numbers(py::reinterpret_borrow<py::tuple>(value), key, group);
  refuse(value, key, group);
}

py::object to_python(const ParamValue& value) {
  return std::visit(
      [](const auto& held) -> py::object {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::monostate>) {
          return py::none();
        } else if constexpr (std::is_same_v<Held, ParamValue::Ints> ||
                             std::is_same_v<Held, ParamValue::Floats>) {
          py::tuple numbers(held.size());
          for (std::size_t i = 0; i < held.size(); ++i) numbers[i] = held[i];
          return numbers;
        } else {
          return py::cast(held);
        }
      },
      value.variant());
}

py::dict to_dict(py::handle mapping, const std::string& what) {
  static PyObject* const abstract = imported("collections.abc", "Mapping");
  if (!PyDict_Check(mapping.ptr()) && !py::isinstance(mapping, abstract)) {
    throw datasparse::TypeError(what + ", expected a mapping");
  }
  const py::dict items = PyDict_CheckExact(mapping.ptr())
                             ? py::reinterpret_borrow<py::dict>(mapping)
                             : py::dict(py::reinterpret_borrow<py::object>(mapping));
  for (const auto& item : items) {
    if (!PyUnicode_Check(item.first.ptr())) {
      throw datasparse::TypeError(what + " with the key " + std::string(py::repr(item.first)) +
                                  " (" + class_name(item.first) + "), expected str");
    }
  }
  return items;
}

ParamMap to_param_map(py::handle mapping, const std::string& group) {
  const std::string what = (group.empty() ? "the defaults" : "the values of '" + group + "'") +
                           " are a " + class_name(mapping);
  ParamMap result;
  for (const auto& item : to_dict(mapping, what)) {
    const auto key = to_text(item.first);
    result.set(key, to_param(item.second, key, group));
  }
  return result;
}

py::dict to_python(const ParamMap& map) {
  py::dict result;
  for (const auto& [key, value] : map) result[key_object(key)] = to_python(value);
  return result;
}
