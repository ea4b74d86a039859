// Draws and marks of masks that move: tiles/choice.hpp says what the bits mean. rank_others() is
// for monotone masks, too. Plain loops, which the compiler makes vectors of. The file of an
// instruction set, scalar.cpp among them, includes this text within its anonymous namespace, and
// defines TARGET before.

/// mixed() of base/random.hpp, said again: a header's function must not be compiled here.
TARGET void draw(std::uint32_t* keys, std::uint64_t stream, std::int64_t first,
                 std::int64_t n) noexcept {
  constexpr std::uint64_t odd = 0x9E3779B97F4A7C15U;
  constexpr std::uint32_t zero = KeyTraits<std::uint32_t>::zero;
  const std::uint64_t begin = stream + (static_cast<std::uint64_t>(first) + 1) * odd;
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint64_t number = begin + static_cast<std::uint64_t>(i) * odd;
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9U;
    number = (number ^ (number >> 27)) * 0x94D049BB133111EBU;
    keys[i] = zero | static_cast<std::uint32_t>((number ^ (number >> 31)) >> 34);
  }
}

// Marks are computed in bytes: widened to int, a vector would hold a quarter as many.

/// The i-th bit.
TARGET inline __attribute__((always_inline)) std::uint8_t bit(std::uint8_t state, int i) noexcept {
  return static_cast<std::uint8_t>((state >> i) & 1);
}

/// 1 where a block may be chosen, of those that are active or of those that are not.
template <bool inactive>
TARGET inline __attribute__((always_inline)) std::uint8_t may_choose(std::uint8_t state) noexcept {
  const std::uint8_t active = bit(state, 0);
  return inactive ? static_cast<std::uint8_t>(active ^ bit(state, 1) ^ 1) : active;
}

template <bool inactive>
TARGET void find_eligible(std::uint8_t* states, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) states[i] = may_choose<inactive>(states[i]);
}

TARGET void find_eligible(std::uint8_t* states, std::int64_t n, bool inactive) noexcept {
  inactive ? find_eligible<true>(states, n) : find_eligible<false>(states, n);
}

template <class Key>
TARGET void rank_others(Key* __restrict keys, const std::uint8_t* __restrict eligible,
                        std::int64_t n) noexcept {
  constexpr Key above = KeyTraits<Key>::nan + 1;
  for (std::int64_t i = 0; i < n; ++i) {
    const Key others = static_cast<Key>(eligible[i]) - 1;  // all bits, or none
    keys[i] = (keys[i] & ~others) | (above & others);
  }
}

template <bool drops, class Key>
TARGET void rank_some_within(Key* __restrict keys, const std::uint8_t* __restrict states,
                             std::int64_t n) noexcept {
  constexpr Key above = KeyTraits<Key>::nan + 1;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint8_t state = states[i];
    const Key survives = Key{0} - static_cast<Key>(bit(state, 0) & (bit(state, 1) ^ 1));
    if (drops) {
      keys[i] &= survives;
    } else {
      const Key may = Key{0} - static_cast<Key>(may_choose<true>(state));
      keys[i] = (keys[i] & may) | (above & survives);
    }
  }
}

template <class Key>
TARGET void rank_within(Key* keys, const std::uint8_t* states, std::int64_t n,
                        bool drops) noexcept {
  drops ? rank_some_within<true>(keys, states, n) : rank_some_within<false>(keys, states, n);
}

template <bool inactive>
TARGET void mark_some(std::uint8_t* __restrict states, const std::uint8_t* __restrict keep,
                      std::int64_t n) noexcept {
  constexpr int place = inactive ? 2 : 1;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint8_t state = states[i], may = may_choose<inactive>(state);
    const auto marked = static_cast<std::uint8_t>(inactive ? keep[i] : keep[i] ^ 1);
    const auto changed = static_cast<std::uint8_t>(may & (bit(state, place) ^ marked));
    states[i] = static_cast<std::uint8_t>(state ^ (changed << place));
  }
}

TARGET void mark(std::uint8_t* states, const std::uint8_t* keep, std::int64_t n,
                 bool inactive) noexcept {
  inactive ? mark_some<true>(states, keep, n) : mark_some<false>(states, keep, n);
}

TARGET bool unmark(std::uint8_t* __restrict states, std::uint8_t* __restrict old,
                   std::uint8_t* __restrict active, std::int64_t n, bool before) noexcept {
  std::uint8_t any_new = 0;
  const std::uint8_t was_active = before ? 1 : 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint8_t state = states[i];
    const std::uint8_t was = bit(state, 0), grown = bit(state, 2);
    const auto free = static_cast<std::uint8_t>(bit(state, 3) ^ 1);
    const auto survives = static_cast<std::uint8_t>(was & (bit(state, 1) ^ 1));
    const auto is_new = static_cast<std::uint8_t>(grown & (was ^ 1) & free);
    const auto kept = static_cast<std::uint8_t>((survives | grown) & free);
    any_new = static_cast<std::uint8_t>(any_new | is_new);
    old[i] = static_cast<std::uint8_t>(is_new ^ 1);
    states[i] = kept;
    active[i] = static_cast<std::uint8_t>(kept | (was & free & was_active));
  }
  return any_new != 0;
}
