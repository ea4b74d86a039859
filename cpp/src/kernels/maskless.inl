// The kernels of AVX2 and NEON, whose vectors are compared to vectors of all ones and zeros: there
// are no masks of bits, and no loads of the first few. Included as generic.inl is, and behind it.
//
// Before, the file also defines
//   group: so many bytes make a vector;
//   Place: in its units Vector::permute() counts;
//   first_of(), compress<Vector>(), are_zero();
//   is_aligned(), and stream_bytes() for where it holds;
//   ones_where_zero(), of bytes that are all ones or zeros;
//   bits() and count(), of `few` vectors of such bytes: bit i of a mask belongs to byte i.

/// So many keys at a time make a mask of bits.
constexpr int bundle = 64;
constexpr int part = few * group;  // of a bundle

template <class Key>
const SelectionKernels<Key>& scalar_selection() noexcept {
  if constexpr (sizeof(Key) == 4) {
    return scalar_kernels().select32;
  } else {
    return scalar_kernels().select64;
  }
}

// --- selection -----------------------------------------------------------------------------------

template <class Vector, class Key = typename Vector::Key>
TARGET std::int64_t count_below(const Key* keys, std::int64_t n, Key pivot) noexcept {
  const auto pivots = Vector::key(pivot);
  std::int64_t below = 0;
  std::int64_t i = 0;
  for (; i + Vector::size <= n; i += Vector::size) {
    below += Vector::count(Vector::less(Vector::load(keys + i), pivots));
  }
  return below + scalar_selection<Key>().count_below(keys + i, n - i, pivot);
}

template <class Vector, class Key = typename Vector::Key>
TARGET std::int64_t count_equal(const Key* keys, std::int64_t n, Key key) noexcept {
  const auto wanted = Vector::key(key);
  std::int64_t equal = 0;
  std::int64_t i = 0;
  for (; i + Vector::size <= n; i += Vector::size) {
    equal += Vector::count(Vector::equal(Vector::load(keys + i), wanted));
  }
  return equal + scalar_selection<Key>().count_equal(keys + i, n - i, key);
}

/// The `width` keys from `first` on.
template <class Vector>
class Range {
 public:
  using Keys = typename Vector::Keys;
  TARGET Range(typename Vector::Key first, typename Vector::Key width) noexcept
      : first_(Vector::number(first)), width_(Vector::key(width)) {}
  TARGET Keys has(Keys vector) const noexcept {
    return Vector::less(Vector::subtract(vector, first_), width_);
  }

 private:
  Keys first_, width_;
};

template <class Vector, class Key = typename Vector::Key>
TARGET SplitCounts split(Key* out, std::int64_t room, const Key* keys, std::int64_t n, Key lo,
                         Key hi) noexcept {
  const auto low = Vector::key(lo);
  const Range<Vector> range(lo, hi - lo);
  SplitCounts counts{};
  std::int64_t i = 0;
  for (; i + Vector::size <= n && counts.inside + Vector::size <= room; i += Vector::size) {
    const auto vector = Vector::load(keys + i);
    const auto inside = range.has(vector);
    counts.below += Vector::count(Vector::less(vector, low));
    Vector::store(out + counts.inside, compress<Vector>(inside, vector));
    counts.inside += Vector::count(inside);
  }
  const SplitCounts rest = scalar_selection<Key>().split(out + counts.inside, room - counts.inside,
                                                         keys + i, n - i, lo, hi);
  return {counts.below + rest.below, counts.inside + rest.inside};
}

/// Stores the places of the bits in `within`, counted from `first` on. Where candidates are few,
/// they come unpredictably: no branch depends on them unless there are many.
TARGET void store_places(std::uint16_t* places, std::int64_t first, std::uint64_t within) noexcept {
  const int found = __builtin_popcountll(within);
  for (int p = 0; p < 4 || p < found; ++p) {
    places[p] = static_cast<std::uint16_t>(first + first_of(within));
    within &= within - 1;
  }
}

/// Whether bytes are written past the cache.
TARGET bool streams(const std::uint8_t* bytes, Store wanted) noexcept {
  return wanted == Store::past_cache && is_aligned(bytes);
}

