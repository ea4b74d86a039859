// The bracket of AVX-512: keys compared as they are made. Included by avx512.cpp.

/// Stores the places of the bits in `within`, counted from `first` on. Where candidates are few,
/// they come unpredictably: no branch depends on them unless there are many.
TARGET void store_places(std::uint16_t* places, std::int64_t first, std::uint64_t within) noexcept {
  alignas(64) static constexpr std::uint8_t rising[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  const __m512i found = _mm512_maskz_compress_epi8(within, load_bytes(rising));
  const __m512i firsts = _mm512_set1_epi16(static_cast<short>(first));
  const __m256i low = _mm512_castsi512_si256(found);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(places),
                      _mm256_add_epi16(_mm512_castsi512_si256(firsts),
                                       _mm256_cvtepu8_epi16(_mm256_castsi256_si128(low))));
  if (__builtin_popcountll(within) <= 16) return;
  store_bytes(places, _mm512_add_epi16(firsts, _mm512_cvtepu8_epi16(low)));
  const __m256i high = _mm512_extracti64x4_epi64(found, 1);
  store_bytes(places + 32, _mm512_add_epi16(firsts, _mm512_cvtepu8_epi16(high)));
}

/// The bounds of a bracket in vectors, and what was found so far: with `ends`, at those too.
template <class Vector, bool ends = false>
class Bracketing {
 public:
  using Key = typename Vector::Key;
  TARGET Bracketing(std::uint16_t* inside, std::uint64_t from, std::uint64_t first,
                    std::uint64_t width) noexcept
      : inside_(inside),
        from_(Vector::all(static_cast<Key>(from))),
        first_(Vector::all(static_cast<Key>(first))),
        width_(Vector::all(static_cast<Key>(width))),
        last_before_(Vector::all(static_cast<Key>(first - 1))),
        first_behind_(Vector::all(static_cast<Key>(first + width))) {}

  /// Up to 64 keys from the i-th on; vector_at(v) loads those from the (i + v)-th on. Returns a bit
  /// for each that is kept.
  template <class Load>
  TARGET std::uint64_t add(std::int64_t i, std::int64_t n, const Load& vector_at) noexcept {
    std::uint64_t below = 0;
    std::uint64_t within = 0;
    const auto compare = [&](int v, __mmask16 lanes) TARGET {
      __m512i vector = vector_at(v, lanes);
      // Keeps the loads in the order of memory. Out of it, as GCC puts them, masks that are written
      // past the cache take a tenth longer, or a fifth.
      __asm__ volatile("" : "+v"(vector));
      below |= std::uint64_t{Vector::less(lanes, vector, from_)} << v;
      within |= std::uint64_t{Vector::less(lanes, Vector::subtract(vector, first_), width_)} << v;
      if constexpr (ends) {
        before_ = Vector::count_up(before_, Vector::equal(lanes, vector, last_before_));
        behind_ = Vector::count_up(behind_, Vector::equal(lanes, vector, first_behind_));
      }
    };
    if (n == bundle) {
      for (int v = 0; v < bundle; v += Vector::size) compare(v, first_lanes(Vector::size));
    } else {
      for (int v = 0; v < n; v += Vector::size) compare(v, lanes_of<Vector>(n - v));
    }
    store_places(inside_ + counts_.inside, i, within);
    counts_.kept += n - __builtin_popcountll(below);
    counts_.inside += __builtin_popcountll(within);
    return ~below;
  }

  /// Keys in memory, the i-th and those after it; writes a byte for each. Where it is called, what
  /// was found stays in registers.
  TARGET __attribute__((always_inline)) void add_keys(std::uint8_t* keep, std::int64_t i,
                                                      const Key* keys, std::int64_t n) noexcept {
    for (std::int64_t done = 0; done < n; done += bundle) {
      const std::int64_t some = n - done < bundle ? n - done : bundle;
      const std::uint64_t kept = add(i + done, some, [&](int v, __mmask16 lanes) TARGET {
        return Vector::load(lanes, keys + done + v);
      });
      store_bytes(keep + done, some, kept);
    }
  }

  TARGET BracketCounts counts() const noexcept { return counts_; }
  TARGET BracketEndCounts counts_and_ends() const noexcept {
    return {counts_, Vector::total(before_), Vector::total(behind_)};
  }

 private:
  std::uint16_t* inside_;
  __m512i from_, first_, width_, last_before_, first_behind_;
  __m512i before_ = _mm512_setzero_si512(), behind_ = _mm512_setzero_si512();  // counts
  BracketCounts counts_{};
};

