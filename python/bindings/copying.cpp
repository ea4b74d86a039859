#include "copying.hpp"

#include <string>

#include "datasparse/error.hpp"
#include "self.hpp"

namespace py = pybind11;

namespace {

/// A deep copy of plain data; `path` names it in the message for anything else.
py::object plain_copy(py::handle value, const std::string& path) {
  PyObject* const object = value.ptr();
  if (object == Py_None || PyBool_Check(object) || PyLong_CheckExact(object) ||
      PyFloat_CheckExact(object) || PyUnicode_CheckExact(object) || PyBytes_CheckExact(object)) {
    return py::reinterpret_borrow<py::object>(value);
  }
  if (PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
    py::list items;
    for (const auto item : value) {
      items.append(plain_copy(item, path + "[" + std::to_string(items.size()) + "]"));
    }
    return PyList_CheckExact(object) ? py::object(items) : py::object(py::tuple(items));
  }
  if (PyDict_CheckExact(object)) {
    py::dict items;
    for (const auto& item : py::reinterpret_borrow<py::dict>(value)) {
      const std::string key = py::repr(item.first);
      items[plain_copy(item.first, "a key of " + path)] =
          plain_copy(item.second, path + "[" + key + "]");
    }
    return items;
  }
  throw datasparse::TypeError(
      path +
      " cannot be saved: it must be None, bool, int, float, str, bytes, or a tuple, list or "
      "dict of these, got " +
      class_name(value) + "; an attribute whose name begins with '_' is left out");
}

}  // namespace

py::tuple reduce(py::handle self, const py::object& state) {
  const py::object empty = py::module_::import("datasparse._restore").attr("empty");
  return py::make_tuple(empty, py::make_tuple(py::type::handle_of(self)), state);
}

py::tuple recreate(py::handle self, const py::dict& arguments) {
  const py::object recreated = py::module_::import("datasparse._restore").attr("recreated");
  return py::make_tuple(recreated, py::make_tuple(py::type::handle_of(self), arguments));
}

py::dict attributes_of(py::handle self) {
  return py::dict(py::getattr(self, "__dict__", py::dict()));
}

void set_attributes(py::handle self, const py::dict& attributes) {
  if (attributes.empty()) return;
  self.attr("__dict__").attr("update")(attributes);
}

void require_room_for(py::handle self, const py::dict& attributes) {
  if (attributes.empty() || py::hasattr(self, "__dict__")) return;
  throw datasparse::ValueError("state_dict['attributes'] must be empty for a " + class_name(self) +
                               ", which has none of its own, got " +
                               std::string(py::repr(attributes)));
}

py::dict plain_attributes_of(py::handle self) {
  py::dict plain;
  for (const auto& item : attributes_of(self)) {
    const std::string name = py::str(item.first);
    if (name.front() == '_') continue;
    plain[item.first] = plain_copy(item.second, class_name(self) + "." + name);
  }
  return plain;
}
