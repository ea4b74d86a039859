#include "tiles/past_loops.hpp"

#include <algorithm>

#include "base/keys.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

template <class Key>
void expect_ranked(Random& random, std::int64_t blocks, std::int64_t width, std::int64_t zeros) {
  const std::int64_t n = blocks * width;
  std::vector<Key> keys, expected;
  Bytes free;
  for (std::int64_t b = 0; b < blocks; ++b) {
    // Most blocks have lost what they shall lose, as those of a mask have that is N:M already.
    std::int64_t lost = random.one_in(20) ? random.between(0, width) : zeros;
    std::int64_t left = width;
    const bool returns = lost > zeros;
    for (; left > 0; --left) {
      const bool is_lost = random.below(left) < lost;
      lost -= is_lost ? 1 : 0;
      free.push_back(is_lost ? 0 : 1);
      const Key key = KeyTraits<Key>::zero + static_cast<Key>(random.below(1000));
      keys.push_back(key);
      const Key of_free = returns ? key_of_others<Key> : key + 1;
      expected.push_back(is_lost ? (returns ? key : Key{0}) : of_free);
    }
  }
  std::vector<Key> one_by_one = keys;
  rank_elements_of_blocks(keys.data(), free.data(), n, width, zeros);
  EXPECT_EQ(keys, expected) << blocks << " blocks of " << width << ", " << zeros << " zeros";
  for (std::int64_t b = 0; b < blocks; ++b) {
    rank_elements(one_by_one.data() + b * width, free.data() + b * width, width, zeros);
  }
  EXPECT_EQ(one_by_one, expected) << blocks << " blocks of " << width << ", " << zeros << " zeros";
}

TEST(PastLoops, RankElementsWithinBlocks) {
  Random random(62);
  for (const std::int64_t width : {2, 4, 8, 16}) {
    for (std::int64_t zeros = 1; zeros < width; ++zeros) {
      for (const std::int64_t blocks : {1, 2, 3, 7, 8, 9, 40}) {
        expect_ranked<std::uint32_t>(random, blocks, width, zeros);
        expect_ranked<std::uint64_t>(random, blocks, width, zeros);
      }
    }
  }
}

TEST(PastLoops, TakeBlocksThatHaveAZero) {
  Random random(63);
  for (const std::int64_t width : {1, 2, 3, 4, 5, 8, 16, 17}) {
    for (const std::int64_t columns : {1, 4, 31, 64, 200}) {
      Bytes row, free, expected;
      for (std::int64_t i = 0; i < columns; ++i) row.push_back(random.one_in(10) ? 0 : 1);
      for (std::int64_t begin = 0; begin < columns; begin += width) {
        free.push_back(random.one_in(4) ? 0 : 1);
        const auto end = row.begin() + std::min(columns, begin + width);
        const bool has_zero = std::find(row.begin() + begin, end, 0) != end;
        expected.push_back(has_zero ? std::uint8_t{0} : free.back());
      }
      free.push_back(7);
      expected.push_back(7);
      and_row(free.data(), row.data(), columns, width);
      EXPECT_EQ(free, expected) << columns << " columns, blocks of " << width;
    }
  }
}

}  // namespace
}  // namespace datasparse
