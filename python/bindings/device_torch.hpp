/// Devices of torch: their tensors, and masks that are bool tensors beside them. The work is that
/// of datasparse/torch/device, in Python, which plans and starts kernels and waits for none.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/device.hpp"
#include "dlpack.hpp"

/// A mask, or the content of one: a bool tensor of the mask's shape, which nobody else holds.
struct TorchMask final : datasparse::DeviceMask {
  explicit TorchMask(pybind11::object of) : tensor(std::move(of)) {}
  ~TorchMask() override;

  pybind11::object tensor;
  mutable std::uint8_t* lent = nullptr;  // its bytes, once a device has lent them: they stay
};

/// What the pointer of a view means to a device of torch; whoever has pinned the tensor holds it.
struct TorchData {
  pybind11::object tensor;
  /// Of shards that are all on this rank, in CPU memory: that memory. The tensor is the user's
  /// then, and else shares its memory alone.
  std::optional<dlpack::Loan> whole;
};

/// One for each torch.device, for each layout of shards, and for the ranks that compute the masks
/// of these together: for ever.
class TorchDevice final : public datasparse::Device {
 public:
  /// The work is that of a module: datasparse.torch.device, or for shards, which have a layout in
  /// the place of a torch.device, datasparse.torch.sharded.device.
  static TorchDevice& of(const pybind11::object& device,
                         const char* module = "datasparse.torch.device");
  /// That of a tensor.
  static TorchDevice& of_tensor(const pybind11::object& tensor);
  /// Whether a tensor is a DTensor: the whole of it has a shape, and each rank a part.
  static bool is_sharded(pybind11::handle tensor);

  /// The view of what the caller holds. TypeError, naming `what`, for a dtype that no rule knows.
  static datasparse::ArrayView view_of(TorchData& data, const std::string& what);
  /// The tensor of a mask on any device of torch.
  static const pybind11::object& tensor_of(const datasparse::Mask& mask);

  std::string name() const override { return name_; }
  Device& together() override { return together_ == nullptr ? *this : *together_; }
  void meet(const std::vector<std::uint64_t>& drawn) override;
  void give_up() noexcept override;
  /// A tensor of CPU memory, brought here; of shards, what is here of it.
  pybind11::object from_host(const pybind11::object& tensor) const;
  /// A function of the module.
  pybind11::object function(const char* name) const;
  /// Whether what it has are parts of tensors, and of other ranks the rest.
  bool shares() const noexcept { return shares_; }
  /// Whether they are of a layout of one rank, which so has all of each.
  bool is_alone() const noexcept { return is_alone_; }
  const pybind11::object& device() const noexcept { return device_; }
  std::vector<Content> compute(
      const std::vector<datasparse::JobOf<datasparse::BlockSpec>>& jobs) override;
  std::vector<Moved> move(
      const std::vector<datasparse::JobOf<datasparse::RegrowthSpec>>& jobs) override;
  void zero_grown(const std::vector<Growing>& some) noexcept override;
  bool spans_devices() const override { return true; }
  bool lend(datasparse::JobOf<datasparse::BlockSpec>& job, datasparse::PackedBits& kept) override;
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
  TorchDevice(const pybind11::object& device, const char* module);

  const pybind11::object device_;
  const std::string name_;
  const char* const module_;
  const bool shares_;
  TorchDevice* together_ = nullptr;  // of a layout, its ranks
  bool is_alone_ = false;            // of a layout: there is one of them
};
