/// A device for tests: one whose memory this process may not touch.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/apply_mask.hpp"
#include "datasparse/device.hpp"
#include "support.hpp"

namespace datasparse {

/// Tensors are pages without any right, each with a twin that only the device knows; masks are its
/// own.
class PretendedDevice final : public Device {
 public:
  static constexpr std::size_t page = 4096;

  ~PretendedDevice() override {
    for (const auto& [pages, twin] : twins_) munmap(pages, page);
  }

  /// Memory on the device, at most a page of it.
  ArrayView store(const std::vector<float>& values, const Axes& shape) {
    void* const pages = mmap(nullptr, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
    twins_[pages] = values;
    return ArrayView(pages, DType::float32, shape);
  }
  std::vector<float>& twin(const ArrayView& view) { return twins_.at(view.data()); }

  std::string name() const override { return "pretended"; }

  std::vector<Content> compute(const std::vector<JobOf<BlockSpec>>& jobs) override {
    ++calls;
    allocate();
    std::vector<Content> made;
    for (const auto& job : jobs) {
      const BlockPlan plan = BlockPlan::of(job.spec, job.data.shape(), job.layout);
      EXPECT_LE(plan.zeros, plan.height * plan.width);
      auto content = std::make_shared<Memory>(memory(*job.own).bytes);
      auto here = job;
      here.data = twin_view(job.data);
      here.device = nullptr;
      here.own = nullptr;
      here.mask = content->bytes.data();
      here.kept_zeros = nullptr;
      cpu().compute({here});
      if (job.kept_there != nullptr) prune_marked(content->bytes, *job.kept_there);
      made.push_back(std::move(content));
    }
    return made;
  }
  void zero(const std::vector<Zeroing>& some) override {
    allocate();
    for (const auto& [data, mask] : some) {
      apply_mask(twin_view(data), memory(*mask).bytes.data());
    }
  }
  std::vector<PackedBits> zeros_in(const std::vector<ArrayView>& some) override {
    allocate();
    std::vector<ArrayView> twins;
    for (const auto& view : some) twins.push_back(twin_view(view));
    return cpu().zeros_in(twins);
  }

  Mask make_mask(const Axes& shape) override {
    allocate();
    const auto bytes = static_cast<std::size_t>(element_count(shape));
    return Mask(shape, *this, std::make_shared<Memory>(Bytes(bytes, 1)));
  }
  std::vector<PackedBits> pack(const std::vector<Mask>& masks) override {
    allocate();
    ++reads;
    std::vector<PackedBits> all;
    for (const auto& mask : masks) {
      all.emplace_back(packed_size(mask.size()));
      pack_bits(all.back().data(), memory(mask).bytes.data(), mask.size());
    }
    return all;
  }
  Content copy(const Mask& mask) override {
    allocate();
    return std::make_shared<Memory>(memory(mask).bytes);
  }
  Content unpack(const Axes& shape, const std::uint8_t* bits) override {
    allocate();
    Mask mask(shape);
    mask.unpack(bits);
    return std::make_shared<Memory>(bytes_of(mask));
  }
  void put(const std::vector<Change>& changes) noexcept override {
    for (const auto& [mask, content] : changes) {
      auto& bytes = static_cast<Memory&>(*content).bytes;
      std::copy(bytes.begin(), bytes.end(), memory(mask).bytes.begin());
    }
  }
  void prune(const Mask& mask, const DeviceMask& marks) override {
    allocate();
    prune_marked(memory(mask).bytes, marks);
  }

  int calls = 0, reads = 0;
  int calls_until_failure = -1;  // never

 private:
  struct Memory final : DeviceMask {
    explicit Memory(Bytes of) : bytes(std::move(of)) {}
    Bytes bytes;
  };
  static Memory& memory(const Mask& mask) { return static_cast<Memory&>(*mask.there()); }
  static void prune_marked(Bytes& bytes, const DeviceMask& marks) {
    const auto& marked = static_cast<const Memory&>(marks).bytes;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (marked[i] != 0) bytes[i] = 0;
    }
  }
  /// Whatever needs memory may fail.
  void allocate() {
    if (calls_until_failure == 0) throw std::runtime_error("the device has no memory");
    if (calls_until_failure > 0) --calls_until_failure;
  }
  ArrayView twin_view(const ArrayView& view) {
    return ArrayView(twin(view).data(), DType::float32, view.shape());
  }

  std::map<void*, std::vector<float>> twins_;
};

}  // namespace datasparse
