/// The interpreter's lock around calls of the core, also while the interpreter ends.
///
/// A thread that asks for the lock when the end has begun gets it no more: before Python 3.14,
/// CPython ends the thread by an exception that no destructor may let through, and the process is
/// aborted. Here such a thread sleeps instead, as it does from 3.14 on, until the process is gone.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <utility>

/// Exists while a thread asks for the lock, for which the end of the interpreter waits a little.
class AskingForGil {
 public:
  AskingForGil() noexcept;
  AskingForGil(const AskingForGil&) = delete;
  AskingForGil& operator=(const AskingForGil&) = delete;
  ~AskingForGil();
};

/// Sleeps for ever if the interpreter has begun to end, in another thread than this one.
void sleep_if_interpreter_ends() noexcept;

/// Calls what the user has written in Python. Where CPython ends the thread within it, the thread
/// sleeps here: on its way out it would release Python's objects without the lock.
pybind11::object call_python(pybind11::handle callable,
                             const pybind11::tuple& args = pybind11::tuple(),
                             const pybind11::dict& kwargs = pybind11::dict());

/// Sees to the interpreter's end; once, when the module is made.
void watch_interpreters_end();

/// The lock, from any thread, whether it has it already or not.
class AcquiredGil {
 public:
  AcquiredGil() {
    sleep_if_interpreter_ends();  // after the end, PyGILState_Check() says that all have the lock
    std::optional<AskingForGil> asking;
    if (PyGILState_Check() == 0) asking.emplace();
    gil_.emplace();
  }
  AcquiredGil(const AcquiredGil&) = delete;
  AcquiredGil& operator=(const AcquiredGil&) = delete;
  /// CPython may be ending the thread.
  ~AcquiredGil() { sleep_if_interpreter_ends(); }

 private:
  std::optional<pybind11::gil_scoped_acquire> gil_;
};

/// No lock, from a thread that has it.
class ReleasedGil {
 public:
  ReleasedGil() = default;
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;
  ~ReleasedGil() {
    const AskingForGil asking;
    released_.reset();
  }

 private:
  std::optional<pybind11::gil_scoped_release> released_{std::in_place};
};

/// Calls the core without the interpreter's lock. Every call that takes a sparsifier's lock goes
/// through here: waiting for that one while holding this one would deadlock with an override.
template <class Work>
decltype(auto) without_gil(Work&& work) {
  const ReleasedGil released;
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
  const AcquiredGil gil;
  work();
}
