/// What several tests need: repeatable random numbers, tensors of any layout, a set number of
/// threads.
#pragma once

#include <gtest/gtest.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <cstdint>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/parallel.hpp"
#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/device.hpp"
#include "datasparse/runtime.hpp"
#include "kernels/kernels.hpp"
#include "reference.hpp"

namespace datasparse {

using Bytes = std::vector<std::uint8_t>;

// How GoogleTest prints values.
inline void PrintTo(const ParamValue& value, std::ostream* out) { *out << to_string(value); }
inline void PrintTo(const ParamMap& map, std::ostream* out) {
  for (const auto& [key, value] : map) *out << key << ": " << to_string(value) << "; ";
}
inline void PrintTo(const Axes& axes, std::ostream* out) { *out << to_string(axes); }

/// The same numbers on every machine: the distributions of <random> are not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::uint64_t bits() { return engine_(); }
  /// In [0, n).
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(n));
  }
  /// In [low, high].
  std::int64_t between(std::int64_t low, std::int64_t high) { return low + below(high - low + 1); }
  bool one_in(std::int64_t n) { return below(n) == 0; }
  /// In [0, 1).
  double unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  template <class T>
  const T& pick(const std::vector<T>& items) {
    return items[static_cast<std::size_t>(below(static_cast<std::int64_t>(items.size())))];
  }

 private:
  std::mt19937_64 engine_;
};

/// Runs a scope with that many threads, also on a machine with fewer cores.
class Threads {
 public:
  explicit Threads(int n) {
#if defined(_OPENMP)
    before_ = omp_get_max_threads();
    omp_set_num_threads(n);
#endif
    set_num_threads(n);
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() {
    set_num_threads(0);
#if defined(_OPENMP)
    omp_set_num_threads(before_);
#endif
  }

 private:
  int before_ = 1;
};

/// A matrix of that many rows which is just large enough for several threads.
inline Axes parallel_matrix(std::int64_t rows) { return {rows, parallel_from / rows + 1}; }

const std::vector<DType> all_dtypes{DType::float16, DType::bfloat16, DType::float32,
                                    DType::float64};

/// Memory of its own and a view into it, of any strides and alignment.
class Tensor {
 public:
  Tensor(DType dtype, const Axes& shape)
      : Tensor(dtype, shape, ArrayView(&dummy_, dtype, shape).strides()) {}
  Tensor(DType dtype, const Axes& shape, const Axes& strides, std::int64_t misalignment = 0)
      : dtype_(dtype), shape_(shape), strides_(strides), origin_(misalignment) {
    std::int64_t end = misalignment + static_cast<std::int64_t>(item_size(dtype));
    for (int axis = 0; axis < shape.size(); ++axis) {
      const auto reach = strides[axis] * std::max<std::int64_t>(shape[axis] - 1, 0);
      (reach < 0 ? origin_ : end) += reach < 0 ? -reach : reach;
    }
    bytes_.resize(static_cast<std::size_t>(origin_ + end));
  }
  /// One-dimensional or shaped, from floats or doubles.
  template <class T>
  Tensor(const std::vector<T>& values, const Axes& shape)
      : Tensor(sizeof(T) == sizeof(float) ? DType::float32 : DType::float64, shape) {
    if (!values.empty()) std::memcpy(bytes_.data(), values.data(), values.size() * sizeof(T));
  }

  ArrayView view(bool read_only = false) {
    return ArrayView(bytes_.data() + origin_, dtype_, shape_, strides_, read_only);
  }
  DType dtype() const { return dtype_; }
  std::int64_t size() const { return element_count(shape_); }
  Bytes& memory() { return bytes_; }

  std::uint64_t bits(std::int64_t index) const {
    std::uint64_t result = 0;
    std::memcpy(&result, bytes_.data() + place(index), item_size(dtype_));
    return result;
  }
  void set_bits(std::int64_t index, std::uint64_t bits) {
    std::memcpy(bytes_.data() + place(index), &bits, item_size(dtype_));
  }

