#include "datasparse/device.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/group_arrays.hpp"
#include "datasparse/group_table.hpp"
#include "datasparse/regrowth.hpp"
#include "pretended_device.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

std::vector<float> numbers(std::int64_t n, Random& random) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i) {
    values.push_back(static_cast<float>(random.between(-9, 9)));
  }
  return values;
}

TEST(Device, StepsAppliesReportsAndSavesWhereTheTensorLies) {
  Random random(5);
  PretendedDevice device;
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
    EXPECT_EQ(there.get_mask(name).pack(), here.get_mask(name).pack());
    EXPECT_EQ(there.get_mask(name).data(), nullptr);
    EXPECT_EQ(there.get_mask(name).zeros(), here.get_mask(name).zeros());
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
  PretendedDevice device, other;
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  std::vector<float> values = numbers(8, random);
  sparsifier.add_data("cpu", ArrayView(values.data(), {8}));
  sparsifier.add_data("one", std::make_shared<Placed>(device.store(values, {8}), device));
  sparsifier.add_data("two", std::make_shared<Placed>(other.store(values, {8}), other));
  for (auto* const failing : {&device, &other}) {
    failing->calls_until_failure = 0;
    EXPECT_THROW(sparsifier.step(), std::runtime_error);
    failing->calls_until_failure = -1;
    for (const char* const name : {"cpu", "one", "two"}) {
      EXPECT_EQ(sparsifier.get_mask(name).zeros(), 0) << name;
    }
    EXPECT_EQ(sparsifier.step_count(), 0);
  }
  sparsifier.step();
  EXPECT_EQ(sparsifier.get_mask("two").pack(), sparsifier.get_mask("cpu").pack());
}

/// Data that their owner moves from one device to another.
class Moving final : public DataSource {
 public:
  explicit Moving(std::vector<std::pair<ArrayView, Device*>> places) : places_(std::move(places)) {}
  ArrayView pin() override { return places_[now].first; }
  void unpin() noexcept override {}
  Device& device() noexcept override { return *places_[now].second; }

  std::size_t now = 0;

 private:
  std::vector<std::pair<ArrayView, Device*>> places_;
};

/// The same group in three places, and beside it one on the CPU.
class MovingGroup : public ::testing::Test {
 protected:
  MovingGroup() : values(numbers(24, random)) {
    values[3] = 0;
    kept = std::count(values.begin(), values.end(), 0.0F);
    source = std::make_shared<Moving>(
        std::vector<std::pair<ArrayView, Device*>>{{one.store(values, {4, 6}), &one},
                                                   {ArrayView(values.data(), {4, 6}), &cpu()},
                                                   {other.store(values, {4, 6}), &other}});
    GroupOptions options;
    options.keep_zeros = true;
    sparsifier.add_data("moving", source, {}, true, nullptr, options);
    twin.add_data("moving", make_source(ArrayView(values.data(), {4, 6})), {}, true, nullptr,
                  options);
    sparsifier.add_data("still", ArrayView(values.data(), {24}));
    twin.add_data("still", ArrayView(values.data(), {24}));
  }
  void expect_twins() {
    EXPECT_EQ(sparsifier.get_mask("moving").pack(), twin.get_mask("moving").pack());
    EXPECT_EQ(sparsifier.get_mask("still").pack(), twin.get_mask("still").pack());
    EXPECT_EQ(sparsifier.step_count(), twin.step_count());
  }

  Random random{7};
  PretendedDevice one, other;
  std::vector<float> values;
  std::int64_t kept;
  std::shared_ptr<Moving> source;
  DataNormSparsifier sparsifier{spec(0.4, 1, 2)}, twin{spec(0.4, 1, 2)};
};

TEST_F(MovingGroup, TakesItsMaskAlong) {
  const SparsifierState fresh = sparsifier.save_state();
  for (const std::size_t place : std::vector<std::size_t>{0, 2, 1, 0, 1, 2}) {
    source->now = place;
    expect_twins();
    EXPECT_EQ(&sparsifier.get_mask("moving").device(), &source->device());
    for (auto* const each : {&sparsifier, &twin}) {
      each->update_config("moving", {{"sparsity_level", 0.1 * static_cast<double>(place + 2)}});
      each->step();
    }
    expect_twins();
    const SparsifierState saved = sparsifier.save_state();
    sparsifier.load_state(fresh);
    EXPECT_EQ(sparsifier.get_mask("moving").zeros(), kept) << "what stays zero";
    sparsifier.load_state(saved);
    expect_twins();
    EXPECT_EQ(GroupTable(sparsifier).figures()[0].zeros, GroupTable(twin).figures()[0].zeros);
  }
}