/// What a bracket looks for: keys from `from` on; and those within it, before it and behind it, of
/// which there are `width` from `first` on.
template <class Key>
struct Bounds {
  struct Some {
    Key first, width;
  };
  Key from;
  Some within, before, behind;

  TARGET static Bounds of(std::uint64_t from, std::uint64_t first, std::uint64_t width) noexcept {
    const auto key = [](std::uint64_t number) TARGET { return static_cast<Key>(number); };
    return {key(from), {key(first), key(width)}, {key(first - 1), 1}, {key(first + width), 1}};
  }
};

/// The bounds of a bracket in vectors, and what was found so far: with `ends`, at those too.
template <class Vector, bool ends>
class Bracketing {
 public:
  using Key = typename Vector::Key;
  TARGET Bracketing(std::uint16_t* inside, const Bounds<Key>& bounds) noexcept
      : inside_(inside),
        from_(Vector::key(bounds.from)),
        within_(bounds.within.first, bounds.within.width),
        before_(bounds.before.first, bounds.before.width),
        behind_(bounds.behind.first, bounds.behind.width) {}

  /// A bundle of keys from the i-th on; vector_at(v) gives those from the (i + v)-th on. Writes a
  /// byte for each.
  template <class Load>
  TARGET void add(std::uint8_t* keep, bool stream, std::int64_t i, const Load& vector_at) noexcept {
    std::uint64_t found = 0;
    for (int p = 0; p < bundle; p += part) {
      Bytes pruned[few], within[few], before[few], behind[few];
      for (int g = 0; g < few; ++g) {
        constexpr int vectors = group / Vector::size;
        typename Vector::Keys are_below[vectors], are_within[vectors], are_before[vectors],
            are_behind[vectors];
        for (int v = 0; v < vectors; ++v) {
          const auto vector = vector_at(p + g * group + v * Vector::size);
          are_below[v] = Vector::less(vector, from_);
          are_within[v] = within_.has(vector);
          if constexpr (ends) {
            are_before[v] = before_.has(vector);
            are_behind[v] = behind_.has(vector);
          }
        }
        pruned[g] = Vector::bytes(are_below);
        within[g] = Vector::bytes(are_within);
        if constexpr (ends) {
          before[g] = Vector::bytes(are_before);
          behind[g] = Vector::bytes(are_behind);
        }
        std::uint8_t* const to = keep + p + g * group;
        const Bytes ones = ones_where_zero(pruned[g]);
        stream ? stream_bytes(to, ones) : store_bytes(to, ones);
      }
      found |= bits(within) << p;
      found_.counts.kept += part - count(pruned);
      if constexpr (ends) {
        found_.before += count(before);
        found_.behind += count(behind);
      }
    }
    store_places(inside_ + found_.counts.inside, i, found);
    found_.counts.inside += __builtin_popcountll(found);
  }

  TARGET const BracketEndCounts& found() const noexcept { return found_; }

 private:
  std::uint16_t* inside_;
  typename Vector::Keys from_;
  Range<Vector> within_, before_, behind_;
  BracketEndCounts found_{};
};

template <class Vector, class Key = typename Vector::Key>
TARGET BracketCounts bracket(std::uint8_t* keep, std::uint16_t* inside, const Key* keys,
                             std::int64_t n, Key from, Key first, Key width) noexcept {
  const auto bounds = Bounds<Key>::of(from, first, width);
  Bracketing<Vector, false> bracketing(inside, bounds);
  std::int64_t i = 0;
  for (; i + bundle <= n; i += bundle) {
    bracketing.add(keep + i, false, i, [&](int v) TARGET { return Vector::load(keys + i + v); });
  }
  BracketCounts counts = bracketing.found().counts;
  for (; i < n; ++i) {
    keep[i] = keys[i] >= from ? 1 : 0;
    counts.kept += keep[i];
    if (keys[i] - first < width) inside[counts.inside++] = static_cast<std::uint16_t>(i);
  }
  return counts;
}

