/// Bound classes that the garbage collector can see through.
#pragma once

#include <pybind11/pybind11.h>

/// Whether Python may create instances: views of other objects are handed out only.
enum class Created { by_anyone, by_us };

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
      // A collection passes by every object that is young: what cast<T*>() looks up, it knows.
      static auto* const exact =
          reinterpret_cast<PyTypeObject*>(pybind11::type::handle_of<T>().ptr());
      T* const held = Py_TYPE(self) == exact
                          ? static_cast<T*>(reinterpret_cast<pybind11::detail::instance*>(self)
                                                ->get_value_and_holder()
                                                .value_ptr())
                          : pybind11::cast<T*>(pybind11::handle(self));
      return Access::traverse(*held, visit, arg);
    };
    type.tp_clear = [](PyObject* self) -> int {
      if (pybind11::detail::is_holder_constructed(self)) {
        Access::clear(*pybind11::cast<T*>(pybind11::handle(self)));
      }
      return 0;
    };
  });
}
