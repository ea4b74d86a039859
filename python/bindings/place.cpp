#include "place.hpp"

namespace py = pybind11;

namespace {

/// An entry of one of a module's registries, or null; both are borrowed from the module.
PyObject* entry_of(PyObject* module, PyObject* registry, PyObject* name) {
  const auto attributes =
      py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module, nullptr));
  if (!attributes) {
    PyErr_Clear();  // no module at all: it may be None, where the model is gone
    return nullptr;
  }
  PyObject* const entries = PyDict_GetItemWithError(attributes.ptr(), registry);
  if (entries == nullptr || !PyDict_Check(entries)) return nullptr;
  return PyDict_GetItemWithError(entries, name);
}

}  // namespace

py::object Place::where_it_was(const py::object& place) {
  static PyObject* const modules = PyUnicode_InternFromString("_modules");
  static PyObject* const parameters = PyUnicode_InternFromString("_parameters");
  if (!trail_) {
    trail_ = py::getattr(place, "trail", py::tuple());
    known_ = py::object(py::getattr(place, "known", py::none())).ptr();
  }
  if (known_ == nullptr) return {};
  PyObject* const trail = trail_.ptr();
  if (PyTuple_GET_SIZE(trail) < 2) return {};
  const auto root =
      py::reinterpret_steal<py::object>(PyObject_CallNoArgs(PyTuple_GET_ITEM(trail, 0)));
  if (!root) throw py::error_already_set();
  for (Py_ssize_t owner = 1; owner < PyTuple_GET_SIZE(trail); ++owner) {
    PyObject* const path = PyTuple_GET_ITEM(trail, owner);
    const Py_ssize_t last = PyTuple_GET_SIZE(path) - 1;
    PyObject* module = root.ptr();
    for (Py_ssize_t i = 0; i < last && module != nullptr; ++i) {
      module = entry_of(module, modules, PyTuple_GET_ITEM(path, i));
    }
    if (module == nullptr) return {};
    if (entry_of(module, parameters, PyTuple_GET_ITEM(path, last)) != known_) return {};
  }
  return py::reinterpret_borrow<py::object>(known_);
}

py::object Place::ask(const py::object& place, const char* method) {
  py::object found = place.attr(method)();
  known_ = found.ptr();
  if (!where_it_was(place)) known_ = nullptr;  // it is computed, or of another model
  return found;
}
