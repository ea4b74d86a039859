#include "select/cut_range.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "support.hpp"

namespace datasparse {
namespace {

template <class Key>
class CutRangeTest : public ::testing::Test {
 protected:
  /// What range_of_cut() asks for, of keys in memory.
  const std::int64_t* histogram(const std::vector<Key>& keys, const KeyRange<Key>& range,
                                int bits) {
    ++rounds;
    std::fill(counts.begin(), counts.end(), 0);
    for (const Key key : keys) {
      if (key < range.lo() || key > range.hi()) continue;
      ++counts[static_cast<std::size_t>((key - range.lo()) >> (range.low - bits))];
    }
    return counts.data();
  }

  std::vector<std::int64_t> counts = std::vector<std::int64_t>(std::size_t{1} << radix_bits);
  int rounds = 0;
};
using KeyTypes = ::testing::Types<std::uint32_t, std::uint64_t>;
TYPED_TEST_SUITE(CutRangeTest, KeyTypes, );

TYPED_TEST(CutRangeTest, IsThatOfOneSort) {
  using Key = TypeParam;
  Random random(77);
  for (int round = 0; round < 300; ++round) {
    const std::int64_t distinct = random.one_in(3) ? random.between(1, 4) : 1 << 20;
    std::vector<Key> keys;
    for (std::int64_t i = random.between(1, 200); i > 0; --i) {
      // All over the bits of a key, and the greatest one there is.
      const auto spread = static_cast<Key>(random.below(distinct)) *
                          (KeyTraits<Key>::nan / static_cast<Key>(distinct));
      keys.push_back(random.one_in(20) ? KeyTraits<Key>::nan + 1 : spread);
    }
    const auto blocks = static_cast<std::int64_t>(keys.size());
    const std::int64_t pruned = random.between(1, blocks);
    const auto cut = range_of_cut<Key>(blocks, pruned, 0, [&](const auto& range, int bits) {
      return this->histogram(keys, range, bits);
    });
    std::sort(keys.begin(), keys.end());
    const Key last = keys[static_cast<std::size_t>(pruned - 1)];
    ASSERT_EQ(cut.keys.low, 0) << "round " << round;
    ASSERT_EQ(cut.keys.lo(), last) << "round " << round;
    const auto first = std::lower_bound(keys.begin(), keys.end(), last) - keys.begin();
    ASSERT_EQ(cut.left, pruned - first) << "round " << round;
    ASSERT_EQ(cut.among, std::count(keys.begin(), keys.end(), last)) << "round " << round;
  }
}

TYPED_TEST(CutRangeTest, IsNarrowedToAFewKeys) {
  using Key = TypeParam;
  std::vector<Key> keys(1000);
  std::iota(keys.begin(), keys.end(), Key{0});
  const auto cut = range_of_cut<Key>(1000, 700, 1000, [&](const auto& range, int bits) {
    return this->histogram(keys, range, bits);
  });
  EXPECT_EQ(this->rounds, 0) << "they are few enough at once";
  EXPECT_EQ(cut.keys.lo(), Key{0});
  EXPECT_EQ(cut.keys.hi(), std::numeric_limits<Key>::max());
  EXPECT_EQ(cut.left, 700);
}

TYPED_TEST(CutRangeTest, StaysWithinTheCountsWhereDataChangeMeanwhile) {
  using Key = TypeParam;
  const std::vector<Key> keys(1000, KeyTraits<Key>::zero), none;
  const auto cut = range_of_cut<Key>(1000, 700, 10, [&](const auto& range, int bits) {
    return this->histogram(this->rounds == 0 ? keys : none, range, bits);
  });
  EXPECT_EQ(this->rounds, 2);
  EXPECT_EQ(cut.left, 700);
  EXPECT_EQ(cut.among, 0);
}

}  // namespace
}  // namespace datasparse