TEST_F(MovingGroup, LeavesAllAsItWasWhereverMemoryEnds) {
  struct Edited final : DataNormSparsifier {
    using DataNormSparsifier::DataNormSparsifier;
    void update_mask(const std::string& name, const ArrayView& data,
                     const ParamMap& config) override {
      DataNormSparsifier::update_mask(name, data, config);
    }
  };
  Edited edited(spec(0.4, 1, 2));
  GroupOptions options;
  options.keep_zeros = true;
  edited.add_data("still", ArrayView(values.data(), {24}));
  edited.add_data("moving", source, {}, true, nullptr, options);
  const SparsifierState fresh = sparsifier.save_state();
  twin.step();
  const PackedBits expected = twin.get_mask("moving").pack();

  const auto call = [&](DataNormSparsifier& of, const std::function<void()>& work) {
    int failures = 0;
    for (int calls = 0;; ++calls, ++failures) {
      const auto before = of.save_state();
      source->now = 0;
      one.calls_until_failure = calls;
      bool failed = false;
      try {
        work();
      } catch (const std::runtime_error&) {
        failed = true;
      }
      one.calls_until_failure = -1;
      if (!failed) return failures;
      const auto after = of.save_state();
      for (std::size_t i = 0; i < before.groups.size(); ++i) {
        EXPECT_EQ(before.groups[i].mask_bits, after.groups[i].mask_bits);
      }
      EXPECT_EQ(before.step_count, after.step_count);
      source->now = 1;  // on the CPU, so that the next try moves again
      of.get_mask("moving");
    }
  };
  EXPECT_GT(call(sparsifier, [&] { sparsifier.step(); }), 2);
  EXPECT_EQ(sparsifier.get_mask("moving").pack(), expected);
  EXPECT_GT(call(edited, [&] { edited.step(); }), 3);
  EXPECT_EQ(edited.get_mask("moving").pack(), expected);
  EXPECT_GT(call(sparsifier, [&] { sparsifier.load_state(fresh); }), 0);
  EXPECT_EQ(sparsifier.get_mask("moving").zeros(), kept);
  EXPECT_GT(
      call(sparsifier, [&] { sparsifier.add_data("moving", source, {}, true, nullptr, options); }),
      2);
  EXPECT_GT(call(sparsifier, [&] { sparsifier.apply_kept_zeros(); }), 1);
  EXPECT_GT(call(sparsifier, [&] { sparsifier.apply_mask(); }), 0);
}

TEST(Device, OverrideThatFailsLeavesItsMaskAsItWas) {
  struct Failing final : BaseDataSparsifier {
    void update_mask(const std::string& name, const ArrayView&, const ParamMap&) override {
      Mask mask = get_mask(name);
      mask.unpack(PackedBits(packed_size(mask.size()), 0).data());
      if (name == "b") throw std::logic_error("no");
    }
  };
  Random random(8);
  PretendedDevice device;
  Failing sparsifier;
  for (const char* const name : {"a", "b"}) {
    sparsifier.add_data(name,
                        std::make_shared<Placed>(device.store(numbers(9, random), {9}), device));
  }
  EXPECT_THROW(sparsifier.step(), std::logic_error);
  for (const char* const name : {"a", "b"}) EXPECT_EQ(sparsifier.get_mask(name).zeros(), 0);
}

TEST(Device, IsNotWaitedForBecauseOfAWarning) {
  Random random(9);
  PretendedDevice device;
  DataNormSparsifier sparsifier(spec(0.999, 1, 1));
  sparsifier.add_data("a", std::make_shared<Placed>(device.store(numbers(9, random), {9}), device));
  const Messages messages;
  sparsifier.step();
  EXPECT_EQ(messages.items.size(), 1U) << "the rule alone says that nothing is left";
  EXPECT_EQ(device.reads, 0);
}

