#include "datasparse/array_view.hpp"

#include <algorithm>
#include <cstdlib>

#include "datasparse/error.hpp"

namespace datasparse {

std::size_t item_size(DType dtype) noexcept {
  switch (dtype) {
    case DType::float16:
    case DType::bfloat16: return 2;
    case DType::float32: return 4;
    case DType::float64: return 8;
  }
  return 0;
}

const char* name_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    case DType::float32: return "float32";
    case DType::float64: return "float64";
  }
  return "";
}

Axes::Axes(std::initializer_list<std::int64_t> values) {
  for (auto value : values) push_back(value);
}

Axes::Axes(const std::vector<std::int64_t>& values) {
  for (auto value : values) push_back(value);
}

void Axes::push_back(std::int64_t value) {
  if (size_ == max_size) throw ValueError("data may have at most 32 axes, got more");
  if (size_ < max_few) {
    few_[static_cast<std::size_t>(size_)] = value;
  } else {
    const auto longer = std::make_shared<std::array<std::int64_t, max_size>>();
    *std::copy(begin(), end(), longer->begin()) = value;
    many_ = longer;
  }
  ++size_;
}

bool operator==(const Axes& a, const Axes& b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

std::int64_t element_count(const Axes& shape) noexcept {
  std::int64_t count = 1;
  for (auto length : shape) count *= length;
  return count;
}

void require_possible(const Axes& shape, const std::string& what) {
  constexpr std::int64_t limit = std::int64_t{1} << 59;
  std::int64_t product = 1;
  for (auto length : shape) {
    if (length < 0) throw ValueError(what + " must not be negative, got " + to_string(shape));
    if (length > 1 && product > limit / length) {
      throw ValueError(what + " must have at most 2^59 elements, got " + to_string(shape));
    }
    product *= length > 1 ? length : 1;
  }
}

std::string to_string(const Axes& shape) {
  std::string text = "(";
  for (int axis = 0; axis < shape.size(); ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(shape[axis]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

namespace {

Axes contiguous_strides(DType dtype, const Axes& shape) {
  require_possible(shape, "shape");
  std::array<std::int64_t, Axes::max_size> strides{};
  auto step = static_cast<std::int64_t>(item_size(dtype));
  for (int axis = shape.size() - 1; axis >= 0; --axis) {
    strides[static_cast<std::size_t>(axis)] = step;
    step *= std::max<std::int64_t>(shape[axis], 1);
  }
  Axes result;
  for (int axis = 0; axis < shape.size(); ++axis) {
    result.push_back(strides[static_cast<std::size_t>(axis)]);
  }
  return result;
}

struct Axis {
  std::int64_t length, stride;
};

/// Whether two elements begin less than so many bytes apart. It sorts the offsets of all: for
/// strides that interleave, where no rule of thumb holds.
bool any_offsets_closer_than(std::int64_t bytes, const std::vector<Axis>& axes) {
  std::vector<std::int64_t> offsets{0};
  for (const auto& axis : axes) {
    const auto known = offsets.size();
    for (std::int64_t i = 1; i < axis.length; ++i) {
      for (std::size_t k = 0; k < known; ++k) offsets.push_back(offsets[k] + i * axis.stride);
    }
  }
  std::sort(offsets.begin(), offsets.end());
  return std::adjacent_find(offsets.begin(), offsets.end(),
                            [bytes](auto a, auto b) { return b - a < bytes; }) != offsets.end();
}

}  // namespace

ArrayView::ArrayView(void* data, DType dtype, const Axes& shape, bool read_only)
    : ArrayView(data, dtype, shape, contiguous_strides(dtype, shape), read_only) {}

ArrayView::ArrayView(void* data, DType dtype, const Axes& shape, const Axes& strides,
                     bool read_only)
    : data_(data), dtype_(dtype), read_only_(read_only), shape_(shape), strides_(strides) {
  if (shape.size() != strides.size()) {
    throw ValueError("strides must have one entry per axis, got " + to_string(strides) +
                     " for shape " + to_string(shape));
  }
  require_possible(shape, "shape");
  if (data == nullptr && size() > 0) {
    throw ValueError("data must not be null for shape " + to_string(shape));
  }
}

bool ArrayView::overlaps_itself() const {
  if (size() < 2) return false;
  std::vector<Axis> axes;
  for (int axis = 0; axis < shape_.size(); ++axis) {
    if (shape_[axis] > 1) axes.push_back({shape_[axis], std::abs(strides_[axis])});
  }
  std::sort(axes.begin(), axes.end(), [](auto a, auto b) { return a.stride < b.stride; });
  if (axes.front().stride == 0) return true;
  // Each axis steps over all that the finer ones span: no two elements can meet.
  auto span = static_cast<std::int64_t>(item_size(dtype_));
  const bool nested = std::all_of(axes.begin(), axes.end(), [&span](auto axis) {
    const bool clear = axis.stride >= span;
    span += axis.stride * (axis.length - 1);
    return clear;
  });
  return !nested && any_offsets_closer_than(static_cast<std::int64_t>(item_size(dtype_)), axes);
}

bool operator==(const ArrayView& a, const ArrayView& b) noexcept {
  return a.data_ == b.data_ && a.dtype_ == b.dtype_ && a.read_only_ == b.read_only_ &&
         a.shape_ == b.shape_ && a.strides_ == b.strides_;
}

void require_writable(const ArrayView& view, const std::string& what) {
  if (view.read_only()) {
    throw ValueError(what + " needs writable memory, got a read-only array");
  }
  if (view.overlaps_itself()) {
    throw ValueError(what + " needs memory whose elements do not overlap, got a view of shape " +
                     to_string(view.shape()) + " with byte strides " + to_string(view.strides()) +
                     "; make a copy of it first");
  }
}

}  // namespace datasparse
