/// ParamMaps behind a handle.
#pragma once

#include <utility>

#include "datasparse/datasparse.h"
#include "datasparse/param.hpp"
#include "datasparse/plain_data.hpp"

/// A map of its own, or, in a callback, one of the library's that may only be read.
struct datasparse_params {
  datasparse_params() = default;
  explicit datasparse_params(datasparse::ParamMap map) : own(std::move(map)) {}
  explicit datasparse_params(const datasparse::ParamMap* map) : borrowed(map) {}

  const datasparse::ParamMap& map() const noexcept { return borrowed != nullptr ? *borrowed : own; }

  datasparse::ParamMap own;
  const datasparse::ParamMap* borrowed = nullptr;
};

namespace datasparse::c_abi {

/// Of an argument that may be left out.
const ParamMap& map_or_none(const datasparse_params* params) noexcept;

/// What callbacks save, and get back. ValueError for attributes of a kind that no ParamValue has.
Attributes to_attributes(const ParamMap& values);
ParamMap to_params(const Attributes& attributes);

}  // namespace datasparse::c_abi
