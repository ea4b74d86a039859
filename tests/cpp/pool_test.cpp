#include "datasparse/pool.hpp"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

using Counts = PoolPlan::Counts;

BlockSpec single(double level) {
  BlockSpec spec;
  spec.sparsity_level = level;
  spec.block_width = 1;
  return spec;
}

PoolPlan plan_of(const std::vector<BlockSpec>& specs, const std::vector<Axes>& shapes) {
  std::vector<BlockSpec> resolved;
  for (std::size_t i = 0; i < specs.size(); ++i) resolved.push_back(specs[i].resolved(shapes[i]));
  std::vector<PoolGroup> groups;
  for (std::size_t i = 0; i < specs.size(); ++i) groups.push_back({&resolved[i], shapes[i]});
  return PoolPlan::of("all", groups);
}

TEST(PoolPlanTest, BudgetIsOneProductWhereLevelsAreEqual) {
  // 0.3 × 15 = 4.5, to the even one; each by itself would be round(1.5) + round(3) = 5.
  EXPECT_EQ(plan_of({single(0.3), single(0.3)}, {{5}, {10}}).budget, 4);
  // Different levels: 0.3 × 5 + 0.4 × 10 = 5.5, to the even one.
  EXPECT_EQ(plan_of({single(0.3), single(0.4)}, {{5}, {10}}).budget, 6);
  EXPECT_EQ(plan_of({single(0.3)}, {{5}}).budget, 2) << "one group alone: 1.5, to the even one";
  EXPECT_EQ(plan_of({single(1)}, {{0}}).budget, 0);
  // 0.53 × 1450 = 768.5, to the even one; 0.53 × 450 + 0.53 × 968 + 0.53 × 32 is a little more in
  // doubles.
  const PoolPlan plan =
      plan_of({single(0.53), single(0.7), single(0.53), single(0.53)}, {{450}, {0}, {968}, {32}});
  EXPECT_EQ(plan.budget, 768) << "a group without elements has no say, as in a step";
}

TEST(PoolPlanTest, BlocksWeighWhatTheyZeroOverTheGreatestCommonDivisor) {
  BlockSpec wide = single(0.5), n_of_m = single(0.5), nothing = single(0.5);
  wide.block_width = 8;
  n_of_m.block_width = 16;
  n_of_m.zeros_per_block = 12;
  nothing.block_width = 4;
  nothing.zeros_per_block = 0;
  const PoolPlan plan = plan_of({wide, n_of_m, nothing}, {{2, 32}, {2, 32}, {2, 32}});
  ASSERT_EQ(plan.members.size(), 3U);
  EXPECT_EQ(plan.members[0].weight, 2);
  EXPECT_EQ(plan.members[1].weight, 3);
  EXPECT_EQ(plan.members[2].weight, 0);
  EXPECT_EQ(plan.members[2].most, 0);
  EXPECT_EQ(plan.budget, 14) << "half of 8 × 2 + 4 × 3";
}

TEST(PoolPlanTest, BoundsAreRoundedOutwards) {
  BlockSpec bounded = single(0.5);
  bounded.min_level = 0.25;
  bounded.max_level = 0.55;
  const PoolPlan plan = plan_of({bounded, single(0.5)}, {{10}, {90}});
  EXPECT_EQ(plan.members[0].least, 2);
  EXPECT_EQ(plan.members[0].most, 6);
  bounded.sparsity_level = 0.1;
  EXPECT_EQ(plan_of({bounded, single(0.1)}, {{10}, {90}}).members[0].least, 1)
      << "never more than the pool's level";
}

TEST(PoolPlanTest, BlocksThatAreKeptLeaveTheBudget) {
  BlockSpec kept = single(1);
  kept.min_kept = 3;
  const PoolPlan plan = plan_of({kept, single(1)}, {{10}, {10}});
  EXPECT_EQ(plan.budget, 17);
  EXPECT_EQ(plan.members[0].most, 7);
  EXPECT_EQ(plan_of({kept}, {{10}}).budget, 7) << "as without a pool";
}

TEST(PoolPlanTest, ImpossibleBudgetNamesThePossibleRange) {
  BlockSpec bounded = single(0.9);
  bounded.max_level = 0.75;
  bounded.pool = "all";
  EXPECT_EQ(message_of<ValueError>([&] { plan_of({bounded, bounded}, {{8}, {8}}); }),
            "sparsity_level of pool 'all' must be in [0, 0.75], which is what max_level leaves "
            "to its groups, got 0.875; lower it, or raise max_level");
}

