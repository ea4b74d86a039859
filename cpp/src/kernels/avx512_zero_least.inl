// The least of each few keys, by AVX-512. Included by avx512.cpp.

/// Moves each bit by `places` to a lower one within its group of `width` bits, the lowest ones to
/// the top.
template <int width>
TARGET std::uint64_t rotate(std::uint64_t bits, int places) noexcept {
  constexpr std::uint64_t ones = ~std::uint64_t{0} / ((std::uint64_t{1} << width) - 1U);
  const std::uint64_t low = ones * ((std::uint64_t{1} << places) - 1U);  // that leave their place
  return ((bits & ~low) >> places) | ((bits & low) << (width - places));
}

/// For each key, how many keys of its block come before it. Each rotation of the blocks compares
/// every key with another one of its block; a rotation the other way says the opposite. The answers
/// of 64 keys are added up bit by bit. vector_at(i, lanes) loads the keys from the i-th on.
template <class Vector, int width, class Load>
TARGET void zero_least(std::uint8_t* mask, std::int64_t n, std::int64_t zeros, Store store,
                       const Load& vector_at) noexcept {
  using Key = typename Vector::Key;
  using Lanes = typename Vector::Lanes;
  constexpr std::uint64_t all = ~std::uint64_t{0};
  constexpr int vectors = bundle / Vector::size;
  constexpr int digits = width == 2 ? 1 : width == 4 ? 2 : width == 8 ? 3 : 4;
  __m512i orders[width / 2 + 1];
  __m512i earlier[width / 2 + 1];  // 1 where the other key stands before: it wins a tie
  for (int r = 1; r <= width / 2; ++r) {
    alignas(64) Key order[Vector::size];
    alignas(64) Key first[Vector::size];
    for (int lane = 0; lane < Vector::size; ++lane) {
      const int place = lane % width;
      order[lane] = static_cast<Key>(lane - place + (place + r) % width);
      first[lane] = place + r >= width ? 1 : 0;
    }
    orders[r] = load_bytes(order);
    earlier[r] = load_bytes(first);
  }
  std::uint64_t digit_of_zeros[digits];
  for (int d = 0; d < digits; ++d) digit_of_zeros[d] = std::uint64_t{0} - (zeros >> d & 1U);
  // A bit for each of the 64 keys from the i-th on that stays.
  const auto kept_from = [&](std::int64_t i, std::uint64_t here) TARGET {
    __m512i loaded[vectors];
    for (int v = 0; v < vectors; ++v) {
      const int first = v * Vector::size;
      loaded[v] = vector_at(i + first, static_cast<Lanes>(here >> first));
    }
    std::uint64_t sum[digits] = {};
    const auto add = [&](std::uint64_t carry) TARGET {
      for (int d = 0; d < digits; ++d) {
        const std::uint64_t next = sum[d] & carry;
        sum[d] ^= carry;
        carry = next;
      }
    };
    for (int r = 1; r <= width / 2; ++r) {
      std::uint64_t before = 0;  // whether the key r places on comes before
      for (int v = 0; v < vectors; ++v) {
        const std::uint64_t lanes =
            Vector::less(static_cast<Lanes>(all), Vector::permute(orders[r], loaded[v]),
                         Vector::add(loaded[v], earlier[r]));
        before |= lanes << (v * Vector::size);
      }
      add(before);
      if (r < width - r) add(~rotate<width>(before, width - r));
    }
    std::uint64_t fewer = 0;
    std::uint64_t same = all;
    for (int d = digits - 1; d >= 0; --d) {
      fewer |= same & ~sum[d] & digit_of_zeros[d];
      same &= ~(sum[d] ^ digit_of_zeros[d]);
    }
    return ~fewer;
  };
  std::int64_t i = 0;
  for (; i + bundle <= n; i += bundle) store_blocks<1>(mask + i, 0, 1, kept_from(i, all), store);
  if (i < n) store_bytes(mask + i, n - i, kept_from(i, first_bits(n - i)));
}

/// The same for a width of 2, 4 or 8.
template <class Vector, class Load>
TARGET void zero_least_narrow(std::uint8_t* mask, std::int64_t n, std::int64_t width,
                              std::int64_t zeros, Store store, const Load& vector_at) noexcept {
  if (width == 2) {
    zero_least<Vector, 2>(mask, n, zeros, store, vector_at);
  } else if (width == 4) {
    zero_least<Vector, 4>(mask, n, zeros, store, vector_at);
  } else {
    zero_least<Vector, 8>(mask, n, zeros, store, vector_at);
  }
}

template <class Vector, class Key = typename Vector::Key>
TARGET void zero_least(std::uint8_t* mask, const Key* keys, std::int64_t blocks, std::int64_t width,
                       std::int64_t zeros) noexcept {
  const std::int64_t n = blocks * width;
  const auto vector_at = [&](std::int64_t i, typename Vector::Lanes lanes)
                             TARGET { return Vector::load(lanes, keys + i); };
  if (width < 16) {
    zero_least_narrow<Vector>(mask, n, width, zeros, Store::ordinary, vector_at);
  } else if constexpr (Vector::size == 16) {
    zero_least<Vector, 16>(mask, n, zeros, Store::ordinary, vector_at);
  } else {
    scalar_kernels().select64.zero_least(mask, keys, blocks, width, zeros);
  }
}

/// The least elements of blocks side by side. Where |x| or x·x rise with the bits of |x|, 16-bit
/// elements are compared as they are: not squares of bfloat16, which overflow and vanish.
template <class Element, int norm>
TARGET void zero_least_elements(std::uint8_t* mask, const std::byte* data, std::int64_t blocks,
                                std::int64_t width, std::int64_t zeros, Store wanted) noexcept {
  const std::int64_t n = blocks * width;
  const Store store = store_to(mask, wanted);
  if constexpr (Element::item == 2 &&
                (norm == 0 || (norm == 1 && Element::dtype == Float16::dtype))) {
    const __m512i magnitude_bits = _mm512_set1_epi16(0x7FFF);
    const __m512i nan = _mm512_set1_epi16(Element::infinity + 1);
    zero_least_narrow<Vector16>(
        mask, n, width, zeros, store, [&](std::int64_t i, __mmask32 lanes) TARGET {
          const __m512i bits = _mm512_maskz_loadu_epi16(lanes, data + i * Element::item);
          return _mm512_min_epu16(_mm512_and_si512(bits, magnitude_bits), nan);
        });
  } else {
    zero_least_narrow<typename Element::Vector>(
        mask, n, width, zeros, store, [&](std::int64_t i, auto lanes) TARGET {
          const auto x = Element::load(data + i * Element::item, lanes);
          return key_of<Element, norm>(term<Element, norm>(x));
        });
  }
}
