#include "datasparse/regrowth.hpp"

#include "datasparse/group_arrays.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

RegrowthSpec half() {
  RegrowthSpec spec;
  spec.sparsity_level = 0.5;
  spec.drop_fraction = 0.5;
  return spec;
}

std::vector<int> mask_of(const RegrowthSparsifier& sparsifier) {
  const Mask mask = sparsifier.get_mask("w");
  return {mask.data(), mask.data() + mask.size()};
}

class WithGradient : public RigL {
 public:
  using RigL::RigL;
  std::vector<float> gradient;

  std::shared_ptr<DataSource> get_gradients(const std::string&, const ArrayView& data,
                                            const ParamMap&) override {
    if (gradient.empty()) return nullptr;
    return make_source(ArrayView(gradient.data(), data.shape()));
  }
};

TEST(Regrowth, DropsByWeightsAndGrowsByGradients) {
  std::vector<float> weights{4, -1, 3, 0.5F};
  const Bytes given{1, 1, 0, 0};
  WithGradient sparsifier(half());
  sparsifier.add_data("w", make_source(ArrayView(weights.data(), {4})), {}, true, given.data());
  EXPECT_TRUE(sparsifier.is_drawn("w"));
  EXPECT_THROW(sparsifier.step(), ValueError);
  EXPECT_EQ(mask_of(sparsifier), (std::vector<int>{1, 1, 0, 0}));
  sparsifier.gradient = {0.1F, 0.2F, 0.3F, -0.9F};
  sparsifier.step();
  EXPECT_EQ(mask_of(sparsifier), (std::vector<int>{1, 0, 0, 1}));
  EXPECT_EQ(weights, (std::vector<float>{4, -1, 3, 0}));
  EXPECT_EQ(sparsifier.ever_active("w"), 3);
}

/// The masks of two steps of N:M, of blocks in a matrix of 6 x 7; or of the same blocks, each a row
/// of its own. Block by block.
std::vector<std::vector<int>> masks_within(std::int64_t height, std::int64_t width, bool as_rows) {
  const std::int64_t columns = 7 * width, size = height * width;
  const auto n = static_cast<std::size_t>(6 * height * columns);
  const auto place = [&](std::int64_t i) {
    const std::int64_t block = i / size, row = i % size / width;
    if (as_rows) return static_cast<std::size_t>(i);
    return static_cast<std::size_t>((block / 7 * height + row) * columns + block % 7 * width +
                                    i % width);
  };
  std::vector<float> weights(n);
  Bytes given(n);
  RegrowthSpec spec = half();
  spec.sparsity_level = 1;
  spec.block_height = as_rows ? 1 : height;
  spec.block_width = as_rows ? size : width;
  spec.zeros_per_block = 1;
  WithGradient sparsifier(spec);
  sparsifier.gradient.resize(n);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(n); ++i) {
    weights[place(i)] = static_cast<float>(i * 37 % 509 + 1);  // none twice
    sparsifier.gradient[place(i)] = static_cast<float>(i * 101 % 509 + 1);
    given[place(i)] = i * 29 % 3 != 0 ? 1 : 0;
  }
  const Axes shape = as_rows ? Axes{42, size} : Axes{6 * height, columns};
  sparsifier.add_data("w", make_source(ArrayView(weights.data(), shape)), {}, true, given.data());
  std::vector<std::vector<int>> masks(2);
  for (auto& mask : masks) {
    sparsifier.step();
    for (auto& gradient : sparsifier.gradient) gradient = 510 - gradient;
    const auto found = mask_of(sparsifier);
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(n); ++i) {
      mask.push_back(found[place(i)]);
    }
  }
  return masks;
}

TEST(Regrowth, WithinBlocksOfAnyShapeAsWithinRows) {
  const std::vector<std::pair<int, int>> shapes{{2, 2}, {4, 1}, {8, 2}, {1, 3},
                                                {2, 3}, {3, 5}, {5, 5}};
  for (const auto& [height, width] : shapes) {
    const auto masks = masks_within(height, width, false);
    EXPECT_EQ(masks, masks_within(height, width, true)) << height << " x " << width;
    EXPECT_NE(masks[0], masks[1]);
  }
}

TEST(Regrowth, DrawsAFirstMaskOnce) {
  std::vector<float> weights(100, 1);
  Static sparsifier(half());
  sparsifier.add_data("w", ArrayView(weights.data(), {10, 10}));
  EXPECT_FALSE(sparsifier.is_drawn("w"));
  sparsifier.draw();
  EXPECT_TRUE(sparsifier.is_drawn("w"));
  const auto first = mask_of(sparsifier);
  EXPECT_EQ(std::count(first.begin(), first.end(), 1), 50);
  sparsifier.step();
  EXPECT_EQ(mask_of(sparsifier), first);
  EXPECT_EQ(weights, std::vector<float>(100, 1));
}

TEST(Regrowth, EachStepDrawsAnew) {
  std::vector<float> weights(100, 1);
  RegrowthSpec spec = half();
  spec.drop_fraction = 1;  // so that a step is a draw among all
  SET sparsifier(spec);
  sparsifier.add_data("w", ArrayView(weights.data(), {100}));
  std::vector<std::vector<int>> masks;
  for (int step = 0; step < 4; ++step) {
    sparsifier.step();
    masks.push_back(mask_of(sparsifier));
    EXPECT_EQ(std::count(masks.begin(), masks.end(), masks.back()), 1) << "of step " << step;
  }
}

TEST(Regrowth, AStateTellsWhatWasDrawn) {
  std::vector<float> weights(100, 1), others = weights;
  SET sparsifier(half()), other(half());
  sparsifier.add_data("w", ArrayView(weights.data(), {100}));
  other.add_data("w", ArrayView(others.data(), {100}));
  for (int step = 0; step < 3; ++step) sparsifier.step();
  other.load_state(sparsifier.save_state());
  others = weights;
  EXPECT_TRUE(other.is_drawn("w"));
  sparsifier.step();
  other.step();
  EXPECT_EQ(mask_of(sparsifier), mask_of(other));
  EXPECT_EQ(weights, others);
}

TEST(Regrowth, RefusesWhatMasksThatMoveDoNotKnow) {
  const auto refuses = [](const auto& change) {
    RegrowthSpec spec = half();
    change(spec);
    EXPECT_THROW(spec.check(), ValueError);
  };
  refuses([](RegrowthSpec& spec) { spec.monotone = true; });
  refuses([](RegrowthSpec& spec) { spec.drop_fraction = 2; });
  refuses([](RegrowthSpec& spec) { spec.seed = -1; });
  refuses([](RegrowthSpec& spec) { spec.min_level = 0.1; });
  refuses([](RegrowthSpec& spec) { spec.max_level = 0.9; });
  refuses([](RegrowthSpec& spec) {
    spec.block_width = 4;
    spec.zeros_per_block = 2;
  });
  SET sparsifier(half());
  EXPECT_THROW(sparsifier.update_mask("w", ArrayView(), {}), StateError);
  EXPECT_THROW(compute_masks(std::vector<JobOf<RegrowthSpec>>(1)), StateError);
}

}  // namespace
}  // namespace datasparse
