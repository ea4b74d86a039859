#include "base/layout.hpp"

#include "datasparse/error.hpp"
#include "mask/pattern.hpp"
#include "select/cut_hint.hpp"
#include "select/mask_engine.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

TEST(Layout, IsAPermutationOrNothing) {
  require_layout({}, 4, "layout");
  require_layout({0, 2, 3, 1}, 4, "layout");
  require_layout({0}, 1, "layout");
  for (const Axes& wrong :
       {Axes{0, 1}, Axes{0, 1, 1}, Axes{1, 2, 3}, Axes{0, 1, 2, 3}, Axes{-1, 0, 1}}) {
    EXPECT_THROW(require_layout(wrong, 3, "layout"), ValueError) << to_string(wrong);
  }
  EXPECT_EQ(message_of<ValueError>([] { require_layout({0, 2}, 2, "layout of 'w'"); }),
            "layout of 'w' must be a permutation of the 2 axes, counted from 0, got (0, 2)");
  EXPECT_THROW(require_layout({0}, 0, "layout"), ValueError);
}

TEST(Layout, ViewsAShape) {
  EXPECT_EQ(viewed_shape({2, 3, 4}, {2, 0, 1}), (Axes{4, 2, 3}));
  EXPECT_EQ(viewed_shape({2, 3, 4}, {}), (Axes{2, 3, 4}));
  EXPECT_EQ(viewed_shape({}, {}), Axes{});
}

TEST(Layout, MattersWhereBlocksDependOnTheOrderOfColumns) {
  const Axes conv{8, 6, 3, 3}, inputs_last{0, 2, 3, 1};
  EXPECT_TRUE(layout_matters(spec(0.5, 1, 4), conv, inputs_last));
  EXPECT_TRUE(layout_matters(spec(0.5, 4, 4), conv, inputs_last));
  EXPECT_FALSE(layout_matters(spec(0.5, 1, 1), conv, inputs_last));
  EXPECT_FALSE(layout_matters(spec(0.5, 4, 1), conv, inputs_last)) << "one column wide";
  EXPECT_FALSE(layout_matters(spec(0.5, 2, -1), conv, inputs_last)) << "as wide as the matrix";
  EXPECT_FALSE(layout_matters(spec(0.5, 2, 1000), conv, inputs_last)) << "and wider";
  EXPECT_FALSE(layout_matters(spec(0.5, 1, 4), conv, {0, 1, 2, 3}));
  EXPECT_FALSE(layout_matters(spec(0.5, 1, 4), conv, {}));
  EXPECT_FALSE(layout_matters(spec(0.5, 1, 4), {8, 6, 1, 1}, inputs_last)) << "the same order";
  EXPECT_FALSE(layout_matters(spec(0.5, 1, 4), {5}, {0}));

  const Axes transposed{1, 0};
  EXPECT_TRUE(layout_matters(spec(0.5, 4, 1), {6, 8}, transposed)) << "the rows are other ones";
  EXPECT_TRUE(layout_matters(spec(0.5, 1, -1), {6, 8}, transposed));
  EXPECT_FALSE(layout_matters(spec(0.5, 1, 1), {6, 8}, transposed));
  EXPECT_FALSE(layout_matters(spec(0.5, 4, 1), {6, 1}, transposed))
      << "4 × 1 of 1 × 6 is one element";
  EXPECT_TRUE(layout_matters(spec(0.5, 1, 2), {6, 1}, transposed));
  EXPECT_TRUE(layout_matters(spec(0.5, 1, 2), {1, 6, 3}, {1, 0, 2})) << "6 rows in place of one";
}

