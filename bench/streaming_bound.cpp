// The yardstick of the benchmarks: what a mask costs at least.
//
// Two loops read every element once and write one mask byte per element, with the threshold already
// known: one with ordinary stores, one with stores that go past the cache. The better one is the
// bound. A plain copy stands beside it, so that a slow bound shows. Built by bound.py, used through
// ctypes.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

// 64 elements to 64 mask bytes. The compiler vectorises it for the machine it is built on.
inline void compare(std::uint8_t* mask, const float* data, float threshold) {
  for (int i = 0; i < 64; ++i) mask[i] = __builtin_fabsf(data[i]) > threshold ? 1 : 0;
}

inline void store_past_cache(std::uint8_t* mask, const std::uint8_t* block) {
  for (int i = 0; i < 64; i += 16) {
    const __m128i part = _mm_load_si128(reinterpret_cast<const __m128i*>(block + i));
    _mm_stream_si128(reinterpret_cast<__m128i*>(mask + i), part);
  }
}

}  // namespace

// n is a multiple of 64, mask aligned to 64 bytes.
extern "C" void bound_ordinary(std::uint8_t* mask, const float* data, std::int64_t n,
                               float threshold, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < n; i += 64) compare(mask + i, data + i, threshold);
}

extern "C" void bound_streaming(std::uint8_t* mask, const float* data, std::int64_t n,
                                float threshold, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < n; i += 64) {
    alignas(64) std::uint8_t block[64];
    _mm_prefetch(reinterpret_cast<const char*>(data + i) + 8192, _MM_HINT_NTA);
    compare(block, data + i, threshold);
    store_past_cache(mask + i, block);
  }
}

extern "C" void copy(std::uint8_t* target, const std::uint8_t* source, std::int64_t n,
                     int threads) {
  constexpr std::int64_t chunk = 1 << 20;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < n; i += chunk) {
    const std::int64_t rest = n - i < chunk ? n - i : chunk;
    std::memcpy(target + i, source + i, static_cast<std::size_t>(rest));
  }
}
