#include "datasparse/device.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/group_table.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

/// A device whose memory this process may not touch: pages without any right, each with a twin that
/// only the device knows.
class Pretended final : public Device {
 public:
  static constexpr std::size_t page = 4096;

  ~Pretended() override {
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

  void compute(const std::vector<JobOf<BlockSpec>>& jobs) override {
    ++calls;
    if (fails) throw std::runtime_error("the device is gone");
    std::vector<JobOf<BlockSpec>> here;
    for (const auto& job : jobs) {
      here.push_back(job);
      here.back().data = twin_view(job.data);
      here.back().device = nullptr;
    }
    cpu().compute(here);
  }
  void zero(const ArrayView& data, const std::uint8_t* mask) override {
    cpu().zero(twin_view(data), mask);
  }
  PackedBits zeros_in(const ArrayView& data) override { return cpu().zeros_in(twin_view(data)); }
  std::int64_t count_pruned_zeros(const ArrayView& data, const std::uint8_t* mask) override {
    return cpu().count_pruned_zeros(twin_view(data), mask);
  }

  int calls = 0;
  bool fails = false;

 private:
  ArrayView twin_view(const ArrayView& view) {
    return ArrayView(twin(view).data(), DType::float32, view.shape());
  }

  std::map<void*, std::vector<float>> twins_;
};

std::vector<float> numbers(std::int64_t n, Random& random) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i) {
    values.push_back(static_cast<float>(random.between(-9, 9)));
  }
  return values;
}

TEST(Device, StepsAppliesReportsAndSavesWhereTheTensorLies) {
  Random random(5);
  Pretended device;
  DataNormSparsifier there(spec(0.5, 1, 2)), here(spec(0.5, 1, 2));
  std::vector<ArrayView> on_device;
  std::vector<std::vector<float>> in_memory;
  for (int i = 0; i < 6; ++i) {
    const Axes shape{random.between(1, 9), random.between(1, 9)};
    in_memory.push_back(numbers(element_count(shape), random));
    on_device.push_back(device.store(in_memory.back(), shape));
    GroupOptions options;
    options.keep_zeros = i % 2 == 0;
    const std::string name(1, static_cast<char>('a' + i));
    there.add_data(name, std::make_shared<Placed>(on_device.back(), device), {}, true, nullptr,
                   options);
    here.add_data(name, make_source(ArrayView(in_memory.back().data(), shape)), {}, true, nullptr,
                  options);
  }
  for (auto* const sparsifier : {&there, &here}) {
    sparsifier->step();
    sparsifier->apply_mask();
    sparsifier->apply_kept_zeros();
  }
  EXPECT_EQ(device.calls, 1) << "all groups together";
  for (std::size_t i = 0; i < on_device.size(); ++i) {
    const std::string name(1, static_cast<char>('a' + i));
    EXPECT_EQ(bytes_of(there.get_mask(name)), bytes_of(here.get_mask(name)));
    EXPECT_EQ(device.twin(on_device[i]), in_memory[i]);
    EXPECT_EQ(GroupTable(there).figures()[i].zeros_in_data,
              GroupTable(here).figures()[i].zeros_in_data);
  }
  there.update_mask("a", on_device[0], there.config("a"));
  EXPECT_EQ(device.calls, 2);
  there.squash_mask();
  EXPECT_TRUE(there.squashed("f"));
}

TEST(Device, FailureLeavesTheMasksOfAllDevicesAsTheyWere) {
  Random random(6);
  Pretended device, other;
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  std::vector<float> values = numbers(8, random);
  sparsifier.add_data("cpu", ArrayView(values.data(), {8}));
  sparsifier.add_data("one", std::make_shared<Placed>(device.store(values, {8}), device));
  sparsifier.add_data("two", std::make_shared<Placed>(other.store(values, {8}), other));
  other.fails = true;
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  for (const char* const name : {"cpu", "one", "two"}) {
    EXPECT_EQ(bytes_of(sparsifier.get_mask(name)), Bytes(8, 1)) << name;
  }
  EXPECT_EQ(sparsifier.step_count(), 0);
  other.fails = false;
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("two")), bytes_of(sparsifier.get_mask("cpu")));
}

}  // namespace
}  // namespace datasparse
