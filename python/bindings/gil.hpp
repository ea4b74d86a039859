/// The interpreter's lock around calls of the core.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>

/// Calls the core without the interpreter's lock. Every call that takes a sparsifier's lock goes
/// through here: waiting for that one while holding this one would deadlock with an override.
template <class Work>
decltype(auto) without_gil(Work&& work) {
  const pybind11::gil_scoped_release release;
  return std::forward<Work>(work)();
}
