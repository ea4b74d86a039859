/// Overrides of virtual methods in Python.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

/// The method of that name if Python has overridden it, else an empty function. pybind11's own
/// look-up remembers classes without an override, and so misses one that is set on the class later,
/// as mock.patch does.
inline pybind11::function override_of(const pybind11::object& self, const char* method) {
  const pybind11::object found = pybind11::getattr(self, method);
  if (!pybind11::isinstance<pybind11::function>(found)) return {};
  const auto function = pybind11::reinterpret_borrow<pybind11::function>(found);
  return function.is_cpp_function() ? pybind11::function() : function;
}

/// What `work` returns. An exception of Python's that leaves it gets a note that says where: from
/// Python 3.11 on, which prints notes with tracebacks (PEP 678).
template <class Work>
auto noting(const std::string& where, const Work& work) {
  try {
    return work();
  } catch (const pybind11::error_already_set& error) {
    if (pybind11::hasattr(error.value(), "add_note")) error.value().attr("add_note")(where);
    throw;
  }
}
