#include "source_torch.hpp"

#include <utility>

#include "arrays.hpp"
#include "datasparse/error.hpp"
#include "device_torch.hpp"
#include "dlpack.hpp"
#include "gil.hpp"
#include "mask_object.hpp"
#include "refusals.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::ArrayView;
using datasparse::TypeError;

namespace {

/// What attr() gives, in less time: for what is asked of each tensor at each step.
py::object attribute(const py::object& object, PyObject* interned) {
  auto found = py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), interned));
  if (!found) throw py::error_already_set();
  return found;
}

}  // namespace

TorchSource::TorchSource(const py::object& data, const std::string& what, SourceOwner* owner,
                         const Torch& torch)
    : PySource(data, what, owner),
      torch_(torch),
      kind_(torch.is_tensor(data)      ? Kind::tensor
            : torch.is_embedding(data) ? Kind::module
                                       : Kind::place) {}

void TorchSource::check() const {
  const py::object tensor = this->tensor();
  if (!TorchDevice::is_sharded(tensor)) refuse_known_class(tensor, what_);
  check_memory(tensor);
  const std::string dtype = py::str(tensor.attr("dtype"));
  if (!dtype_named(dtype, "torch.")) {
    if (py::cast<bool>(tensor.attr("is_complex")())) refuse_complex(what_, dtype, "their .abs()");
    const bool quantized = py::cast<bool>(tensor.attr("is_quantized"));
    refuse_dtype(what_, dtype,
                 std::string("convert it with ") + (quantized ? ".dequantize()" : ".float()"));
  }
  if (py::cast<bool>(tensor.attr("is_neg")())) {
    throw TypeError(what_ +
                    " must be a plain tensor, got a negated view of another one; copy it "
                    "with .resolve_neg()");
  }
}

ArrayView TorchSource::pin_to_zero(const datasparse::Mask& mask) {
  py::object zeroed;
  if (kind_ == Kind::place) {
    zeroed = place_.where_it_was(data());
    // What is no more than a parameter can be zeroed anywhere.
    if (!zeroed) place_.allow_zeros(data(), new_mask_object(mask, &torch_));
  }
  if (!zeroed) zeroed = tensor();
  const ArrayView view = pin_tensor(zeroed);
  zeroed_ = std::move(zeroed);
  return view;
}

void TorchSource::unpin() noexcept {
  zeroed_ = py::object();
  pinned_.pop_back();
}

void TorchSource::mark_written() {
  if (device_ != &datasparse::cpu()) return;  // torch wrote, and has counted
  const py::object written = zeroed_ ? zeroed_ : tensor();
  static PyObject* const is_inference = PyUnicode_InternFromString("is_inference");
  const auto has_no_version =
      py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(written.ptr(), is_inference));
  if (!has_no_version) throw py::error_already_set();
  if (!py::cast<bool>(has_no_version)) torch_.increment_version(written);
}

py::object TorchSource::call(const py::object& override, const py::tuple& args,
                             const py::dict& kwargs) const {
  return within(torch_.no_grad(), [&] { return call_python(override, args, kwargs); });
}

/// Only leaves have gradients. Of a tensor that is computed, torch warns where one asks.
py::object TorchSource::gradient() const {
  if (kind_ == Kind::place && py::hasattr(data(), "__datasparse_gradient__")) {
    return data().attr("__datasparse_gradient__")();
  }
  const py::object tensor = this->tensor();
  if (!py::cast<bool>(tensor.attr("is_leaf"))) {
    throw datasparse::ValueError(
        what_ +
        " must be a leaf to have a gradient, got a tensor that is computed "
        "from others; hand its gradient in by set_gradients()");
  }
  return tensor.attr("grad");
}

py::object TorchSource::copy() const { return tensor().attr("detach")().attr("clone")(); }

/// What is pruned, looked up each time: it may have been replaced.
py::object TorchSource::tensor() const {
  if (kind_ == Kind::place) return found_at(Place::tensor_method);
  return kind_ == Kind::module ? py::object(data().attr("weight")) : data();
}

/// What is ranked: mostly the same.
py::object TorchSource::scores() const {
  return kind_ == Kind::place ? found_at(Place::scores_method) : tensor();
}

py::object TorchSource::found_at(const char* method) const {
  if (py::object same = place_.where_it_was(data())) return same;
  py::object found = place_.ask(data(), method);
  if (torch_.is_tensor(found)) return found;
  throw TypeError(what_ + " must be a torch tensor, got " + class_name(found) + " from " + method +
                  "()");
}

ArrayView TorchSource::pin_tensor(const py::object& tensor) {
  TorchDevice* device = nullptr;
  if (TorchDevice::is_sharded(tensor)) {
    device = &device_of_shards(tensor);
    auto whole = device->is_alone() ? borrow_shards(tensor) : std::nullopt;
    if (whole) return hold({tensor, std::move(whole)}, *device);
    if (device->is_alone()) device = &TorchDevice::of_tensor(tensor);
  } else if (auto loan = borrow(tensor)) {
    const ArrayView view = dlpack::view_of(loan->tensor(), loan->read_only(), what_);
    pinned_.emplace_back(std::move(*loan));
    device_ = &datasparse::cpu();
    return view;
  } else {
    device = &TorchDevice::of_tensor(tensor);
  }
  // It shares the version counter, so that what is written to it counts.
  return hold({tensor.attr("detach")(), std::nullopt}, *device);
}