template <class Vector, class Key = typename Vector::Key>
TARGET void threshold(std::uint8_t* keep, const Key* keys, std::int64_t n, Key cut,
                      std::int64_t ties) noexcept {
  const auto cuts = Vector::key(cut);
  std::int64_t i = 0;
  for (; i + part <= n; i += part) {
    Bytes tied_bytes[few];
    for (int g = 0; g < few; ++g) {
      typename Vector::Keys below[group / Vector::size];
      typename Vector::Keys equal[group / Vector::size];
      for (int v = 0; v < group / Vector::size; ++v) {
        const auto vector = Vector::load(keys + i + g * group + v * Vector::size);
        below[v] = Vector::less(vector, cuts);
        equal[v] = Vector::equal(vector, cuts);
      }
      store_bytes(keep + i + g * group, ones_where_zero(Vector::bytes(below)));
      tied_bytes[g] = Vector::bytes(equal);
    }
    std::uint64_t tied = bits(tied_bytes);
    for (; tied != 0 && ties > 0; --ties, tied &= tied - 1) keep[i + first_of(tied)] = 0;
  }
  scalar_selection<Key>().threshold(keep + i, keys + i, n - i, cut, ties);
}

/// For each key, how many keys of its block come before it: vectors are compared with rotations of
/// themselves, or, where a block is longer than a vector, of all vectors of the block.
/// vector_at(i) loads the keys from the i-th on. Returns how many of n are done.
template <class Vector, int width, class Load>
TARGET std::int64_t zero_least(std::uint8_t* mask, std::int64_t n, std::int64_t zeros, Store wanted,
                               const Load& vector_at) noexcept {
  using Key = typename Vector::Key;
  constexpr int span = width < Vector::size ? width : Vector::size;
  constexpr int vectors = group / Vector::size;
  constexpr int together = width / span;  // vectors of a block
  constexpr int item = static_cast<int>(sizeof(Key) / sizeof(Place));
  Bytes orders[span];
  typename Vector::Keys earlier[span];  // 1 where the other key stands before: it wins a tie
  for (int r = 0; r < span; ++r) {
    alignas(group) Place order[sizeof(Bytes) / sizeof(Place)];
    alignas(group) Key first[Vector::size];
    for (int lane = 0; lane < Vector::size; ++lane) {
      const int place = lane % span;
      const int other = lane - place + (place + r) % span;
      for (int i = 0; i < item; ++i) {
        order[lane * item + i] = static_cast<Place>(other * item + i);
      }
      first[lane] = place + r >= span ? 1 : 0;
    }
    orders[r] = load_bytes(order);
    earlier[r] = Vector::numbers(first);
  }
  const auto one = Vector::number(1);
  const auto fewest = Vector::number(static_cast<Key>(zeros));
  const bool stream = wanted == Store::past_cache && is_aligned(mask);
  std::int64_t i = 0;
  for (; i + group <= n; i += group) {
    typename Vector::Keys loaded[vectors], pruned[vectors];
    for (int v = 0; v < vectors; ++v) loaded[v] = vector_at(i + v * Vector::size);
    for (int v = 0; v < vectors; ++v) {
      const auto vector = loaded[v];
      const int begin = v - v % together;
      auto before = Vector::number(0);
      for (int w = begin; w < begin + together; ++w) {
        for (int r = w == v ? 1 : 0; r < span; ++r) {
          const auto bound = w == v  ? Vector::add(vector, earlier[r])
                             : w < v ? Vector::add(vector, one)
                                     : vector;
          const auto other = Vector::permute(orders[r], loaded[w]);
          before = Vector::subtract(before, Vector::less(other, bound));
        }
      }
      pruned[v] = Vector::less(before, fewest);
    }
    const Bytes ones = ones_where_zero(Vector::bytes(pruned));
    stream ? stream_bytes(mask + i, ones) : store_bytes(mask + i, ones);
  }
  return i;
}

/// The same for a width of 2, 4 or 8.
template <class Vector, class Load>
TARGET std::int64_t zero_least_narrow(std::uint8_t* mask, std::int64_t n, std::int64_t width,
                                      std::int64_t zeros, Store wanted,
                                      const Load& vector_at) noexcept {
  return width == 2   ? zero_least<Vector, 2>(mask, n, zeros, wanted, vector_at)
         : width == 4 ? zero_least<Vector, 4>(mask, n, zeros, wanted, vector_at)
                      : zero_least<Vector, 8>(mask, n, zeros, wanted, vector_at);
}

