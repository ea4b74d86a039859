// What AVX2 and AVX-512 have in common: vectors of 256 bits. Included as generic.inl is. `inline`,
// so that the compiler keeps arrays of vectors in registers.

/// Transposes 4 × 4 numbers within each half.
TARGET inline void transpose_within_halves(__m256* v) noexcept {
  const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
  const __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
  const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
  const __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
  v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
  v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
  v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
  v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
}

/// Transposes 8 × 8 numbers.
TARGET inline void transpose_eight(__m256* v) noexcept {
  transpose_within_halves(v);
  transpose_within_halves(v + 4);
  for (int i = 0; i < 4; ++i) {
    const __m256 low = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    v[i] = low;
  }
}
