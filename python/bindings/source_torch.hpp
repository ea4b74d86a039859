/// Tensors of torch as data sources, wherever their memory is.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "place.hpp"
#include "source.hpp"
#include "torch.hpp"

/// Finds the tensor, and does what its memory has no part in. A class for each kind of memory does
/// the rest.
class TorchSource : public PySource {
 public:
  TorchSource(const pybind11::object& data, const std::string& what, SourceOwner* owner,
              const Torch& torch);

  pybind11::object array() const override { return tensor(); }
  pybind11::object array_for_override() const override { return scores().attr("detach")(); }
  pybind11::object gradient() const override;
  std::string gradient_advice() const override {
    return "call backward() of a loss that it is a part of, or hand it in by set_gradients()";
  }
  const Torch* torch() const noexcept override { return &torch_; }
  void check() const override;

  datasparse::ArrayView pin() override { return pin_tensor(tensor()); }
  datasparse::ArrayView pin_scores() override { return pin_tensor(scores()); }
  datasparse::ArrayView pin_to_zero(const datasparse::Mask& mask) override;
  void unpin() noexcept override;
  /// Autograd must learn that the weights it has saved were overwritten.
  void mark_written() override;

  pybind11::object call(const pybind11::object& override, const pybind11::tuple& args,
                        const pybind11::dict& kwargs) const override;

 protected:
  /// pin() and unpin() of the memory that this tensor has now.
  virtual datasparse::ArrayView pin_tensor(const pybind11::object& tensor) = 0;
  virtual void unpin_tensor() noexcept = 0;
  /// TypeError for a tensor with another kind of memory.
  virtual void check_memory(const pybind11::object& tensor) const = 0;

  pybind11::object copy() const override;

  const Torch& torch_;

 private:
  /// Where the tensor comes from: it is the data, a module's `weight`, or what a place is asked
  /// for.
  enum class Kind { tensor, module, place };

  pybind11::object tensor() const;
  pybind11::object scores() const;
  pybind11::object found_at(const char* method) const;

  Kind kind_;
  mutable Place place_;      // remembers where it found the tensor
  pybind11::object zeroed_;  // what pin_to_zero() found, until unpin()
};