template <class Vector, class Key = typename Vector::Key>
TARGET BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys,
                             std::int64_t n, Key from, Key first, Key width) noexcept {
  Bracketing<Vector> bracketing(inside, from, first, width);
  bracketing.add_keys(keep, 0, keys, n);
  return bracketing.counts();
}

// --- of blocks -----------------------------------------------------------------------------------

/// The bracket among elements of 16 bits by themselves, compared as they are: see least_with().
template <class Element, int norm, bool ends>
class HalfBracketing {
 public:
  TARGET HalfBracketing(std::uint16_t* inside, std::uint64_t from, std::uint64_t first,
                        std::uint64_t width) noexcept
      : inside_(inside),
        from_(bound_of(from)),
        within_(between(bound_of(first), bound_of(first + width))) {
    if constexpr (ends) {
      if (first > 0) before_ = between(bound_of(first - 1), within_.first);
      behind_ = between(bound_of(first + width), bound_of(first + width + 1));
    }
  }

  /// Up to 64 elements from the i-th on. Returns a bit for each that is kept.
  TARGET std::uint64_t add(std::int64_t i, std::int64_t n, const std::byte* data) noexcept {
    const std::uint64_t lanes = first_bits(n);
    const __m512i vectors[2] = {load(data, static_cast<__mmask32>(lanes)),
                                load(data + 64, static_cast<__mmask32>(lanes >> 32))};
    const __m512i from = _mm512_set1_epi16(static_cast<short>(from_));
    const std::uint64_t kept = lanes & both(_mm512_cmpge_epu16_mask(vectors[0], from),
                                            _mm512_cmpge_epu16_mask(vectors[1], from));
    const std::uint64_t within = lanes & in(within_, vectors);
    if constexpr (ends) {
      counts_.before += __builtin_popcountll(lanes & in(before_, vectors));
      counts_.behind += __builtin_popcountll(lanes & in(behind_, vectors));
    }
    store_places(inside_ + counts_.counts.inside, i, within);
    counts_.counts.kept += __builtin_popcountll(kept);
    counts_.counts.inside += __builtin_popcountll(within);
    return kept;
  }

  TARGET BracketEndCounts counts() const noexcept { return counts_; }

 private:
  struct Range {
    std::uint16_t first, width;
  };
  TARGET static Range between(std::uint16_t first, std::uint16_t end) noexcept {
    return {first, static_cast<std::uint16_t>(end - first)};
  }

  TARGET static std::uint64_t both(__mmask32 low, __mmask32 high) noexcept {
    return low | std::uint64_t{high} << 32;
  }
  /// Without signs.
  TARGET static __m512i load(const std::byte* data, __mmask32 lanes) noexcept {
    return _mm512_and_si512(_mm512_maskz_loadu_epi16(lanes, data), _mm512_set1_epi16(0x7FFF));
  }
  TARGET static std::uint64_t in(Range range, const __m512i* vectors) noexcept {
    const __m512i first = _mm512_set1_epi16(static_cast<short>(range.first));
    const __m512i width = _mm512_set1_epi16(static_cast<short>(range.width));
    return both(_mm512_cmplt_epu16_mask(_mm512_sub_epi16(vectors[0], first), width),
                _mm512_cmplt_epu16_mask(_mm512_sub_epi16(vectors[1], first), width));
  }

  TARGET static std::uint16_t bound_of(std::uint64_t key) noexcept {
    if constexpr (norm == 0) return least_with<Element>(key);
    return search(key);
  }

  /// The same as least_with() of squares. Keys rise with the bits: sixteen of these at a time tell
  /// in which sixteenth to look on.
  TARGET static std::uint16_t search(std::uint64_t key) noexcept {
    const __m512i rising = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i bound = Vector32::all(static_cast<std::uint32_t>(key));
    int low = 0;
    constexpr int steps[] = {2048, 128, 8, 1};
    for (const int step : steps) {
      const __m512i bits =
          _mm512_min_epi32(_mm512_add_epi32(_mm512_set1_epi32(low),
                                            _mm512_mullo_epi32(rising, _mm512_set1_epi32(step))),
                           _mm512_set1_epi32(0x7FFF));
      const __m512i keys =
          Element::key(term<Element, norm>(Element::widen(_mm512_cvtepi32_epi16(bits))));
      const int below = count(Vector32::less(first_lanes(16), keys, bound));
      if (step == 1) {
        low += below;
      } else if (below > 0) {
        low += (below - 1) * step;
      }
    }
    return static_cast<std::uint16_t>(low);
  }

