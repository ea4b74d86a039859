#include "group_arrays.hpp"

#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "arrays.hpp"
#include "datasparse/error.hpp"
#include "device_torch.hpp"
#include "gil.hpp"
#include "self.hpp"
#include "torch.hpp"

namespace py = pybind11;
using datasparse::KeptArray;

namespace {

constexpr KeptArray::Type types[] = {KeptArray::Type::uint8, KeptArray::Type::int64,
                                     KeptArray::Type::float32, KeptArray::Type::float64};

py::dtype dtype_of(KeptArray::Type type) { return py::dtype(name_of(type)); }

/// A tensor on a device of torch.
class TorchArray final : public datasparse::RemoteArray {
 public:
  explicit TorchArray(py::object of) : tensor_(std::move(of)) {}
  ~TorchArray() override {
    let_go([this] { tensor_ = py::object(); });
    tensor_.release();  // after the interpreter's end, nobody can let it go
  }

  void read(std::uint8_t* bytes) const override {
    const AcquiredGil gil;
    const bool is_sharded = TorchDevice::is_sharded(tensor_);
    const py::object whole = is_sharded ? tensor_.attr("full_tensor")() : tensor_;
    const py::array here = whole.attr("cpu")().attr("numpy")();
    std::memcpy(bytes, here.data(), static_cast<std::size_t>(here.nbytes()));
  }
  const py::object& tensor() const noexcept { return tensor_; }

 private:
  py::object tensor_;
};

/// Nothing for a dtype that no array has.
std::optional<KeptArray::Type> type_of_tensor(const py::object& tensor) {
  const std::string name = py::str(tensor.attr("dtype"));
  for (const auto type : types) {
    if (name == std::string("torch.") + name_of(type)) return type;
  }
  return std::nullopt;
}

}  // namespace

KeptArray kept_there(const py::object& tensor) {
  return KeptArray(*type_of_tensor(tensor), axes_of(tensor.attr("shape")),
                   std::make_shared<TorchArray>(tensor));
}

py::object to_tensor(KeptArray& array, datasparse::Device& device) {
  auto& there_device = dynamic_cast<TorchDevice&>(device);
  const auto* const there = dynamic_cast<const TorchArray*>(array.remote());
  if (there != nullptr && &TorchDevice::of_tensor(there->tensor()) == &there_device) {
    return there->tensor();
  }
  const py::object torch = py::module_::import("torch");
  const py::object here = to_numpy(array).attr("copy")();
  py::object tensor = there_device.from_host(torch.attr("from_numpy")(here));
  array = kept_there(tensor);
  return tensor;
}

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

KeptArray to_kept_array(const py::object& given, const std::string& what) {
  py::object array = given;
  if (is_torch_tensor(given) && type_of_tensor(given)) {
    array = given.attr("detach")();
    if (!py::cast<bool>(array.attr("is_cpu"))) {
      const py::object contiguous = py::module_::import("torch").attr("contiguous_format");
      return kept_there(array.attr("clone")(py::arg("memory_format") = contiguous));
    }
    array = array.attr("numpy")();
  }
  if (py::isinstance<py::array>(array)) {
    const auto here = py::reinterpret_borrow<py::array>(array);
    for (const auto type : types) {
      if (!here.dtype().equal(dtype_of(type))) continue;
      KeptArray kept(type, axes_of(here.attr("shape")));
      const py::object numpy = py::module_::import("numpy");
      const py::array in_order = numpy.attr("ascontiguousarray")(here);
      if (kept.byte_count() != 0) std::memcpy(kept.write(), in_order.data(), kept.byte_count());
      return kept;
    }
  }
  const bool has_dtype = py::hasattr(array, "dtype");
  throw datasparse::TypeError(
      what + " must be a NumPy array, or a tensor, of uint8, int64, float32 or float64, got " +
      class_name(array) + (has_dtype ? " of " + std::string(py::str(array.attr("dtype"))) : ""));
}
