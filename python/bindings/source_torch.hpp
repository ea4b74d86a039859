/// Tensors of torch as data sources, wherever their memory is.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "datasparse/device.hpp"
#include "device_torch.hpp"
#include "dlpack.hpp"
#include "place.hpp"
#include "source.hpp"
#include "torch.hpp"

/// Finds the tensor, which may be on any device, and another one the next time.
class TorchSource final : public PySource {
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
  datasparse::Device& device() noexcept override;
  /// Autograd must learn that the weights it has saved were overwritten.
  void mark_written() override;

  pybind11::object call(const pybind11::object& override, const pybind11::tuple& args,
                        const pybind11::dict& kwargs) const override;

 protected:
  pybind11::object copy() const override;

 private:
  /// What is pinned: memory that DLPack lends, or a tensor on a device.
  using Pinned = std::variant<dlpack::Loan, std::unique_ptr<TorchData>>;

  datasparse::ArrayView pin_tensor(const pybind11::object& tensor);
  datasparse::ArrayView hold(TorchData data, datasparse::Device& device);
  /// The memory of what is here of a DTensor, if that is CPU memory.
  std::optional<dlpack::Loan> borrow_shards(const pybind11::object& tensor) const;
  /// Remembers where shards were that are all on this rank, in CPU memory.
  TorchDevice& device_of_shards(const pybind11::object& tensor);
  /// The memory of a tensor; nothing for one on a device.
  std::optional<dlpack::Loan> borrow(const pybind11::object& tensor) const;
  /// TypeError for a tensor that has no memory of its own. Returns whether it is in CPU memory.
  bool check_memory(const pybind11::object& tensor) const;

  /// Where the tensor comes from: it is the data, a module's `weight`, or what a place is asked
  /// for.
  enum class Kind { tensor, module, place };

  pybind11::object tensor() const;
  pybind11::object scores() const;
  pybind11::object found_at(const char* method) const;

  const Torch& torch_;
  Kind kind_;
  mutable Place place_;      // remembers where it found the tensor
  pybind11::object zeroed_;  // what pin_to_zero() found, until unpin()
  std::vector<Pinned> pinned_;
  pybind11::object spec_;             // of shards: which mesh, and how they are placed
  TorchDevice* shards_on_ = nullptr;  // theirs
  datasparse::Device* device_ = &datasparse::cpu();  // of what was pinned last
};
