#include "datasparse/shard_selection.hpp"

#include <algorithm>
#include <iostream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/error.hpp"
#include "shard_simulator.hpp"

namespace datasparse {
namespace {

using Numbers = std::vector<std::int64_t>;

ShardSearch search_of(std::vector<std::size_t> groups, std::vector<PoolMember> members,
                      std::int64_t budget) {
  ShardSearch search;
  search.groups = std::move(groups);
  search.plan = {std::move(members), budget};
  return search;
}

/// Of the magnitudes 1, 2, 3, ... in some order.
ShardKeys counted_up(std::int64_t blocks) {
  ShardKeys keys;
  for (std::int64_t i = 0; i < blocks; ++i) {
    keys.push_back(key_of<std::uint32_t>(static_cast<float>(1 + i * 7 % blocks)));
  }
  return keys;
}

ShardedGroups sharded(const std::vector<ShardKeys>& keys, std::size_t parts, Split split) {
  ShardedGroups all;
  Random random(1);
  for (const ShardKeys& own : keys) all.groups.push_back(split_into(own, parts, split, random));
  return all;
}

std::string refusal(ShardSelection& selection, const Numbers& sums) {
  return message_of<ValueError>([&] { selection.tell(sums); });
}

TEST(ShardSelectionTest, RandomSearchesAgreeWithAWalk) {
  Random random(1);
  const auto [average, most] = expect_walks(random, 2000 / slowdown);
  std::cout << average << " rounds on the average, " << most << " at the most" << std::endl;
}

TEST(ShardSelectionTest, NothingAndEverythingTakeNoRound) {
  ShardSelection selection({search_of({3}, {{10, 1, 0, 10}}, 0),
                            search_of({5, 6}, {{10, 1, 0, 10}, {4, 2, 0, 4}}, 18),
                            search_of({}, {}, 0), search_of({8}, {{7, 0, 0, 0}}, 0)});
  EXPECT_TRUE(selection.done());
  EXPECT_EQ(selection.rounds(), 0);
  EXPECT_EQ(selection.stop(3), (ShardPlace{0, 0}));
  EXPECT_GT(selection.stop(6).key, KeyTraits<std::uint32_t>::nan);
  EXPECT_EQ(selection.stop(8), (ShardPlace{0, 0}));
}

TEST(ShardSelectionTest, GroupsOfAPoolShareNumbersUnlessTheyAreBounded) {
  const PoolMember any{100, 1, 0, 100}, heavy{100, 3, 0, 100}, bounded{100, 1, 20, 60};
  const PoolMember nothing{100, 0, 0, 0};
  ShardSelection selection({search_of({0, 1, 2, 3, 4}, {any, nothing, heavy, bounded, any}, 300)});
  ASSERT_EQ(selection.questions().size(), 1U);
  const auto& question = selection.questions()[0];
  EXPECT_EQ(*question.groups, (std::vector<std::size_t>{0, 2, 3, 4}));
  EXPECT_EQ(*question.first, (Numbers{0, 200, 300, 400}));
  const std::size_t count = question.places.size() + 1;
  EXPECT_EQ(selection.size(), 2 * count);
  Numbers numbers(selection.size());
  const Numbers ones(count, 1);
  for (const std::size_t m : {0U, 1U, 2U}) selection.add(question, m, ones.data(), numbers.data());
  EXPECT_EQ(numbers[0], 1 + 3) << "by weight";
  EXPECT_EQ(numbers[count], 1);
}

TEST(ShardSelectionTest, RoundsAndPlacesDoNotDependOnTheParts) {
  const std::vector<ShardKeys> keys{counted_up(3000), counted_up(2000), counted_up(1000)};
  std::vector<std::vector<ShardPlace>> asked;
  for (const std::size_t parts : {1U, 2U, 64U}) {
    const auto groups = sharded(keys, parts, parts == 2 ? Split::random : Split::strided);
    ShardSelection selection({search_of({0, 2}, {{3000, 2, 0, 3000}, {1000, 1, 100, 900}}, 5000),
                              search_of({1}, {{2000, 1, 0, 2000}}, 1234)},
                             64);
    std::vector<ShardPlace> places;
    while (!selection.done()) {
      for (const auto& question : selection.questions()) {
        places.insert(places.end(), question.places.begin(), question.places.end());
      }
      selection.tell(groups.answer(selection));
    }
    asked.push_back(places);
  }
  EXPECT_EQ(asked[1], asked[0]);
  EXPECT_EQ(asked[2], asked[0]);
}

TEST(ShardSelectionTest, HintsSaveRounds) {
  // Groups whose bounds matter, beside one whose do not, and ties.
  std::vector<ShardKeys> keys;
  Random random(2);
  for (const double scale : {1., 1., 4., 0.25, 1.}) {
    keys.emplace_back();
    for (int i = 0; i < 4000; ++i) {
      const auto score = static_cast<float>(scale * random.unit() * random.unit());
      keys.back().push_back(key_of<std::uint32_t>(score) >> 16 << 16);
    }
  }
  const auto groups = sharded(keys, 3, Split::runs);
  const PoolMember any{4000, 1, 0, 4000}, bounded{4000, 1, 2000, 3800};
  std::vector<ShardSearch> searches{
      search_of({0, 1, 2, 3}, {any, bounded, bounded, bounded}, 13000),
      search_of({4}, {any}, 2000)};
  for (ShardSearch& search : searches) search.key_step = 16;
  ShardSelection cold(searches, 256);
  run(cold, groups);
  EXPECT_GE(cold.rounds(), 3);
  for (std::size_t s = 0; s < 2; ++s) searches[s].hints = cold.hints(s);
  EXPECT_EQ(searches[0].hints.size(), 5U) << "of its members at a bound too";
  EXPECT_GT(searches[0].hints[3].keys_per_block, 0);
  EXPECT_EQ(searches[1].hints.size(), 1U);
  ShardSelection again(searches, 256);
  run(again, groups);
  EXPECT_EQ(again.rounds(), 1) << "of the same data";
  auto misled = searches;
  misled[0].hints[2] = {key_of<std::uint32_t>(1e9F), 0, 3000, 1, 0};
  ShardSelection in_vain(misled, 256);
  run(in_vain, groups);
  EXPECT_EQ(in_vain.rounds(), 1) << "one at no bound has no place to look for";
  searches[1].plan.budget += 20;
  ShardSelection moved(searches, 256);
  run(moved, groups);
  EXPECT_LE(moved.rounds(), 2);
}

TEST(ShardSelectionTest, ZerosInfinitiesAndNaNTakeFewRounds) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const float repeated : {0.F, infinity, nan}) {
    for (const int key_step : {0, 16}) {
      ShardKeys keys;
      for (int i = 0; i < 1000; ++i) {
        const float score = i % 5 < 3 ? repeated : static_cast<float>(i) / 1000;
        keys.push_back(score == score ? key_of<std::uint32_t>(score) >> key_step << key_step
                                      : key_of<std::uint32_t>(score));
      }
      const auto groups = sharded({keys}, 2, Split::runs);
      ShardSearch search = search_of({0}, {{1000, 1, 0, 1000}}, repeated == 0 ? 300 : 700);
      search.key_step = key_step;
      ShardSelection selection({search}, 64);
      run(selection, groups);
      EXPECT_LE(selection.rounds(), repeated == 0 ? 2 : 4) << repeated << ", " << key_step;
      ShardCase walk{{search}, {{keys}}, groups, 64};
      EXPECT_EQ(walk.fault(selection), "");
    }
  }
}

