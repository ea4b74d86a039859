// One line of the mask, 64 bytes, with AVX-512: compare masks become bytes in one instruction.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

#include "portable.hpp"

namespace yardstick {

inline void store(std::uint8_t* target, __m512i mask) { _mm512_storeu_si512(target, mask); }
inline void stream(std::uint8_t* target, __m512i mask) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(target), mask);
}

inline __m512i bytes_of(std::uint64_t bits) { return _mm512_maskz_set1_epi8(bits, 1); }

// --- elements ----------------------------------------------------------------------------------

inline __m512i load_keys32(const void* data) {
  return _mm512_and_si512(_mm512_loadu_si512(data), _mm512_set1_epi32(0x7FFFFFFF));
}
inline __m512i load_keys64(const void* data) {
  return _mm512_and_si512(_mm512_loadu_si512(data), _mm512_set1_epi64(INT64_MAX));
}
inline __m512i load_keys16(const void* data) {
  return _mm512_and_si512(_mm512_loadu_si512(data), _mm512_set1_epi16(0x7FFF));
}

/// 64 elements' compare bits.
inline std::uint64_t above(const float* data, std::int32_t threshold) {
  const __m512i t = _mm512_set1_epi32(threshold);
  std::uint64_t part[4];
  for (int i = 0; i < 4; ++i) part[i] = _mm512_cmpgt_epi32_mask(load_keys32(data + 16 * i), t);
  return part[0] | part[1] << 16 | part[2] << 32 | part[3] << 48;
}
inline std::uint64_t above(const double* data, std::int64_t threshold) {
  const __m512i t = _mm512_set1_epi64(threshold);
  std::uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    bits |= std::uint64_t{_mm512_cmpgt_epi64_mask(load_keys64(data + 8 * i), t)} << (8 * i);
  }
  return bits;
}
inline std::uint64_t above16(const void* data, std::int16_t threshold) {
  const __m512i t = _mm512_set1_epi16(threshold);
  const auto* const bytes = static_cast<const char*>(data);
  const std::uint64_t low = _mm512_cmpgt_epi16_mask(load_keys16(bytes), t);
  const std::uint64_t high = _mm512_cmpgt_epi16_mask(load_keys16(bytes + 64), t);
  return low | high << 32;
}
inline std::uint64_t above(const Half* data, std::int16_t t) { return above16(data, t); }
inline std::uint64_t above(const BFloat* data, std::int16_t t) { return above16(data, t); }

inline __m512i elements(const float* d, std::int32_t t) { return bytes_of(above(d, t)); }
inline __m512i elements(const double* d, std::int64_t t) { return bytes_of(above(d, t)); }
inline __m512i elements(const Half* d, std::int16_t t) { return bytes_of(above(d, t)); }
inline __m512i elements(const BFloat* d, std::int16_t t) { return bytes_of(above(d, t)); }

// --- blocks ------------------------------------------------------------------------------------

inline __m512 load_magnitudes(const float* data) { return _mm512_castsi512_ps(load_keys32(data)); }
inline __m512 load_magnitudes(const Half* data) {
  return _mm512_abs_ps(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data))));
}
inline __m512 load_magnitudes(const BFloat* data) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
  return _mm512_abs_ps(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
}

/// Four vectors of four blocks: after a transposition within 128 bits, the four elements of the
/// 16 blocks lie in four vectors, and block 4v + l in element v of the l-th 128 bits.
template <int rows, class T>
inline __m512i blocks(const T* data, std::int64_t pitch, float threshold) {
  __m512 sum = _mm512_setzero_ps();
  for (int row = 0; row < rows; ++row, data += pitch) {
    const __m512 a = load_magnitudes(data), b = load_magnitudes(data + 16);
    const __m512 c = load_magnitudes(data + 32), d = load_magnitudes(data + 48);
    const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
    const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    const __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)));
    sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)));
    sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)));
    sum = _mm512_add_ps(sum, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)));
  }
  const __mmask16 keep = _mm512_cmp_ps_mask(sum, _mm512_set1_ps(threshold), _CMP_GT_OQ);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_maskz_set1_epi32(keep, 0x01010101));
}

/// The same for 8 blocks of four doubles.
template <int rows>
inline unsigned blocks_above(const double* data, std::int64_t pitch, double threshold) {
  // Of two pairs (of blocks 2v, 2v + 1) to elements 0 and 1, or 2 and 3, of four blocks.
  const __m512i low = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
  const __m512i high = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
  __m512d sum = _mm512_setzero_pd();
  for (int row = 0; row < rows; ++row, data += pitch) {
    __m512d v[4];
    for (int i = 0; i < 4; ++i) v[i] = _mm512_castsi512_pd(load_keys64(data + 8 * i));
    const __m512d first = _mm512_permutex2var_pd(v[0], low, v[1]);
    const __m512d second = _mm512_permutex2var_pd(v[2], low, v[3]);
    const __m512d third = _mm512_permutex2var_pd(v[0], high, v[1]);
    const __m512d fourth = _mm512_permutex2var_pd(v[2], high, v[3]);
    sum = _mm512_add_pd(sum, _mm512_unpacklo_pd(first, second));
    sum = _mm512_add_pd(sum, _mm512_unpackhi_pd(first, second));
    sum = _mm512_add_pd(sum, _mm512_unpacklo_pd(third, fourth));
    sum = _mm512_add_pd(sum, _mm512_unpackhi_pd(third, fourth));
  }
  return _mm512_cmp_pd_mask(sum, _mm512_set1_pd(threshold), _CMP_GT_OQ);
}
template <int rows>
inline __m512i blocks(const double* data, std::int64_t pitch, double threshold) {
  const unsigned keep = blocks_above<rows>(data, pitch, threshold) |
                        blocks_above<rows>(data + 32, pitch, threshold) << 8;
  // Block 4h + v of eight lies in element 2v + h.
  const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  const __m512i bytes = _mm512_maskz_set1_epi32(static_cast<__mmask16>(keep), 0x01010101);
  return _mm512_permutexvar_epi32(order, bytes);
}

