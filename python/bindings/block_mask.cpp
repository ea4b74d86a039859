#include "datasparse/block_mask.hpp"

#include <pybind11/numpy.h>

#include "arrays.hpp"
#include "datasparse/device.hpp"
#include "datasparse/error.hpp"
#include "gil.hpp"
#include "mask_object.hpp"
#include "params.hpp"
#include "self.hpp"
#include "source.hpp"
#include "torch.hpp"

namespace py = pybind11;
using datasparse::ArrayView;
using datasparse::Axes;

namespace {

/// ValueError unless a mask of that shape can be written to bytes of the other, element by element.
void require_room(const Axes& shape, const Axes& given, const Axes& strides) {
  if (given != shape) {
    throw datasparse::ValueError("out must have the shape of data, " + to_string(shape) + ", got " +
                                 to_string(given));
  }
  Axes of_pairs;  // the view's smallest elements have two bytes: all is twice as long
  for (int axis = 0; axis < strides.size(); ++axis) of_pairs.push_back(2 * strides[axis]);
  std::uint16_t pair = 0;
  if (ArrayView(&pair, datasparse::DType::float16, given, of_pairs, true).overlaps_itself()) {
    throw datasparse::ValueError("out must not overlap itself, got a view of shape " +
                                 to_string(given) + " with byte strides " + to_string(strides));
  }
}

/// The caller's buffer as a NumPy array over the same memory.
py::array checked_out(const py::object& out, const Axes& shape) {
  const bool is_tensor = is_torch_tensor(out);
  if (is_tensor && !py::object(out.attr("is_cpu")).cast<bool>()) {
    throw datasparse::TypeError("out must be in CPU memory, where data are, got a tensor on " +
                                std::string(py::str(out.attr("device"))));
  }
  const py::object array = is_tensor ? out.attr("numpy")() : out;
  if (!py::isinstance<py::array>(array)) {
    throw datasparse::TypeError("out must be a bool array or tensor, got " + class_name(out));
  }
  const auto result = py::reinterpret_borrow<py::array>(array);
  if (result.dtype().kind() != 'b') {
    throw datasparse::TypeError(
        "out must have dtype bool, got " +
        std::string(py::str(static_cast<const py::object&>(result.dtype()))));
  }
  require_room(shape, axes_of(result.attr("shape")), axes_of(result.attr("strides")));
  if (!result.writeable())
    throw datasparse::ValueError("out must be writable, got a read-only array");
  return result;
}

/// Throws unless `out` is a tensor into which `made` can be copied where it lies.
void require_room_there(const py::object& out, const py::object& made, const Torch& torch,
                        const std::string& device) {
  const bool is_there = torch.is_tensor(out) &&
                        py::object(out.attr("device")).equal(made.attr("device")) &&
                        py::isinstance(out, py::type::of(made));  // or made is in shards
  if (!is_there) {
    const std::string got =
        torch.is_tensor(out) ? " on " + std::string(py::str(out.attr("device"))) : "";
    throw datasparse::TypeError("out must be a bool tensor on " + device + ", got " +
                                class_name(out) + got);
  }
  const py::object dtype = out.attr("dtype");
  if (!dtype.is(torch.bool_dtype)) {
    throw datasparse::TypeError("out must have dtype bool, got " + std::string(py::str(dtype)));
  }
  require_room(axes_of(made.attr("shape")), axes_of(out.attr("shape")),
               axes_of(out.attr("stride")()));
}

/// The mask of a tensor on a device of torch.
py::object mask_on_device(PySource& source, const ArrayView& data,
                          const datasparse::BlockSpec& spec, const py::object& out) {
  datasparse::Device& device = source.device();
  const datasparse::Mask mask = device.make_mask(data.shape());
  datasparse::JobOf<datasparse::BlockSpec> job{data, spec.resolved(data.shape()), nullptr};
  job.device = &device;
  job.own = &mask;
  device.put({{mask, device.compute({job}).front()}});
  const py::object made = new_mask_object(mask, source.torch());
  if (out.is_none()) return made;
  require_room_there(out, made, *source.torch(), device.name());
  out.attr("copy_")(made);
  return out;
}

py::object block_mask(const py::object& data, const py::object& sparsity_level,
                      const py::object& sparse_block_shape, const py::object& zeros_per_block,
                      const py::object& norm, const py::object& out) {
  py::dict config;
  config["sparsity_level"] = sparsity_level;
  config["sparse_block_shape"] = sparse_block_shape;
  config["zeros_per_block"] = zeros_per_block;
  config["norm"] = norm;
  const auto spec = datasparse::BlockSpec::from_config(to_param_map(config, ""));

  const auto source = make_source(data, "data", nullptr);
  const datasparse::Pin pin(*source);
  spec.resolved(pin.view().shape());  // before anything is allocated

  if (&source->device() != &datasparse::cpu())
    return mask_on_device(*source, pin.view(), spec, out);
  py::array target;
  if (!out.is_none()) target = checked_out(out, pin.view().shape());
  const bool direct = !out.is_none() && (target.flags() & py::array::c_style) != 0;
  const datasparse::Mask mask(direct ? Axes{0} : pin.view().shape());
  auto* const bytes = direct ? static_cast<std::uint8_t*>(target.mutable_data()) : mask.data();
  without_gil([&] { datasparse::block_mask(pin.view(), spec, bytes); });
  if (out.is_none()) return new_mask_object(mask, source->torch());
  if (!direct) target.attr("__setitem__")(py::ellipsis(), numpy_mask(mask));
  return out;
}

/// The fewest and the most zeros of a mask, whatever the data are.
py::tuple count_zeros(const py::tuple& lengths, const py::kwargs& config) {
  const auto spec = datasparse::BlockSpec::from_config(to_param_map(config, ""));
  const auto zeros = datasparse::count_zeros(axes_of(lengths), spec);
  return py::make_tuple(zeros.least, zeros.most);
}

}  // namespace