template <class Vector, class Key = typename Vector::Key>
TARGET void zero_least(std::uint8_t* mask, const Key* keys, std::int64_t blocks, std::int64_t width,
                       std::int64_t zeros) noexcept {
  const std::int64_t n = blocks * width;
  constexpr Store store = Store::ordinary;
  const auto vector_at = [&](std::int64_t i) TARGET { return Vector::load(keys + i); };
  const std::int64_t done = width < 16
                                ? zero_least_narrow<Vector>(mask, n, width, zeros, store, vector_at)
                                : zero_least<Vector, 16>(mask, n, zeros, store, vector_at);
  scalar_selection<Key>().zero_least(mask + done, keys + done, (n - done) / width, width, zeros);
}

/// The least elements of blocks side by side, whose keys are in no memory.
template <class Element, int norm>
TARGET void zero_least_elements(std::uint8_t* mask, const std::byte* data, std::int64_t blocks,
                                std::int64_t width, std::int64_t zeros, Store wanted) noexcept {
  using Key = typename Element::Key;
  const std::int64_t n = blocks * width;
  const std::int64_t done = zero_least_narrow<typename Element::Vector>(
      mask, n, width, zeros, wanted, [&](std::int64_t i) TARGET {
        return key_of<Element, norm>(term<Element, norm>(Element::load(data + i * Element::item)));
      });
  Key rest[group];
  const Blocks elements{data + done * Element::item, 0, Element::item, n - done, 1, 1};
  score<Element, norm>(rest, elements);
  scalar_selection<Key>().zero_least(mask + done, rest, (n - done) / width, width, zeros);
}

// --- scores --------------------------------------------------------------------------------------

/// As many elements of each block as there are blocks are transposed in registers, and the last few
/// collected one by one.
template <class Element, int norm>
TARGET typename Element::Sums sums_of(const Blocks& blocks, const std::byte* const* data) noexcept {
  constexpr int size = Element::size;
  typename Element::Sums sums{};
  for (std::int64_t r = 0; r < blocks.rows; ++r) {
    std::ptrdiff_t offset = r * blocks.pitch;
    std::int64_t i = 0;
    for (; i + size <= blocks.width; i += size, offset += size * Element::item) {
      typename Element::Sums v[size];
      for (int t = 0; t < size; ++t) {
        v[t] = term<Element, norm>(Element::load(data[t] + offset));
      }
      Element::transpose(v);
      for (int t = 0; t < size; ++t) sums += v[t];
    }
    for (; i < blocks.width; ++i, offset += Element::item) {
      sums += term<Element, norm>(Element::collect(data, offset));
    }
  }
  return sums;
}

template <class Vector>
TARGET void store_first(typename Vector::Key* keys, std::int64_t n,
                        typename Vector::Keys vector) noexcept {
  typename Vector::Key all[Vector::size];
  Vector::store(all, vector);
  for (std::int64_t i = 0; i < n; ++i) keys[i] = all[i];
}

template <class Element, int norm>
TARGET void score_at(void* out, const Blocks& blocks, const std::uint16_t* places,
                     std::int64_t n) noexcept {
  score_places<Element, norm>(static_cast<typename Element::Key*>(out), blocks, places, n);
}

/// Whether an element by itself is compared as it is: see least_with().
template <class Element, int norm>
constexpr bool is_its_key = Element::item == 2 && norm == 0;

template <class Element>
TARGET Bounds<std::uint16_t> bounds_of_halves(std::uint64_t from, std::uint64_t first,
                                              std::uint64_t width) noexcept {
  const auto some = [](std::uint64_t begin, std::uint64_t end) TARGET {
    const std::uint16_t least = least_with<Element>(begin);
    return Bounds<std::uint16_t>::Some{
        least, static_cast<std::uint16_t>(least_with<Element>(end) - least)};
  };
  const std::uint64_t end = first + width;
  return {least_with<Element>(from), some(first, end), some(first - 1, first), some(end, end + 1)};
}

