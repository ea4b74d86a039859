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

std::uint64_t compose(DType dtype, bool negative, std::uint64_t exponent, std::uint64_t fraction);

std::uint64_t random_number(Random& random, DType dtype);

std::uint64_t random_special(Random& random, DType dtype);

void fill(Tensor& tensor, Values kind, Random& random);

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
Axes random_strides(Random& random, DType dtype, const Axes& shape, bool broadcast = true);

Axes random_permutation(Random& random, int axes);

/// A bit for each element, packed like Mask::pack().
Bytes packed_bits(const std::vector<bool>& bits);

reference::Rules rules_of(const BlockSpec& spec);

/// What block_mask() writes, into memory of any alignment whose neighbours it must not touch.
Bytes mask_of(const ArrayView& data, const BlockSpec& spec, std::size_t misalignment = 0);

/// Where two masks differ first, "" where they do not: vectors of a million bytes print badly.
std::string difference(const Bytes& actual, const Bytes& expected);

std::string describe(const ArrayView& view, const BlockSpec& spec);

BlockSpec spec(double level, std::int64_t height, std::int64_t width,
               std::optional<std::int64_t> zeros = std::nullopt, Norm norm = Norm::L1);

bool operator==(const PackedBits& a, const Bytes& b);
Bytes bytes_of(const PackedBits& bits);
Bytes bytes_of(const Mask& mask);

bool operator==(const GroupState& a, const GroupState& b);
bool operator==(const SparsifierState& a, const SparsifierState& b);
void PrintTo(const SparsifierState& state, std::ostream* out);

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
