#include "mask_object.hpp"

#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "datasparse/error.hpp"
#include "device_torch.hpp"

namespace py = pybind11;
using datasparse::Mask;

namespace {

std::vector<py::ssize_t> shape_of(const Mask& mask) {
  return {mask.shape().begin(), mask.shape().end()};
}

}  // namespace

py::array numpy_mask(const Mask& mask) {
  const py::capsule owner(new Mask(mask), [](void* memory) { delete static_cast<Mask*>(memory); });
  return py::array(py::dtype::of<bool>(), shape_of(mask), mask.data(), owner);
}

py::object new_mask_object(const Mask& mask, const Torch* torch) {
  if (mask.there() != nullptr) return TorchDevice::tensor_of(mask).attr("detach")();
  if (torch == nullptr) return numpy_mask(mask);
  // Within torch.inference_mode() it would be a tensor that may not be written to outside.
  return within(torch->inference_mode(false), [&] { return torch->from_numpy(numpy_mask(mask)); });
}

MaskObject::MaskObject(const MaskObject& before, const Mask& mask)
    : name_(before.name_), mask_(mask), torch_(before.torch_), object_(before.object_) {
  const py::object shown = new_mask_object(mask_, torch_);
  if (TorchDevice::is_sharded(shown) || TorchDevice::is_sharded(object_)) {
    object_ = shown;
    return;
  }
  try {
    object_.attr("data") = shown;
  } catch (const py::error_already_set&) {
    object_ = shown;  // not every device of torch lets its tensors become those of another one
  }
}

/// Whether the tensor still is what new_mask_object() returns.
bool MaskObject::is_ours() const {
  if (mask_.there() != nullptr) {
    const auto& own = TorchDevice::tensor_of(mask_);
    return py::cast<bool>(object_.attr("is_set_to")(own)) &&
           py::object(object_.attr("dtype")).is(torch_->bool_dtype);
  }
  if (!py::cast<bool>(object_.attr("is_cpu"))) return false;
  const auto pointer = py::cast<std::uintptr_t>(object_.attr("data_ptr")());
  return (mask_.size() == 0 || pointer == reinterpret_cast<std::uintptr_t>(mask_.data())) &&
         py::object(object_.attr("dtype")).is(torch_->bool_dtype) &&
         py::tuple(object_.attr("shape")).equal(py::tuple(py::cast(shape_of(mask_)))) &&
         py::cast<bool>(object_.attr("is_contiguous")());
}

void MaskObject::adopt() const {
  // What a DTensor holds cannot be exchanged for something else.
  if (torch_ == nullptr || TorchDevice::is_sharded(object_) || is_ours()) return;
  const py::object keep = object_.attr("detach")().attr("ne")(0);
  restore();
  const auto elements = py::cast<std::int64_t>(keep.attr("numel")());
  if (elements != mask_.size()) {
    throw datasparse::ValueError("mask.data for the data of '" + name_ + "' must have " +
                                 std::to_string(mask_.size()) + " elements, got " +
                                 std::to_string(elements));
  }
  object_.attr("copy_")(keep.attr("reshape")(object_.attr("shape")));
}

void MaskObject::restore() const {
  if (torch_ == nullptr || TorchDevice::is_sharded(object_)) return;
  object_.attr("data") = new_mask_object(mask_, torch_);
}

std::shared_ptr<const MaskObject> MaskObjects::find(const std::string& name) const {
  const auto found = objects_.find(name);
  return found == objects_.end() ? nullptr : found->second;
}

bool MaskObjects::replace(const std::string& name, const std::shared_ptr<const MaskObject>& before,
                          const std::shared_ptr<const MaskObject>& made) {
  if (find(name) != before) return false;
  // The caller holds `before`, so nothing is released here that might come back.
  if (made == nullptr) {
    objects_.erase(name);
  } else {
    objects_[name] = made;
  }
  return true;
}

std::vector<std::pair<std::string, std::shared_ptr<const MaskObject>>> MaskObjects::tensors()
    const {
  std::vector<std::pair<std::string, std::shared_ptr<const MaskObject>>> found;
  for (const auto& item : objects_) {
    if (item.second->torch() != nullptr) found.emplace_back(item);
  }
  return found;
}

void MaskObjects::adopt() const {
  // Adopting runs Python code, which may change what is here: those of this moment are held.
  for (const auto& item : tensors()) item.second->adopt();
}

void MaskObjects::adopt(const std::string& name) const {
  if (const auto object = find(name)) object->adopt();
}

void MaskObjects::restore(const std::string& name) const {
  if (const auto object = find(name)) object->restore();
}

int MaskObjects::traverse(visitproc visit, void* arg) const {
  for (const auto& item : objects_) Py_VISIT(item.second->object().ptr());
  return 0;
}

void MaskObjects::clear() {
  const auto released = std::exchange(objects_, {});  // what they release may come back here
}
