/// Views and sources of whatever has data() and size(), one element behind another: std::vector,
/// std::array, std::span, row-major matrices of linear algebra libraries. Needs none of them.
///
///     std::vector<float> weight(64 * 500);
///     sparsifier.add_data("weight", view_of(weight, {64, 500}));    // it stays where it is
///     sparsifier.add_data("weight", source_of(weight, {64, 500}));  // it may be moved or swapped
#pragma once

#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "datasparse/array_view.hpp"
#include "datasparse/data_source.hpp"
#include "datasparse/error.hpp"

namespace datasparse {

/// The dtype of a C++ type, as `value`. For a half type of one's own:
///
///     template <>
///     struct datasparse::DTypeOf<Eigen::half> : std::integral_constant<DType, DType::float16> {};
template <class T>
struct DTypeOf {
  static_assert(sizeof(T) == 0,
                "elements must be float or double, or of a half type that datasparse::DTypeOf is "
                "specialised for");
};
template <>
struct DTypeOf<float> : std::integral_constant<DType, DType::float32> {};
template <>
struct DTypeOf<double> : std::integral_constant<DType, DType::float64> {};

/// Whether a matrix says of itself, as Eigen's do, that it is column-major.
template <class Container, class = void>
struct IsColumnMajor : std::false_type {};
template <class Container>
struct IsColumnMajor<Container, std::void_t<decltype(Container::IsRowMajor)>>
    : std::bool_constant<!Container::IsRowMajor> {};

/// The elements of a container as a C-contiguous array of that shape; read-only where they are
/// const. The view is valid while the container keeps its memory. ValueError unless the shape has
/// size() elements. A matrix that is column-major, or has gaps between its rows, needs an ArrayView
/// with strides.
template <class Container>
ArrayView view_of(Container& container, const Axes& shape) {
  static_assert(!IsColumnMajor<Container>::value,
                "a column-major matrix needs an ArrayView with strides");
  using Element = std::remove_pointer_t<decltype(std::data(container))>;
  using Value = std::remove_const_t<Element>;
  require_possible(shape, "shape");
  const auto size = static_cast<std::int64_t>(std::size(container));
  if (element_count(shape) != size) {
    throw ValueError("shape must have the " + std::to_string(size) +
                     " elements of the container, got " + to_string(shape));
  }
  return {const_cast<Value*>(std::data(container)), DTypeOf<Value>::value, shape,
          std::is_const_v<Element>};
}
/// With one axis.
template <class Container>
ArrayView view_of(Container& container) {
  return view_of(container, {static_cast<std::int64_t>(std::size(container))});
}

/// Looks at every step where the container's memory is. The container itself must stay where it is,
/// and keep its size, until the group is removed.
template <class Container>
class ContainerSource final : public DataSource {
 public:
  /// ValueError as from view_of().
  ContainerSource(Container& container, const Axes& shape) : container_(container), shape_(shape) {
    view_of(container_, shape_);
  }

  ArrayView pin() override { return view_of(container_, shape_); }
  void unpin() noexcept override {}

 private:
  Container& container_;
  const Axes shape_;
};

/// A ContainerSource for add_data(). ValueError as from view_of().
template <class Container>
std::shared_ptr<DataSource> source_of(Container& container, const Axes& shape) {
  return std::make_shared<ContainerSource<Container>>(container, shape);
}

}  // namespace datasparse
