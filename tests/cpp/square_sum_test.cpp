#include "base/square_sum.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "base/keys.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

template <class Score>
using KeyOf = std::conditional_t<sizeof(Score) == 4, std::uint32_t, std::uint64_t>;

/// Of some scores.
template <class Score>
double sum(const std::vector<Score>& scores) {
  std::vector<KeyOf<Score>> keys;
  for (const Score score : scores) keys.push_back(key_of<KeyOf<Score>>(score));
  const auto result = std::make_unique<SquareSum<KeyOf<Score>>>();
  result->clear();
  result->add(keys.data(), static_cast<std::int64_t>(keys.size()));
  return result->rounded();
}

template <class Score>
class SquareSumTest : public ::testing::Test {};
using Scores = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SquareSumTest, Scores, );

TYPED_TEST(SquareSumTest, AddsUpSquares) {
  using Score = TypeParam;
  EXPECT_EQ(sum<Score>({}), 0);
  EXPECT_EQ(sum<Score>({0, -Score{0}}), 0);
  EXPECT_EQ(sum<Score>({3, 4}), 25);
  EXPECT_EQ(sum<Score>({-3, 4}), 25) << "with a sign";
  EXPECT_EQ(sum<Score>({0.5, 1, 0.25}), 1.3125);
}

TYPED_TEST(SquareSumTest, RoundsOnceAndHalfToEven) {
  using Score = TypeParam;
  const auto small = static_cast<Score>(0x1p-27);  // its square is half of half a unit of 1
  EXPECT_EQ(sum<Score>({1, small}), 1);
  EXPECT_EQ(sum<Score>({small, 1, small}), 1) << "a half: 1 is even";
  EXPECT_EQ(sum<Score>({small, 1, small, small}), 1 + 0x1p-52);
  const auto tiny = static_cast<Score>(0x1p-60);
  EXPECT_EQ(sum<Score>({small, 1, small, tiny}), 1 + 0x1p-52) << "a little more than a half";
  const auto odd = static_cast<Score>(0x1p-26);  // one unit
  EXPECT_EQ(sum<Score>({1, odd, small, small}), 1 + 0x1p-51) << "a half: 2 units are even";
  EXPECT_EQ(sum<Score>({1, odd, odd, odd, small, small}), 1 + 0x1p-50) << "a carry";
}

TYPED_TEST(SquareSumTest, LeavesInfinityAndNaNOut) {
  using Score = TypeParam;
  using Limits = std::numeric_limits<Score>;
  EXPECT_EQ(sum<Score>({3, Limits::infinity(), 4}), 25);
  EXPECT_EQ(sum<Score>({-3, -Score{0}, -Limits::infinity(), 4}), 25) << "with a sign";
  EXPECT_EQ(sum<Score>({Limits::quiet_NaN(), 2}), 4);
}

TEST(SquareSumTest, KnowsTheEndsOfItsRange) {
  constexpr float least = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(sum<float>({least}), 0x1p-298);
  EXPECT_EQ(sum<float>({least, least, least, least}), 0x1p-296);
  constexpr float most = std::numeric_limits<float>::max();
  EXPECT_EQ(sum<float>({most}), static_cast<double>(most) * static_cast<double>(most));

  EXPECT_EQ(sum<double>({0x1p-537}), 0x1p-1074) << "the least double";
  EXPECT_EQ(sum<double>({0x1p-538}), 0) << "a quarter of it";
  EXPECT_EQ(sum<double>({0x1p-538, 0x1p-538}), 0) << "half of it: 0 is even";
  EXPECT_EQ(sum<double>({0x1p-538, 0x1p-538, 0x1p-1074}), 0x1p-1074) << "more than half";
  EXPECT_EQ(sum<double>({0x1p-511, 0x1p-537}), 0x1p-1022 + 0x1p-1074);
  constexpr double greatest = std::numeric_limits<double>::max();
  EXPECT_EQ(sum<double>({greatest, greatest}), std::numeric_limits<double>::infinity());
}

TYPED_TEST(SquareSumTest, IsTheSameInAnyOrderAndInParts) {
  using Score = TypeParam;
  using Key = KeyOf<Score>;
  Random random(31);
  std::vector<Key> keys;
  for (int i = 0; i < 70000; ++i) {
    const auto score = static_cast<Score>(std::exp2(random.unit() * 60 - 30));
    const auto any = static_cast<Key>(random.bits());
    keys.push_back(random.one_in(50) ? std::min(any, KeyTraits<Key>::nan) : key_of<Key>(score));
  }
  const auto whole = std::make_unique<SquareSum<Key>>();
  const auto part = std::make_unique<SquareSum<Key>>();
  whole->clear();
  whole->add(keys.data(), static_cast<std::int64_t>(keys.size()));
  const double expected = whole->rounded();
  for (int round = 0; round < 5; ++round) {
    for (std::size_t i = keys.size() - 1; i > 0; --i) {
      std::swap(keys[i], keys[static_cast<std::size_t>(random.below(static_cast<int>(i) + 1))]);
    }
    const std::int64_t cut = random.below(static_cast<std::int64_t>(keys.size()));
    whole->clear();
    part->clear();
    whole->add(keys.data(), cut);
    part->add(keys.data() + cut, static_cast<std::int64_t>(keys.size()) - cut);
    whole->add(*part);
    EXPECT_EQ(whole->rounded(), expected);
  }
}

}  // namespace
}  // namespace datasparse
