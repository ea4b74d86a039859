/// A non-owning view of the caller's memory: pointer, dtype, shape, strides, read-only flag.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "datasparse/api.h"

namespace datasparse {

/// The types that elements may have. Sums are in float32, those of float64 in float64.
enum class DType : std::uint8_t { float16, bfloat16, float32, float64 };

/// Bytes per element: 2, 2, 4, 8.
DATASPARSE_API std::size_t item_size(DType dtype) noexcept;
/// "float16", "bfloat16", "float32" or "float64".
DATASPARSE_API const char* name_of(DType dtype) noexcept;

/// Lengths or byte strides of up to 32 axes. Small, and copying one allocates nothing.
class DATASPARSE_API Axes {
 public:
  /// As in NumPy.
  static constexpr int max_size = 32;

  Axes() = default;
  /// ValueError for more than 32 values.
  Axes(std::initializer_list<std::int64_t> values);
  /// ValueError for more than 32 values.
  explicit Axes(const std::vector<std::int64_t>& values);
  Axes(const Axes&) noexcept = default;
  Axes& operator=(const Axes&) noexcept = default;
  ~Axes() = default;

  /// How many axes there are.
  int size() const noexcept { return size_; }
  /// The value of an axis in [0, size()), which is not checked.
  std::int64_t operator[](int axis) const noexcept { return begin()[axis]; }
  /// The values lie in a row; the pointer is valid while this object is.
  const std::int64_t* begin() const noexcept {
    return many_ == nullptr ? few_.data() : many_->data();
  }
  const std::int64_t* end() const noexcept { return begin() + size_; }
  /// ValueError beyond 32 axes.
  void push_back(std::int64_t value);

  friend DATASPARSE_API bool operator==(const Axes& a, const Axes& b) noexcept;
  friend bool operator!=(const Axes& a, const Axes& b) noexcept { return !(a == b); }

 private:
  static constexpr int max_few = 5;

  std::array<std::int64_t, max_few> few_{};
  int size_ = 0;
  // All values, where there are more than a few. Shared by copies, and never changed.
  std::shared_ptr<const std::array<std::int64_t, max_size>> many_;
};

/// Number of elements of that shape: the product of its axes, 1 for no axis at all.
DATASPARSE_API std::int64_t element_count(const Axes& shape) noexcept;
/// ValueError, beginning with `what`, for a negative length, or lengths whose product, zeros left
/// out, is above 2^59: no memory holds so much, and below it no product of lengths or strides
/// overflows.
DATASPARSE_API void require_possible(const Axes& shape, const std::string& what);
/// The shape with its axes in the order of a layout, a permutation of them; none: as they are.
DATASPARSE_API Axes viewed_shape(const Axes& shape, const Axes& layout);
/// "(3, 4)", "(5,)", "()": as Python writes a shape.
DATASPARSE_API std::string to_string(const Axes& shape);

/// N-D strided view. Strides are in bytes, may be negative or zero, and need not be multiples of
/// the element's size; memory need not be aligned. The view owns nothing: the memory must outlive
/// every use. Copying one allocates nothing.
class DATASPARSE_API ArrayView {
 public:
  ArrayView() = default;
  /// C-contiguous memory. ValueError from require_possible(), or for null memory with elements in
  /// it.
  ArrayView(void* data, DType dtype, const Axes& shape, bool read_only = false);
  /// Any strides, one per axis, in bytes.
  ArrayView(void* data, DType dtype, const Axes& shape, const Axes& strides, bool read_only);

  /// C-contiguous memory whose type says the rest; const memory is read-only.
  ArrayView(float* data, const Axes& shape) : ArrayView(data, DType::float32, shape) {}
  ArrayView(double* data, const Axes& shape) : ArrayView(data, DType::float64, shape) {}
  ArrayView(const float* data, const Axes& shape)
      : ArrayView(const_cast<float*>(data), DType::float32, shape, true) {}
  ArrayView(const double* data, const Axes& shape)
      : ArrayView(const_cast<double*>(data), DType::float64, shape, true) {}

  /// Where the element at index 0 of every axis is.
  void* data() const noexcept { return data_; }
  /// The type of all elements.
  DType dtype() const noexcept { return dtype_; }
  /// The lengths of the axes.
  const Axes& shape() const noexcept { return shape_; }
  /// The steps from one element to the next along each axis, in bytes.
  const Axes& strides() const noexcept { return strides_; }
  /// Whether apply_mask() and squash_mask() must refuse.
  bool read_only() const noexcept { return read_only_; }
  /// The number of elements.
  std::int64_t size() const noexcept { return element_count(shape_); }

  /// Whether two elements share a byte, as in a broadcast view. Cheap for every layout that
  /// slicing, transposing or broadcasting makes; O(n log n) in time and memory for hand-made
  /// strides that interleave.
  bool overlaps_itself() const;

  /// The same memory, seen in the same way.
  friend DATASPARSE_API bool operator==(const ArrayView& a, const ArrayView& b) noexcept;

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::float32;
  bool read_only_ = false;
  Axes shape_{0};
  Axes strides_{static_cast<std::int64_t>(sizeof(float))};
};

/// Throws ValueError unless the view's memory may be written element by element: not read-only, not
/// overlapping itself. `what` begins the message: "apply_mask of 'emb'".
DATASPARSE_API void require_writable(const ArrayView& view, const std::string& what);

}  // namespace datasparse