ArrayView TorchSource::hold(TorchData data, datasparse::Device& device) {
  auto pinned = std::make_unique<TorchData>(std::move(data));
  const ArrayView view = TorchDevice::view_of(*pinned, what_);
  pinned_.emplace_back(std::move(pinned));
  device_ = &device;
  return view;
}

/// To detach a DTensor, and to ask for its layout, takes longer than to prune 100 KiB of it.
std::optional<dlpack::Loan> TorchSource::borrow_shards(const py::object& tensor) const {
  static PyObject* const name = PyUnicode_InternFromString("_local_tensor");
  const py::object here = attribute(tensor, name);
  const bool is_plain = Py_TYPE(here.ptr()) == reinterpret_cast<PyTypeObject*>(torch_.tensor.ptr());
  return is_plain ? borrow(here) : std::nullopt;
}

TorchDevice& TorchSource::device_of_shards(const py::object& tensor) {
  static PyObject* const name = PyUnicode_InternFromString("_spec");
  py::object spec = attribute(tensor, name);
  // Shards that were moved by hand keep their spec: then borrow_shards() finds no CPU memory.
  if (spec.is(spec_) && shards_on_->is_alone()) return *shards_on_;
  TorchDevice& device = TorchDevice::of_tensor(tensor);
  if (device.is_alone() && py::cast<bool>(tensor.attr("is_cpu"))) {
    shards_on_ = &device;
    spec_ = std::move(spec);
  }
  return device;
}

datasparse::Device& TorchSource::device() noexcept {
  if (!pinned_.empty()) return *device_;
  try {
    // Whatever a weight is computed of is on its device: nothing needs to be computed.
    const py::object one = kind_ == Kind::place ? place_.one_of(data()) : tensor();
    const bool is_sharded = TorchDevice::is_sharded(one);
    if (!is_sharded && py::cast<bool>(one.attr("is_cpu"))) return *(device_ = &datasparse::cpu());
    if (py::cast<bool>(one.attr("is_meta"))) return *device_;  // no place for a mask
    device_ = is_sharded ? &device_of_shards(one) : &TorchDevice::of_tensor(one);
  } catch (const std::exception&) {
    // A tensor that cannot be found is where it was: pin() says what is wrong with it.
  }
  return *device_;
}

std::optional<dlpack::Loan> TorchSource::borrow(const py::object& tensor) const {
  try {
    // param.data is another tensor that keeps today's storage; param itself would take a loan
    // along to the next one when the user writes param.data = ... The same as param.detach(), but
    // autograd has no part in it, which saves a quarter of the time.
    static PyObject* const name = PyUnicode_InternFromString("data");
    const py::object data = attribute(tensor, name);
    // Subclasses may have their own table, or none.
    const bool is_plain =
        Py_TYPE(data.ptr()) == reinterpret_cast<PyTypeObject*>(torch_.tensor.ptr());
    if (!is_plain) refuse_known_class(tensor, what_);
    dlpack::Loan loan =
        is_plain ? dlpack::Loan(data, what_, torch_.exchange_table) : dlpack::Loan(data, what_);
    if (loan.tensor().device.type != dlpack::cpu) return std::nullopt;
    if (loan.tensor().data == nullptr) refuse_null(tensor, what_);
    return loan;
  } catch (py::error_already_set&) {
    // Not every device of torch lends its memory. Where this can say more, it throws its own error.
    if (!check_memory(tensor)) return std::nullopt;
    refuse_without_memory(tensor, what_);
    throw;
  }
}

bool TorchSource::check_memory(const py::object& tensor) const {
  if (!py::object(tensor.attr("layout")).is(torch_.strided)) {
    refuse_without_memory(tensor, what_);
    throw TypeError(what_ + " must be a dense (strided) tensor, got layout " +
                    std::string(py::str(tensor.attr("layout"))) + "; convert it with .to_dense()");
  }
  const std::string device = py::str(tensor.attr("device").attr("type"));
  if (device == "meta") {
    throw TypeError(what_ +
                    " must be a tensor with memory, got one on device 'meta'; materialise it "
                    "first, with model.to_empty(device='cpu') say");
  }
  return device == "cpu";
}

PySource* new_torch_source(const py::object& data, const std::string& what, SourceOwner* owner) {
  const auto* const torch = Torch::if_imported();
  if (torch == nullptr) return nullptr;
  const bool is_one = torch->is_tensor(data) || torch->is_embedding(data) || Place::is_one(data);
  return is_one ? new TorchSource(data, what, owner, *torch) : nullptr;
}
