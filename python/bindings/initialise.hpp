/// Python's __init__ in two parts.
#pragma once

#include <pybind11/pybind11.h>

#include "datasparse/error.hpp"
#include "self.hpp"

/// Replaces the __init__ that py::init has bound: `make(construct)` returns the function to bind,
/// which calls construct(self, ...) to build the C++ object and goes on afterwards, when the
/// overrides of a Python subclass can be reached.
template <class Class, class Make, class... Extra>
void def_initialise(Class& cls, const Make& make, const Extra&... extra) {
  const pybind11::object construct = cls.attr("__init__");
  cls.attr("__init__") =
      pybind11::cpp_function(make(construct), pybind11::is_method(cls), extra...);
}

/// A second __init__ would build a second object over the first.
inline void refuse_second_init(const pybind11::object& self) {
  if (pybind11::detail::is_holder_constructed(self.ptr())) {
    throw datasparse::StateError("__init__() of this " + class_name(self) + " was called twice");
  }
}
