// Keys and the numbers they stand for, and the order that those of a pool have in common.

#include "base/keys.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "select/key_scale.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

/// Scores of all sizes and both signs, in order.
template <class Score>
std::vector<Score> rising(Random& random) {
  constexpr Score infinity = std::numeric_limits<Score>::infinity();
  std::vector<Score> scores{-infinity, 0, std::numeric_limits<Score>::denorm_min(), infinity,
                            std::numeric_limits<Score>::max()};
  for (int i = 0; i < 200; ++i) {
    constexpr int reach = std::numeric_limits<Score>::max_exponent;
    const auto exponent = static_cast<int>(random.between(-reach - 20, reach - 1));
    const auto score = static_cast<Score>(std::ldexp(0.5 + random.unit() / 2, exponent));
    scores.push_back(random.one_in(2) ? score : -score);
  }
  std::sort(scores.begin(), scores.end());
  return scores;
}

template <class Key>
class KeysTest : public ::testing::Test {};
using KeyTypes = ::testing::Types<std::uint32_t, std::uint64_t>;
TYPED_TEST_SUITE(KeysTest, KeyTypes, );

TYPED_TEST(KeysTest, OrderAsTheirNumbersAndStandForThem) {
  using Key = TypeParam;
  using Score = typename KeyTraits<Key>::Score;
  Random random(90);
  const auto scores = rising<Score>(random);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const Key key = key_of<Key>(scores[i]);
    EXPECT_EQ(number_of(key), static_cast<double>(scores[i]));
    EXPECT_EQ(magnitude_of(key), magnitude_of(key_of<Key>(-scores[i])));
    if (i > 0 && scores[i - 1] < scores[i]) {
      EXPECT_LT(key_of<Key>(scores[i - 1]), key);
    }
    EXPECT_LT(key, KeyTraits<Key>::nan);
  }
  EXPECT_EQ(key_of<Key>(-Score{0}), KeyTraits<Key>::zero);
  for (const Score nan :
       {std::numeric_limits<Score>::quiet_NaN(), -std::numeric_limits<Score>::quiet_NaN()}) {
    EXPECT_EQ(key_of<Key>(nan), KeyTraits<Key>::nan);
  }
  EXPECT_TRUE(std::isnan(number_of(KeyTraits<Key>::nan)));
  EXPECT_EQ(number_of(Key{1}), -std::numeric_limits<double>::infinity()) << "below all scores";
}

TYPED_TEST(KeysTest, ACommonOrderIsMonotoneAndFindsItsWayBack) {
  using Key = TypeParam;
  Random random(91);
  std::vector<Key> keys{0, 1, KeyTraits<Key>::nan, KeyTraits<Key>::nan + 1};
  for (const auto score : rising<typename KeyTraits<Key>::Score>(random)) {
    const Key key = key_of<Key>(score);
    for (const Key near : {key - 1, key, key + 1}) keys.push_back(near);
  }
  std::sort(keys.begin(), keys.end());
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double norm : {1.0, 3e-30, 7.5, 1e200, infinity}) {
    for (const bool as_double : {false, true}) {
      const KeyScale scale{as_double, norm};
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const std::uint64_t common = scale.of(keys[i]);
        if (i > 0) {
          ASSERT_LE(scale.of(keys[i - 1]), common) << keys[i] << " by " << norm;
        }
        const Key least = scale.template least_at<Key>(common);
        ASSERT_LE(least, keys[i]);
        ASSERT_EQ(scale.of(least), common) << keys[i] << " by " << norm;
        if (least > 0) {
          ASSERT_LT(scale.of(static_cast<Key>(least - 1)), common);
        }
      }
    }
  }
}

TEST(KeyScale, RanksNumbersOfAllKindsTogether) {
  const KeyScale plain{true, 1}, halved{true, 2};
  const auto narrow = [](float x) { return key_of<std::uint32_t>(x); };
  const auto wide = [](double x) { return key_of<std::uint64_t>(x); };
  EXPECT_LT(plain.of(narrow(-3)), plain.of(wide(0.1))) << "a movement below a magnitude";
  EXPECT_EQ(plain.of(narrow(-1.5)), halved.of(wide(-3)));
  EXPECT_EQ(plain.of(narrow(0)), halved.of(wide(-5e-324))) << "what vanishes is 0";
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const KeyScale vast{true, infinity};
  EXPECT_EQ(vast.of(wide(-infinity)), plain.of(narrow(-std::numeric_limits<float>::infinity())));
  EXPECT_LT(vast.of(wide(-infinity)), vast.of(wide(-1)));
}

}  // namespace
}  // namespace datasparse
