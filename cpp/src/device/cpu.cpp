#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/float_environment.hpp"
#include "base/parallel.hpp"
#include "datasparse/apply_mask.hpp"
#include "datasparse/device.hpp"
#include "datasparse/spec_sparsifier.hpp"
#include "device/by_device.hpp"
#include "kernels/kernels.hpp"
#include "mask/mask_bits.hpp"
#include "mask/pattern.hpp"
#include "mask/pruned_share.hpp"
#include "select/mask_engine.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t chunk = 65536;  // elements that a thread takes at a time

int threads_for(std::int64_t elements) noexcept {
  return elements < parallel_from ? 1 : available_threads();
}

void zero_masked(const Kernels& table, const ArrayView& data, const std::uint8_t* mask) noexcept {
  if (data.size() == 0) return;
  const Matrix matrix(data);
  const auto write = table.zero_masked[static_cast<int>(data.dtype())];
  const std::int64_t columns = matrix.columns();
  // Long rows are cut, short ones taken together.
  const std::int64_t width = std::min(columns, chunk);
  const std::int64_t across = (columns + width - 1) / width;
  const std::int64_t height = std::max<std::int64_t>(1, chunk / width);
  const std::int64_t down = (matrix.rows() + height - 1) / height;
  parallel_for(across * down, threads_for(data.size()), [&](std::int64_t i, int) {
    const std::int64_t column = i % across * width;
    const std::int64_t n = std::min(width, columns - column);
    const std::int64_t first = i / across * height;
    for (std::int64_t r = first; r < std::min(first + height, matrix.rows()); ++r) {
      const std::uint8_t* const row = mask + r * columns + column;
      matrix.for_each_run(r, column, n,
                          [&](std::byte* run, std::ptrdiff_t stride, std::int64_t count,
                              std::int64_t offset) { write(run, stride, row + offset, count); });
    }
  });
}

/// Bits as pack_bits() packs: owned, or somebody else's.
struct Bits final : DeviceMask {
  PackedBits own;
  const std::uint8_t* bits;

  explicit Bits(PackedBits packed) : own(std::move(packed)), bits(own.data()) {}
  explicit Bits(const std::uint8_t* of) noexcept : bits(of) {}
};

const std::uint8_t* bits_of(const DeviceMask& content) noexcept {
  return static_cast<const Bits&>(content).bits;
}

PackedBits packed(const Mask& mask) {
  PackedBits bits(packed_size(mask.size()));
  pack_bits(bits.data(), mask.data(), mask.size());
  return bits;
}

class Cpu final : public Device {
 public:
  std::string name() const override { return "cpu"; }

  std::vector<Content> compute(const std::vector<MaskJob>& jobs) override {
    compute_masks(jobs);
    return {};
  }
  void zero(const std::vector<Zeroing>& some) override {
    for (const auto& [data, mask] : some) zero_masked(kernels(), data, mask->data());
  }
  std::vector<PackedBits> zeros_in(const std::vector<ArrayView>& some) override {
    std::vector<PackedBits> found;
    for (const auto& data : some) found.push_back(datasparse::zeros_in(data));
    return found;
  }

  Mask make_mask(const Axes& shape) override { return Mask(shape); }
  std::vector<PackedBits> pack(const std::vector<Mask>& masks) override {
    std::vector<PackedBits> all;
    for (const auto& mask : masks) all.push_back(packed(mask));
    return all;
  }
  Content copy(const Mask& mask) override { return std::make_shared<Bits>(packed(mask)); }
  Content unpack(const Axes&, const std::uint8_t* bits) override {
    return std::make_shared<Bits>(bits);
  }
  void put(const std::vector<Change>& changes) noexcept override {
    for (const auto& [mask, content] : changes) {
      unpack_bits(mask.data(), bits_of(*content), mask.size());
    }
  }
  void prune(const Mask& mask, const DeviceMask& marks) override {
    prune_bits(mask.data(), bits_of(marks), mask.size());
  }
};

}  // namespace

Device::~Device() = default;
DeviceMask::~DeviceMask() = default;

Device& cpu() noexcept {
  static Cpu device;
  return device;
}

void apply_mask(const ArrayView& data, const std::uint8_t* mask) {
  require_writable(data, "apply_mask");
  zero_masked(kernels(), data, mask);
}

void compute_on_cpu(const std::vector<JobView<BlockSpec>>& jobs) { compute_viewed_masks(jobs); }

BlockPlan BlockPlan::of(const BlockSpec& spec, const Axes& shape, const Axes& layout) {
  const DefaultFloatEnvironment environment;
  const MatrixShape matrix = MatrixShape::of(shape, layout);
  const Pattern pattern = Pattern::of(spec, matrix);
  const std::int64_t pruned = PrunedShare::of(spec).pruned_of(pattern.blocks_of(matrix));
  return {layout_matters(spec, shape, layout) ? layout : Axes(), pattern.height, pattern.width,
          pattern.zeros, pruned};
}

std::vector<PackedBits> pack_all(const std::vector<Mask>& masks) {
  ByDevice<std::size_t> places;
  for (std::size_t i = 0; i < masks.size(); ++i) items_of(masks[i].device(), places).push_back(i);
  std::vector<PackedBits> all(masks.size());
  for (const auto& [device, own] : places) {
    std::vector<Mask> some;
    for (const std::size_t i : own) some.push_back(masks[i]);
    auto packed_masks = device->pack(some);
    for (std::size_t i = 0; i < own.size(); ++i) all[own[i]] = std::move(packed_masks[i]);
  }
  return all;
}

std::int64_t count_zeros(const std::uint8_t* mask, std::int64_t n) {
  return kernels().count_zeros(mask, n);
}

}  // namespace datasparse
