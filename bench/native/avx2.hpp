// One line of the mask, 64 bytes, with AVX2, for float32: compare results are narrowed by packing.
#pragma once

#if defined(__AVX2__) && !defined(__AVX512F__)

#include <immintrin.h>

#include "portable.hpp"

namespace yardstick {

struct Avx2Line {
  __m256i low, high;
};

inline void store(std::uint8_t* target, const Avx2Line& mask) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), mask.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + 32), mask.high);
}
inline void stream(std::uint8_t* target, const Avx2Line& mask) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(target), mask.low);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(target + 32), mask.high);
}

inline __m256i load_keys(const float* data) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
  return _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
}

/// 32 bytes of 0 and 1 from four vectors of 0 and -1.
inline __m256i narrow(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_and_si256(_mm256_permutevar8x32_epi32(mixed, order), _mm256_set1_epi8(1));
}

inline __m256i half_of_elements(const float* data, std::int32_t threshold) {
  const __m256i t = _mm256_set1_epi32(threshold);
  return narrow(_mm256_cmpgt_epi32(load_keys(data), t), _mm256_cmpgt_epi32(load_keys(data + 8), t),
                _mm256_cmpgt_epi32(load_keys(data + 16), t),
                _mm256_cmpgt_epi32(load_keys(data + 24), t));
}
inline Avx2Line elements(const float* data, std::int32_t threshold) {
  return {half_of_elements(data, threshold), half_of_elements(data + 32, threshold)};
}

/// Block 2v + l of eight ends up in element v of the l-th 128 bits.
template <int rows>
inline __m256i half_of_blocks(const float* data, std::int64_t pitch, float threshold) {
  __m256 sum = _mm256_setzero_ps();
  for (int row = 0; row < rows; ++row, data += pitch) {
    __m256 v[4];
    for (int i = 0; i < 4; ++i) v[i] = _mm256_castsi256_ps(load_keys(data + 8 * i));
    const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
    const __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
    const __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    sum = _mm256_add_ps(sum, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low)));
    sum = _mm256_add_ps(sum, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low)));
    sum = _mm256_add_ps(sum, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high)));
    sum = _mm256_add_ps(sum, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high)));
  }
  const __m256 keep = _mm256_cmp_ps(sum, _mm256_set1_ps(threshold), _CMP_GT_OQ);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_and_si256(_mm256_permutevar8x32_epi32(_mm256_castps_si256(keep), order),
                          _mm256_set1_epi8(1));
}
template <int rows>
inline Avx2Line blocks(const float* data, std::int64_t pitch, float threshold) {
  return {half_of_blocks<rows>(data, pitch, threshold),
          half_of_blocks<rows>(data + 32, pitch, threshold)};
}

/// 0 or -1: whether two of an element's three neighbours come before it (see avx512.hpp).
inline __m256i largest_two(const float* data) {
  const __m256i bias1 = _mm256_setr_epi32(0, 0, 0, 1, 0, 0, 0, 1);
  const __m256i bias2 = _mm256_setr_epi32(0, 0, 1, 1, 0, 0, 1, 1);
  const __m256i bias3 = _mm256_setr_epi32(0, 1, 1, 1, 0, 1, 1, 1);
  const __m256i k = load_keys(data);
  const __m256i a = _mm256_sub_epi32(_mm256_sub_epi32(_mm256_shuffle_epi32(k, 0x39), bias1), k);
  const __m256i b = _mm256_sub_epi32(_mm256_sub_epi32(_mm256_shuffle_epi32(k, 0x4E), bias2), k);
  const __m256i c = _mm256_sub_epi32(_mm256_sub_epi32(_mm256_shuffle_epi32(k, 0x93), bias3), k);
  const __m256i two =
      _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(c, _mm256_or_si256(a, b)));
  return _mm256_srai_epi32(two, 31);
}
inline __m256i half_of_two_of_four(const float* data) {
  return narrow(largest_two(data), largest_two(data + 8), largest_two(data + 16),
                largest_two(data + 24));
}
inline Avx2Line two_of_four(const float* data) {
  return {half_of_two_of_four(data), half_of_two_of_four(data + 32)};
}

}  // namespace yardstick

#endif
