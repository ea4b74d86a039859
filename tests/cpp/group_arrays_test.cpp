// Arrays of groups: what lasts, what is shared, what is refused.

#include "datasparse/group_arrays.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <numeric>

#include "datasparse/checkpoint.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

KeptArray floats(const std::vector<float>& values) {
  KeptArray array(KeptArray::Type::float32, Axes{static_cast<std::int64_t>(values.size())});
  std::memcpy(array.write(), values.data(), array.byte_count());
  return array;
}

testing::AssertionResult begins(const std::string& text, const std::string& with) {
  if (text.rfind(with, 0) == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << text;
}

/// With a group "w" of four weights.
class GroupArraysTest : public testing::Test {
 protected:
  GroupArraysTest() { sparsifier.add_data("w", ArrayView(weights.data(), Axes{4})); }

  std::vector<float> weights{1, 2, 3, 4};
  DataNormSparsifier sparsifier{spec(0.5, 1, 1)};
  GroupArrays arrays{sparsifier};
};

TEST_F(GroupArraysTest, SetGetEraseAndBytes) {
  EXPECT_FALSE(arrays.get("w", "sums"));
  arrays.set("w", "sums", floats({1, 2, 3}));
  arrays.set("w", "bits", KeptArray(KeptArray::Type::uint8, Axes{2, 3}));
  EXPECT_EQ(*arrays.get("w", "sums"), floats({1, 2, 3}));
  EXPECT_EQ(arrays.keys("w"), (std::vector<std::string>{"bits", "sums"}));
  EXPECT_EQ(arrays.bytes(), 18);
  EXPECT_EQ(arrays.bytes({"sums"}), 12);
  EXPECT_TRUE(arrays.erase("w", "bits"));
  EXPECT_FALSE(arrays.erase("w", "bits"));
  arrays.erase_all({"sums", "others"});
  EXPECT_EQ(arrays.bytes(), 0);
}

TEST_F(GroupArraysTest, WhatSomebodyHoldsStaysAsItWas) {
  arrays.set("w", "sums", floats({1, 2}));
  const auto add_one = [](KeptArray& array) {
    auto* const values = reinterpret_cast<float*>(array.write());
    values[0] += 1;
  };
  const std::uint8_t* const before = arrays.get("w", "sums")->data();
  EXPECT_TRUE(arrays.edit("w", "sums", add_one));
  EXPECT_EQ(arrays.get("w", "sums")->data(), before) << "nobody held it: changed in place";
  const auto held = arrays.get("w", "sums");
  const auto state = sparsifier.save_state();
  EXPECT_TRUE(arrays.edit("w", "sums", add_one));
  EXPECT_EQ(*held, floats({2, 2}));
  EXPECT_EQ(state.groups[0].arrays.at("sums"), floats({2, 2}));
  EXPECT_EQ(*arrays.get("w", "sums"), floats({3, 2}));
  EXPECT_FALSE(arrays.edit("w", "others", add_one));
}

TEST_F(GroupArraysTest, AreDroppedWithTheGroupAndKeptWithItsMask) {
  arrays.set("w", "sums", floats({1}));
  sparsifier.add_data("w", ArrayView(weights.data(), Axes{4}));
  EXPECT_EQ(*arrays.get("w", "sums"), floats({1}));
  sparsifier.add_data("w", make_source(ArrayView(weights.data(), Axes{4})), {}, false);
  EXPECT_FALSE(arrays.get("w", "sums"));
  arrays.set("w", "sums", floats({1}));
  sparsifier.remove_data("w");
  EXPECT_EQ(arrays.bytes(), 0);
}

TEST_F(GroupArraysTest, RefusesWhatIsNoGroupAndNoKey) {
  EXPECT_TRUE(begins(message_of<UnknownNameError>([&] { arrays.set("x", "sums", {}); }),
                     "no data named 'x'"));
  EXPECT_TRUE(
      begins(message_of<UnknownNameError>([&] { arrays.get("x", "sums"); }), "no data named 'x'"));
  for (const char* const key : {"", "a.b", "a b", "\xc3\xa9"}) {
    EXPECT_TRUE(begins(message_of<ValueError>([&] { arrays.set("w", key, {}); }),
                       "arrays of 'w' must have keys of"));
  }
  EXPECT_TRUE(begins(
      message_of<ValueError>([&] { KeptArray(KeptArray::Type::int64, Axes{2}, PackedBits(15)); }),
      "an array of int64 and shape (2,) must have 16 bytes, got 15"));
  EXPECT_TRUE(begins(message_of<ValueError>([&] { KeptArray(KeptArray::Type::int64, Axes{-2}); }),
                     "shape of an array"));
}

/// Writes arrays in get_scores(), and throws when told.
struct Writer : DataNormSparsifier {
  using DataNormSparsifier::DataNormSparsifier;

  std::shared_ptr<DataSource> get_scores(const std::string& name, const ArrayView&,
                                         const ParamMap&) override {
    GroupArrays arrays(*this);
    arrays.edit(name, "sums",
                [](KeptArray& array) { reinterpret_cast<float*>(array.write())[0] = 9; });
    arrays.set(name, "more", floats({7}));
    if (fails) throw ValueError("stop");
    return nullptr;
  }
  ForeignHooks foreign_hooks() const override { return {false, false, own_scores}; }

  bool fails = true;
};

TEST(GroupArrays, AreAsBeforeAStepThatFails) {
  std::vector<float> weights{1, 2, 3, 4};
  Writer sparsifier{spec(0.5, 1, 1)};
  sparsifier.add_data("w", ArrayView(weights.data(), Axes{4}));
  GroupArrays arrays(sparsifier);
  arrays.set("w", "sums", floats({1, 2}));
  EXPECT_THROW(sparsifier.step(), ValueError);
  EXPECT_EQ(*arrays.get("w", "sums"), floats({1, 2}));
  EXPECT_EQ(arrays.keys("w"), std::vector<std::string>{"sums"});
  sparsifier.fails = false;
  sparsifier.step();
  EXPECT_EQ(*arrays.get("w", "sums"), floats({9, 2}));
  EXPECT_EQ(*arrays.get("w", "more"), floats({7}));
}

TEST_F(GroupArraysTest, SurviveACheckpoint) {
  const std::string path = testing::TempDir() + "/group_arrays.ckpt";
  std::vector<float> sums(1000);
  std::iota(sums.begin(), sums.end(), 0.5F);
  arrays.set("w", "sums", floats(sums));
  arrays.set("w", "empty", KeptArray(KeptArray::Type::float64, Axes{0, 3}));
  arrays.set("w", "count", KeptArray(KeptArray::Type::int64, Axes{}));
  sparsifier.add_data("v", ArrayView(weights.data(), Axes{4}));
  save_checkpoint(path, sparsifier);

  DataNormSparsifier loaded{spec(0.5, 1, 1)};
  GroupArrays its(loaded);
  loaded.add_data("w", ArrayView(weights.data(), Axes{4}));
  its.set("w", "others", floats({1}));
  loaded.add_data("v", ArrayView(weights.data(), Axes{4}));
  its.set("v", "others", floats({1}));
  load_checkpoint(path, loaded);
  EXPECT_EQ(its.keys("w"), (std::vector<std::string>{"count", "empty", "sums"}));
  for (const auto& key : its.keys("w")) EXPECT_EQ(its.get("w", key), arrays.get("w", key)) << key;
  EXPECT_TRUE(its.keys("v").empty());

  DataNormSparsifier later{spec(0.5, 1, 1)};
  load_checkpoint(path, later);
  later.add_data("w", ArrayView(weights.data(), Axes{4}));
  EXPECT_EQ(GroupArrays(later).get("w", "sums"), arrays.get("w", "sums"));

  Checkpoint damaged = read_checkpoint(path);
  damaged.sparsifier.groups[0].arrays.emplace("a.b", floats({1}));
  std::remove(path.c_str());
  EXPECT_TRUE(begins(message_of<ValueError>([&] { restore_checkpoint(damaged, loaded); }),
                     "arrays in the state of 'w' must have keys of"));
}

}  // namespace
}  // namespace datasparse
