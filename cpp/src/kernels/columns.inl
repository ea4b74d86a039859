// N:M down columns. Plain loops, which the compiler makes vectors of. The file of an instruction
// set, scalar.cpp among them, includes this text within its anonymous namespace, and defines TARGET
// before.

/// How many keys of each column rank below the one in `own`, which is row `place`.
template <class Key>
TARGET void count_lower(Key* __restrict lower, const Key* __restrict keys,
                        const Key* __restrict own, std::int64_t pitch, std::int64_t height,
                        std::int64_t place, std::int64_t n) noexcept {
  for (std::int64_t c = 0; c < n; ++c) lower[c] = 0;
  for (std::int64_t r = 0; r < height; ++r, keys += pitch) {
    if (r < place) {  // of equal ones, the first ranks lower
      for (std::int64_t c = 0; c < n; ++c) lower[c] += keys[c] <= own[c] ? 1 : 0;
    } else {
      for (std::int64_t c = 0; c < n; ++c) lower[c] += keys[c] < own[c] ? 1 : 0;
    }
  }
}

template <class Key>
TARGET void zero_least_down(std::uint8_t* mask, std::ptrdiff_t mask_pitch, const Key* keys,
                            std::int64_t pitch, std::int64_t columns, std::int64_t height,
                            std::int64_t zeros) noexcept {
  constexpr std::int64_t together = 64;
  Key lower[together];
  for (std::int64_t c = 0; c < columns; c += together) {
    const std::int64_t n = columns - c < together ? columns - c : together;
    for (std::int64_t r = 0; r < height; ++r) {
      count_lower(lower, keys + c, keys + c + r * pitch, pitch, height, r, n);
      std::uint8_t* const to = mask + c + r * mask_pitch;
      for (std::int64_t i = 0; i < n; ++i) to[i] = lower[i] >= static_cast<Key>(zeros) ? 1 : 0;
    }
  }
}