TEST(ShardSelectionTest, ASearchBeginsWhereItIsExpectedToStop) {
  const std::vector<ShardKeys> keys{counted_up(1000), counted_up(500)};
  const auto groups = sharded(keys, 2, Split::runs);
  std::vector<ShardSearch> searches{search_of({0}, {{1000, 1, 0, 1000}}, 700),
                                    search_of({1}, {{500, 1, 0, 500}}, 100)};
  const std::uint64_t step = (keys[0][999] - keys[0][0]) / 999;
  for (const ShardHint hint : {ShardHint{keys[0][690], 3, 690, static_cast<double>(step), 20},
                               ShardHint{keys[0][5], 0, 700, 1, 0}, ShardHint{}}) {
    ShardSelection expecting(searches, 64);
    expecting.expect(0, hint);
    searches[0].hints = {hint};
    ShardSelection hinted(searches, 64);
    ASSERT_EQ(expecting.questions().size(), 2U);
    EXPECT_EQ(expecting.questions()[0].places, hinted.questions()[0].places);
    EXPECT_EQ(expecting.questions()[1].places, hinted.questions()[1].places);
    EXPECT_THROW(expecting.expect(2, hint), ValueError);
    run(expecting, groups);
    EXPECT_THROW(expecting.expect(0, hint), StateError);
    ShardCase walk{searches, {{keys[0]}, {keys[1]}}, groups, 64};
    EXPECT_EQ(walk.fault(expecting), "");
  }
}