 private:
  static inline double dummy_ = 0;

  std::int64_t place(std::int64_t index) const {
    return origin_ + reference::offset_of(shape_, strides_, index);
  }

  DType dtype_;
  Axes shape_, strides_;
  std::int64_t origin_;
  Bytes bytes_;
};

/// Memory that is said to lie on a device.
class Placed final : public DataSource {
 public:
  Placed(const ArrayView& view, Device& device) : view_(view), device_(device) {}
  ArrayView pin() override { return view_; }
  void unpin() noexcept override {}
  Device& device() noexcept override { return device_; }

 private:
  ArrayView view_;
  Device& device_;
};

/// The kinds of numbers that masks have gone wrong on.
enum class Values {
  any_bits,  // all patterns: NaN, Inf and denormals among them
  numbers,   // of about the same size
  few,       // three patterns
  equal,
  special,  // zeros of both signs, denormals, the least and the greatest, Inf, NaN
  mostly_zero,
  count
};

inline std::uint64_t compose(DType dtype, bool negative, std::uint64_t exponent,
                             std::uint64_t fraction) {
  const auto [exponent_bits, fraction_bits] = reference::format_of(dtype);
  const auto low = [](std::uint64_t x, int bits) { return x & ((std::uint64_t{1} << bits) - 1); };
  return (std::uint64_t{negative} << (exponent_bits + fraction_bits)) |
         (low(exponent, exponent_bits) << fraction_bits) | low(fraction, fraction_bits);
}

inline std::uint64_t random_number(Random& random, DType dtype) {
  const auto bias = (std::int64_t{1} << (reference::format_of(dtype).exponent_bits - 1)) - 1;
  return compose(dtype, random.one_in(2), static_cast<std::uint64_t>(bias + random.between(-3, 3)),
                 random.bits());
}

inline std::uint64_t random_special(Random& random, DType dtype) {
  const bool negative = random.one_in(2);
  const std::uint64_t all_ones = ~std::uint64_t{0};
  switch (random.below(8)) {
    case 0: return compose(dtype, negative, 0, 0);
    case 1: return compose(dtype, negative, 0, 1);  // the least denormal
    case 2: return compose(dtype, negative, 0, random.bits());
    case 3: return compose(dtype, negative, 1, 0);                    // the least normal number
    case 4: return compose(dtype, negative, all_ones - 1, all_ones);  // the greatest number
    case 5: return compose(dtype, negative, all_ones, 0);             // Inf
    case 6: return compose(dtype, negative, all_ones, random.bits() | 1);  // NaN
    default: return random_number(random, dtype);
  }
}

inline void fill(Tensor& tensor, Values kind, Random& random) {
  const auto any = [&] {
    return random.one_in(4) ? random_special(random, tensor.dtype())
                            : random_number(random, tensor.dtype());
  };
  const std::vector<std::uint64_t> pool{any(), any(), any()};
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    std::uint64_t bits = 0;
    switch (kind) {
      case Values::any_bits: bits = random.bits(); break;
      case Values::numbers: bits = random_number(random, tensor.dtype()); break;
      case Values::few: bits = random.pick(pool); break;
      case Values::equal: bits = pool[0]; break;
      case Values::special: bits = random_special(random, tensor.dtype()); break;
      case Values::mostly_zero:
        bits = random.one_in(10) ? random_number(random, tensor.dtype()) : 0;
        break;
      case Values::count: break;
    }
    tensor.set_bits(i, bits);
  }
}

/// The tables of kernels that this machine has.
inline const std::vector<const Kernels*>& all_tables() {
  static const std::vector<const Kernels*> all = [] {
    const auto list = available_kernels();
    return std::vector<const Kernels*>(list.begin(), list.end());
  }();
  return all;
}

/// How many times slower the references are under sanitizers, which do not inline them: long tests
/// take that many times fewer cases there.
#if defined(DATASPARSE_SANITIZED)
constexpr int slowdown = 10;
#else
constexpr int slowdown = 1;
#endif

