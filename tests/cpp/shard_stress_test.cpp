// Searches over shards at length, and what they cost: rounds and bytes for 300 tensors.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "shard_simulator.hpp"

namespace datasparse {
namespace {

TEST(ShardStress, RandomSearchesAgreeWithAWalk) {
  Random random(11);
  const auto [average, most] = expect_walks(random, 50000 / slowdown);
  std::cout << average << " rounds on the average, " << most << " at the most" << std::endl;
}

/// Marsaglia's polar method.
double normal(Random& random) {
  for (;;) {
    const double x = 2 * random.unit() - 1, y = 2 * random.unit() - 1, r = x * x + y * y;
    if (r > 0 && r < 1) return x * std::sqrt(-2 * std::log(r) / r);
  }
}

/// How numbers are stored: by their size, keys have so many steps.
struct Type {
  const char* name;
  int key_step;
};

/// 300 tensors of normally distributed numbers.
class Model {
 public:
  Model(const Type& type, bool is_scaled) : type_(type), numbers_(300) {
    for (auto& tensor : numbers_) {
      const double scale =
          is_scaled ? std::ldexp(1 + random_.unit(), static_cast<int>(random_.below(5))) : 1;
      for (std::int64_t i = 0; i < blocks; ++i) tensor.push_back(scale * normal(random_));
    }
  }
  /// Each number by so much of itself.
  void move(double by) {
    for (auto& tensor : numbers_) {
      for (double& number : tensor) number *= 1 + by * normal(random_);
    }
  }
  ShardedGroups parts(std::size_t count) const {
    ShardedGroups all;
    Random none(0);
    for (const auto& tensor : numbers_) {
      ShardKeys keys;
      for (const double number : tensor) keys.push_back(key(number));
      all.groups.push_back(split_into(keys, count, Split::runs, none));
    }
    return all;
  }
  std::vector<ShardSearch> pool(double level, std::int64_t least, std::int64_t most) const {
    std::vector<ShardSearch> searches(1);
    for (std::size_t g = 0; g < numbers_.size(); ++g) add(searches[0], g, least, most);
    searches[0].plan.budget = std::llround(level * static_cast<double>(blocks) * 300);
    return searches;
  }
  std::vector<ShardSearch> alone(double level) const {
    std::vector<ShardSearch> searches(numbers_.size());
    for (std::size_t g = 0; g < numbers_.size(); ++g) {
      add(searches[g], g, 0, blocks);
      searches[g].plan.budget = std::llround(level * static_cast<double>(blocks));
    }
    return searches;
  }

  static constexpr std::int64_t blocks = 32768;

 private:
  std::uint64_t key(double number) const {
    const std::uint64_t exact = key_of<std::uint32_t>(static_cast<float>(std::abs(number)));
    const std::uint64_t half = (std::uint64_t{1} << type_.key_step) / 2;
    return (exact + half) >> type_.key_step << type_.key_step;
  }
  void add(ShardSearch& search, std::size_t group, std::int64_t least, std::int64_t most) const {
    search.groups.push_back(group);
    search.plan.members.push_back({blocks, 1, least, most});
    search.key_step = type_.key_step;
  }

  Type type_;
  Random random_{3};
  std::vector<std::vector<double>> numbers_;
};

/// Runs them, keeps what the next ones begin with, and prints a row of the table.
std::int64_t rounds_of(std::vector<ShardSearch>& searches, const ShardedGroups& groups,
                       const std::string& what) {
  ShardSelection selection(searches);
  std::size_t sum = 0, most = 0;
  while (!selection.done()) {
    sum += selection.size();
    most = std::max(most, selection.size());
    selection.tell(groups.answer(selection));
  }
  for (std::size_t s = 0; s < searches.size(); ++s) searches[s].hints = selection.hints(s);
  EXPECT_LE(most, 8192U) << what;
  std::printf("| %-45s | %2lld | %4.0f KB |\n", what.c_str(),
              static_cast<long long>(selection.rounds()), static_cast<double>(sum) * 8 / 1000);
  return selection.rounds();
}

/// How many rounds each kind may take: cold, with hints of the same data, and of such as have moved
/// a little, or by another level.
struct Limits {
  std::int64_t cold, same, near, level;
};

void expect_rounds(const Type& type, bool is_scaled, const Limits& pool, const Limits& alone,
                   const Limits& bounded) {
  Model model(type, is_scaled);
  std::vector<std::vector<ShardSearch>> kinds{
      model.pool(0.9, 0, Model::blocks), model.alone(0.9),
      model.pool(0.9, Model::blocks / 2, Model::blocks * 19 / 20)};
  const Limits limits[] = {pool, alone, bounded};
  const char* const names[] = {", a pool", ", each alone", ", a pool with bounds"};
  const auto expect = [&](const ShardedGroups& groups, const char* when,
                          std::int64_t Limits::* limit) {
    for (std::size_t k = 0; k < 3; ++k) {
      const std::string what =
          type.name + std::string(is_scaled ? " of many scales" : "") + names[k] + when;
      EXPECT_LE(rounds_of(kinds[k], groups, what), limits[k].*limit) << what;
    }
  };
  const auto begin = kinds;
  auto groups = model.parts(2);
  expect(groups, ", cold", &Limits::cold);
  expect(groups, ", the same", &Limits::same);
  for (int step = 0; step < 3; ++step) {
    model.move(1e-4);
    groups = model.parts(2);
    expect(groups, ", moved by 1e-4", &Limits::near);
  }
  for (auto& searches : kinds) {
    for (ShardSearch& search : searches) search.plan.budget += search.plan.budget / 100;
  }
  expect(groups, ", level + 1%", &Limits::level);
}

TEST(ShardTraffic, Float32) {
  expect_rounds({"float32", 0}, false, {2, 1, 2, 2}, {6, 1, 4, 4}, {4, 1, 2, 3});
}
TEST(ShardTraffic, BFloat16) {
  expect_rounds({"bfloat16", 16}, false, {2, 1, 2, 3}, {6, 1, 4, 4}, {4, 1, 2, 3});
}
TEST(ShardTraffic, Float16) {
  expect_rounds({"float16", 13}, false, {2, 1, 2, 3}, {6, 1, 4, 4}, {4, 1, 2, 3});
}
TEST(ShardTraffic, Float32OfManyScales) {
  expect_rounds({"float32", 0}, true, {2, 1, 2, 3}, {6, 1, 4, 6}, {7, 1, 4, 6});
}
TEST(ShardTraffic, BFloat16OfManyScales) {
  expect_rounds({"bfloat16", 16}, true, {3, 1, 2, 3}, {6, 1, 4, 6}, {7, 1, 4, 6});
}

}  // namespace
}  // namespace datasparse
