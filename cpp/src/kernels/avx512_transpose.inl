// Copies in another order, by AVX-512: of elements of 4 bytes, and of the bytes of a mask. Included
// by avx512.cpp.

#include "kernels/x86.inl"

/// Every other element by two loads and a permutation; what lies between is read with them, but
/// nothing behind the last one.
TARGET void copy_run(std::byte* out, const std::byte* in, std::ptrdiff_t stride,
                     std::int64_t n) noexcept {
  std::int64_t i = 0;
  if (stride == 8) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (; i + 16 < n; i += 16) {
      const __m512i low = _mm512_loadu_si512(in + i * 8);
      const __m512i high = _mm512_loadu_si512(in + i * 8 + 64);
      store_bytes(out + i * 4, _mm512_permutex2var_epi32(low, even, high));
    }
  }
  scalar_kernels().copy_run(out + i * 4, in + i * stride, stride, n - i);
}

/// Sixteen columns at a time. Where they are far apart, no prefetcher of the processor foresees the
/// next ones; they are asked into the second cache, since strides of whole pages leave few places
/// for them in the first.
TARGET void transpose(std::byte* out, std::ptrdiff_t pitch, const std::byte* in,
                      std::ptrdiff_t stride, std::int64_t rows, std::int64_t columns) noexcept {
  constexpr int size = 16;
  constexpr int half = 8;
  constexpr std::int64_t ahead = 32;
  constexpr std::ptrdiff_t far = 256;
  std::int64_t c = 0;
  for (; c + size <= columns; c += size) {
    const std::byte* const column = in + c * stride;
    std::byte* const target = out + c * 4;
    if (stride >= far || stride <= -far) {
      const auto* line = reinterpret_cast<const char*>(
          column + (c + size + ahead <= columns ? ahead * stride : 0));
      for (int i = 0; i < size; ++i, line += stride) {
        // Where the columns do not begin with a cache line, there is one more.
        for (std::int64_t r = 0; r < rows; r += size) _mm_prefetch(line + r * 4, _MM_HINT_T1);
        if (rows > 0) _mm_prefetch(line + rows * 4 - 1, _MM_HINT_T1);
      }
    }
    std::int64_t r = 0;
    for (; r + size <= rows; r += size) {
      __m512 v[size];
      for (int i = 0; i < size; ++i) v[i] = _mm512_loadu_ps(column + i * stride + r * 4);
      Floats::transpose(v);
      std::byte* to = target + r * pitch;
      for (int i = 0; i < size; ++i, to += pitch) _mm512_storeu_ps(to, v[i]);
    }
    for (; r + half <= rows; r += half) {
      for (int first = 0; first < size; first += half) {
        __m256 v[half];
        for (int i = 0; i < half; ++i) {
          const std::byte* const from = column + (first + i) * stride + r * 4;
          v[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(from));
        }
        transpose_eight(v);
        std::byte* to = target + r * pitch + first * 4;
        for (int i = 0; i < half; ++i, to += pitch) {
          _mm256_storeu_ps(reinterpret_cast<float*>(to), v[i]);
        }
      }
    }
    for (; r < rows; ++r) {
      for (int i = 0; i < size; i += 4) {
        float x[4];
        for (int j = 0; j < 4; ++j) __builtin_memcpy(x + j, column + (i + j) * stride + r * 4, 4);
        const __m128 four = _mm_setr_ps(x[0], x[1], x[2], x[3]);
        _mm_storeu_ps(reinterpret_cast<float*>(target + r * pitch + i * 4), four);
      }
    }
  }
  scalar_kernels().transpose(out + c * 4, pitch, in + c * stride, stride, rows, columns - c);
}

// --- masks ---------------------------------------------------------------------------------------

/// Words of 64 bits, one for each of 64 columns, from eight vectors that hold a byte of each.
TARGET void join_bytes(std::uint64_t* words, const __m512i* v) noexcept {
  __m512i pairs[8], fours[8];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm512_unpacklo_epi8(v[2 * i], v[2 * i + 1]);
    pairs[i + 4] = _mm512_unpackhi_epi8(v[2 * i], v[2 * i + 1]);
  }
  for (int high = 0; high < 2; ++high) {
    for (int i = 0; i < 2; ++i) {
      const __m512i a = pairs[4 * high + 2 * i], b = pairs[4 * high + 2 * i + 1];
      fours[4 * high + i] = _mm512_unpacklo_epi16(a, b);
      fours[4 * high + 2 + i] = _mm512_unpackhi_epi16(a, b);
    }
  }
  // Vector i has two columns of each sixteen.
  for (int i = 0; i < 4; ++i) {
    const __m512i low = _mm512_unpacklo_epi32(fours[2 * i], fours[2 * i + 1]);
    const __m512i high = _mm512_unpackhi_epi32(fours[2 * i], fours[2 * i + 1]);
    const auto put = [&](std::uint64_t* to, __m512i vector) TARGET {
      const auto at = [&](int quarter) { return reinterpret_cast<__m128i*>(to + 16 * quarter); };
      _mm_storeu_si128(at(0), _mm512_castsi512_si128(vector));
      _mm_storeu_si128(at(1), _mm512_extracti32x4_epi32(vector, 1));
      _mm_storeu_si128(at(2), _mm512_extracti32x4_epi32(vector, 2));
      _mm_storeu_si128(at(3), _mm512_extracti32x4_epi32(vector, 3));
    };
    put(words + 4 * i, low);
    put(words + 4 * i + 2, high);
  }
}

