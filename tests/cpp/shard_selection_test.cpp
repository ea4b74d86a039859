#include "datasparse/shard_selection.hpp"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "base/keys.hpp"
#include "datasparse/error.hpp"
#include "shard_simulator.hpp"
#include "stress.hpp"

namespace datasparse {
namespace {

std::uint64_t key_in(bool is_wide, double score) {
  return is_wide ? key_of<std::uint64_t>(score)
                 : std::uint64_t{key_of<std::uint32_t>(static_cast<float>(score))};
}

/// Keys of one kind that are hard to tell apart, or easy.
struct Kind {
  bool is_wide, has_sign;
  int key_step;
  int values;  // what they are drawn from
  double scale;
};

std::uint64_t random_key(Random& random, const Kind& kind) {
  double score = 0;
  switch (kind.values) {
    case 0: score = random.unit() * 2 - 1; break;
    case 1: score = static_cast<double>(random.between(-2, 2)); break;
    case 2: score = 1; break;
    case 3: score = random.one_in(5) ? random.unit() : random.one_in(2) ? 0. : -0.; break;
    case 4: score = std::numeric_limits<double>::quiet_NaN(); break;
    case 5:
      score = std::ldexp(random.unit() - 0.5, static_cast<int>(random.between(-120, 120)));
      break;
    case 6:
      score = random.one_in(3)   ? std::numeric_limits<double>::quiet_NaN()
              : random.one_in(2) ? std::numeric_limits<double>::infinity()
                                 : random.unit();
      break;
    default: score = std::floor(random.unit() * 40) / 40;
  }
  if (!kind.has_sign) score = std::abs(score);
  const std::uint64_t key = key_in(kind.is_wide, score * kind.scale);
  const bool is_nan = std::isnan(score);
  const std::uint64_t step = std::uint64_t{1} << kind.key_step;
  return is_nan ? key : key & ~(step - 1);
}

struct RandomCase {
  std::vector<ShardSearch> searches;
  std::vector<std::vector<ShardKeys>> keys;  // by search and member
  ShardedGroups groups;
  std::int64_t most = 0;
};

RandomCase random_case_of_shards(Random& random, std::int64_t blocks_most) {
  RandomCase one;
  const std::size_t searches =
      random.one_in(3) ? 1 : static_cast<std::size_t>(random.between(1, 6));
  const auto parts = static_cast<std::size_t>(random.between(1, 6));
  one.most = random.one_in(2) ? random.between(16, 400) : 8192;
  for (std::size_t s = 0; s < searches; ++s) {
    ShardSearch search;
    Kind kind{random.one_in(3), random.one_in(3), 0, static_cast<int>(random.below(8)), 1};
    if (random.one_in(3)) kind.key_step = kind.is_wide ? 29 : random.one_in(2) ? 16 : 13;
    kind.scale = random.one_in(4) ? std::ldexp(1.0, static_cast<int>(random.between(-40, 20))) : 1;
    search.is_wide = kind.is_wide;
    search.has_sign = kind.has_sign;
    search.key_step = kind.key_step;
    const std::size_t members =
        random.one_in(2) ? 1 : static_cast<std::size_t>(random.between(1, 8));
    const bool weighs = random.one_in(3), bounded = random.one_in(3);
    const bool is_mixed = random.one_in(5);
    std::int64_t least = 0, most = 0;
    one.keys.emplace_back();
    for (std::size_t m = 0; m < members; ++m) {
      if (is_mixed) kind.values = static_cast<int>(random.below(8));
      const std::int64_t blocks = random.one_in(10) ? 0 : random.between(1, blocks_most);
      ShardKeys keys;
      for (std::int64_t i = 0; i < blocks; ++i) keys.push_back(random_key(random, kind));
      PoolMember member{blocks, weighs ? random.between(0, 5) : 1, 0, blocks};
      if (bounded && random.one_in(2)) member.most = random.between(0, blocks);
      if (bounded && random.one_in(2)) member.least = random.between(0, member.most);
      if (member.weight == 0) member.least = member.most = 0;
      least += member.weight * member.least;
      most += member.weight * member.most;
      search.groups.push_back(one.groups.groups.size());
      search.plan.members.push_back(member);
      one.groups.groups.push_back(
          split_into(keys, parts, static_cast<Split>(random.below(3)), random));
      one.keys.back().push_back(std::move(keys));
    }
    search.plan.budget = random.one_in(8)   ? least
                         : random.one_in(8) ? most
                                            : random.between(least, most);
    one.searches.push_back(std::move(search));
  }
  return one;
}

/// Asks and tells until it is done. How many rounds it took; -1 if they do not end.
std::int64_t run(ShardSelection& selection, const ShardedGroups& groups) {
  while (!selection.done()) {
    if (selection.rounds() > 200) return -1;
    selection.tell(groups.answer(selection));
  }
  return selection.rounds();
}

std::string fault_of(const RandomCase& one, const ShardSelection& selection) {
  for (std::size_t s = 0; s < one.searches.size(); ++s) {
    const auto pruned = walked(one.searches[s].plan, one.keys[s]);
    for (std::size_t m = 0; m < pruned.size(); ++m) {
      const std::size_t group = one.searches[s].groups[m];
      const ShardPlace stop = selection.stop(group);
      std::int64_t found = 0;
      for (const ShardPart& part : one.groups.groups[group]) {
        found += part.below(stop.key, stop.position);
      }
      if (found != pruned[m]) {
        return "search " + std::to_string(s) + ", group " + std::to_string(group) + ": " +
               std::to_string(found) + " pruned, not " + std::to_string(pruned[m]);
      }
    }
  }
  return "";
}

ShardHint random_hint(Random& random) {
  const auto number = [&] {
    switch (random.below(5)) {
      case 0: return std::numeric_limits<double>::quiet_NaN();
      case 1: return std::numeric_limits<double>::infinity();
      case 2: return -random.unit();
      case 3: return std::ldexp(random.unit(), static_cast<int>(random.between(-300, 300)));
      default: return random.unit() * 1000;
    }
  };
  const auto integer = [&] { return static_cast<std::int64_t>(random.bits()); };
  return {random.one_in(2) ? random.bits() : 0x80000000U + random.bits() % 0x40000000U,
          random.one_in(2) ? integer() : random.below(100),
          random.one_in(2) ? integer() : random.below(100), number(), number()};
}

TEST(ShardSelectionTest, RandomSearchesAgreeWithAWalk) {
  Random random(1);
  std::int64_t worst = 0, rounds = 0;
  const int count = cases(2000, 50000);
  for (int i = 0; i < count; ++i) {
    RandomCase one = random_case_of_shards(random, 300);
    for (int step = 0; step < 3; ++step) {
      ShardSelection selection(one.searches, one.most);
      const std::int64_t took = run(selection, one.groups);
      ASSERT_GE(took, 0) << "case " << i;
      ASSERT_EQ(fault_of(one, selection), "") << "case " << i;
      worst = std::max(worst, took);
      rounds += took;
      for (std::size_t s = 0; s < one.searches.size(); ++s) {
        one.searches[s].hint = step == 0 ? selection.hint(s) : random_hint(random);
      }
    }
  }
  std::cout << count << " cases, rounds " << static_cast<double>(rounds) / count / 3
            << " on the average, " << worst << " at the most" << std::endl;
}

}  // namespace
}  // namespace datasparse
