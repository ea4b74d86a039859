/// Python's __init__ in two parts.
#pragma once

#include <pybind11/pybind11.h>

#include "datasparse/error.hpp"
#include "self.hpp"

/// Binds a method under `name` without what pybind11 reads into the names __init__ and
/// __setstate__.
///
/// For __init__: py::init has bound the making of the C++ object, which the caller has kept as
/// `construct`; `function` calls construct(self, ...), and goes on when the overrides of a Python
/// subclass can be reached.
template <class Class, class Function, class... Extra>
void def_plainly(Class& cls, const char* name, const Function& function, const Extra&... extra) {
  cls.attr(name) = pybind11::cpp_function(function, pybind11::is_method(cls), extra...);
}

/// A second __init__ would build a second object over the first.
inline void refuse_second_init(const pybind11::object& self) {
  if (pybind11::detail::is_holder_constructed(self.ptr())) {
    throw datasparse::StateError("__init__() of this " + class_name(self) + " was called twice");
  }
}
