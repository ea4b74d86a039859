/// Shapes and dtypes between Python and the core.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "datasparse/array_view.hpp"

inline pybind11::tuple to_tuple(const datasparse::Axes& axes) {
  pybind11::tuple tuple(static_cast<std::size_t>(axes.size()));
  for (int axis = 0; axis < axes.size(); ++axis) tuple[static_cast<std::size_t>(axis)] = axes[axis];
  return tuple;
}

/// Of a sequence of integers: a shape, or an order of axes.
inline datasparse::Axes axes_of(const pybind11::object& integers) {
  datasparse::Axes axes;
  for (const auto integer : integers) axes.push_back(integer.cast<std::int64_t>());
  return axes;
}

/// The dtype that is called `name`, which begins with `prefix`; nothing for one that no rule knows.
inline std::optional<datasparse::DType> dtype_named(const std::string& name,
                                                    const std::string& prefix = "") {
  using datasparse::DType;
  for (const auto dtype : {DType::float16, DType::bfloat16, DType::float32, DType::float64}) {
    if (name == prefix + name_of(dtype)) return dtype;
  }
  return std::nullopt;
}
