// Pools against a walk over all their blocks, on what is hard on the mask engine. Built twice, as
// stress_test.cpp is.

#include <iostream>

#include "datasparse/error.hpp"
#include "pool_cases.hpp"

namespace datasparse {
namespace {

TEST(PoolStress, RandomPoolsAgreeWithAWalk) {
  const int count = limits_are_small ? cases(200, 20000) : cases(20, 1500);
  Random random(limits_are_small ? 600 : 601);
  int refused = 0, done = 0;
  for (; done < count; ++done) {
    auto some = random_pool(random, limits_are_small ? 16 * in_memory_max : 400000);
    if (expect_pool(some)) {
      expect_right(some, static_cast<int>(random.between(1, 4)), *random.pick(all_tables()));
    } else {
      ++refused;
      std::vector<MaskJob> jobs;
      for (auto& one : some) jobs.push_back(one.job());
      EXPECT_THROW(compute_masks(jobs), ValueError);
    }
    if (HasFatalFailure()) FAIL() << "pool " << done << ":" << described(some);
  }
  EXPECT_LT(refused, done / 2);
  std::cout << done << " pools, of which " << refused << " are impossible" << std::endl;
}

// Tensors come to their bounds, and leave them again, where hints say otherwise.
TEST(PoolStress, ATensorNearItsBoundIsNotTakenToBeThere) {
  Random random(607);
  for (int done = 0; done < cases(60, 600); ++done) {
    const Axes shape{limits_are_small ? 8 * in_memory_max : in_memory_max + 9};
    const double level = static_cast<double>(random.between(1, 9)) / 10;
    const auto near = [&] { return level + 0.06 * (random.unit() - 0.5); };
    std::vector<Case> some;
    std::vector<CutHint> hints(3);
    for (auto& hint : hints) {
      some.push_back({Tensor(DType::float32, shape), spec(level, 1, 1), 0, {}, {}, &hint});
      fill(some.back().tensor, Values::numbers, random);
      some.back().spec.pool = "all";
    }
    some[0].spec.max_level = near();
    some[1].spec.min_level = near();
    for (int step = 0; step < 4; ++step) {
      const double now = near();
      for (auto& one : some) one.spec.sparsity_level = now;
      ASSERT_TRUE(expect_pool(some));
      expect_right(some, static_cast<int>(random.between(1, 4)), *random.pick(all_tables()));
      if (HasFatalFailure()) FAIL() << "step " << step << " of pool " << done << described(some);
    }
  }
}

TEST(PoolStress, HintsRightAndWrongChangeNoMask) {
  const int count = limits_are_small ? cases(100, 5000) : cases(40, 400);
  Random random(605);
  int hinted = 0, done = 0;
  for (; done < count || (hinted == 0 && done < 20 * count); ++done) {  // few have hints for all
    auto some = random_pool(random, limits_are_small ? 16 * in_memory_max : 400000);
    std::vector<CutHint> hints(some.size());
    for (std::size_t i = 0; i < some.size(); ++i) some[i].hint = &hints[i];
    for (int step = 0; step < 4; ++step) {
      const bool mislead_some = random.one_in(3);
      bool all = true;
      for (auto& hint : hints) {
        all = all && hint.blocks > 0;
        if (mislead_some && random.one_in(3)) mislead(hint, random);
      }
      hinted += all ? 1 : 0;
      const double by = (random.unit() - 0.5) / (random.one_in(2) ? 10 : 100);
      for (auto& one : some) {
        if (step > 0 && one.spec.monotone) one.past.mask = one.expected;
        one.spec.sparsity_level = std::clamp(one.spec.sparsity_level + by, 0., 1.);
      }
      if (!expect_pool(some)) break;
      expect_right(some, static_cast<int>(random.between(1, 4)), *random.pick(all_tables()));
      if (HasFatalFailure()) FAIL() << "step " << step << " of pool " << done << described(some);
    }
  }
  EXPECT_GT(hinted, 0);
  std::cout << done << " pools, " << hinted << " steps with hints" << std::endl;
}

}  // namespace
}  // namespace datasparse