  std::uint16_t* inside_;
  std::uint16_t from_;
  Range within_;
  Range before_{}, behind_{};
  BracketEndCounts counts_{};
};

template <class Element, int norm, bool ends>
TARGET BracketEndCounts bracket_halves(std::uint8_t* keep, std::uint16_t* inside,
                                       const Blocks& blocks, std::uint64_t from,
                                       std::uint64_t first, std::uint64_t width,
                                       Store store) noexcept {
  HalfBracketing<Element, norm, ends> bracketing(inside, from, first, width);
  std::int64_t b = 0;
  for (; b + bundle <= blocks.count; b += bundle) {
    const std::uint64_t kept = bracketing.add(b, bundle, blocks.data + b * Element::item);
    store_blocks<1>(keep + b, 0, 1, kept, store);
  }
  if (b < blocks.count) {
    const std::int64_t left = blocks.count - b;
    store_bytes(keep + b, left, bracketing.add(b, left, blocks.data + b * Element::item));
  }
  return bracketing.counts();
}

/// Each vector of keys is compared as soon as it is there. Nothing branches on the data, so that
/// the processor reads far ahead.
template <class Element, int norm, bool ends>
TARGET BracketEndCounts bracket_any(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                                    std::uint64_t from, std::uint64_t first, std::uint64_t width,
                                    Store wanted) noexcept {
  const Store store = store_to(keep, wanted);
  if constexpr (Element::item == 2 && norm != no_norm) {
    if (are_singles<Element>(blocks)) {
      return bracket_halves<Element, norm, ends>(keep, inside, blocks, from, first, width, store);
    }
  }
  Bracketing<typename Element::Vector, ends> bracketing(inside, from, first, width);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) TARGET {
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      const std::uint64_t kept =
          bracketing.add(b, bundle, [&](int v, __mmask16) TARGET { return fast.keys_at(b + v); });
      store_blocks<1>(keep + b, 0, 1, kept, store);
    }
    return b;
  });
  with_keys<Element, norm>(blocks, done,
                           [&](std::int64_t b, std::int64_t n, const auto* keys)
                               TARGET { bracketing.add_keys(keep + b, b, keys, n); });
  return bracketing.counts_and_ends();
}

template <class Element, int norm>
TARGET BracketCounts bracket_blocks(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                                    std::uint64_t from, std::uint64_t first, std::uint64_t width,
                                    Store store) noexcept {
  return bracket_any<Element, norm, false>(keep, inside, blocks, from, first, width, store).counts;
}

template <class Element, int norm>
TARGET BracketEndCounts bracket_ends(std::uint8_t* keep, std::uint16_t* inside,
                                     const Blocks& blocks, std::uint64_t from, std::uint64_t first,
                                     std::uint64_t width, Store store) noexcept {
  return bracket_any<Element, norm, true>(keep, inside, blocks, from, first, width, store);
}

template <class Element, int norm>
constexpr bool has_bracket_mask = is_at_once<Element, norm>;

/// The same, but the mask of the blocks takes the place of a byte for each.
template <class Element, int norm>
TARGET BracketCounts bracket_mask(std::uint8_t* mask, std::ptrdiff_t pitch, std::uint16_t* inside,
                                  const Blocks& blocks, std::uint64_t from, std::uint64_t first,
                                  std::uint64_t width, Store wanted) noexcept {
  // Lines of several rows in turn leave the buffers of such stores half filled.
  const Store store = blocks.rows > 1 ? Store::ordinary : store_to(mask, wanted);
  if constexpr (Element::item == 2 && norm != no_norm) {
    if (are_singles<Element>(blocks)) {
      return bracket_halves<Element, norm, false>(mask, inside, blocks, from, first, width, store)
          .counts;
    }
  }
  Bracketing<typename Element::Vector> bracketing(inside, from, first, width);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) TARGET {
    constexpr int columns = std::remove_reference_t<decltype(fast)>::columns;
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      const std::uint64_t kept =
          bracketing.add(b, bundle, [&](int v, __mmask16) TARGET { return fast.keys_at(b + v); });
      store_blocks<columns>(mask + b * columns, pitch, blocks.rows, kept, store);
    }
    return b;
  });
  with_keys<Element, norm>(
      blocks, done, [&](std::int64_t b, std::int64_t n, const auto* keys) TARGET {
        std::uint8_t keep[keys_together];
        bracketing.add_keys(keep, b, keys, n);
        for (std::int64_t r = 0; r < blocks.rows; ++r) {
          repeat_any(mask + b * blocks.width + r * pitch, keep, n, blocks.width);
        }
      });
  return bracketing.counts();
}
