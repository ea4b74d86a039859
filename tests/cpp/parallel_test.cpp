#include "base/parallel.hpp"

#include <atomic>
#include <cfenv>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "support.hpp"

namespace datasparse {
namespace {

TEST(ParallelFor, VisitsEveryIndexOnceWithAWorkerBelowTheLimit) {
  for (const int threads : {1, 2, 3, 8}) {
    const Threads scope(threads);
    for (const std::int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
      std::atomic<bool> in_range{true};
      parallel_for(n, threads, [&](std::int64_t i, int worker) {
        ++visits[static_cast<std::size_t>(i)];
        if (worker < 0 || worker >= threads) in_range = false;
      });
      EXPECT_TRUE(in_range);
      EXPECT_TRUE(std::all_of(visits.begin(), visits.end(), [](const auto& v) { return v == 1; }));
    }
  }
}

TEST(ParallelFor, OfNothingCallsNothing) {
  parallel_for(-1, 4, [](std::int64_t, int) { ADD_FAILURE(); });
  parallel_for(0, 4, [](std::int64_t, int) { ADD_FAILURE(); });
}

TEST(ParallelFor, IsSerialWithinAParallelRegion) {
  const Threads scope(2);
  std::atomic<bool> always_one{true};
  parallel_for(8, 2, [&](std::int64_t, int) {
    if (available_threads() != 1) always_one = false;
  });
#if defined(_OPENMP)
  EXPECT_TRUE(always_one);
#endif
}

TEST(ParallelFor, RunsInTheDefaultRoundingModeAndKeepsTheCallers) {
  for (const int threads : {1, 4}) {
    const Threads scope(threads);
    std::atomic<bool> nearest{true};
    std::fesetround(FE_DOWNWARD);
    parallel_for(100, threads, [&](std::int64_t, int) {
      volatile float third = 1;
      third = third / 3;
      if (third != 1.0F / 3) nearest = false;
    });
    const int after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    EXPECT_TRUE(nearest);
    EXPECT_EQ(after, FE_DOWNWARD);
  }
}

#if defined(__SSE2__) && defined(_OPENMP)
/// Sets the control word of the calling thread's workers, itself included; returns theirs before.
std::vector<unsigned> exchange_in_workers(int threads, unsigned control) {
  std::vector<unsigned> before(static_cast<std::size_t>(threads));
#pragma omp parallel num_threads(threads)
  {
    before[static_cast<std::size_t>(omp_get_thread_num())] = _mm_getcsr();
    _mm_setcsr(control);
  }
  return before;
}

// A worker may have been left with settings of its own, by another library.
TEST(ParallelFor, RunsInTheDefaultEnvironmentInEveryWorkerAndKeepsTheirs) {
  constexpr int threads = 4;
  constexpr unsigned usual = 0x1F80, flushing = usual | 0x8040;
  const Threads scope(threads);
  exchange_in_workers(threads, flushing);
  std::atomic<int> flushed{0};
  parallel_for(1000, threads, [&](std::int64_t, int) {
    if ((_mm_getcsr() & 0x8040) != 0) ++flushed;
  });
  const auto after = exchange_in_workers(threads, usual);
  EXPECT_EQ(flushed, 0);
  EXPECT_EQ(after, std::vector<unsigned>(threads, flushing));
}
#endif

}  // namespace
}  // namespace datasparse
