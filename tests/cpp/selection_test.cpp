#include "select/selection.hpp"

#include <algorithm>

#include "support.hpp"

namespace datasparse {
namespace {

template <class Key>
void expect_cuts_of_a_sort(const SelectionKernels<Key>& kernels, std::uint64_t seed) {
  Random random(seed);
  constexpr Key greatest = KeyTraits<Key>::nan;
  for (int round = 0; round < 3000; ++round) {
    const std::int64_t n = random.between(1, random.one_in(10) ? 5000 : 100);
    const Key distinct = random.pick<Key>({1, 2, 3, 100, 1 << 20, greatest});
    std::vector<Key> keys;
    for (std::int64_t i = 0; i < n; ++i) {
      keys.push_back(static_cast<Key>(random.bits()) % distinct);
      // Far outside of the others, at either end.
      if (random.one_in(50)) keys.back() = random.one_in(2) ? greatest : Key{0};
    }
    const std::int64_t k = random.between(1, n);
    const std::vector<Key> before = keys;
    std::vector<Key> sorted = keys;
    std::sort(sorted.begin(), sorted.end());
    const Key threshold = sorted[static_cast<std::size_t>(k - 1)];
    const auto below = std::lower_bound(sorted.begin(), sorted.end(), threshold) - sorted.begin();

    const std::int64_t room = random.pick<std::int64_t>({0, 1, n / 8, n / 2, n});
    std::vector<Key> buffer(static_cast<std::size_t>(room));
    const Cut<Key> cut = cut_of(kernels, keys.data(), n, k, buffer.data(), room);
    ASSERT_EQ(cut.threshold, threshold) << "n " << n << " k " << k << " room " << room;
    ASSERT_EQ(cut.ties, k - below);
    ASSERT_EQ(keys, before);
  }
}

TEST(CutOf, IsWhatASortSaysForEveryKindOfKernels) {
  for (const Kernels* table : available_kernels()) {
    expect_cuts_of_a_sort(table->select32, 500);
    expect_cuts_of_a_sort(table->select64, 501);
  }
}

// What a search samples of 1,024 keys says nothing of the others: the k-th lies right below its
// pivots, or right above.
TEST(CutOf, SurvivesASampleThatMisses) {
  constexpr std::int64_t n = 1024;
  for (const Kernels* table : available_kernels()) {
    for (const bool below : {true, false}) {
      std::vector<std::uint32_t> keys;
      for (std::int64_t i = 0; i < n; ++i) {
        const bool sampled = i % 256 < 16;  // four runs of sixteen
        const auto other = static_cast<std::uint32_t>(i);
        keys.push_back(sampled ? 5000 : (below ? i % 4 == 0 : i % 4 != 0) ? other : 9000 + other);
      }
      std::vector<std::uint32_t> sorted = keys;
      std::sort(sorted.begin(), sorted.end());
      const auto least = std::lower_bound(sorted.begin(), sorted.end(), 5000U) - sorted.begin();
      const auto above = std::upper_bound(sorted.begin(), sorted.end(), 5000U) - sorted.begin();
      for (const std::int64_t k : {least, least + 1, above, above + 1}) {
        std::vector<std::uint32_t> buffer(n);
        const auto cut = cut_of(table->select32, keys.data(), n, k, buffer.data(), n);
        const std::uint32_t threshold = sorted[static_cast<std::size_t>(k - 1)];
        ASSERT_EQ(cut.threshold, threshold) << "k " << k;
        ASSERT_EQ(cut.ties, threshold == 5000 ? k - least : 1) << "k " << k;
      }
    }
  }
}

}  // namespace
}  // namespace datasparse
