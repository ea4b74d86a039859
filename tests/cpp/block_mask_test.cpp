#include "datasparse/block_mask.hpp"

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "datasparse/apply_mask.hpp"
#include "datasparse/device.hpp"
#include "datasparse/error.hpp"
#include "datasparse/pool.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

Bytes mask_of(const std::vector<float>& values, const Axes& shape, const BlockSpec& spec) {
  Tensor tensor(values, shape);
  return mask_of(tensor.view(), spec);
}

Bytes row_mask(const std::vector<float>& values, const BlockSpec& spec) {
  return mask_of(values, {static_cast<std::int64_t>(values.size())}, spec);
}

// --- the rules, one by one -------------------------------------------------------------------

TEST(BlockMask, PrunesTheBlocksOfLeastMean) {
  EXPECT_EQ(row_mask({3, -3, 1, 1, -2, 2, 4, 4}, spec(0.5, 1, 2)), (Bytes{1, 1, 0, 0, 0, 0, 1, 1}));
}

TEST(BlockMask, ScoresBySquaresUnderL2) {
  // Means of |x|: 2 and 2.5; of x·x: 8 and 6.25.
  const std::vector<float> values{4, 0, 2.5, 2.5};
  EXPECT_EQ(row_mask(values, spec(0.5, 1, 2, {}, Norm::L1)), (Bytes{0, 0, 1, 1}));
  EXPECT_EQ(row_mask(values, spec(0.5, 1, 2, {}, Norm::L2)), (Bytes{1, 1, 0, 0}));
}

