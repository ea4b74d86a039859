#include "group_arrays.hpp"

#include <pybind11/stl.h>

#include <cstring>
#include <memory>

#include "datasparse/error.hpp"
#include "self.hpp"
#include "state.hpp"

namespace py = pybind11;
using datasparse::KeptArray;

namespace {

py::dtype dtype_of(KeptArray::Type type) { return py::dtype(name_of(type)); }

}  // namespace

py::array to_numpy(const KeptArray& array) {
  // The array in the capsule shares the memory: whoever writes to the group's copies it first.
  auto held = std::make_unique<KeptArray>(array);
  const void* const data = held->data();
  const py::capsule owner(held.get(), [](void* kept) { delete static_cast<KeptArray*>(kept); });
  held.release();
  py::array view(dtype_of(array.type()), to_tuple(array.shape()).cast<std::vector<py::ssize_t>>(),
                 data, owner);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

KeptArray to_kept_array(const py::object& array, const std::string& what) {
  if (py::isinstance<py::array>(array)) {
    const auto given = py::reinterpret_borrow<py::array>(array);
    for (const auto type : {KeptArray::Type::uint8, KeptArray::Type::int64,
                            KeptArray::Type::float32, KeptArray::Type::float64}) {
      if (!given.dtype().equal(dtype_of(type))) continue;
      datasparse::Axes shape;
      for (py::ssize_t axis = 0; axis < given.ndim(); ++axis) shape.push_back(given.shape(axis));
      KeptArray kept(type, shape);
      const py::object numpy = py::module_::import("numpy");
      const py::array in_order = numpy.attr("ascontiguousarray")(given);
      if (kept.byte_count() != 0) std::memcpy(kept.write(), in_order.data(), kept.byte_count());
      return kept;
    }
  }
  const bool has_dtype = py::hasattr(array, "dtype");
  throw datasparse::TypeError(
      what + " must be a NumPy array of uint8, int64, float32 or float64, got " +
      class_name(array) + (has_dtype ? " of " + std::string(py::str(array.attr("dtype"))) : ""));
}
