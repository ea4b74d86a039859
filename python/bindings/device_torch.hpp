/// Devices of torch: their tensors, and masks that are bool tensors beside them. The work is that
/// of datasparse/torch/device, in Python, which plans and starts kernels and waits for none.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "datasparse/device.hpp"

/// A mask, or the content of one: a bool tensor of the mask's shape, which nobody else holds.
struct TorchMask final : datasparse::DeviceMask {
  explicit TorchMask(pybind11::object of) : tensor(std::move(of)) {}
  ~TorchMask() override;

  pybind11::object tensor;
};

/// One for each torch.device, for ever. The pointer of a view is a tensor of Python, which whoever
/// has pinned it holds.
class TorchDevice final : public datasparse::Device {
 public:
  static TorchDevice& of(const pybind11::object& device);

  /// The view of a tensor that the caller holds. TypeError, naming `what`, for a dtype that no rule
  /// knows.
  static datasparse::ArrayView view_of(const pybind11::object& tensor, const std::string& what);
  /// The tensor of a mask on any device of torch.
  static const pybind11::object& tensor_of(const datasparse::Mask& mask);

  std::string name() const override { return name_; }
  const pybind11::object& device() const noexcept { return device_; }
  std::vector<Content> compute(
      const std::vector<datasparse::JobOf<datasparse::BlockSpec>>& jobs) override;
  std::vector<Moved> move(
      const std::vector<datasparse::JobOf<datasparse::RegrowthSpec>>& jobs) override;
  void zero_grown(const std::vector<Growing>& some) noexcept override;
  bool spans_devices() const override { return true; }
  void zero(const std::vector<Zeroing>& some) override;
  std::vector<datasparse::PackedBits> zeros_in(
      const std::vector<datasparse::ArrayView>& some) override;
  datasparse::Mask make_mask(const datasparse::Axes& shape) override;
  std::vector<datasparse::PackedBits> pack(const std::vector<datasparse::Mask>& masks) override;
  Content copy(const datasparse::Mask& mask) override;
  Content unpack(const datasparse::Axes& shape, const std::uint8_t* bits) override;
  void put(const std::vector<Change>& changes) noexcept override;
  void prune(const datasparse::Mask& mask, const datasparse::DeviceMask& marks) override;

 private:
  explicit TorchDevice(const pybind11::object& device);

  const pybind11::object device_;
  const std::string name_;
};
