#include "gil.hpp"

#include <cxxabi.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace py = pybind11;

namespace {

using std::chrono::milliseconds;

// Set in the last moment in which Python still runs code of others.
std::atomic<bool> end_is_near{false};
std::atomic<std::thread::id> ending_thread{};
std::atomic<int> asking{0};

bool has_ended() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  const bool ends = Py_IsFinalizing() != 0;
#else
  const bool ends = _Py_IsFinalizing() != 0;
#endif
  return ends || Py_IsInitialized() == 0;
}

bool is_another_threads_end() noexcept {
  return end_is_near && ending_thread.load() != std::this_thread::get_id();
}

/// Those that ask already get the lock once more, and find the end when they ask again.
void prepare_for_end() {
  ending_thread = std::this_thread::get_id();
  end_is_near = true;
  const py::gil_scoped_release released;
  for (int waits = 0; asking > 0 && waits < 1000; ++waits) {
    std::this_thread::sleep_for(milliseconds(1));
  }
}

}  // namespace

AskingForGil::AskingForGil() noexcept {
  ++asking;  // first: then either this thread sees that the end is near, or the end sees it asking
  if (!is_another_threads_end()) return;
  --asking;
  // Not for ever: somebody may run at exit, too, and wait for this thread.
  for (int waits = 0; waits < 100; ++waits) {
    sleep_if_interpreter_ends();
    std::this_thread::sleep_for(milliseconds(1));
  }
  ++asking;
}

AskingForGil::~AskingForGil() { --asking; }

void sleep_if_interpreter_ends() noexcept {
  while (is_another_threads_end() && has_ended()) {
    std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

py::object call_python(py::handle callable, const py::tuple& args, const py::dict& kwargs) {
  PyObject* result = nullptr;
#if defined(__GLIBCXX__)
  try {
    result = PyObject_Call(callable.ptr(), args.ptr(), kwargs.ptr());
  } catch (const abi::__forced_unwind&) {
    sleep_if_interpreter_ends();
    throw;
  }
#else
  result = PyObject_Call(callable.ptr(), args.ptr(), kwargs.ptr());
#endif
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

void watch_interpreters_end() {
  py::module_::import("atexit").attr("register")(py::cpp_function(prepare_for_end));
  // The threads that asked are not there in the child of a fork.
  py::module_::import("os").attr("register_at_fork")(py::arg("after_in_child") =
                                                         py::cpp_function([] { asking = 0; }));
}