TEST(PoolPlanTest, TiesGoToEarlierGroupsUntilOneCostsTooMuch) {
  const PoolPlan plan{{{4, 2, 0, 4}, {4, 3, 0, 4}, {4, 1, 0, 4}}, 9};
  Counts pruned(3);
  plan.prune({1, 0, 0}, {2, 2, 4}, pruned);
  // 2 is spent on what lies below; 2 + 2 on the first group's ties; 3 on one of the second's. The
  // next would be one more of these, which ends it.
  EXPECT_EQ(pruned, (Counts{3, 1, 0}));
  plan.prune({1, 0, 0}, {2, 1, 4}, pruned);
  EXPECT_EQ(pruned, (Counts{3, 1, 0})) << "all of the second's are pruned, and nothing is left";
}

TEST(PoolPlanTest, WhatIsBelowLeastCostsNothingMore) {
  const PoolPlan plan{{{10, 1, 4, 10}, {10, 1, 0, 3}}, 8};
  EXPECT_EQ(plan.cost({0, 0}), 4);
  EXPECT_EQ(plan.cost({6, 9}), 9) << "6, and 3 at the most";
  Counts pruned(2);
  plan.prune({2, 1}, {3, 5}, pruned);
  EXPECT_EQ(pruned, (Counts{5, 3}));
}

TEST(PoolPlanTest, BoundsHoldWhateverTheDataAre) {
  Random random(41);
  for (int round = 0; round < 300; ++round) {
    PoolPlan plan;
    std::int64_t most = 0;
    for (std::int64_t i = random.between(1, 6); i > 0; --i) {
      PoolMember member{random.between(0, 20), random.between(0, 4), 0, 0};
      if (member.weight > 0) {
        member.most = random.between(0, member.blocks);
        most += member.most * member.weight;
      }
      plan.members.push_back(member);
    }
    plan.budget = random.between(0, most);
    const auto bounds = plan.bounds();
    // Any order of the blocks: a search over random counts.
    PoolSearch search(plan, 50);
    std::vector<std::vector<std::uint64_t>> keys;
    for (const auto& member : plan.members) {
      keys.emplace_back();
      for (std::int64_t i = 0; i < member.blocks; ++i) {
        keys.back().push_back(static_cast<std::uint64_t>(random.below(50)));
      }
    }
    while (!search.done()) {
      Counts below;
      for (const auto& some : keys) {
        below.push_back(std::count_if(some.begin(), some.end(),
                                      [&](std::uint64_t key) { return key < search.middle(); }));
      }
      search.tell(search.middle(), below);
    }
    Counts pruned(keys.size());
    search.finish(pruned);
    std::int64_t spent = 0;
    for (std::size_t m = 0; m < keys.size(); ++m) {
      EXPECT_GE(pruned[m], bounds[m].least) << round;
      EXPECT_LE(pruned[m], bounds[m].most) << round;
      spent += pruned[m] * plan.members[m].weight;
    }
    EXPECT_GE(spent, plan.spent().least) << round;
    EXPECT_LE(spent, plan.spent().most) << round;
  }
}

// --- of a sparsifier ----------------------------------------------------------------------------

struct Pooled {
  Pooled(double level, const std::vector<Axes>& shapes) {
    Random random(51);
    BlockSpec defaults = single(level);
    defaults.pool = "all";
    sparsifier = std::make_unique<DataNormSparsifier>(defaults);
    for (const auto& shape : shapes) {
      tensors.emplace_back(DType::float32, shape);
      fill(tensors.back(), Values::numbers, random);
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      sparsifier->add_data(name(i), tensors[i].view());
    }
  }
  static std::string name(std::size_t i) { return std::string(1, static_cast<char>('a' + i)); }
  std::int64_t zeros() const {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) sum += sparsifier->get_mask(name(i)).zeros();
    return sum;
  }

  std::vector<Tensor> tensors;
  std::unique_ptr<DataNormSparsifier> sparsifier;
};

