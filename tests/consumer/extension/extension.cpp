// A trainer in C++: threads that Python knows nothing of step what Python has made and overridden.

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "datasparse/datasparse.hpp"

namespace {

using namespace datasparse;

/// Steps both, `times` times in each of `threads` threads; the first exception is thrown on.
void step_in_threads(const std::shared_ptr<BaseDataSparsifier>& sparsifier,
                     const std::shared_ptr<BaseDataScheduler>& scheduler, int threads, int times) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(threads));
  std::vector<std::thread> trainers;
  for (auto& error : errors) {
    trainers.emplace_back([&] {
      try {
        for (int i = 0; i < times; ++i) {
          sparsifier->step();
          scheduler->step();
        }
      } catch (...) {
        error = std::current_exception();
      }
    });
  }
  for (auto& trainer : trainers) trainer.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace

PYBIND11_MODULE(extension, module) {
  module.def("step_in_threads", &step_in_threads,
             pybind11::call_guard<pybind11::gil_scoped_release>());
}
