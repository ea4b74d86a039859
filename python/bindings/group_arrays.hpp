/// Arrays of groups as NumPy's.
#pragma once

#include <pybind11/numpy.h>

#include "datasparse/kept_array.hpp"

/// A read-only view, which holds the elements as they are now.
pybind11::array to_numpy(const datasparse::KeptArray& array);
/// A copy. TypeError, beginning with `what`, for what is no NumPy array of such a type.
datasparse::KeptArray to_kept_array(const pybind11::object& array, const std::string& what);