TEST(PoolTest, AStepPrunesTheBudgetOverAllGroups) {
  Pooled pool(0.35, {{10, 10}, {7}, {3, 4, 5}});
  pool.sparsifier->step();
  EXPECT_EQ(pool.zeros(), 58) << "0.35 × 167 = 58.45";
}

TEST(PoolTest, MaskOfAHigherLevelHoldsThatOfALowerOne) {
  Pooled pool(0, {{40, 10}, {70}, {3, 4, 5}});
  std::vector<Bytes> before;
  for (int percent = 0; percent <= 100; percent += 5) {
    ParamMap levels;
    for (const auto& name : pool.sparsifier->names()) levels.set(name, percent / 100.0);
    GroupParams(*pool.sparsifier).set("sparsity_level", levels);
    pool.sparsifier->step();
    std::vector<Bytes> masks;
    for (const auto& name : pool.sparsifier->names()) {
      masks.push_back(bytes_of(pool.sparsifier->get_mask(name)));
    }
    for (std::size_t g = 0; g < before.size(); ++g) {
      for (std::size_t i = 0; i < before[g].size(); ++i) {
        ASSERT_LE(masks[g][i], before[g][i]) << percent << "%, group " << g << ", element " << i;
      }
    }
    before = masks;
  }
}

TEST(PoolTest, FrozenAndSquashedGroupsAreNoPartOfIt) {
  Pooled pool(0.5, {{100}, {100}, {100}});
  GroupOptions frozen;
  frozen.update = false;
  pool.sparsifier->add_data("a", make_source(pool.tensors[0].view()), {}, true, nullptr, frozen);
  pool.sparsifier->squash_mask({"b"});
  pool.sparsifier->step();
  EXPECT_EQ(pool.sparsifier->get_mask("c").zeros(), 50);
  EXPECT_EQ(pool.sparsifier->get_mask("a").zeros(), 0);
}

TEST(PoolTest, AnImpossibleBudgetIsRefusedBeforeAnyMaskChanges) {
  Pooled pool(0.5, {{100}, {100}});
  pool.sparsifier->step();
  const auto before = pool.sparsifier->save_state();
  const GroupParams params(*pool.sparsifier);
  for (const auto* name : {"a", "b"}) {
    pool.sparsifier->update_config(name, {{"max_level", 0.6}});
  }
  const ParamMap levels{{"a", 0.7}, {"b", 0.7}};
  EXPECT_THROW(GroupParams(*pool.sparsifier).set("sparsity_level", levels), ValueError);
  EXPECT_THROW(params.check("sparsity_level", levels), ValueError);
  EXPECT_THROW(params.count_zeros("sparsity_level", levels), ValueError);
  EXPECT_EQ(pool.sparsifier->config_value("a", "sparsity_level"), ParamValue(0.5))
      << "as it was before";
  for (const auto* name : {"a", "b"}) {
    pool.sparsifier->update_config(name, {{"sparsity_level", 0.7}});  // one group may be on its way
  }
  EXPECT_THROW(pool.sparsifier->step(), ValueError);
  const auto after = pool.sparsifier->save_state();
  EXPECT_EQ(after.step_count, before.step_count);
  for (std::size_t i = 0; i < before.groups.size(); ++i) {
    EXPECT_EQ(after.groups[i].mask_bits, before.groups[i].mask_bits);
  }
}

TEST(PoolTest, PlanKnowsTheZerosOfThePool) {
  Pooled pool(0.5, {{100}, {50}});
  const auto counts = GroupParams(*pool.sparsifier)
                          .count_zeros("sparsity_level", {{"b", ParamValue(0.2)}, {"a", 0.2}});
  ASSERT_EQ(counts.pools.size(), 1U);
  EXPECT_EQ(counts.pools[0].name, "all");
  EXPECT_EQ(counts.pools[0].zeros, (ZeroCount{30, 30}));
  EXPECT_EQ(counts.groups, (std::vector<ZeroCount>{{0, 30}, {0, 30}}));
  const auto part = GroupParams(*pool.sparsifier).count_zeros("sparsity_level", {{"b", 1.0}});
  EXPECT_EQ(part.pools[0].zeros, (ZeroCount{100, 100})) << "0.5 × 100 + 50";
}

