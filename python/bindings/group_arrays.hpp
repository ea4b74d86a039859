/// Arrays of groups as NumPy's, or, for groups on a device of torch, as tensors there.
#pragma once

#include <pybind11/numpy.h>

#include "datasparse/device.hpp"
#include "datasparse/kept_array.hpp"

/// A read-only view, which holds the elements as they are now.
pybind11::array to_numpy(const datasparse::KeptArray& array);
/// The tensor of an array on a device of torch, which nobody may write to: the one that is there,
/// or a copy, which becomes the array's own.
pybind11::object to_tensor(datasparse::KeptArray& array, datasparse::Device& device);
/// A contiguous tensor on a device, which nobody else holds, of a dtype that arrays have.
datasparse::KeptArray kept_there(const pybind11::object& tensor);
/// A copy, a tensor's on its device. TypeError, beginning with `what`, for what is no NumPy array
/// and no tensor of such a type.
datasparse::KeptArray to_kept_array(const pybind11::object& array, const std::string& what);