/// Random tensors with all that a job may have, against the reference.
TEST(Layout, MasksAreThoseOfThePermutedDataPermutedBack) {
  Random random(700);
  const Axes shapes[] = {{6, 8},      {8, 12, 3, 3}, {9, 5, 2, 4}, {3, 4, 5},    {12, 1, 3, 3},
                         {1, 16, 3},  {7, 9, 1},     {16, 8, 5},   {4, 1, 1, 6}, {2, 3, 4, 2, 3},
                         {40, 33},    {33, 1},       {1, 20},      {300, 30},    {64, 32, 3, 3},
                         {90, 70, 9}, {0, 4, 3},     {5}};
  for (int round = 0; round < 700 / slowdown; ++round) {
    const Threads scope(static_cast<int>(random.between(1, 3)));
    const Axes& shape = shapes[random.below(18)];
    const DType dtype = random.pick(all_dtypes);
    Tensor tensor = random.one_in(3) ? Tensor(dtype, shape, random_strides(random, dtype, shape),
                                              random.below(9))
                                     : Tensor(dtype, shape);
    fill(tensor, random_kind(random), random);
    const Axes layout = random_permutation(random, shape.size());
    BlockSpec chosen = spec(random.unit(), random.between(1, 5), random.between(1, 9), std::nullopt,
                            random.pick<Norm>({Norm::L1, Norm::L2, Norm::none}));
    if (random.one_in(8)) chosen.block_height = -1;
    if (random.one_in(8)) chosen.block_width = -1;
    chosen.zeros_per_block = chosen.resolved(viewed_shape(shape, layout)).zeros_per_block;
    if (random.one_in(2)) chosen.zeros_per_block = random.between(0, *chosen.zeros_per_block);
    reference::Past past;
    if (random.one_in(2)) {
      for (std::int64_t i = 0; i < tensor.size(); ++i) {
        past.stays_zero.push_back(random.one_in(4));
      }
    }
    const Bytes bits = packed_bits(past.stays_zero);
    Bytes mask(static_cast<std::size_t>(tensor.size()), 1);
    for (int step = 0; step < 3; ++step) {
      if (chosen.monotone) past.mask = mask;
      const ArrayView view = tensor.view();
      const auto expected = reference::mask(view, rules_of(chosen), layout, past);
      compute_masks({{view, chosen.resolved(viewed_shape(shape, layout)), mask.data(), nullptr,
                      layout, bits.empty() ? nullptr : bits.data()}},
                    *random.pick(all_tables()));
      ASSERT_EQ(difference(mask, expected), "")
          << "step " << step << " layout " << to_string(layout) << " " << describe(view, chosen);
      chosen.sparsity_level = random.unit();
      chosen.monotone = random.one_in(2);
      if (random.one_in(2)) fill(tensor, random_kind(random), random);
    }
  }
}

// Each way through the engine, with its own limits, at sizes that the stress test has with small
// ones.
TEST(Layout, OfLargeTensorsIsFollowedOnAllWays) {
  Random random(701);
  struct Kind {
    Axes shape, layout;
  };
  const Kind kinds[] = {{{256, 128, 3, 3}, {0, 2, 3, 1}},
                        {{192, 768}, {1, 0}},
                        {{64, 100, 3, 3}, {1, 2, 3, 0}},
                        {{300, 37, 25}, {0, 2, 1}},
                        {{100, 60, 7, 7}, {3, 0, 1, 2}}};
  for (const auto& [shape, layout] : kinds) {
    for (const BlockSpec& chosen : {spec(0.5, 1, 4), spec(1, 1, 4, 2), spec(0.7, 4, 4),
                                    spec(0.3, 1, 16, 7, Norm::L2), spec(0.5, 100, 100, 4999)}) {
      const DType dtype = random.pick(all_dtypes);
      Tensor tensor(dtype, shape);
      fill(tensor, random.one_in(2) ? Values::numbers : Values::few, random);
      const ArrayView view = tensor.view();
      const auto expected = reference::mask(view, rules_of(chosen), layout);
      CutHint hint;
      for (const int threads : {1, 2}) {
        const Threads scope(threads);
        Bytes mask(expected.size(), 7);
        compute_masks(
            {{view, chosen.resolved(viewed_shape(shape, layout)), mask.data(), &hint, layout}});
        ASSERT_EQ(difference(mask, expected), "") << describe(view, chosen);
      }
    }
  }
}

}  // namespace
}  // namespace datasparse