/// Whole bundles of elements by themselves. Returns how many elements that are.
template <class Element, int norm, bool ends>
TARGET std::int64_t bracket_singles(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                                    std::uint64_t from, std::uint64_t first, std::uint64_t width,
                                    Store store, BracketEndCounts& found) noexcept {
  using Key = typename Element::Key;
  const bool stream = streams(keep, store);
  const auto add_all = [&](auto& bracketing, const auto& vector_at) TARGET {
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      bracketing.add(keep + b, stream, b, [&](int v) TARGET { return vector_at(b + v); });
    }
    found = bracketing.found();
    return b;
  };
  if constexpr (is_its_key<Element, norm>) {
    const auto bounds = bounds_of_halves<Element>(from, first, width);
    Bracketing<Vector16, ends> bracketing(inside, bounds);
    return add_all(bracketing, [&](std::int64_t b) TARGET {
      return Vector16::load(blocks.data + b * Element::item);
    });
  } else {
    const auto bounds = Bounds<Key>::of(from, first, width);
    Bracketing<typename Element::Vector, ends> bracketing(inside, bounds);
    const Single<Element, norm> single(blocks);
    return add_all(bracketing, [&](std::int64_t b) TARGET { return single.keys_at(b); });
  }
}

/// The bracket of all blocks from `done` on, with their keys in memory. The bytes of the blocks
/// from the b-th on go to keep_at(b), and then write(b, n) is called.
template <class Element, int norm, bool ends, class KeepAt, class Write>
TARGET void bracket_rest(std::uint16_t* inside, const Blocks& blocks, std::int64_t done,
                         const Bounds<typename Element::Key>& bounds, BracketEndCounts& all,
                         const KeepAt& keep_at, const Write& write) noexcept {
  using Vector = typename Element::Vector;
  using Key = typename Element::Key;
  with_keys<Element, norm>(
      blocks, done, [&](std::int64_t b, std::int64_t n, const Key* keys) TARGET {
        std::uint16_t* const places = inside + all.counts.inside;
        const BracketCounts found = bracket<Vector>(keep_at(b), places, keys, n, bounds.from,
                                                    bounds.within.first, bounds.within.width);
        for (std::int64_t i = 0; i < found.inside; ++i) {
          places[i] = static_cast<std::uint16_t>(places[i] + b);
        }
        all.counts.kept += found.kept;
        all.counts.inside += found.inside;
        if constexpr (ends) {
          all.before += count_equal<Vector>(keys, n, bounds.before.first);
          all.behind += count_equal<Vector>(keys, n, bounds.behind.first);
        }
        write(b, n);
      });
}

/// Each vector of keys is compared as soon as it is there. Nothing branches on the data, so that
/// the processor reads far ahead.
template <class Element, int norm>
TARGET BracketCounts bracket_blocks(std::uint8_t* keep, std::uint16_t* inside, const Blocks& blocks,
                                    std::uint64_t from, std::uint64_t first, std::uint64_t width,
                                    Store store) noexcept {
  const auto bounds = Bounds<typename Element::Key>::of(from, first, width);
  BracketEndCounts found{};
  std::int64_t done = 0;
  if (is_its_key<Element, norm> && are_singles<Element>(blocks)) {
    done = bracket_singles<Element, norm, false>(keep, inside, blocks, from, first, width, store,
                                                 found);
  } else {
    Bracketing<typename Element::Vector, false> bracketing(inside, bounds);
    const bool stream = streams(keep, store);
    done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) TARGET {
      std::int64_t b = 0;
      for (; b + bundle <= blocks.count; b += bundle) {
        bracketing.add(keep + b, stream, b, [&](int v) TARGET { return fast.keys_at(b + v); });
      }
      return b;
    });
    found = bracketing.found();
  }
  bracket_rest<Element, norm, false>(
      inside, blocks, done, bounds, found, [&](std::int64_t b) { return keep + b; },
      [](std::int64_t, std::int64_t) {});
  return found.counts;
}

/// The same where ends are counted, of which there are many among elements by themselves.
template <class Element, int norm>
TARGET BracketEndCounts bracket_ends(std::uint8_t* keep, std::uint16_t* inside,
                                     const Blocks& blocks, std::uint64_t from, std::uint64_t first,
                                     std::uint64_t width, Store store) noexcept {
  const auto bounds = Bounds<typename Element::Key>::of(from, first, width);
  BracketEndCounts found{};
  std::int64_t done = 0;
  if (are_singles<Element>(blocks)) {
    done = bracket_singles<Element, norm, true>(keep, inside, blocks, from, first, width, store,
                                                found);
  }
  bracket_rest<Element, norm, true>(
      inside, blocks, done, bounds, found, [&](std::int64_t b) { return keep + b; },
      [](std::int64_t, std::int64_t) {});
  return found;
}

