#include "select/part.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "support.hpp"

namespace datasparse {
namespace {

/// Keys in memory: what a tensor, a shard or a file may be to a selection.
template <class Key>
class Keys final : public Part<Key> {
 public:
  explicit Keys(std::vector<Key> keys) : keys_(std::move(keys)), keep_(keys_.size(), 7) {}

  std::int64_t blocks() const noexcept override { return static_cast<std::int64_t>(keys_.size()); }
  void histogram(std::int64_t* counts, const KeyRange<Key>& range,
                 int bits) const noexcept override {
    for (const Key key : keys_) {
      if (key < range.lo() || key > range.hi()) continue;
      const Key rest = (key - range.lo()) >> (range.low - bits);
      ++counts[rest];
    }
  }
  std::int64_t count(Key lo, Key hi) const noexcept override {
    return std::count_if(keys_.begin(), keys_.end(),
                         [=](Key key) { return lo <= key && key <= hi; });
  }
  void write(const Cut<Key>& cut) noexcept override {
    std::int64_t ties = cut.ties;
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      const bool pruned = keys_[i] < cut.threshold || (keys_[i] == cut.threshold && ties-- > 0);
      keep_[i] = pruned ? 0 : 1;
    }
  }

  const std::vector<Key>& keys() const { return keys_; }
  const Bytes& keep() const { return keep_; }

 private:
  std::vector<Key> keys_;
  Bytes keep_;
};

/// What one sort of all keys says.
template <class Key>
Bytes sorted_mask(const std::vector<Key>& keys, std::int64_t pruned) {
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  Bytes mask(keys.size(), 1);
  for (std::int64_t i = 0; i < pruned; ++i) mask[order[static_cast<std::size_t>(i)]] = 0;
  return mask;
}

template <class Key>
class PartTest : public ::testing::Test {};
using KeyTypes = ::testing::Types<std::uint32_t, std::uint64_t>;
TYPED_TEST_SUITE(PartTest, KeyTypes, );

TYPED_TEST(PartTest, OneCutThroughAllPartsIsThatOfOneSort) {
  using Key = TypeParam;
  Random random(77);
  std::vector<std::int64_t> counts(std::size_t{1} << radix_bits);
  for (int round = 0; round < 300; ++round) {
    const int number = static_cast<int>(random.between(1, 5));
    const std::int64_t distinct = random.one_in(3) ? random.between(1, 4) : 1 << 20;
    std::vector<Keys<Key>> parts;
    std::vector<Key> all;
    for (int p = 0; p < number; ++p) {
      std::vector<Key> keys;
      for (std::int64_t i = random.between(0, 60); i > 0; --i) {
        // All over the bits of a key, and the greatest one there is.
        const auto spread = static_cast<Key>(random.below(distinct)) *
                            (KeyTraits<Key>::nan / static_cast<Key>(distinct));
        keys.push_back(random.one_in(20) ? KeyTraits<Key>::nan + 1 : spread);
      }
      all.insert(all.end(), keys.begin(), keys.end());
      parts.emplace_back(std::move(keys));
    }
    std::vector<Part<Key>*> pool;
    for (auto& part : parts) pool.push_back(&part);
    const std::int64_t pruned = random.between(0, static_cast<std::int64_t>(all.size()));
    prune_parts(pool, pruned, counts.data());
    Bytes mask;
    for (const auto& part : parts) mask.insert(mask.end(), part.keep().begin(), part.keep().end());
    ASSERT_EQ(mask, sorted_mask(all, pruned)) << "round " << round;
  }
}

TYPED_TEST(PartTest, RangeOfTheCutIsNarrowedToAFewKeys) {
  using Key = TypeParam;
  std::vector<Key> keys(1000);
  std::iota(keys.begin(), keys.end(), Key{0});
  const Keys<Key> part(keys);
  std::vector<std::int64_t> counts(std::size_t{1} << radix_bits);
  int rounds = 0;
  const auto cut = range_of_cut<Key>(1000, 700, 1000, [&](const KeyRange<Key>& range, int bits) {
    ++rounds;
    std::fill(counts.begin(), counts.end(), 0);
    part.histogram(counts.data(), range, bits);
    return counts.data();
  });
  EXPECT_EQ(rounds, 0) << "they are few enough at once";
  EXPECT_EQ(cut.keys.lo(), Key{0});
  EXPECT_EQ(cut.keys.hi(), std::numeric_limits<Key>::max());
  EXPECT_EQ(cut.left, 700);
}

}  // namespace
}  // namespace datasparse
