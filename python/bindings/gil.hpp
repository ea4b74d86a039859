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

/// Calls `work`, which destroys what Python owns, with the interpreter's lock, from any thread.
/// After the interpreter's end, when nobody can have that lock any more, it is not called; while it
/// ends, the thread that ends it still has it.
template <class Work>
void let_go(const Work& work) {
  PyThreadState* const own = PyGILState_GetThisThreadState();
  const bool locked = own != nullptr && own == pybind11::detail::get_thread_state_unchecked();
  if (Py_IsInitialized() == 0 && !locked) return;
  const pybind11::gil_scoped_acquire gil;
  work();
}