inline Values random_kind(Random& random) {
  return static_cast<Values>(random.below(static_cast<std::int64_t>(Values::count)));
}

/// Strides as slicing, transposing, reversing and, if wanted, broadcasting make them; now and then
/// ones that are no multiple of the element's size.
inline Axes random_strides(Random& random, DType dtype, const Axes& shape, bool broadcast = true) {
  std::vector<int> order;
  for (int axis = 0; axis < shape.size(); ++axis) {
    order.insert(order.begin() + random.below(axis + 1), axis);
  }
  std::vector<std::int64_t> strides(order.size());
  auto step = static_cast<std::int64_t>(item_size(dtype)) + (random.one_in(6) ? 1 : 0);
  for (const int axis : order) {
    step *= random.one_in(3) ? 2 : 1;
    step += random.one_in(8) ? 1 : 0;
    strides[static_cast<std::size_t>(axis)] = random.one_in(4) ? -step : step;
    if (broadcast && random.one_in(8)) strides[static_cast<std::size_t>(axis)] = 0;
    step *= std::max<std::int64_t>(shape[axis], 1);
  }
  return Axes(strides);
}

inline Axes random_permutation(Random& random, int axes) {
  std::vector<std::int64_t> order;
  for (int axis = 0; axis < axes; ++axis) {
    order.insert(order.begin() + random.below(axis + 1), axis);
  }
  return Axes(order);
}

/// A bit for each element, packed like Mask::pack().
inline Bytes packed_bits(const std::vector<bool>& bits) {
  Bytes packed((bits.size() + 7) / 8);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (bits[i]) packed[i / 8] |= static_cast<std::uint8_t>(1 << (i % 8));
  }
  return packed;
}

inline reference::Rules rules_of(const BlockSpec& spec) {
  const auto norm = static_cast<reference::Norm>(spec.norm);  // in the same order
  return {spec.sparsity_level, spec.block_height, spec.block_width, spec.zeros_per_block, norm,
          spec.min_kept,       spec.monotone};
}

/// What block_mask() writes, into memory of any alignment whose neighbours it must not touch.
inline Bytes mask_of(const ArrayView& data, const BlockSpec& spec, std::size_t misalignment = 0) {
  constexpr std::size_t guard = 64;
  constexpr std::uint8_t untouched = 0xA5;
  const auto n = static_cast<std::size_t>(data.size());
  Bytes buffer(guard + misalignment + n + guard, untouched);
  const auto begin = buffer.begin() + static_cast<std::ptrdiff_t>(guard + misalignment);
  const auto end = begin + static_cast<std::ptrdiff_t>(n);
  block_mask(data, spec, buffer.data() + guard + misalignment);
  const auto is_untouched = [](std::uint8_t byte) { return byte == untouched; };
  EXPECT_TRUE(std::all_of(buffer.begin(), begin, is_untouched)) << "wrote before the mask";
  EXPECT_TRUE(std::all_of(end, buffer.end(), is_untouched)) << "wrote past the mask";
  return Bytes(begin, end);
}

/// Where two masks differ first, "" where they do not: vectors of a million bytes print badly.
inline std::string difference(const Bytes& actual, const Bytes& expected) {
  if (actual.size() != expected.size()) return "masks differ in size";
  const auto [a, b] = std::mismatch(actual.begin(), actual.end(), expected.begin());
  if (a == actual.end()) return "";
  return "element " + std::to_string(a - actual.begin()) + " is " + std::to_string(*a) +
         ", expected " + std::to_string(*b);
}

inline std::string describe(const ArrayView& view, const BlockSpec& spec) {
  return std::string(name_of(view.dtype())) + " " + to_string(view.shape()) + " strides " +
         to_string(view.strides()) + " level " + to_string(ParamValue(spec.sparsity_level)) +
         " block (" + std::to_string(spec.block_height) + ", " + std::to_string(spec.block_width) +
         ") zeros " +
         (spec.zeros_per_block ? std::to_string(*spec.zeros_per_block) : std::string("all")) +
         (spec.norm == Norm::L1   ? " L1"
          : spec.norm == Norm::L2 ? " L2"
                                  : " no norm") +
         (spec.monotone ? " monotone" : "") + " min_kept " + std::to_string(spec.min_kept);
}