TEST(Device, FirstMasksAreDrawnForAnyDeviceAndMoveOnThoseThatSaySo) {
  Random random(8);
  PretendedDevice device;
  RegrowthSpec spec;
  spec.sparsity_level = 0.5;
  SET there(spec), here(spec);
  Static still(spec);
  const Axes shape{6, 7};
  auto values = numbers(42, random);
  const auto data = device.store(values, shape);
  there.add_data("w", std::make_shared<Placed>(data, device));
  still.add_data("w", std::make_shared<Placed>(data, device));
  here.add_data("w", make_source(ArrayView(values.data(), shape)));
  for (const int calls : {0, 1}) {
    device.calls_until_failure = calls;
    EXPECT_THROW(there.step(), std::runtime_error);
    device.calls_until_failure = -1;
    EXPECT_FALSE(there.is_drawn("w"));
    EXPECT_EQ(there.get_mask("w").zeros(), 0);
  }
  there.step();
  here.step();
  EXPECT_EQ(there.get_mask("w").pack(), here.get_mask("w").pack());
  EXPECT_EQ(there.ever_active("w"), 21);
  EXPECT_EQ(GroupArrays(there).get("w", "ever_active"), GroupArrays(here).get("w", "ever_active"));
  const auto message = message_of<TypeError>([&] { there.step(); });
  EXPECT_TRUE(contains(message, "got pretended")) << message;
  EXPECT_EQ(there.get_mask("w").pack(), here.get_mask("w").pack());
  EXPECT_EQ(there.step_count(), 1);
  still.step();
  const auto drawn = still.get_mask("w").pack();
  still.step();
  EXPECT_EQ(still.get_mask("w").pack(), drawn);
}

TEST(Device, MasksThatCannotMoveTakeBackWhatHooksHaveWritten) {
  struct Noting final : SET {
    using SET::SET;
    std::shared_ptr<DataSource> get_scores(const std::string& name, const ArrayView&,
                                           const ParamMap&) override {
      replace_state(name, {{"asked", true}});
      GroupArrays(*this).set(name, "asked", KeptArray(KeptArray::Type::uint8, Axes{1}));
      return nullptr;
    }
  };
  Random random(10);
  PretendedDevice device;
  Noting sparsifier;
  const Bytes mask{1, 0, 1, 0, 1, 0, 1, 0};
  sparsifier.add_data("w", std::make_shared<Placed>(device.store(numbers(8, random), {8}), device),
                      {}, true, mask.data());
  const auto before = sparsifier.save_state().groups.front();
  EXPECT_THROW(sparsifier.step(), TypeError);
  const auto after = sparsifier.save_state().groups.front();
  EXPECT_EQ(after.state, before.state);
  EXPECT_EQ(after.arrays, before.arrays) << "what was ever active, and nothing else";
  EXPECT_EQ(after.mask_bits, before.mask_bits);
}

TEST(Device, ReportsAskDevicesInTheOrderOfGroups) {
  Random random(9);
  PretendedDevice one, other;
  const auto values = numbers(8, random);
  for (const bool is_first : {true, false}) {
    DataNormSparsifier sparsifier(spec(0.5, 1, 1));
    for (auto* const device : {is_first ? &one : &other, is_first ? &other : &one}) {
      sparsifier.add_data(device == &one ? "one" : "other",
                          std::make_shared<Placed>(device->store(values, {8}), *device));
    }
    one.calls_until_failure = 2;    // it hands out a mask, and finds zeros
    other.calls_until_failure = 1;  // it hands out a mask
    EXPECT_THROW(GroupTable(sparsifier).figures(), std::runtime_error);
    EXPECT_EQ(one.calls_until_failure, is_first ? 0 : 1);
    one.calls_until_failure = other.calls_until_failure = -1;
  }
}

TEST(Device, PoolsOfMasksThatMoveNameBothDevices) {
  Random random(9);
  PretendedDevice device;
  std::vector<float> values = numbers(8, random);
  const auto there = std::make_shared<Placed>(device.store(values, {8}), device);
  const auto here = make_source(ArrayView(values.data(), {8}));
  RegrowthSpec spec;
  spec.pool = "p";
  for (const bool first : {true, false}) {
    SET sparsifier(spec);
    sparsifier.add_data("a", first ? here : there);
    sparsifier.add_data("b", first ? there : here);
    EXPECT_EQ(message_of<TypeError>([&] { sparsifier.step(); }),
              "what pool 'p' ranks must be on one device, got some in CPU memory beside pretended");
  }
}

}  // namespace
}  // namespace datasparse
