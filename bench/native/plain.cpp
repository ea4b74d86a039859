// Loops that stand beside the yardstick: a copy and reads alone, which show in GB/s what the memory
// gives, and the least that applying and counting a mask can cost. Plain C++ that compilers
// vectorise.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "avx2.hpp"
#include "avx512.hpp"
#include "portable.hpp"

using namespace yardstick;

namespace {

#if defined(__AVX512F__)
void stream_line(std::uint8_t* target, const std::uint8_t* source) {
  stream(target, _mm512_loadu_si512(source));
}
#elif defined(__AVX2__)
void stream_line(std::uint8_t* target, const std::uint8_t* source) {
  const auto load = [](const std::uint8_t* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  };
  stream(target, Avx2Line{load(source), load(source + 32)});
}
#else
void stream_line(std::uint8_t* target, const std::uint8_t* source) {
  PlainLine bytes;
  std::memcpy(bytes.bytes, source, line);
  stream(target, bytes);
}
#endif

template <class T>
void zero_masked(T* data, const std::uint8_t* mask, std::int64_t n, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads) if (threads > 1)
  for (std::int64_t i = 0; i < n; ++i) {
    data[i] = static_cast<T>(data[i] & static_cast<T>(-static_cast<T>(mask[i])));
  }
}

}  // namespace

/// `bytes` is a multiple of 64, the target aligned to it.
extern "C" void plain_copy(std::uint8_t* target, const std::uint8_t* source, std::int64_t bytes,
                           int streaming, int threads, int repeats) {
  for (int r = 0; r < repeats; ++r) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < bytes; i += line) {
      if (streaming != 0) {
        __builtin_prefetch(source + i + 8192, 0, 0);
        stream_line(target + i, source + i);
      } else {
        std::memcpy(target + i, source + i, line);
      }
    }
    if (streaming != 0) finish_streams();
  }
}

/// Reads alone: the sum of all bytes, taken as 64-bit integers.
extern "C" std::uint64_t plain_read(const std::uint8_t* source, std::int64_t bytes, int threads,
                                    int repeats) {
  std::uint64_t total = 0;
  for (int r = 0; r < repeats; ++r) {
    const auto* const words = reinterpret_cast<const std::uint64_t*>(source);
#pragma omp parallel for simd schedule(static) num_threads(threads) if (threads > 1) \
    reduction(+ : total)
    for (std::int64_t i = 0; i < bytes / 8; ++i) total += words[i];
  }
  return total;
}

/// Zeroes the elements of `width` bytes whose mask byte is 0; the others are 1.
extern "C" void plain_apply(void* data, const std::uint8_t* mask, std::int64_t n, int width,
                            int threads, int repeats) {
  for (int r = 0; r < repeats; ++r) {
    switch (width) {
      case 2: zero_masked(static_cast<std::uint16_t*>(data), mask, n, threads); break;
      case 4: zero_masked(static_cast<std::uint32_t*>(data), mask, n, threads); break;
      default: zero_masked(static_cast<std::uint64_t*>(data), mask, n, threads); break;
    }
  }
}

/// The ones of a mask of n bytes, a multiple of 64.
extern "C" std::int64_t plain_count(const std::uint8_t* mask, std::int64_t n, int threads,
                                    int repeats) {
  std::int64_t total = 0;
  for (int r = 0; r < repeats; ++r) {
    constexpr std::int64_t chunk = 255 * line;  // as much as a sum in a byte can hold
    total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1) reduction(+ : total)
    for (std::int64_t begin = 0; begin < n; begin += chunk) {
      const std::int64_t end = std::min(n, begin + chunk);
      std::uint8_t sums[line] = {};
      for (std::int64_t i = begin; i < end; i += line) {
        for (int lane = 0; lane < line; ++lane) {
          sums[lane] = static_cast<std::uint8_t>(sums[lane] + mask[i + lane]);
        }
      }
      for (const std::uint8_t sum : sums) total += sum;
    }
  }
  return total;
}
