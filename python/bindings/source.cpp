#include "source.hpp"

#include <pybind11/numpy.h>

#include <utility>

#include "datasparse/device.hpp"
#include "gil.hpp"
#include "self.hpp"

namespace py = pybind11;

SourceOwner::~SourceOwner() {
  for (auto* source : sources_) source->owner_ = nullptr;
}

PySource::PySource(py::object data, std::string what, SourceOwner* owner)
    : what_(std::move(what)), data_(std::move(data)), owner_(owner) {
  if (owner_ != nullptr) owner_->sources_.insert(this);
}

PySource::~PySource() {
  if (owner_ != nullptr) owner_->sources_.erase(this);
}

py::object PySource::masked_copy(const datasparse::Mask& mask) const {
  const py::object copied = copy();
  const auto source = make_unchecked_source(copied, what_, nullptr);
  const datasparse::Pin pin(*source);
  if (pin.view().shape() != mask.shape()) {
    throw datasparse::ValueError(what_ + " must have the shape of the mask, " +
                                 to_string(mask.shape()) + ", got " +
                                 to_string(pin.view().shape()));
  }
  const datasparse::Mask beside = mask.on(source->device());
  source->device().zero({{pin.view(), &beside}});
  return copied;
}

py::object PySource::call(const py::object& override, const py::tuple& args,
                          const py::dict& kwargs) const {
  return call_python(override, args, kwargs);
}

int PySource::traverse(visitproc visit, void* arg) const {
  Py_VISIT(data_.ptr());
  return 0;
}

void PySource::clear() {
  const py::object data = std::move(data_);  // taken out first: what it releases may come back here
}

std::shared_ptr<PySource> make_source(const py::object& data, const std::string& what,
                                      SourceOwner* owner) {
  auto source = make_unchecked_source(data, what, owner);
  source->check();
  return source;
}

std::shared_ptr<PySource> source_of_result(const py::object& result, const std::string& what) {
  if (py::isinstance<py::array>(result)) return make_source(result, what, nullptr);
  const auto numpy = py::module_::import("numpy");
  const bool is_scalar = py::isinstance(result, numpy.attr("generic"));
  return make_source(is_scalar ? numpy.attr("asarray")(result) : result, what, nullptr);
}

std::shared_ptr<PySource> make_unchecked_source(const py::object& data, const std::string& what,
                                                SourceOwner* owner) {
  for (const auto make : {new_numpy_source, new_torch_source, new_dlpack_source}) {
    // Sources are let go of without the interpreter's lock, and die with it.
    if (PySource* const made = make(data, what, owner)) {
      return {made, [](PySource* last) { let_go([last] { delete last; }); }};
    }
  }
  throw datasparse::TypeError(
      what +
      " must be a NumPy array, a torch tensor, nn.Parameter, nn.Embedding or nn.EmbeddingBag, or "
      "an object with __dlpack__, got " +
      class_name(data));
}
