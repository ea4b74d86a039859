/// Bound classes that the garbage collector can see through.
#pragma once

#include <pybind11/pybind11.h>

/// Whether Python may create instances: views of other objects are handed out only.
enum class Created { by_anyone, by_us };

/// The T in a Python object that is known to hold one. Quick for objects of just that class.
template <class T>
T& held_by(PyObject* self) {
  static auto* const exact = reinterpret_cast<PyTypeObject*>(pybind11::type::handle_of<T>().ptr());
  if (Py_TYPE(self) != exact) return *pybind11::cast<T*>(pybind11::handle(self));
  auto* const instance = reinterpret_cast<pybind11::detail::instance*>(self);
  return *static_cast<T*>(instance->get_value_and_holder().value_ptr());
}

/// Class setup for pybind11: `Access` has `static int traverse(T&, visitproc, void*)` and
/// `static void clear(T&)` for what a T owns alone. Without it, a cycle through a C++ object leaks.
template <class T, class Access, Created created = Created::by_anyone>
pybind11::custom_type_setup collected() {
  return pybind11::custom_type_setup([](PyHeapTypeObject* heap_type) {
    PyTypeObject& type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    if (created == Created::by_us) type.tp_flags |= Py_TPFLAGS_DISALLOW_INSTANTIATION;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
      Py_VISIT(Py_TYPE(self));
      if (!pybind11::detail::is_holder_constructed(self)) return 0;
      return Access::traverse(held_by<T>(self), visit, arg);
    };
    type.tp_clear = [](PyObject* self) -> int {
      if (pybind11::detail::is_holder_constructed(self)) {
        Access::clear(*pybind11::cast<T*>(pybind11::handle(self)));
      }
      return 0;
    };
  });
}