/// Whether bracket_mask() is worth its room in the library.
template <class Element, int norm>
constexpr bool has_bracket_mask = norm == 0;

/// The mask of a bundle, of a byte for each of its blocks.
template <int columns>
TARGET void write_bundle(std::uint8_t* mask, std::ptrdiff_t pitch, std::int64_t rows, bool stream,
                         const std::uint8_t* keep, Bytes pattern) noexcept {
  for (int i = 0; i < bundle * columns; i += group) {
    Bytes bytes;
    if constexpr (columns == 1) {
      bytes = load_bytes(keep + i);
    } else {
      bytes = repeated<columns>(keep + i / columns, pattern);
    }
    std::uint8_t* line = mask + i;
    for (std::int64_t r = 0; r < rows; ++r, line += pitch) {
      stream ? stream_bytes(line, bytes) : store_bytes(line, bytes);
    }
  }
}

/// The same as bracket_blocks(), but the mask of the blocks takes the place of a byte for each.
template <class Element, int norm>
TARGET BracketCounts bracket_mask(std::uint8_t* mask, std::ptrdiff_t pitch, std::uint16_t* inside,
                                  const Blocks& blocks, std::uint64_t from, std::uint64_t first,
                                  std::uint64_t width, Store wanted) noexcept {
  if (are_singles<Element>(blocks)) {
    return bracket_blocks<Element, norm>(mask, inside, blocks, from, first, width, wanted);
  }
  const auto bounds = Bounds<typename Element::Key>::of(from, first, width);
  Bracketing<typename Element::Vector, false> bracketing(inside, bounds);
  // Lines of several rows in turn leave the buffers of such stores half filled.
  const bool stream = blocks.rows == 1 && streams(mask, wanted);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) TARGET {
    constexpr int columns = std::remove_reference_t<decltype(fast)>::columns;
    const Bytes pattern = repeat_pattern<columns>();
    alignas(group) std::uint8_t keep[bundle];
    std::int64_t b = 0;
    for (; b + bundle <= blocks.count; b += bundle) {
      bracketing.add(keep, false, b, [&](int v) TARGET { return fast.keys_at(b + v); });
      write_bundle<columns>(mask + b * columns, pitch, blocks.rows, stream, keep, pattern);
    }
    return b;
  });
  BracketEndCounts found = bracketing.found();
  std::uint8_t keep[keys_together];
  bracket_rest<Element, norm, false>(
      inside, blocks, done, bounds, found, [&](std::int64_t) { return keep; },
      [&](std::int64_t b, std::int64_t n) TARGET {
        for (std::int64_t r = 0; r < blocks.rows; ++r) {
          repeat_any(mask + b * blocks.width + r * pitch, keep, n, blocks.width);
        }
      });
  return found.counts;
}

// --- bytes ---------------------------------------------------------------------------------------

/// Calls work(i, zero) for a few vectors of bytes, the i-th and those after it: `zero` tells which
/// are. Returns how many bytes there were.
template <class Work>
TARGET std::int64_t with_zeros(const std::uint8_t* bytes, std::int64_t n,
                               const Work& work) noexcept {
  std::int64_t i = 0;
  for (; i + part <= n; i += part) {
    Bytes zero[few];
    for (int g = 0; g < few; ++g) zero[g] = are_zero(load_bytes(bytes + i + g * group));
    work(i, zero);
  }
  return i;
}

TARGET std::int64_t count_zeros(const std::uint8_t* bytes, std::int64_t n) noexcept {
  std::int64_t zeros = 0;
  const std::int64_t done =
      with_zeros(bytes, n, [&](std::int64_t, const Bytes* zero) TARGET { zeros += count(zero); });
  return zeros + scalar_kernels().count_zeros(bytes + done, n - done);
}

TARGET void pack(std::uint8_t* packed, const std::uint8_t* bytes, std::int64_t n) noexcept {
  const std::int64_t done = with_zeros(bytes, n, [&](std::int64_t i, const Bytes* zero) TARGET {
    const std::uint64_t ones = ~bits(zero);
    __builtin_memcpy(packed + i / 8, &ones, part / 8);
  });
  scalar_kernels().pack(packed + done / 8, bytes + done, n - done);
}