TEST(ShardSelectionTest, SumsThatCannotBeAreRefusedAndChangeNothing) {
  const std::vector<ShardKeys> keys{counted_up(1000), counted_up(500), counted_up(800)};
  const auto groups = sharded(keys, 2, Split::runs);
  const std::vector<ShardSearch> searches{
      search_of({0, 1}, {{1000, 2, 0, 1000}, {500, 1, 100, 400}}, 1500),
      search_of({2}, {{800, 1, 0, 800}}, 100)};
  ShardSelection selection(searches, 64), untouched(searches, 64);
  for (bool is_first = true; !selection.done(); is_first = false) {
    const Numbers right = groups.answer(selection);
    Numbers wrong(right.size());
    EXPECT_NE(refusal(selection, wrong).find("0: a part is missing"), std::string::npos);
    const auto& last = selection.questions().back();
    if (last.search == 1) {
      const auto begin = static_cast<std::ptrdiff_t>(last.begin);
      wrong = right;
      std::transform(wrong.begin() + begin, wrong.end(), wrong.begin() + begin,
                     [](std::int64_t count) { return 2 * count; });
      EXPECT_EQ(refusal(selection, wrong),
                "sums for group 2 must count each block once, 800 in all, got 1600: a part is "
                "missing, was added twice, or is of a tensor of another shape");
      wrong = right;
      wrong[last.begin] = 801;
      EXPECT_NE(refusal(selection, wrong).find("not be less for later places"), std::string::npos);
      if (!is_first) {
        std::fill(wrong.begin() + begin, wrong.end() - 1, 0);
        EXPECT_NE(refusal(selection, wrong).find("the data have changed"), std::string::npos);
        std::fill(wrong.begin() + begin, wrong.end() - 1, 800);
        EXPECT_NE(refusal(selection, wrong).find("the data have changed"), std::string::npos);
      }
    }
    wrong = right;
    wrong.pop_back();
    EXPECT_NE(refusal(selection, wrong).find("as many as the questions' numbers"),
              std::string::npos);
    EXPECT_EQ(selection.size(), untouched.size());
    EXPECT_EQ(selection.rounds(), untouched.rounds());
    selection.tell(right);
    untouched.tell(right);
  }
  ShardCase walk{searches, {{keys[0], keys[1]}, {keys[2]}}, groups, 64};
  EXPECT_EQ(walk.fault(selection), "");
}

