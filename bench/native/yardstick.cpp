// The yardstick of the benchmarks: what a mask costs at least.
//
// Loops that read every element once and write one mask byte per element, with the threshold
// already known: with ordinary stores, and in three ways with stores that go past the cache. The
// best one is the bound that everything else is divided by. Compiled for the machine it runs on by
// build.py, used through ctypes by yardstick.py.

#include <cstddef>
#include <cstdint>

#include "avx2.hpp"
#include "avx512.hpp"
#include "portable.hpp"

using namespace yardstick;

namespace {

// As yardstick.py numbers them.
enum class Type : std::int32_t { float16, bfloat16, float32, float64 };
enum class Rule : std::int32_t { elements, blocks_1x4, blocks_4x4, two_of_four };
// Four places at a time: the processor's own prefetchers then follow four streams at once, which
// lets a single thread read as fast as if it wrote nothing.
enum class Loop : std::int32_t { ordinary, streaming, streaming_prefetched, streaming_four_places };

struct Job {
  std::uint8_t* mask;  // rows x columns, in C order, aligned to 64 bytes
  const void* data;
  std::int64_t rows, columns;              // columns: a multiple of 64 (transposed: rows, too)
  std::int64_t row_stride, column_stride;  // in elements; what lies between them may be read
  std::int64_t key;                        // keep what lies above: |x| as its bits,
  double sum;                              // or the sum of |x| over a block
  Type type;
  Rule rule;
  Loop loop;
  std::int32_t threads, repeats;
};

/// How far ahead of the loads memory is asked for.
constexpr std::int64_t ahead = 8192;

template <Loop loop>
struct Target {
  static constexpr bool four_places = loop == Loop::streaming_four_places;

  template <class Line>
  static void put(std::uint8_t* target, const Line& mask) {
    if constexpr (loop == Loop::ordinary) {
      store(target, mask);
    } else {
      stream(target, mask);
    }
  }
  /// As many bytes as a line of the mask is made of.
  template <class T>
  static void prefetch(const T* data, std::int64_t bytes) {
    if constexpr (loop == Loop::streaming_prefetched) {
      for (std::size_t i = 0; i < line * sizeof(T); i += line) {
        __builtin_prefetch(reinterpret_cast<const char*>(data) + bytes + i, 0, 0);
      }
    }
  }
};

/// Calls work(i) for all i, on as many threads.
template <class Work>
void each(std::int64_t n, int threads, const Work& work) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < n; ++i) work(i);
    finish_streams();
  }
}

/// The same, each thread going through the four quarters of its share side by side.
template <class Work>
void each_in_four_places(std::int64_t n, int threads, const Work& work) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    const std::int64_t begin = n * thread / threads, end = n * (thread + 1) / threads;
    const std::int64_t quarter = (end - begin) / 4;
    for (std::int64_t i = begin; i < begin + quarter; ++i) {
      for (int place = 0; place < 4; ++place) work(i + place * quarter);
    }
    for (std::int64_t i = begin + 4 * quarter; i < end; ++i) work(i);
    finish_streams();
  }
}

/// Rows of neighbours: `make(data, pitch)` is the mask of 64 columns of `height` rows.
template <int height, class To, class T, class Make>
void along_rows(const Job& job, const T* data, To, const Make& make) {
  if (height == 1 && job.row_stride == job.columns) {  // all one row
    const std::int64_t lines = job.rows * job.columns / line;
    const auto work = [&](std::int64_t i) {
      To::prefetch(data + i * line, ahead);
      To::put(job.mask + i * line, make(data + i * line, 0));
    };
    if constexpr (To::four_places) {
      each_in_four_places(lines, job.threads, work);
    } else {
      each(lines, job.threads, work);
    }
    return;
  }
  each(job.rows / height, job.threads, [&](std::int64_t band) {
    const T* const source = data + band * height * job.row_stride;
    std::uint8_t* const target = job.mask + band * height * job.columns;
    for (std::int64_t column = 0; column < job.columns; column += line) {
      for (int row = 0; row < height; ++row) {
        To::prefetch(source + row * job.row_stride + column, ahead / height);
      }
      const auto mask = make(source + column, job.row_stride);
      for (int row = 0; row < height; ++row) To::put(target + row * job.columns + column, mask);
    }
  });
}

#if defined(__AVX512BW__) && defined(__BMI2__)

/// The 64 x 64 bits of `rows` the other way round, by exchanging ever smaller squares.
inline void transpose(std::uint64_t rows[line]) {
  std::uint64_t low = 0x00000000FFFFFFFF;
  for (int half = 32; half > 0; half /= 2, low ^= low << half) {
    for (int i = 0; i < line; i = ((i | half) + 1) & ~half) {
      const std::uint64_t difference = (rows[i] >> half ^ rows[i | half]) & low;
      rows[i] ^= difference << half;
      rows[i | half] ^= difference;
    }
  }
}

