// What kernels have in common whatever their vectors are. The file of an instruction set includes
// this text within its anonymous namespace: what it becomes there is nobody else's.
//
// Before, the file defines
//   TARGET, with which every function says what it is compiled for;
//   Bytes, a vector, load_bytes() and store_bytes();
//   Vector32 and Vector64, of keys;
//   the elements Float16, BFloat16, Float32 and Float64: how they are read into vectors of sums;
//   RowOrder.
// After, it defines what is only declared here.

// --- scores --------------------------------------------------------------------------------------

/// The sums of as many blocks as a vector has: data[t] is where the t-th begins. Within the loop
/// that collects these, they stay in registers.
template <class Element, int norm>
TARGET inline __attribute__((always_inline)) typename Element::Sums sums_of(
    const Blocks& blocks, const std::byte* const* data) noexcept;

/// Writes the first n keys of a vector, and nothing else.
template <class Vector>
TARGET void store_first(typename Vector::Key* keys, std::int64_t n,
                        typename Vector::Keys vector) noexcept;

/// The norm that is none: values as they are.
constexpr int no_norm = 2;

/// Whether blocks are compared as their keys are made: see Kernels::bracket.
template <class Element, int norm>
constexpr bool is_at_once = norm != no_norm || Element::dtype == Float32::dtype;

/// What an element adds to its block's sum.
template <class Element, int norm>
TARGET typename Element::Sums term(typename Element::Sums x) noexcept {
  if constexpr (norm == 0) {
    return Element::absolute(x);
  } else if constexpr (norm == 1) {
    return x * x;
  } else {
    return x;
  }
}

template <class Element, int norm>
TARGET typename Element::Vector::Keys key_of(typename Element::Sums score) noexcept {
  if constexpr (norm == no_norm) {
    return Element::key_of_value(score);
  } else {
    return Element::key(score);
  }
}

/// Divides by the number of elements: by multiplication where that gives the same bits.
template <class Element>
class Mean {
 public:
  TARGET explicit Mean(std::int64_t elements) noexcept
      : elements_(static_cast<typename Element::Number>(elements)),
        is_power_of_two_((elements & (elements - 1)) == 0) {}
  TARGET typename Element::Sums of(typename Element::Sums sums) const noexcept {
    return is_power_of_two_ ? sums * (1 / elements_) : sums / elements_;
  }

 private:
  typename Element::Number elements_;
  bool is_power_of_two_;
};

/// Keys of blocks that lie side by side, a vector at a time. A transpose in registers puts the
/// first elements of all blocks into one vector, and so on: that of narrow blocks in an order which
/// is undone once, for their keys.
template <class Element, int norm, int width>
class Narrow {
 public:
  static constexpr int columns = width;
  TARGET explicit Narrow(const Blocks& blocks) noexcept
      : blocks_(blocks), mean_(blocks.rows * width) {}
  TARGET typename Element::Vector::Keys keys_at(std::int64_t block) const noexcept {
    const std::byte* row = blocks_.data + block * blocks_.step;
    typename Element::Sums sums{};
    for (std::int64_t r = 0; r < blocks_.rows; ++r, row += blocks_.pitch) {
      constexpr int size = Element::size;
      constexpr int apart = width < size ? size : width;  // elements from vector to vector
      constexpr int together = width < size ? width : size;
      for (int i = 0; i < width; i += together) {
        typename Element::Sums v[together];
        for (int t = 0; t < together; ++t) {
          v[t] = term<Element, norm>(Element::load(row + (i + t * apart) * Element::item));
        }
        if constexpr (width >= size) {
          Element::transpose(v);
        } else if constexpr (width > 1) {
          Element::template transpose_narrow<width>(v);
        }
        for (int t = 0; t < together; ++t) sums += v[t];
      }
    }
    return order_.of(key_of<Element, norm>(mean_.of(sums)));
  }

 private:
  const Blocks& blocks_;
  RowOrder<Element, width> order_;
  Mean<Element> mean_;
};