TEST(PoolTest, OneGroupByItselfIsRefused) {
  Pooled pool(0.5, {{4}, {4}});
  const auto data = pool.tensors[0].view();
  const auto config = pool.sparsifier->config("a");
  EXPECT_THROW(pool.sparsifier->update_mask("a", data, config), ValueError);
}

TEST(PoolTest, LevelOfAGroupByItselfIsBounded) {
  DataNormSparsifier sparsifier(single(0.5));
  Tensor data(DType::float32, {4});
  sparsifier.add_data("a", data.view());
  sparsifier.update_config("a", {{"max_level", 0.6}});
  EXPECT_THROW(sparsifier.update_config("a", {{"sparsity_level", 0.7}}), ValueError);
  EXPECT_THROW(GroupParams(sparsifier).set("sparsity_level", {{"a", 0.7}}), ValueError);
  EXPECT_THROW(sparsifier.update_config("a", {{"min_level", 0.8}}), ValueError);
  GroupParams params(sparsifier);  // what a scheduler writes
  EXPECT_THROW(params.set("max_level", {{"a", 0.4}}), ValueError) << "below the level";
  EXPECT_THROW(params.set("min_level", {{"a", 0.8}}), ValueError) << "above max_level";
  EXPECT_THROW(params.check("max_level", {{"a", 0.4}}), ValueError);
  EXPECT_EQ(sparsifier.config_value("a", "max_level"), 0.6);
  params.set("max_level", {{"a", 0.55}});
  EXPECT_THROW(sparsifier.update_config("a", {{"pool", ""}}), ValueError);
  EXPECT_THROW(sparsifier.update_config("a", {{"pool", 1}}), TypeError);
  EXPECT_THROW(sparsifier.update_config("a", {{"normalize", "l1"}}), ValueError);
}

TEST(PoolTest, SeveralPoolsAndGroupsByThemselvesGoTogether) {
  Pooled pool(0.5, {{64}, {64}, {64}, {64}, {64}});
  pool.sparsifier->update_config("b", {{"pool", "other"}});
  pool.sparsifier->update_config("d", {{"pool", "other"}});
  pool.sparsifier->update_config("e", {{"pool", ParamValue()}});
  pool.sparsifier->step();
  const auto zeros = [&](const char* name) { return pool.sparsifier->get_mask(name).zeros(); };
  EXPECT_EQ(zeros("a") + zeros("c"), 64);
  EXPECT_EQ(zeros("b") + zeros("d"), 64);
  EXPECT_EQ(zeros("e"), 32);
}

/// A pool leaves hints for groups of few blocks, too. Alone, such a group has no room for a pass.
TEST(PoolTest, GroupsOfFewBlocksAreComputedAloneAfterwards) {
  const Threads one(1);
  Random random(7);
  std::vector<std::vector<float>> data(4, std::vector<float>(16 * 2048));
  for (auto& values : data) {
    for (auto& value : values) value = static_cast<float>(random.unit() - 0.5);
  }
  BlockSpec spec;
  spec.block_height = spec.block_width = 4;
  spec.pool = "all";
  spec.max_level = 0.625;  // of 2048 blocks, a whole number
  for (const bool leaves : {false, true}) {
    // In a thread of its own, whose scratch memory nobody has used before.
    std::thread([&] {
      DataNormSparsifier sparsifier(spec);
      for (std::size_t i = 0; i < data.size(); ++i) {
        sparsifier.add_data(std::to_string(i), make_source(ArrayView(data[i].data(), {16, 2048})));
      }
      sparsifier.step();
      sparsifier.step();
      for (std::size_t i = 0; i < data.size(); ++i) {
        sparsifier.update_config(std::to_string(i), {{"sparsity_level", 0.625}});
        if (leaves) sparsifier.update_config(std::to_string(i), {{"pool", ParamValue()}});
      }
      sparsifier.step();
      for (std::size_t i = 0; i < data.size(); ++i) {
        BlockSpec alone = spec;
        alone.pool = {};
        alone.sparsity_level = 0.625;
        Bytes expected(data[i].size());
        block_mask(ArrayView(data[i].data(), {16, 2048}), alone, expected.data());
        const Mask mask = sparsifier.get_mask(std::to_string(i));
        EXPECT_EQ(Bytes(mask.data(), mask.data() + mask.size()), expected) << i;
      }
    }).join();
  }
}

}  // namespace
}  // namespace datasparse
