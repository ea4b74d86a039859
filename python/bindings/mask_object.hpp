/// What users see of masks: one array or tensor over the memory of each group's.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "datasparse/mask.hpp"
#include "torch.hpp"

/// A bool array over the mask's memory, which it keeps alive: of NumPy.
pybind11::array numpy_mask(const datasparse::Mask& mask);
/// The same of torch; of NumPy where `torch` is null.
pybind11::object new_mask_object(const datasparse::Mask& mask, const Torch* torch);

/// The mask object of one group.
class MaskObject {
 public:
  MaskObject(std::string name, const datasparse::Mask& mask, const Torch* torch)
      : name_(std::move(name)), mask_(mask), torch_(torch), object_(new_mask_object(mask, torch)) {}

  /// The object of a mask that has followed its data to another device: the tensor is the same, and
  /// shows the new memory from now on.
  MaskObject(const MaskObject& before, const datasparse::Mask& mask);

  const pybind11::object& object() const noexcept { return object_; }
  const Torch* torch() const noexcept { return torch_; }
  /// Whether the memory is that of `mask`.
  bool shows(const datasparse::Mask& mask) const noexcept { return mask_.is(mask); }
  /// Whether it may become the object of `mask`.
  bool can_show(const datasparse::Mask& mask) const noexcept {
    return torch_ != nullptr && mask_.shape() == mask.shape();
  }

  /// Where the user has pointed a tensor elsewhere (`mask.data = ...`): copies what is there into
  /// the mask and points the tensor back. ValueError for another number of elements.
  void adopt() const;
  /// Points it back without looking at what is there.
  void restore() const;

 private:
  bool is_ours() const;

  std::string name_;
  datasparse::Mask mask_;
  const Torch* torch_;
  pybind11::object object_;
};

/// The mask objects of one sparsifier's groups, by name: of those groups whose mask somebody has
/// asked for, squashed ones included. All calls need the interpreter's lock.
class MaskObjects {
 public:
  /// nullptr where nobody has asked.
  std::shared_ptr<const MaskObject> find(const std::string& name) const;
  /// Puts `made` in the place of `before`, either of which may be null for none. False where
  /// another one is there by now.
  bool replace(const std::string& name, const std::shared_ptr<const MaskObject>& before,
               const std::shared_ptr<const MaskObject>& made);

  /// MaskObject::adopt() for all of them.
  void adopt() const;
  void adopt(const std::string& name) const;
  /// Those of torch, by name.
  std::vector<std::pair<std::string, std::shared_ptr<const MaskObject>>> tensors() const;
  void restore(const std::string& name) const;

  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  std::unordered_map<std::string, std::shared_ptr<const MaskObject>> objects_;
};
