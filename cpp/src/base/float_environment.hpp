/// The floating-point environment in which masks are computed.
#pragma once

#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <cstdint>
#endif

namespace datasparse {

/// For the length of a scope: round to nearest, denormals are numbers, no traps. The setting is per
/// thread, so every worker needs one: torch.set_flush_denormal(True), say, reaches only the threads
/// that start later, and masks would depend on their number.
class DefaultFloatEnvironment {
 public:
#if defined(__SSE2__) || defined(_M_X64)
  DefaultFloatEnvironment() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  DefaultFloatEnvironment() noexcept : saved_(read()) { write(0); }
  ~DefaultFloatEnvironment() { write(saved_); }
#else
#error "datasparse does not know how to keep denormals on this processor"
#endif
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
#if defined(__SSE2__) || defined(_M_X64)
  unsigned saved_;
#elif defined(__aarch64__)
  static std::uint64_t read() noexcept {
    std::uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
  }
  static void write(std::uint64_t fpcr) noexcept { __asm__ volatile("msr fpcr, %0" ::"r"(fpcr)); }
  std::uint64_t saved_;
#endif
};

}  // namespace datasparse