/// Columns of neighbours: 64 of them at a time become 64 bits each, and 64 rows of the mask.
template <class To, class T>
void along_columns(const Job& job, const T* data, To) {
  const auto key = static_cast<Key<T>>(job.key);
  const std::int64_t tiles = job.columns / line;
  each(tiles, job.threads, [&](std::int64_t tile) {
    const T* const source = data + tile * line * job.column_stride;
    for (std::int64_t row = 0; row < job.rows; row += line) {
      std::uint64_t bits[line];
      for (int i = 0; i < line; ++i) {
        const T* const column = source + i * job.column_stride + row;
        To::prefetch(column, line * sizeof(T));
        bits[i] = above(column, key);
      }
      transpose(bits);
      std::uint8_t* const target = job.mask + row * job.columns + tile * line;
      for (int i = 0; i < line; ++i) To::put(target + i * job.columns, bytes_of(bits[i]));
    }
  });
}

/// Every other element of a row: all are compared, and the odd ones' bits taken out.
template <class To, class T>
void every_other(const Job& job, const T* data, To) {
  const auto key = static_cast<Key<T>>(job.key);
  const auto make = [&](const T* source) {
    constexpr std::uint64_t even = 0x5555555555555555;
    return bytes_of(_pext_u64(above(source, key), even) | _pext_u64(above(source + line, key), even)
                                                              << 32);
  };
  each(job.rows, job.threads, [&](std::int64_t row) {
    const T* const source = data + row * job.row_stride;
    std::uint8_t* const target = job.mask + row * job.columns;
    for (std::int64_t column = 0; column < job.columns; column += line) {
      To::prefetch(source + 2 * column, ahead);
      To::prefetch(source + 2 * column + line, ahead);
      To::put(target + column, make(source + 2 * column));
    }
  });
}

constexpr bool has_strided_loops = true;

#else

template <class To, class T>
void along_columns(const Job&, const T*, To) {}
template <class To, class T>
void every_other(const Job&, const T*, To) {}
constexpr bool has_strided_loops = false;

#endif

/// Any strides, one element after another.
template <class T>
void element_by_element(const Job& job, const T* data) {
  const auto key = static_cast<Key<T>>(job.key);
  each(job.rows, job.threads, [&](std::int64_t row) {
    const T* const source = data + row * job.row_stride;
    std::uint8_t* const target = job.mask + row * job.columns;
    for (std::int64_t column = 0; column < job.columns; ++column) {
      target[column] = key_of(source[column * job.column_stride]) > key;
    }
  });
}

template <class To, class T>
bool mask_once(const Job& job, const T* data, To to) {
  const auto key = static_cast<Key<T>>(job.key);
  const auto sum = static_cast<Sum<T>>(job.sum);
  if (job.column_stride != 1) {
    if (job.rule != Rule::elements) return false;
    if (has_strided_loops && job.row_stride == 1 && job.rows % line == 0) {
      along_columns(job, data, to);
    } else if (has_strided_loops && job.column_stride == 2) {
      every_other(job, data, to);
    } else {
      element_by_element(job, data);
    }
    return true;
  }
  switch (job.rule) {
    case Rule::elements:
      along_rows<1>(job, data, to, [=](const T* d, std::int64_t) { return elements(d, key); });
      return true;
    case Rule::blocks_1x4:
      along_rows<1>(job, data, to,
                    [=](const T* d, std::int64_t pitch) { return blocks<1>(d, pitch, sum); });
      return true;
    case Rule::blocks_4x4:
      if (job.rows % 4 != 0) return false;
      along_rows<4>(job, data, to,
                    [=](const T* d, std::int64_t pitch) { return blocks<4>(d, pitch, sum); });
      return true;
    case Rule::two_of_four:
      along_rows<1>(job, data, to, [](const T* d, std::int64_t) { return two_of_four(d); });
      return true;
  }
  return false;
}

template <Loop loop, class T>
bool mask_repeatedly(const Job& job) {
  for (int i = 0; i < job.repeats; ++i) {
    if (!mask_once(job, static_cast<const T*>(job.data), Target<loop>{})) return false;
  }
  return true;
}

template <class T>
bool mask_by_loop(const Job& job) {
  switch (job.loop) {
    case Loop::ordinary: return mask_repeatedly<Loop::ordinary, T>(job);
    case Loop::streaming: return mask_repeatedly<Loop::streaming, T>(job);
    case Loop::streaming_prefetched: return mask_repeatedly<Loop::streaming_prefetched, T>(job);
    case Loop::streaming_four_places: return mask_repeatedly<Loop::streaming_four_places, T>(job);
  }
  return false;
}

}  // namespace

/// False for a job that no loop is written for; nothing is done then.
extern "C" bool yardstick_mask(const Job* job) {
  if (job->columns % line != 0) return false;
  switch (job->type) {
    case Type::float16: return mask_by_loop<Half>(*job);
    case Type::bfloat16: return mask_by_loop<BFloat>(*job);
    case Type::float32: return mask_by_loop<float>(*job);
    case Type::float64: return mask_by_loop<double>(*job);
  }
  return false;
}

extern "C" const char* yardstick_isa() {
#if defined(__AVX512BW__)
  return "avx512";
#elif defined(__AVX2__)
  return "avx2";
#else
  return "portable";
#endif
}
