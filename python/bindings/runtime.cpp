#include "datasparse/runtime.hpp"

#include <pybind11/stl.h>

#include "gil.hpp"

namespace py = pybind11;

namespace {

/// Warnings become Python's, at the line that called into the library; the rest is printed.
void handle_message(datasparse::Severity severity, const std::string& text) {
  if (Py_IsInitialized() == 0) return;
  const AcquiredGil gil;
  if (severity == datasparse::Severity::warning) {
    if (PyErr_WarnEx(PyExc_UserWarning, text.c_str(), 1) != 0) throw py::error_already_set();
  } else {
    py::print(text);
  }
}

py::dict runtime_info() {
  py::dict info;
  info["version"] = datasparse::version();
  info["instruction set"] = datasparse::instruction_set();
  info["instruction sets available"] =
      py::str(", ").attr("join")(py::cast(datasparse::instruction_sets_available()));
  info["threads"] = datasparse::get_num_threads();
  info["openmp"] = datasparse::openmp_runtime();
  return info;
}

}  // namespace

void register_runtime(py::module_& module) {
  datasparse::set_message_handler(handle_message);
  module.attr("__version__") = datasparse::version();
  module.def("set_num_threads", &datasparse::set_num_threads, py::arg("threads"),
             "Limit the threads of a step; the effective number is the least of this, "
             "OMP_NUM_THREADS and\n"
             "what omp_set_num_threads (torch.set_num_threads) has set for the calling thread.\n\n"
             "threads: at least 0; 0 removes the limit. ValueError if negative.");
  module.def("get_num_threads", &datasparse::get_num_threads,
             "The number of threads that a large step called from here would use; at least 1.");
  module.def("runtime_info", &runtime_info,
             "What runs: a dict of version, instruction set, those available, threads and OpenMP "
             "version.");
}