/// A bit for each of some rows, at most eight, in the bytes of their columns.
TARGET __m512i bits_of_rows(const std::uint8_t* in, std::ptrdiff_t pitch, std::int64_t rows,
                            std::uint64_t columns) noexcept {
  __m512i bits = _mm512_setzero_si512();
  for (std::int64_t r = rows - 1; r >= 0; --r) {
    const __m512i bytes = _mm512_maskz_loadu_epi8(columns, in + r * pitch);
    bits = _mm512_or_si512(_mm512_add_epi8(bits, bits), bytes);
  }
  return bits;
}

/// Writes columns of `rows` bytes that follow each other without a gap, as many at a time as a
/// vector holds, from words that have a bit for each byte. A vector may write over the next column,
/// which is written later, but not past `end`. `fixed` is the number of rows, or 0.
template <int fixed>
TARGET void write_columns(std::uint8_t* out, const std::uint8_t* end, const std::uint16_t* words,
                          std::int64_t columns, std::int64_t rows) noexcept {
  const std::int64_t height = fixed > 0 ? fixed : rows;
  const std::int64_t together = bundle / height;
  for (std::int64_t c = 0; c < columns; c += together, out += together * height) {
    const std::int64_t some = columns - c < together ? columns - c : together;
    std::uint64_t bits = 0;
    for (std::int64_t i = 0; i < some; ++i) bits |= std::uint64_t{words[c + i]} << (i * height);
    store_bytes(out, end - out < bundle ? some * height : bundle, bits);
  }
}

/// transpose_mask() for up to 16 rows, whose columns follow each other without a gap.
TARGET void transpose_few(std::uint8_t* out, const std::uint8_t* in, std::ptrdiff_t pitch,
                          std::int64_t rows, std::int64_t columns) noexcept {
  constexpr std::int64_t size = bundle;
  constexpr std::int64_t room = 7 * size;  // whole vectors of nine rows
  const std::uint8_t* const end = out + rows * columns;
  const std::int64_t high = rows > 8 ? rows - 8 : 0;
  const __m512i first_half = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second_half = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  std::uint16_t words[room];
  for (std::int64_t c = 0; c < columns; c += room, out += room * rows) {
    const std::int64_t some = columns - c < room ? columns - c : room;
    for (std::int64_t i = 0; i < some; i += size) {
      const std::uint64_t lanes = first_bits(some - i);
      const std::uint8_t* const from = in + c + i;
      const __m512i low_bits = bits_of_rows(from, pitch, rows - high, lanes);
      const __m512i high_bits = bits_of_rows(from + (rows - high) * pitch, pitch, high, lanes);
      const __m512i low = _mm512_unpacklo_epi8(low_bits, high_bits);
      const __m512i other = _mm512_unpackhi_epi8(low_bits, high_bits);
      store_bytes(words + i, _mm512_permutex2var_epi64(low, first_half, other));
      store_bytes(words + i + size / 2, _mm512_permutex2var_epi64(low, second_half, other));
    }
    if (rows == 9) {  // the places of a kernel of 3 × 3
      write_columns<9>(out, end, words, some, rows);
    } else {
      write_columns<0>(out, end, words, some, rows);
    }
  }
}

/// Up to 64 × 64: eight rows at a time become bits of bytes, those of a column a word, and its bits
/// bytes again.
TARGET void transpose_mask(std::uint8_t* out, std::ptrdiff_t out_pitch, const std::uint8_t* in,
                           std::ptrdiff_t in_pitch, std::int64_t rows,
                           std::int64_t columns) noexcept {
  constexpr std::int64_t size = bundle;
  if (rows == 0) return;
  if (out_pitch == rows && rows <= 16) return transpose_few(out, in, in_pitch, rows, columns);
  for (std::int64_t c = 0; c < columns; c += size) {
    const std::int64_t some_columns = columns - c < size ? columns - c : size;
    const std::uint64_t lanes = first_bits(some_columns);
    for (std::int64_t r = 0; r < rows; r += size) {
      const std::int64_t some_rows = rows - r < size ? rows - r : size;
      __m512i v[8];
      for (std::int64_t i = 0; i < 8; ++i) {
        const std::int64_t here = some_rows - 8 * i < 8 ? some_rows - 8 * i : 8;
        v[i] = bits_of_rows(in + (r + 8 * i) * in_pitch + c, in_pitch, here, lanes);
      }
      std::uint64_t words[size];
      join_bytes(words, v);
      std::uint8_t* to = out + c * out_pitch + r;
      std::int64_t i = 0;
      if (out_pitch == rows && rows < size) {  // as transpose_few() does
        const std::int64_t last = columns - c - (size - 1 + rows) / rows;
        for (; i < some_columns && i <= last; ++i, to += out_pitch) store_bytes(to, size, words[i]);
      }
      for (; i < some_columns; ++i, to += out_pitch) store_bytes(to, some_rows, words[i]);
    }
  }
}