/// The same for blocks of one element.
template <class Element, int norm>
class Single {
 public:
  static constexpr int columns = 1;
  TARGET explicit Single(const Blocks& blocks) noexcept : data_(blocks.data) {}
  TARGET typename Element::Vector::Keys keys_at(std::int64_t block) const noexcept {
    const typename Element::Sums x = Element::load(data_ + block * Element::item);
    if constexpr (norm == 0) return Element::key(x);  // of the magnitude, whatever the sign
    return key_of<Element, norm>(term<Element, norm>(x));
  }

 private:
  const std::byte* data_;
};

/// Calls work(keys) with the Single or Narrow that suits the blocks; if there is none, returns 0,
/// else what work returns.
template <class Element, int norm, class Work>
TARGET std::int64_t with_fast_keys(const Blocks& blocks, const Work& work) noexcept {
  if (blocks.step != blocks.width * Element::item) return 0;
  if (blocks.width == 1 && blocks.rows == 1) return work(Single<Element, norm>(blocks));
  if (blocks.width == 1) return work(Narrow<Element, norm, 1>(blocks));
  if (blocks.width == 2) return work(Narrow<Element, norm, 2>(blocks));
  if (blocks.width == 4) return work(Narrow<Element, norm, 4>(blocks));
  if (blocks.width == 8) return work(Narrow<Element, norm, 8>(blocks));
  return 0;
}

/// Blocks of any width, as many at a time as there are sums in a vector. data_of(i) is where the
/// i-th of n blocks begins.
template <class Element, int norm, class DataOf>
TARGET void score_any(typename Element::Key* keys, const Blocks& blocks, std::int64_t n,
                      const DataOf& data_of) noexcept {
  constexpr int size = Element::size;
  const Mean<Element> mean(blocks.rows * blocks.width);
  for (std::int64_t b = 0; b < n; b += size) {
    const std::int64_t together = n - b < size ? n - b : size;
    const std::byte* data[size];
    for (int t = 0; t < size; ++t) data[t] = data_of(b + (t < together ? t : together - 1));
    const auto sums = sums_of<Element, norm>(blocks, data);
    store_first<typename Element::Vector>(keys + b, together, key_of<Element, norm>(mean.of(sums)));
  }
}

template <class Element, int norm>
TARGET void score(void* out, const Blocks& blocks) noexcept {
  auto* const keys = static_cast<typename Element::Key*>(out);
  const std::int64_t done = with_fast_keys<Element, norm>(blocks, [&](const auto& fast) TARGET {
    std::int64_t b = 0;
    for (; b + Element::size <= blocks.count; b += Element::size) {
      Element::Vector::store(keys + b, fast.keys_at(b));
    }
    return b;
  });
  score_any<Element, norm>(keys + done, blocks, blocks.count - done,
                           [&](std::int64_t b) { return blocks.data + (done + b) * blocks.step; });
}

template <class Element, int norm>
TARGET void score_places(typename Element::Key* keys, const Blocks& blocks,
                         const std::uint16_t* places, std::int64_t n) noexcept {
  score_any<Element, norm>(keys, blocks, n,
                           [&](std::int64_t i) { return blocks.data + places[i] * blocks.step; });
}

/// Whether blocks are elements by themselves and side by side.
template <class Element>
TARGET bool are_singles(const Blocks& blocks) noexcept {
  return blocks.width == 1 && blocks.rows == 1 && blocks.step == Element::item;
}