inline BlockSpec spec(double level, std::int64_t height, std::int64_t width,
                      std::optional<std::int64_t> zeros = std::nullopt, Norm norm = Norm::L1) {
  BlockSpec result;
  result.sparsity_level = level;
  result.block_height = height;
  result.block_width = width;
  result.zeros_per_block = zeros;
  result.norm = norm;
  return result;
}

inline bool operator==(const PackedBits& a, const Bytes& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}
inline Bytes bytes_of(const PackedBits& bits) { return Bytes(bits.begin(), bits.end()); }
inline Bytes bytes_of(const Mask& mask) { return Bytes(mask.data(), mask.data() + mask.size()); }

inline bool operator==(const GroupState& a, const GroupState& b) {
  return a.name == b.name && a.config == b.config && a.shape == b.shape &&
         a.mask_bits == b.mask_bits && a.squashed == b.squashed && a.state == b.state &&
         a.layout == b.layout && a.kept_zeros == b.kept_zeros && a.updates == b.updates &&
         a.arrays == b.arrays;
}
inline bool operator==(const SparsifierState& a, const SparsifierState& b) {
  return a.version == b.version && a.step_count == b.step_count &&
         a.enable_mask_update == b.enable_mask_update && a.defaults == b.defaults &&
         a.groups == b.groups && a.score == b.score;
}
inline void PrintTo(const SparsifierState& state, std::ostream* out) {
  *out << "step " << state.step_count << " enabled " << state.enable_mask_update << " defaults ";
  PrintTo(state.defaults, out);
  for (const auto& group : state.groups) {
    *out << "\n  '" << group.name << "' " << to_string(group.shape)
         << (group.squashed ? " squashed" : "") << " config ";
    PrintTo(group.config, out);
    *out << " state ";
    PrintTo(group.state, out);
    *out << " mask " << ::testing::PrintToString(group.mask_bits) << " layout "
         << to_string(group.layout) << " kept zeros " << ::testing::PrintToString(group.kept_zeros)
         << (group.updates ? "" : " frozen");
  }
}

/// The message of the error of that kind which `work` throws; a failure, and "", where it does not.
template <class Error, class Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw something else: " << error.what();
    return "";
  }
  ADD_FAILURE() << "did not throw";
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Collects the library's messages for the length of a scope.
class Messages {
 public:
  Messages() {
    before_ = set_message_handler(
        [this](Severity severity, const std::string& text) { items.emplace_back(severity, text); });
  }
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;
  ~Messages() { set_message_handler(before_); }

  std::vector<std::pair<Severity, std::string>> items;

 private:
  MessageHandler before_;
};

/// A source that counts what happens to it, moves its memory, and fails on demand.
class CountingSource : public DataSource {
 public:
  explicit CountingSource(const ArrayView& where) : view(where) {}
  ArrayView pin() override {
    if (fails) throw std::runtime_error("cannot pin");
    ++pins;
    return view;
  }
  void unpin() noexcept override { ++unpins; }
  void mark_written() override {
    EXPECT_EQ(pins, unpins + 1) << "must be marked while pinned";
    ++writes;
  }

  ArrayView view;
  bool fails = false;
  int pins = 0, unpins = 0, writes = 0;
};

/// A sparsifier whose update_mask() is a function.
class Scripted : public BaseDataSparsifier {
 public:
  using Update = std::function<void(Scripted&, const std::string&, const ArrayView&)>;

  explicit Scripted(Update script = {}, ParamMap defaults = {})
      : BaseDataSparsifier(std::move(defaults)), update(std::move(script)) {}
  void update_mask(const std::string& name, const ArrayView& data, const ParamMap&) override {
    if (update) update(*this, name, data);
  }

  Update update;
};

}  // namespace datasparse