TEST(ShardSelectionTest, BoundedGroupsAreCheckedByThemselves) {
  ShardSelection selection({search_of({7, 9}, {{100, 1, 0, 100}, {100, 1, 20, 60}}, 90)}, 64);
  const std::size_t count = selection.questions()[0].places.size() + 1;
  Numbers numbers(selection.size(), 100);
  numbers.back() = 99;
  const std::string what = refusal(selection, numbers);
  EXPECT_NE(what.find("sums for group 9 must count each block once, 100 in all, got 99"),
            std::string::npos)
      << what;
  numbers.assign(selection.size(), 100);
  numbers[count - 1] = 101;
  EXPECT_NE(refusal(selection, numbers).find("sums for group 7 must"), std::string::npos);
}

TEST(ShardSelectionTest, WhatCannotBeIsRefusedAtOnce) {
  const PoolMember any{10, 1, 0, 10};
  const auto expect_refusal = [](const ShardSearch& search, const std::string& part) {
    const auto message = message_of<ValueError>([&] { ShardSelection({search}); });
    EXPECT_NE(message.find(part), std::string::npos) << part << " is not in: " << message;
  };
  expect_refusal(search_of({0, 1}, {any}, 5), "groups of search 0 must be as many");
  expect_refusal(search_of({1, 1}, {any, any}, 5), "group 1 a second time");
  expect_refusal(search_of({0}, {{10, 1, 5, 4}}, 5), "0 <= least <= most <= blocks");
  expect_refusal(search_of({0}, {{10, 1, 0, 11}}, 5), "0 <= least <= most <= blocks");
  expect_refusal(search_of({0}, {{10, -1, 0, 10}}, 5), "a weight of -1");
  expect_refusal(search_of({0}, {{10, 1, 6, 10}}, 5), "budget of search 0 must be at least 6");
  ShardSearch search = search_of({0}, {any}, 5);
  search.key_step = 24;
  expect_refusal(search, "key_step of search 0 must be in [0, 23], got 24");
  search.key_step = -1;
  expect_refusal(search, "got -1");
  search.is_wide = true;
  search.key_step = 52;
  const ShardSelection selection({search});
  EXPECT_THROW(selection.stop(0), StateError);
  EXPECT_THROW(selection.hints(0), StateError);
  const ShardSelection done({search_of({0}, {any}, 0)});
  EXPECT_THROW(done.stop(1), ValueError);
  EXPECT_THROW(done.hints(1), ValueError);
}

TEST(ShardSelectionTest, ManyGroupsHaveEightNumbersEach) {
  std::vector<ShardSearch> searches;
  std::vector<ShardKeys> keys;
  for (std::size_t g = 0; g < 40; ++g) {
    searches.push_back(search_of({g}, {{50, 1, 0, 50}}, static_cast<std::int64_t>(g)));
    keys.push_back(counted_up(50));
  }
  ShardSelection selection(searches, 64);
  EXPECT_LE(selection.size(), 40U * 8U);
  EXPECT_GT(selection.size(), 40U * 6U);
  const auto groups = sharded(keys, 3, Split::random);
  run(selection, groups);
  for (std::size_t g = 0; g < 40; ++g) {
    std::int64_t pruned = 0;
    const ShardPlace stop = selection.stop(g);
    for (const ShardPart& part : groups.groups[g]) pruned += part.below(stop.key, stop.position);
    EXPECT_EQ(pruned, static_cast<std::int64_t>(g));
  }
}

TEST(ShardSelectionTest, MovesWithItsQuestions) {
  const auto groups = sharded({counted_up(1000)}, 2, Split::runs);
  ShardSelection first({search_of({0}, {{1000, 1, 0, 1000}}, 500)}, 32);
  first.tell(groups.answer(first));
  ASSERT_FALSE(first.done());
  ShardSelection second(std::move(first));
  run(second, groups);
  ShardSelection third({});
  third = std::move(second);
  const ShardPlace stop = third.stop(0);
  EXPECT_EQ(groups.groups[0][0].below(stop.key, stop.position) +
                groups.groups[0][1].below(stop.key, stop.position),
            500);
}

}  // namespace
}  // namespace datasparse