/// The least magnitude of 16 bits whose key is not below this one; 0x8000 where there is none. By
/// such bounds elements are compared as they are, since keys are in the order of magnitudes. NaN
/// differ in their bits, but bounds lie below or above all of them.
template <class Element>
TARGET std::uint16_t least_with(std::uint64_t key) noexcept {
  using Traits = KeyTraits<std::uint32_t>;
  if (key <= Traits::zero) return 0;
  if (key > Traits::nan) return 0x8000U;
  if (key == Traits::nan) return Element::infinity + 1;
  const auto bits = static_cast<std::uint32_t>(key - Traits::zero);  // of a float
  std::uint32_t least = 0;
  if constexpr (Element::dtype == BFloat16::dtype) {
    least = (bits + 0xFFFFU) >> 16U;
  } else if (constexpr std::uint32_t bias = 112U << 23U; bits >= bias + (1U << 23U)) {
    least = (bits - bias + 0x1FFFU) >> 13U;
  } else {  // below all that are normal: in multiples of the least one
    float value = 0;
    __builtin_memcpy(&value, &bits, sizeof(value));
    value *= 1U << 24U;
    least = static_cast<std::uint32_t>(value);
    if (static_cast<float>(least) < value) ++least;
  }
  return static_cast<std::uint16_t>(least < Element::infinity ? least : Element::infinity);
}

/// So many keys are in memory at a time.
constexpr int keys_together = 256;

/// Calls work(b, n, keys) for blocks [b, b + n) from `done` on, some at a time, with their keys.
template <class Element, int norm, class Work>
TARGET void with_keys(const Blocks& blocks, std::int64_t done, const Work& work) noexcept {
  alignas(64) typename Element::Key keys[keys_together];
  for (std::int64_t b = done; b < blocks.count; b += keys_together) {
    Blocks some = blocks;
    some.data += b * blocks.step;
    some.count = blocks.count - b < keys_together ? blocks.count - b : keys_together;
    score<Element, norm>(keys, some);
    work(b, some.count, keys);
  }
}

// --- bytes ---------------------------------------------------------------------------------------

/// A vector of bytes, each `times` times. `pattern` tells of each where it comes from, within
/// sixteen that hold all up to sixteen bytes taken.
template <int times>
TARGET Bytes repeated(const std::uint8_t* bytes, Bytes pattern) noexcept;

template <int times>
TARGET Bytes repeat_pattern() noexcept {
  constexpr int size = static_cast<int>(sizeof(Bytes));
  alignas(size) std::uint8_t order[size];
  for (int i = 0; i < size; ++i) order[i] = static_cast<std::uint8_t>(i / times % 16);
  return load_bytes(order);
}

template <int times>
TARGET void repeat(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n) noexcept {
  constexpr int taken = static_cast<int>(sizeof(Bytes)) / times;
  const Bytes pattern = repeat_pattern<times>();
  std::int64_t i = 0;
  for (; i + taken <= n; i += taken) {
    store_bytes(out + i * times, repeated<times>(bytes + i, pattern));
  }
  scalar_kernels().repeat(out + i * times, bytes + i, n - i, times);
}

TARGET void repeat_any(std::uint8_t* out, const std::uint8_t* bytes, std::int64_t n,
                       std::int64_t times) noexcept {
  switch (times) {
    case 1:
      if (n > 0) __builtin_memcpy(out, bytes, static_cast<std::size_t>(n));
      return;
    case 2: return repeat<2>(out, bytes, n);
    case 4: return repeat<4>(out, bytes, n);
    case 8: return repeat<8>(out, bytes, n);
    case 16: return repeat<16>(out, bytes, n);
    default: return scalar_kernels().repeat(out, bytes, n, times);
  }
}

/// Writes zeros over those elements of a vector whose mask is 0, and nothing else: other threads
/// may write the others.
template <class Element>
TARGET void zero_pruned(std::byte* elements, const std::uint8_t* mask) noexcept;

template <class Element>
TARGET void zero_masked(std::byte* dst, std::ptrdiff_t stride, const std::uint8_t* mask,
                        std::int64_t n) noexcept {
  constexpr std::int64_t size = sizeof(Bytes) / Element::item;
  std::int64_t i = 0;
  if (stride == Element::item) {
    for (; i + size <= n; i += size) zero_pruned<Element>(dst + i * Element::item, mask + i);
  }
  scalar_kernels().zero_masked[Element::dtype](dst + i * stride, stride, mask + i, n - i);
}
