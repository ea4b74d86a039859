/// The library's threads. Only this file and runtime.cpp know OpenMP.
#pragma once

#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "base/float_environment.hpp"
#include "select/limits.hpp"

namespace datasparse {

/// The limit that set_num_threads() has set; 0 for none.
int thread_limit() noexcept;

/// Threads that a parallel_for of the calling thread may use: 1 inside a parallel region.
inline int available_threads() noexcept {
#if defined(_OPENMP)
  if (omp_in_parallel()) return 1;
  const int limit = thread_limit();
  const int threads = omp_get_max_threads();
  return limit > 0 && limit < threads ? limit : threads;
#else
  return 1;
#endif
}

/// Installs, once per process, the hook that lets a forked child open parallel regions: libgomp's
/// idle workers do not survive a fork, and the child would wait for them for ever.
void make_fork_safe() noexcept;

/// Calls body(i, worker) for every i in [0, n), 0 <= worker < threads, in the default
/// floating-point environment. The body must not throw, and must not call back into an interpreter.
template <class Body>
void parallel_for(std::int64_t n, int threads, const Body& body) noexcept {
  if (n <= 0) return;
  if (threads > n) threads = static_cast<int>(n);
#if defined(_OPENMP)
  if (threads > 1) {
    make_fork_safe();
#pragma omp parallel num_threads(threads)
    {
      const DefaultFloatEnvironment environment;
      const int worker = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
      for (std::int64_t i = 0; i < n; ++i) body(i, worker);
    }
    return;
  }
#endif
  const DefaultFloatEnvironment environment;
  for (std::int64_t i = 0; i < n; ++i) body(i, 0);
}

}  // namespace datasparse