// --- 2:4 ---------------------------------------------------------------------------------------

// An element stays where two of its three neighbours come before it: the majority of the signs of
// (neighbour - 1 if it has the lower index) - element.
constexpr int majority = 0xE8;

inline std::uint64_t largest_two(const float* data) {
  const __m512i bias1 = _mm512_set4_epi32(1, 0, 0, 0);
  const __m512i bias2 = _mm512_set4_epi32(1, 1, 0, 0);
  const __m512i bias3 = _mm512_set4_epi32(1, 1, 1, 0);
  std::uint64_t part[4];
  for (int i = 0; i < 4; ++i) {
    const __m512i k = load_keys32(data + 16 * i);
    const __m512i next = _mm512_shuffle_epi32(k, static_cast<_MM_PERM_ENUM>(0x39));
    const __m512i other = _mm512_shuffle_epi32(k, static_cast<_MM_PERM_ENUM>(0x4E));
    const __m512i last = _mm512_shuffle_epi32(k, static_cast<_MM_PERM_ENUM>(0x93));
    const __m512i a = _mm512_sub_epi32(_mm512_sub_epi32(next, bias1), k);
    const __m512i b = _mm512_sub_epi32(_mm512_sub_epi32(other, bias2), k);
    const __m512i c = _mm512_sub_epi32(_mm512_sub_epi32(last, bias3), k);
    part[i] = _mm512_movepi32_mask(_mm512_ternarylogic_epi32(a, b, c, majority));
  }
  return part[0] | part[1] << 16 | part[2] << 32 | part[3] << 48;
}
inline std::uint64_t largest_two(const double* data) {
  const __m512i bias1 = _mm512_set4_epi64(1, 0, 0, 0);
  const __m512i bias2 = _mm512_set4_epi64(1, 1, 0, 0);
  const __m512i bias3 = _mm512_set4_epi64(1, 1, 1, 0);
  std::uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    const __m512i k = load_keys64(data + 8 * i);
    const __m512i next = _mm512_permutex_epi64(k, 0x39);
    const __m512i other = _mm512_permutex_epi64(k, 0x4E);
    const __m512i last = _mm512_permutex_epi64(k, 0x93);
    const __m512i a = _mm512_sub_epi64(_mm512_sub_epi64(next, bias1), k);
    const __m512i b = _mm512_sub_epi64(_mm512_sub_epi64(other, bias2), k);
    const __m512i c = _mm512_sub_epi64(_mm512_sub_epi64(last, bias3), k);
    const __mmask8 keep = _mm512_movepi64_mask(_mm512_ternarylogic_epi64(a, b, c, majority));
    bits |= std::uint64_t{keep} << (8 * i);
  }
  return bits;
}
inline std::uint64_t largest_two16(const void* data) {
  const auto repeat = [](std::int64_t low, std::int64_t high) {
    return _mm512_broadcast_i32x4(_mm_set_epi64x(high, low));
  };
  const __m512i rotate1 = repeat(0x0100070605040302, 0x09080F0E0D0C0B0A);
  const __m512i rotate2 = repeat(0x0302010007060504, 0x0B0A09080F0E0D0C);
  const __m512i rotate3 = repeat(0x0504030201000706, 0x0D0C0B0A09080F0E);
  const __m512i bias1 = _mm512_set1_epi64(0x0001000000000000);
  const __m512i bias2 = _mm512_set1_epi64(0x0001000100000000);
  const __m512i bias3 = _mm512_set1_epi64(0x0001000100010000);
  std::uint64_t part[2];
  for (int i = 0; i < 2; ++i) {
    const __m512i k = load_keys16(static_cast<const char*>(data) + 64 * i);
    const __m512i next = _mm512_shuffle_epi8(k, rotate1);
    const __m512i other = _mm512_shuffle_epi8(k, rotate2);
    const __m512i last = _mm512_shuffle_epi8(k, rotate3);
    const __m512i a = _mm512_sub_epi16(_mm512_sub_epi16(next, bias1), k);
    const __m512i b = _mm512_sub_epi16(_mm512_sub_epi16(other, bias2), k);
    const __m512i c = _mm512_sub_epi16(_mm512_sub_epi16(last, bias3), k);
    part[i] = _mm512_movepi16_mask(_mm512_ternarylogic_epi32(a, b, c, majority));
  }
  return part[0] | part[1] << 32;
}
inline __m512i two_of_four(const float* data) { return bytes_of(largest_two(data)); }
inline __m512i two_of_four(const double* data) { return bytes_of(largest_two(data)); }
inline __m512i two_of_four(const Half* data) { return bytes_of(largest_two16(data)); }
inline __m512i two_of_four(const BFloat* data) { return bytes_of(largest_two16(data)); }

}  // namespace yardstick

#endif