void register_block_mask(py::module_& module) {
  module.def("_count_zeros", &count_zeros, py::arg("shape"));
  module.def("block_mask", &block_mask, py::arg("data"), py::kw_only(), py::arg("sparsity_level"),
             py::arg("sparse_block_shape"), py::arg("zeros_per_block") = py::none(),
             py::arg("norm") = "L1", py::arg("out") = py::none(),
             R"(The mask that prunes the blocks of least norm: True keeps, False prunes.

The data are seen as a matrix (rows: first axis; columns: all others; one axis of N is 1 x N) and cut
into blocks from the origin, partial at the edges. A block's score is the mean of abs(x) (norm "L1"), of
x * x ("L2") or of x itself (None) over its elements. The round(sparsity_level * blocks) lowest blocks are
pruned, NaN ranking highest, ties by lower block index; in each, the zeros_per_block smallest elements
are zeroed, by the same measure: of a partial block that has no more elements, all.

data: NumPy array, torch tensor or object with __dlpack__; float16, bfloat16, float32 or float64, any
    shape and strides. It is read, not copied and not changed.
sparsity_level: in [0, 1].
sparse_block_shape: (height, width), each at least 1, or -1 for the whole axis.
zeros_per_block: at most height * width; None means the whole block. For N:M sparsity pass
    sparsity_level=1.0, sparse_block_shape=(1, M), zeros_per_block=N.
norm: "L1", "L2" or None, which ranks values as they are, sign included: for scores such as those of
    movement pruning. -0.0 equals 0.0.
out: a bool array or tensor of data's shape to write to and return.

Returns a bool array of data's shape and kind (torch for torch, on the same device). Cost: O(n), in parallel, without the GIL.

>>> import numpy as np
>>> block_mask(np.array([4.0, -1.0, 3.0, 0.5]), sparsity_level=0.5, sparse_block_shape=(1, 1))
array([ True, False,  True, False]))");
}
