// One line of the mask, 64 bytes, in plain C++: what the compiler makes of it for the machine it is
// built on. The vector versions beside it overload these functions where they do better.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace yardstick {

constexpr int line = 64;

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

template <class T>
using Key = std::conditional_t<sizeof(T) == 8, std::int64_t,
                               std::conditional_t<sizeof(T) == 4, std::int32_t, std::int16_t>>;

/// The bits without the sign: they order as |x| does, NaN above everything.
template <class T>
inline Key<T> key_of(T value) {
  Key<T> key;
  std::memcpy(&key, &value, sizeof key);
  return static_cast<Key<T>>(key &
                             static_cast<Key<T>>(~(std::uint64_t{1} << (8 * sizeof key - 1))));
}

inline double magnitude(double value) { return __builtin_fabs(value); }
inline float magnitude(float value) { return __builtin_fabsf(value); }
inline float magnitude(BFloat value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits & 0x7FFF) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline float magnitude(Half value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits & 0x7FFF) << 13;
  const bool finite = (value.bits & 0x7C00) != 0x7C00;
  const std::uint32_t in_place = finite ? bits : bits | 0x7F800000;
  float result;
  std::memcpy(&result, &in_place, sizeof result);
  return finite ? result * 0x1p112F : result;  // the difference of the two exponents' biases
}

/// What a block is compared by, and in which type: float64 for float64, else float32.
template <class T>
using Sum = decltype(magnitude(T{}));

struct PlainLine {
  alignas(line) std::uint8_t bytes[line];
};

template <class T>
inline PlainLine elements(const T* data, Key<T> threshold) {
  PlainLine mask;
  for (int i = 0; i < line; ++i) mask.bytes[i] = key_of(data[i]) > threshold ? 1 : 0;
  return mask;
}

/// `rows` rows of 16 blocks of 4 columns, summed one after another in row-major order. All rows of
/// the mask are alike. `threshold` is of the sum.
template <int rows, class T>
inline PlainLine blocks(const T* data, std::int64_t pitch, Sum<T> threshold) {
  PlainLine mask;
  for (int block = 0; block < line / 4; ++block) {
    Sum<T> sum = 0;
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < 4; ++i) sum += magnitude(data[row * pitch + 4 * block + i]);
    }
    std::memset(mask.bytes + 4 * block, sum > threshold ? 1 : 0, 4);
  }
  return mask;
}

/// The two largest of every four stay; of equals, the later.
template <class T>
inline PlainLine two_of_four(const T* data) {
  PlainLine mask;
  for (int i = 0; i < line; i += 4) {
    const Key<T> k[4] = {key_of(data[i]), key_of(data[i + 1]), key_of(data[i + 2]),
                         key_of(data[i + 3])};
    for (int a = 0; a < 4; ++a) {
      int before = 0;
      for (int b = 0; b < 4; ++b) before += b < a ? k[b] <= k[a] : k[b] < k[a];
      mask.bytes[i + a] = before >= 2 ? 1 : 0;
    }
  }
  return mask;
}

inline void store(std::uint8_t* target, const PlainLine& mask) {
  std::memcpy(target, mask.bytes, line);
}

#if !defined(__SSE2__)
inline void stream(std::uint8_t* target, const PlainLine& mask) { store(target, mask); }
inline void finish_streams() {}
#else
}  // namespace yardstick
#include <emmintrin.h>
namespace yardstick {
inline void stream(std::uint8_t* target, const PlainLine& mask) {
  for (int i = 0; i < line; i += 16) {
    const __m128i part = _mm_load_si128(reinterpret_cast<const __m128i*>(mask.bytes + i));
    _mm_stream_si128(reinterpret_cast<__m128i*>(target + i), part);
  }
}
inline void finish_streams() { _mm_sfence(); }
#endif

}  // namespace yardstick