TEST(BlockMask, RanksValuesAsTheyAreWithoutANorm) {
  const BlockSpec pairs = spec(0.5, 1, 2, {}, Norm::none);  // means 0, -1, 1, 2
  EXPECT_EQ(row_mask({3, -3, -1, -1, 4, -2, 2, 2}, pairs), (Bytes{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(row_mask({3, -3, -1, 2}, spec(1, 1, 4, 2, Norm::none)), (Bytes{1, 0, 0, 1}));
  const std::vector<float> values{nan, -infinity, 0.0F, -0.0F, infinity, -nan};
  const auto pruned = [&](int n) { return row_mask(values, spec(n / 6.0, 1, 1, {}, Norm::none)); };
  EXPECT_EQ(pruned(1), (Bytes{1, 0, 1, 1, 1, 1}));
  EXPECT_EQ(pruned(2), (Bytes{1, 0, 0, 1, 1, 1}));
  EXPECT_EQ(pruned(4), (Bytes{1, 0, 0, 0, 0, 1}));
  EXPECT_EQ(pruned(5), (Bytes{0, 0, 0, 0, 0, 1}));
  // A mean that vanishes from below is 0.
  const float least = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(row_mask({0, 0, 0, 0, -least, 0, 0, 0}, spec(0.5, 1, 4, {}, Norm::none)),
            (Bytes{0, 0, 0, 0, 1, 1, 1, 1}));
}

TEST(BlockMask, PrunesTheLowerIndexAmongTies) {
  EXPECT_EQ(row_mask({1, 1, 1, 1, 1}, spec(0.4, 1, 1)), (Bytes{0, 0, 1, 1, 1}));
  EXPECT_EQ(mask_of({1, 1, 1, 1}, {2, 2}, spec(0.75, 1, 1)), (Bytes{0, 0, 0, 1}));
}

TEST(BlockMask, TakesBothZerosAsTies) {
  EXPECT_EQ(row_mask({0.0F, -0.0F, 0.0F, -0.0F}, spec(0.5, 1, 1)), (Bytes{0, 0, 1, 1}));
}

TEST(BlockMask, RanksNaNAboveInfinityAndInfinityAboveNumbers) {
  const std::vector<float> values{nan, infinity, -3e38F, 1, -infinity, -nan};
  EXPECT_EQ(row_mask(values, spec(2 / 6.0, 1, 1)), (Bytes{1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(row_mask(values, spec(3 / 6.0, 1, 1)), (Bytes{1, 0, 0, 0, 1, 1}));
  EXPECT_EQ(row_mask(values, spec(5 / 6.0, 1, 1)), (Bytes{0, 0, 0, 0, 0, 1}));
}

TEST(BlockMask, TakesEveryNaNAsTheSame) {
  Tensor tensor(DType::float32, {4});
  const std::uint64_t patterns[] = {0xFFFFFFFF, 0x7F800001, 0x7FC00000, 0xFF800123};
  for (std::int64_t i = 0; i < 4; ++i) tensor.set_bits(i, patterns[i]);
  for (const Norm norm : {Norm::L1, Norm::L2, Norm::none}) {
    EXPECT_EQ(mask_of(tensor.view(), spec(0.5, 1, 1, {}, norm)), (Bytes{0, 0, 1, 1}));
    EXPECT_EQ(mask_of(tensor.view(), spec(1, 1, 4, 3, norm)), (Bytes{0, 0, 0, 1}));
  }
}

TEST(BlockMask, TakesDenormalsAsNumbers) {
  const float least = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(row_mask({3 * least, -least, 0, 2 * least}, spec(0.5, 1, 1)), (Bytes{1, 0, 0, 1}));
}

TEST(BlockMask, RoundsTheNumberOfBlocksHalfToEven) {
  const auto pruned = [](double level, std::int64_t blocks) {
    const std::vector<float> ones(static_cast<std::size_t>(blocks), 1);
    const Bytes mask = row_mask(ones, spec(level, 1, 1));
    return count_zeros(mask.data(), blocks);
  };
  EXPECT_EQ(pruned(0.5, 1), 0);
  EXPECT_EQ(pruned(0.5, 3), 2);
  EXPECT_EQ(pruned(0.5, 5), 2);
  EXPECT_EQ(pruned(0.5, 7), 4);
  EXPECT_EQ(pruned(0.25, 2), 0);
  EXPECT_EQ(pruned(0.25, 6), 2);
  EXPECT_EQ(pruned(0.25, 10), 2);
  EXPECT_EQ(pruned(std::nextafter(0.5, 1), 1), 1);
  EXPECT_EQ(pruned(std::nextafter(0.5, 0), 3), 1);
  EXPECT_EQ(pruned(0.1, 5), 0) << "0.1 × 5 is exactly 0.5 in double";
  EXPECT_EQ(pruned(0.3, 5), 2) << "0.3 × 5 is exactly 1.5 in double";
  EXPECT_EQ(pruned(std::nextafter(1.0, 0), 10), 10);
}

TEST(BlockMask, LeavesAsManyBlocksAsAreToBeKept) {
  const auto zeros_of = [](double level, std::int64_t min_kept) {
    BlockSpec chosen = spec(level, 1, 2);
    chosen.min_kept = min_kept;
    Tensor tensor(std::vector<float>{5, 5, 1, 1, 3, 3, 2, 2, 4}, {9});
    const Bytes mask = mask_of(tensor.view(), chosen);
    EXPECT_EQ(mask, reference::mask(tensor.view(), rules_of(chosen)));
    const ZeroCount counted = count_zeros({9}, chosen);
    const std::int64_t zeros = std::count(mask.begin(), mask.end(), 0);
    EXPECT_LE(counted.least, zeros);
    EXPECT_GE(counted.most, zeros);
    return zeros;
  };
  EXPECT_EQ(zeros_of(1, 0), 9);
  EXPECT_EQ(zeros_of(1, 1), 7);  // all but the block of fives
  EXPECT_EQ(zeros_of(1, 4), 2);
  EXPECT_EQ(zeros_of(1, 5), 0);
  EXPECT_EQ(zeros_of(1, std::numeric_limits<std::int64_t>::max()), 0);
  EXPECT_EQ(zeros_of(0.4, 3), 4) << "the level prunes less";
  EXPECT_EQ(count_zeros({9}, spec(1, 1, 2)), (ZeroCount{9, 9}));
}

TEST(BlockMask, OfNoMaskBeforeIsNeverMonotone) {
  BlockSpec chosen = spec(0.5, 1, 1);
  chosen.monotone = true;
  Tensor tensor(std::vector<float>{4, 3, 2, 1}, {4});
  Bytes mask{0, 0, 1, 1};
  block_mask(tensor.view(), chosen, mask.data());
  EXPECT_EQ(mask, (Bytes{1, 1, 0, 0}));
}

TEST(BlockMask, KeepsAllAtLevelZeroAndPrunesAllAtLevelOne) {
  const std::vector<float> values{nan, 0, -1, infinity, 2};
  EXPECT_EQ(row_mask(values, spec(0, 1, 2)), Bytes(5, 1));
  EXPECT_EQ(row_mask(values, spec(-0.0, 1, 2)), Bytes(5, 1));
  EXPECT_EQ(row_mask(values, spec(1, 1, 2)), Bytes(5, 0));
}

TEST(BlockMask, DividesPartialBlocksByTheElementsThatExist) {
  // Means 2, 2.5 and, of one element, 2.25.
  EXPECT_EQ(row_mask({2, 2, 2.5, 2.5, 2.25}, spec(2 / 3.0, 1, 2)), (Bytes{0, 0, 1, 1, 0}));
  // A 3 × 3 matrix in blocks of 2 × 2: means 4, 3, 2, 1.
  const std::vector<float> values{4, 4, 3, 4, 4, 3, 2, 2, 1};
  EXPECT_EQ(mask_of(values, {3, 3}, spec(0.25, 2, 2)), (Bytes{1, 1, 1, 1, 1, 1, 1, 1, 0}));
  EXPECT_EQ(mask_of(values, {3, 3}, spec(0.5, 2, 2)), (Bytes{1, 1, 1, 1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(mask_of(values, {3, 3}, spec(0.75, 2, 2)), (Bytes{1, 1, 0, 1, 1, 0, 0, 0, 0}));
}

TEST(BlockMask, ZeroesTheLeastElementsOfAPrunedBlock) {
  EXPECT_EQ(row_mask({4, -1, 3, -2, 9, 9, 9, 9}, spec(0.5, 1, 4, 2)),
            (Bytes{1, 0, 1, 0, 1, 1, 1, 1}));
  EXPECT_EQ(mask_of({4, 1, 3, 2}, {2, 2}, spec(1, 2, 2, 3)), (Bytes{1, 0, 0, 0}));
  EXPECT_EQ(row_mask({4, 1, 3, 2}, spec(1, 1, 4, 0)), Bytes(4, 1));
}

TEST(BlockMask, ZeroesTiesInRowMajorOrderAndNaNLast) {
  EXPECT_EQ(mask_of({nan, 1, 1, 1}, {2, 2}, spec(1, 2, 2, 2)), (Bytes{1, 0, 0, 1}));
  EXPECT_EQ(mask_of({nan, infinity, nan, 1}, {2, 2}, spec(1, 2, 2, 3)), (Bytes{0, 0, 1, 0}));
}

TEST(BlockMask, NeverCountsPlacesOutsideAsZeroed) {
  EXPECT_EQ(row_mask({1, 2, 3, 4, 6, 5}, spec(1, 1, 4, 2)), (Bytes{0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(row_mask({3, 1, 2}, spec(1, 8, 8, 2)), (Bytes{1, 0, 0}));
  EXPECT_EQ(row_mask({3, 1, 2}, spec(1, 8, 8, 63)), (Bytes{0, 0, 0}));
}

TEST(BlockMask, MakesNOfMSparsity) {
  const BlockSpec two_of_four = spec(1.0, 1, 4, 2);
  EXPECT_EQ(row_mask({1, 2, 3, 4, 8, 7, 6, 5}, two_of_four), (Bytes{0, 0, 1, 1, 1, 1, 0, 0}));
}

TEST(BlockMask, SumsInFloat32OneAfterAnother) {
  // 2^24 + 1 + 1 stays 2^24 in float32, 1 + 1 + 2^24 does not: the first block is the lower one.
  const float big = 0x1p24F;
  EXPECT_EQ(row_mask({1, 1, big, big, 1, 1}, spec(0.5, 1, 3)), (Bytes{1, 1, 1, 0, 0, 0}));
  // In float64 they are equal, and the lower index goes.
  Tensor doubles(std::vector<double>{1, 1, big, big, 1, 1}, {6});
  EXPECT_EQ(mask_of(doubles.view(), spec(0.5, 1, 3)), (Bytes{0, 0, 0, 1, 1, 1}));
}

TEST(BlockMask, SquaresInTheTypeOfTheSum) {
  // 1e-30 squared is 0 in float32, so that these tie, and not in float64.
  EXPECT_EQ(row_mask({2e-30F, 1e-30F}, spec(0.5, 1, 1, {}, Norm::L2)), (Bytes{0, 1}));
  Tensor doubles(std::vector<double>{2e-30, 1e-30}, {2});
  EXPECT_EQ(mask_of(doubles.view(), spec(0.5, 1, 1, {}, Norm::L2)), (Bytes{1, 0}));
  // The same for the order within a block.
  EXPECT_EQ(row_mask({2e-30F, 1e-30F}, spec(1, 1, 2, 1, Norm::L2)), (Bytes{0, 1}));
  EXPECT_EQ(mask_of(doubles.view(), spec(1, 1, 2, 1, Norm::L2)), (Bytes{1, 0}));
}

TEST(BlockMask, WidensHalvesBeforeItSquares) {
  // 512² and 480² are infinite in float16.
  Tensor tensor(DType::float16, {2});
  tensor.set_bits(0, compose(DType::float16, false, 15 + 9, 0));
  tensor.set_bits(1, compose(DType::float16, true, 15 + 8, 0x380));
  EXPECT_EQ(mask_of(tensor.view(), spec(0.5, 1, 1, {}, Norm::L2)), (Bytes{1, 0}));
}

TEST(BlockMask, SeesOneAxisAsARowAndAColumnAsAColumn) {
  const std::vector<float> values{1, 2, 3, 4};
  const BlockSpec pairs = spec(0.5, 1, 2);
  EXPECT_EQ(mask_of(values, {4}, pairs), (Bytes{0, 0, 1, 1}));
  EXPECT_EQ(mask_of({4, 3, 2, 1}, {4, 1}, pairs), (Bytes{1, 1, 0, 0})) << "blocks of one element";
  EXPECT_EQ(mask_of({4, 1, 2, 2}, {4, 1}, spec(0.5, 2, 1)), (Bytes{1, 1, 0, 0}));
}

TEST(BlockMask, SeesMoreAxesAsRowsByAllOthers) {
  // Two rows of four: 8 1 1 1 and 9 9 1 0.
  EXPECT_EQ(mask_of({8, 1, 1, 1, 9, 9, 1, 0}, {2, 2, 2}, spec(0.5, 2, 2)),
            (Bytes{1, 1, 0, 0, 1, 1, 0, 0}));
}

TEST(BlockMask, TakesAWholeAxisForMinusOne) {
  const std::vector<float> values{1, 2, 3, 3, 2, 2};
  EXPECT_EQ(mask_of(values, {2, 3}, spec(0.5, 1, -1)), (Bytes{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(mask_of(values, {2, 3}, spec(1 / 3.0, -1, 1)), (Bytes{0, 1, 1, 0, 1, 1}));
  EXPECT_EQ(mask_of(values, {2, 3}, spec(1, -1, -1, 2)), (Bytes{0, 0, 1, 1, 1, 1}));
}

TEST(BlockMask, TakesNoAxisAndNoElements) {
  EXPECT_EQ(mask_of({5}, {}, spec(1, 4, 4)), Bytes{0});
  EXPECT_EQ(mask_of({5}, {}, spec(0.5, 4, 4)), Bytes{1});
  for (const Axes& shape : {Axes{0}, Axes{0, 4}, Axes{4, 0}, Axes{2, 0, 3}}) {
    EXPECT_EQ(mask_of({}, shape, spec(0.5, 1, 4)), Bytes{});
    EXPECT_EQ(mask_of({}, shape, spec(0.5, -1, -1)), Bytes{});
  }
  block_mask(ArrayView(), spec(0.5, 1, 4), nullptr);
}

TEST(BlockMask, ReadsOnlyTheElementsOfTheView) {
  // Columns 0 and 2 of a 2 × 4 matrix; what lies between would win every rank.
  std::vector<float> values{4, 0, 3, 0, 2, 0, 1, 0};
  const ArrayView view(values.data(), DType::float32, {2, 2}, {16, 8}, true);
  EXPECT_EQ(mask_of(view, spec(0.5, 1, 1)), (Bytes{1, 1, 0, 0}));
}

// --- errors ----------------------------------------------------------------------------------

TEST(BlockMask, WritesNothingWhereTheSpecIsWrong) {
  float values[4] = {1, 2, 3, 4};
  Bytes mask(4, 7);
  const ArrayView view(values, {2, 2});
  const double level_nan = std::numeric_limits<double>::quiet_NaN();
  for (const BlockSpec& wrong :
       {spec(-0.1, 1, 1), spec(1.2, 1, 1), spec(level_nan, 1, 1), spec(0.5, 0, 1), spec(0.5, 1, -2),
        spec(0.5, 1, 4, 5), spec(0.5, 1, 4, -1), spec(0.5, -1, 1, 3)}) {
    EXPECT_THROW(block_mask(view, wrong, mask.data()), ValueError) << describe(view, wrong);
  }
  EXPECT_EQ(mask, Bytes(4, 7));
}

TEST(BlockSpec, NamesTheArgumentTheRuleAndTheValue) {
  const auto message = [](const ParamMap& config) {
    return message_of<ValueError>([&config] { BlockSpec::from_config(config, "emb"); });
  };
  EXPECT_EQ(message({{"sparsity_level", 1.2}}),
            "sparsity_level of 'emb' must be in [0, 1], got 1.2");
  EXPECT_EQ(message({{"norm", "L3"}}), "norm of 'emb' must be 'L1', 'L2' or None, got 'L3'");
  EXPECT_NE(message({{"zeros_per_block", 1.5}}).find("zeros_per_block of 'emb'"),
            std::string::npos);
  EXPECT_NE(message({{"zeros_per_block", 5}}).find("at most 4"), std::string::npos);
  EXPECT_NE(message({{"sparse_block_shape", ParamValue::Ints{0, 4}}}).find("(0, 4)"),
            std::string::npos);
  EXPECT_EQ(message_of<TypeError>([] { BlockSpec::from_config({{"sparsity_levl", 0.5}}, "emb"); }),
            "unknown config key 'sparsity_levl' of 'emb'; did you mean 'sparsity_level'?");
  EXPECT_EQ(message_of<TypeError>([] { BlockSpec::from_config({{"min_keep", 1}}, "emb"); }),
            "unknown config key 'min_keep' of 'emb'; did you mean 'min_kept'?");
  EXPECT_EQ(message_of<TypeError>([] { BlockSpec::from_config({{"monotone", 1}}, "emb"); }),
            "monotone of 'emb' must be True or False, got 1 (int)");
  EXPECT_EQ(message({{"min_kept", -1}}), "min_kept of 'emb' must be at least 0, got -1");
}

TEST(BlockSpec, IsResolvedForAxesOfLengthZeroToo) {
  EXPECT_EQ(spec(0.5, 2, -1).resolved({0, 3}).zeros_per_block, 6);
  EXPECT_EQ(spec(0.5, -1, -1, 2).resolved({0, 3}).block_width, 3);
  EXPECT_EQ(spec(0.5, -1, 4).resolved({0}).zeros_per_block, 4);
  EXPECT_EQ(count_zeros({0, 3}, spec(0.5, 2, -1)), ZeroCount{});
}

TEST(BlockSpec, RefusesValuesOfTheWrongKindOrRange) {
  const double not_a_number = std::numeric_limits<double>::quiet_NaN();
  const std::vector<ParamMap> wrong_kinds{{{"sparsity_level", "0.5"}},
                                          {{"sparsity_level", true}},
                                          {{"sparsity_level", ParamValue()}},
                                          {{"sparse_block_shape", 4}},
                                          {{"sparse_block_shape", "1x4"}},
                                          {{"zeros_per_block", "2"}},
                                          {{"zeros_per_block", true}},
                                          {{"norm", 1}},
                                          {{"unknown", 1}},
                                          {{"monotone", ParamValue()}},
                                          {{"monotone", "True"}},
                                          {{"min_kept", true}},
                                          {{"min_kept", ParamValue()}}};
  for (const auto& config : wrong_kinds) {
    EXPECT_THROW(BlockSpec::from_config(config), TypeError) << config.begin()->first;
  }
  const std::vector<ParamMap> wrong_values{
      {{"sparsity_level", -1e-9}},
      {{"sparsity_level", 2}},
      {{"sparsity_level", not_a_number}},
      {{"sparse_block_shape", ParamValue::Ints{4}}},
      {{"sparse_block_shape", ParamValue::Ints{1, 2, 3}}},
      {{"sparse_block_shape", ParamValue::Floats{1.5, 4}}},
      {{"sparse_block_shape", ParamValue::Floats{not_a_number, 4}}},
      {{"sparse_block_shape", ParamValue::Ints{-2, 4}}},
      {{"zeros_per_block", -1}},
      {{"norm", "l1"}},
      {{"min_kept", 0.5}}};
  for (const auto& config : wrong_values) {
    EXPECT_THROW(BlockSpec::from_config(config), ValueError) << to_string(config.begin()->second);
  }
}

TEST(BlockSpec, SurvivesItsConfig) {
  for (const BlockSpec& before :
       {BlockSpec(), spec(0.25, -1, 7, 3, Norm::L2), spec(0.5, 1, 4, {}, Norm::none),
        spec(1, 4, -1), spec(0, 2, 2, 0)}) {
    const BlockSpec after = BlockSpec::from_config(before.to_config());
    EXPECT_EQ(after.sparsity_level, before.sparsity_level);
    EXPECT_EQ(after.block_height, before.block_height);
    EXPECT_EQ(after.block_width, before.block_width);
    EXPECT_EQ(after.zeros_per_block, before.zeros_per_block);
    EXPECT_EQ(after.norm, before.norm);
    EXPECT_EQ(before.to_config().size(), 4U);
  }
  BlockSpec before;
  before.monotone = true;
  before.min_kept = 3;
  EXPECT_EQ(before.to_config().at("monotone"), true);
  EXPECT_EQ(before.to_config().at("min_kept"), 3);
  const BlockSpec after = BlockSpec::from_config(before.to_config());
  EXPECT_TRUE(after.monotone);
  EXPECT_EQ(after.min_kept, 3);
}

TEST(BlockSpec, TakesWholeFloatsAsIntegersAndMissingKeysAsDefaults) {
  const auto read = BlockSpec::from_config(
      {{"sparse_block_shape", ParamValue::Floats{2, -1}}, {"zeros_per_block", 2.0}});
  EXPECT_EQ(read.block_height, 2);
  EXPECT_EQ(read.block_width, -1);
  EXPECT_EQ(read.zeros_per_block, 2);
  EXPECT_EQ(read.sparsity_level, 0.5);
  EXPECT_EQ(BlockSpec::from_config({{"sparsity_level", 1}}).sparsity_level, 1.0);
}

TEST(BlockSpec, FillsInWhatIsAutomatic) {
  const BlockSpec whole = spec(0.5, -1, -1).resolved({3, 4, 5});
  EXPECT_EQ(whole.block_height, 3);
  EXPECT_EQ(whole.block_width, 20);
  EXPECT_EQ(whole.zeros_per_block, 60);
  const BlockSpec row = spec(0.5, -1, -1).resolved({7});
  EXPECT_EQ(row.block_height, 1);
  EXPECT_EQ(row.block_width, 7);
  EXPECT_EQ(spec(0.5, 2, 3).resolved({100, 100}).zeros_per_block, 6);
  EXPECT_EQ(spec(0.5, 2, 3, 0).resolved({100, 100}).zeros_per_block, 0);
  EXPECT_THROW(spec(0.5, -1, 1, 4).resolved({3, 3}), ValueError);
}

TEST(BlockSpec, RefusesBlocksThatLeave63Bits) {
  const std::int64_t huge = std::int64_t{1} << 60;
  EXPECT_THROW(spec(0.5, huge, huge).resolved({2, 2}), ValueError);
  EXPECT_THROW(spec(0.5, huge + 1, 1).check(), ValueError);
  EXPECT_EQ(mask_of({1, 2, 3, 4}, {2, 2}, spec(1, huge, 4)), Bytes(4, 0));
  EXPECT_EQ(mask_of({1, 2, 3, 4}, {2, 2}, spec(1, huge, 4, 2)), (Bytes{0, 0, 1, 1}));
}

TEST(BlockSpec, ResolvedRefusesABlockOfNoWidth) {
  EXPECT_THROW(spec(0.5, 1, 0).resolved({2, 2}), ValueError);
  EXPECT_THROW(spec(0.5, 0, 1).resolved({2, 2}), ValueError);
}

// --- random cases against the reference ------------------------------------------------------

Axes random_shape(Random& random) {
  switch (random.below(8)) {
    case 0: return Axes{};
    case 1: return Axes{random.between(0, 60)};
    case 2: return Axes{random.between(0, 60), 1};
    case 3: return Axes{1, random.between(0, 60)};
    case 4: return Axes{random.between(1, 5), random.between(0, 5), random.between(1, 5)};
    case 5:
      return Axes{random.between(1, 4), random.between(1, 4), random.between(1, 4),
                  random.between(1, 4)};
    default: return Axes{random.between(1, 20), random.between(1, 20)};
  }
}

BlockSpec random_spec(Random& random, const Axes& shape) {
  const auto axis = [&random] {
    return random.pick(std::vector<std::int64_t>{-1, 1, 1, 2, 3, 4, 4, 5, 8, 16, 100});
  };
  BlockSpec result = spec(0, axis(), axis());
  result.norm = random.pick<Norm>({Norm::L1, Norm::L2, Norm::none});
  const auto size = *result.resolved(shape).zeros_per_block;
  if (random.one_in(2))
    result.zeros_per_block = random.between(0, std::min<std::int64_t>(size, 40));
  if (random.one_in(10)) result.zeros_per_block = size;

  const double blocks = static_cast<double>(random.between(1, 40));
  switch (random.below(6)) {
    case 0: result.sparsity_level = random.one_in(2) ? 0 : 1; break;
    case 1: result.sparsity_level = 0.5; break;
    case 2: result.sparsity_level = (std::floor(random.unit() * blocks) + 0.5) / blocks; break;
    default: result.sparsity_level = random.unit(); break;
  }
  return result;
}

class BlockMaskOf : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, BlockMaskOf, ::testing::ValuesIn(all_dtypes),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

TEST_P(BlockMaskOf, AnyLayoutAgreesWithTheReference) {
  Random random(100 + static_cast<std::uint64_t>(GetParam()));
  for (int i = 0; i < 4000; ++i) {
    const Axes shape = random_shape(random);
    const bool contiguous = random.one_in(3);
    Tensor tensor = contiguous ? Tensor(GetParam(), shape)
                               : Tensor(GetParam(), shape,
                                        random_strides(random, GetParam(), shape), random.below(3));
    fill(tensor, random_kind(random), random);
    const BlockSpec chosen = random_spec(random, shape);
    const Bytes mask =
        mask_of(tensor.view(true), chosen, static_cast<std::size_t>(random.below(4)));
    ASSERT_EQ(difference(mask, reference::mask(tensor.view(), rules_of(chosen))), "")
        << describe(tensor.view(), chosen);
  }
}

/// Runs with 1 to 4 threads, and expects the reference's mask of each.
void expect_reference_on_all_threads(const ArrayView& view, const BlockSpec& chosen) {
  const Bytes expected = reference::mask(view, rules_of(chosen));
  for (const int threads : {1, 2, 3, 4}) {
    const Threads scope(threads);
    ASSERT_EQ(difference(mask_of(view, chosen), expected), "")
        << threads << " threads, " << describe(view, chosen);
  }
}

TEST_P(BlockMaskOf, SizesAroundTilesAndTheParallelBorderAgree) {
  Random random(200);
  for (const std::int64_t border : {std::int64_t{4096}, std::int64_t{2 * 4096}, parallel_from}) {
    for (const std::int64_t n : {border - 1, border, border + 1}) {
      Tensor tensor(GetParam(), {n});
      fill(tensor, random.pick(std::vector{Values::numbers, Values::few, Values::equal}), random);
      expect_reference_on_all_threads(tensor.view(), spec(random.unit(), 1, 1));
    }
  }
}

TEST_P(BlockMaskOf, BlocksOfEveryShapeAgreeBeyondOneTile) {
  Random random(201);
  const std::vector<std::pair<std::int64_t, std::int64_t>> blocks{
      {1, 1},  {1, 4},  {4, 1},   {4, 4},   {3, 5},   {-1, 1},
      {1, -1}, {7, 64}, {64, 64}, {65, 64}, {200, 90}};
  for (const auto& [height, width] : blocks) {
    const Axes shape = parallel_matrix(521);
    Tensor tensor(GetParam(), shape);
    fill(tensor, random_kind(random), random);
    BlockSpec chosen = spec(random.unit(), height, width);
    chosen.norm = random.pick<Norm>({Norm::L1, Norm::L2, Norm::none});
    if (random.one_in(2)) {
      chosen.zeros_per_block = random.between(0, *chosen.resolved(shape).zeros_per_block);
    }
    expect_reference_on_all_threads(tensor.view(), chosen);
  }
}

TEST_P(BlockMaskOf, StridedLayoutsAgreeBeyondOneTile) {
  Random random(202);
  for (int i = 0; i < 4; ++i) {
    const std::int64_t rows = random.between(20, 60), columns = random.between(5, 40);
    const Axes shape{rows, columns, parallel_from / (rows * columns) + 1};
    Tensor tensor(GetParam(), shape, random_strides(random, GetParam(), shape));
    fill(tensor, random_kind(random), random);
    expect_reference_on_all_threads(tensor.view(), random_spec(random, shape));
  }
}

TEST(BlockMask, AgreesOnAMillionElements) {
  Random random(203);
  constexpr std::int64_t rows = slowdown == 1 ? 1021 : 321, columns = 1024;
  for (const auto kind : {Values::numbers, Values::equal, Values::few, Values::mostly_zero}) {
    Tensor tensor(DType::float32, {rows, columns});
    fill(tensor, kind, random);
    expect_reference_on_all_threads(tensor.view(), spec(random.unit(), 1, 1));
    expect_reference_on_all_threads(tensor.view(), spec(random.unit(), 1, 4, 2));
  }
}

TEST(BlockMask, CutsTiesThatReachOverTiles) {
  // Two values; the cut falls into the greater or the lesser one, at and around tiles' borders.
  constexpr std::int64_t n = parallel_from + 10 * 4096 + 5;
  Random random(204);
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(random.one_in(3) ? 1.0F : 2.0F);
  Tensor tensor(values, {n});
  for (const std::int64_t pruned : {std::int64_t{1}, std::int64_t{4095}, std::int64_t{4096},
                                    std::int64_t{4097}, n / 4, n / 3, n / 3 + 1, n / 2, n - 1}) {
    const double level = static_cast<double>(pruned) / static_cast<double>(n);
    expect_reference_on_all_threads(tensor.view(), spec(level, 1, 1));
  }
}

TEST(BlockMask, SelectsWithinLargeBlocks) {
  // More elements than a lane's buffer holds, up to blocks of many tiles, with ties cut through.
  Random random(205);
  for (const auto kind : {Values::numbers, Values::few}) {
    for (const std::int64_t zeros : {0, 1, 10000, 65535, 65536}) {
      Tensor tensor(DType::float32, parallel_matrix(600));
      fill(tensor, kind, random);
      expect_reference_on_all_threads(tensor.view(), spec(0.5, 256, 256, zeros));
      expect_reference_on_all_threads(tensor.view(), spec(1, -1, -1, zeros));
    }
  }
}

TEST(BlockMask, TakesTheInnermostTilesOfAnEdgeBlock) {
  // One row of blocks of 4096 × 1 and a partial one below.
  Random random(206);
  Tensor tensor(DType::float64, {5000, 3});
  fill(tensor, Values::few, random);
  expect_reference_on_all_threads(tensor.view(), spec(0.5, 4096, 1, 1000));
  expect_reference_on_all_threads(tensor.view(), spec(0.5, 4097, 1, 1000));
  expect_reference_on_all_threads(tensor.view(), spec(0.5, 4096, 2, 8000));
}

TEST(BlockMask, IsTheSameForEveryCall) {
  Random random(207);
  Tensor tensor(DType::bfloat16, parallel_matrix(300));
  fill(tensor, Values::few, random);
  const Threads scope(4);
  const Bytes first = mask_of(tensor.view(), spec(0.37, 1, 2, 1));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(mask_of(tensor.view(), spec(0.37, 1, 2, 1)), first);
}

// --- the caller's floating-point settings ----------------------------------------------------

/// Data on which every setting would show: sums that round, and denormals.
Tensor sensitive_data(DType dtype, std::int64_t n) {
  Random random(300);
  Tensor tensor(dtype, {n / 16, 16});
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    tensor.set_bits(i, random.one_in(2) ? compose(dtype, random.one_in(2), 0, random.bits())
                                        : random_number(random, dtype));
    // Whole rows of denormals, so that whole blocks are.
    if (i / 16 % 2 == 0) tensor.set_bits(i, compose(dtype, false, 0, random.bits()));
  }
  return tensor;
}

const std::vector<BlockSpec> sensitive_specs{spec(0.5, 1, 1), spec(0.3, 1, 8),
                                             spec(0.7, 4, 4, 5, Norm::L2), spec(1, 1, 4, 2)};

TEST_P(BlockMaskOf, AnyRoundingModeGivesTheSameBitsAndIsKept) {
  for (const std::int64_t n : {std::int64_t{1600}, parallel_from + 1600}) {
    Tensor tensor = sensitive_data(GetParam(), n);
    for (const auto& chosen : sensitive_specs) {
      const Bytes expected = reference::mask(tensor.view(), rules_of(chosen));
      for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        for (const int threads : {1, 3}) {
          const Threads scope(threads);
          std::fesetround(mode);
          Bytes mask(expected.size());
          block_mask(tensor.view(), chosen, mask.data());
          const int after = std::fegetround();
          std::fesetround(FE_TONEAREST);
          EXPECT_EQ(after, mode);
          EXPECT_EQ(difference(mask, expected), "") << describe(tensor.view(), chosen);
        }
      }
    }
  }
}

TEST(BlockMask, RoundsHalfToEvenInAnyRoundingMode) {
  const std::vector<float> ones(5, 1);
  Tensor tensor(ones, {5});
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    for (const double level : {0.1, 0.3, 0.5, 0.7, 1 / 3.0}) {
      const Bytes expected = mask_of(tensor.view(), spec(level, 1, 1));
      Bytes mask(5);
      const BlockSpec chosen = spec(level, 1, 1).resolved({5});
      std::fesetround(mode);
      block_mask(tensor.view(), chosen, mask.data());
      const ZeroCount planned = count_zeros({5}, chosen);
      const std::int64_t on_a_device = BlockPlan::of(chosen, {5}, {}).pruned;
      const std::int64_t of_a_pool = PoolPlan::of("", {{&chosen, {5}}}).budget;
      std::fesetround(FE_TONEAREST);
      EXPECT_EQ(mask, expected) << level;
      const auto pruned = std::count(expected.begin(), expected.end(), 0);
      EXPECT_EQ(planned.least, pruned) << level;
      EXPECT_EQ(on_a_device, pruned) << level;
      EXPECT_EQ(of_a_pool, pruned) << level;
    }
  }
}

#if defined(__SSE2__)
TEST_P(BlockMaskOf, FlushingDenormalsGivesTheSameBitsAndIsKept) {
  constexpr unsigned flush_to_zero = 0x8000, denormals_are_zero = 0x0040;
  for (const std::int64_t n : {std::int64_t{1600}, parallel_from + 1600}) {
    Tensor tensor = sensitive_data(GetParam(), n);
    for (const auto& chosen : sensitive_specs) {
      const Bytes expected = reference::mask(tensor.view(), rules_of(chosen));
      for (const unsigned flags :
           {flush_to_zero, denormals_are_zero, flush_to_zero | denormals_are_zero}) {
        for (const int threads : {1, 2, 4}) {
          const Threads scope(threads);
          Bytes mask(expected.size());
          const unsigned before = _mm_getcsr();
          _mm_setcsr(before | flags);
          block_mask(tensor.view(), chosen, mask.data());
          const unsigned after = _mm_getcsr();
          _mm_setcsr(before);
          EXPECT_EQ(after, before | flags);
          EXPECT_EQ(difference(mask, expected), "") << describe(tensor.view(), chosen);
        }
      }
    }
  }
}

TEST(BlockMask, DoesNotTrapWhereTheCallerWould) {
  // With all floating-point traps on, Inf − and NaN scores must not raise a signal.
  Random random(301);
  Tensor tensor(DType::float32, parallel_matrix(100));
  fill(tensor, Values::any_bits, random);
  const BlockSpec chosen = spec(0.5, 2, 2, 2, Norm::L2);
  const Bytes expected = reference::mask(tensor.view(), rules_of(chosen));
  const Threads scope(2);
  Bytes mask(expected.size());
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before & ~0x1FBFU);  // no exception pending, none masked
  block_mask(tensor.view(), chosen, mask.data());
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(after, before & ~0x1FBFU) << "the caller's flags and traps are kept too";
  EXPECT_EQ(difference(mask, expected), "");
}
#endif

}  // namespace
}  // namespace datasparse
