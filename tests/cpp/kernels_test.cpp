// Every table of kernels against plain loops, at sizes around the widths of vectors.

#include "kernels/kernels.hpp"

#include <cmath>
#include <limits>

#include "support.hpp"

namespace datasparse {
namespace {

const std::vector<std::int64_t> edge_sizes{0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33};

class KernelsTest : public ::testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& table() const { return *GetParam(); }
};

std::vector<const Kernels*> all_tables() {
  const auto list = available_kernels();
  return {list.begin(), list.end()};
}

INSTANTIATE_TEST_SUITE_P(All, KernelsTest, ::testing::ValuesIn(all_tables()),
                         [](const auto& table) { return std::string(table.param->name); });

template <class T>
std::uint64_t bits_of(T value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}

/// Equal in every bit, except that a NaN's payload is free.
template <class T>
bool same(T a, T b) {
  return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b));
}

template <class Sum>
void expect_plain_sums(const Kernels& table, DType dtype, Norm norm) {
  Random random(10 + static_cast<std::uint64_t>(dtype));
  const auto item = static_cast<std::int64_t>(item_size(dtype));
  const auto add = table.accumulate[static_cast<int>(dtype)][static_cast<int>(norm)];
  constexpr Sum untouched = 12345;
  for (const std::int64_t n : edge_sizes) {
    for (const std::int64_t stride : {item, 2 * item, -item, std::int64_t{0}, item + 1}) {
      for (const std::int64_t width : {1, 2, 3, 4, 5, 8, 16, 33}) {
        for (const auto kind : {Values::numbers, Values::special, Values::any_bits}) {
          const auto phase = random.below(width);
          Tensor tensor(dtype, Axes{n}, Axes{stride}, random.below(8));
          fill(tensor, kind, random);
          const auto blocks = static_cast<std::size_t>((phase + n + width - 1) / width);

          std::vector<Sum> expected(blocks + 1, untouched);
          for (std::size_t b = 0; b < blocks; ++b) expected[b] = static_cast<Sum>(random.unit());
          std::vector<Sum> sums = expected;
          std::int64_t place = phase;
          for (const double value : reference::values_of(tensor.view())) {
            const auto x = static_cast<Sum>(value);
            expected[static_cast<std::size_t>(place++ / width)] +=
                norm == Norm::L2 ? x * x : std::abs(x);
          }

          add(sums.data(), static_cast<const std::byte*>(tensor.view().data()), stride, n, phase,
              width);
          for (std::size_t b = 0; b <= blocks; ++b) {
            ASSERT_TRUE(same(sums[b], expected[b]))
                << name_of(dtype) << " n " << n << " stride " << stride << " width " << width
                << " phase " << phase << " sum " << b << ": " << sums[b] << " for " << expected[b];
          }
        }
      }
    }
  }
}

TEST_P(KernelsTest, AccumulateSumsOneAfterAnother) {
  for (const Norm norm : {Norm::L1, Norm::L2}) {
    expect_plain_sums<float>(table(), DType::float16, norm);
    expect_plain_sums<float>(table(), DType::bfloat16, norm);
    expect_plain_sums<float>(table(), DType::float32, norm);
    expect_plain_sums<double>(table(), DType::float64, norm);
  }
}

/// |x| of all 65,536 patterns of a 16-bit type, read with that stride.
std::vector<float> all_magnitudes(const Kernels& table, DType dtype, std::int64_t stride) {
  Tensor tensor(dtype, Axes{65536}, Axes{stride});
  for (std::int64_t i = 0; i < 65536; ++i) tensor.set_bits(i, static_cast<std::uint64_t>(i));
  std::vector<float> sums(65536, 0);
  table.accumulate[static_cast<int>(dtype)][static_cast<int>(Norm::L1)](
      sums.data(), static_cast<const std::byte*>(tensor.view().data()), stride, 65536, 0, 1);
  return sums;
}

TEST_P(KernelsTest, WidenEveryPatternOfTheHalfTypesExactly) {
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    for (const std::int64_t stride : {2, 4, -2}) {
      const auto magnitudes = all_magnitudes(table(), dtype, stride);
      for (std::uint64_t i = 0; i < 65536; ++i) {
        const auto expected =
            static_cast<float>(std::abs(reference::value_of_bits(reference::format_of(dtype), i)));
        ASSERT_TRUE(same(magnitudes[i], expected)) << name_of(dtype) << " pattern " << i;
      }
    }
  }
}

template <class Key>
const SelectionKernels<Key>& selection_of(const Kernels& table) {
  if constexpr (sizeof(Key) == 4) {
    return table.select32;
  } else {
    return table.select64;
  }
}

template <class Key>
class Selection {
 public:
  using Score = typename KeyTraits<Key>::Score;
  static constexpr Key untouched = 0x55555555U;

  explicit Selection(const Kernels& table) : select(selection_of<Key>(table)), random(20) {}

  /// Keys of few values, so that many are equal, in memory that begins at any element.
  std::vector<Key> random_keys(std::int64_t n) {
    const std::vector<Key> pool{0,
                                1,
                                5,
                                KeyTraits<Key>::nan - 1,
                                KeyTraits<Key>::nan,
                                static_cast<Key>(random.bits()) & mask};
    std::vector<Key> keys;
    for (std::int64_t i = 0; i < n; ++i) {
      keys.push_back(random.one_in(3) ? static_cast<Key>(random.bits()) & mask : random.pick(pool));
    }
    return keys;
  }

  const SelectionKernels<Key>& select;
  Random random;
  static constexpr Key mask = static_cast<Key>((Key{1} << KeyTraits<Key>::bits) - 1);
};

template <class Key>
void expect_keys_order_as_scores(const Kernels& table) {
  using Score = typename KeyTraits<Key>::Score;
  Selection<Key> selection(table);
  constexpr Score infinity = std::numeric_limits<Score>::infinity();
  constexpr Score nan = std::numeric_limits<Score>::quiet_NaN();
  constexpr Score denormal = std::numeric_limits<Score>::denorm_min();
  // Each greater than the one before.
  const std::vector<Score> rising{0,
                                  denormal,
                                  3 * denormal,
                                  std::numeric_limits<Score>::min(),
                                  Score{1},
                                  Score{3},
                                  std::numeric_limits<Score>::max(),
                                  infinity};
  for (const std::int64_t elements : {1, 3, 4, 1000}) {
    for (const std::int64_t n : edge_sizes) {
      std::vector<Score> sums;
      for (std::int64_t i = 0; i < n; ++i) {
        sums.push_back(selection.random.one_in(4) ? (selection.random.one_in(2) ? nan : -nan)
                                                  : selection.random.pick(rising));
      }
      std::vector<Key> keys(sums.size() + 1, selection.untouched);
      selection.select.make_keys(keys.data(), sums.data(), n, elements);
      EXPECT_EQ(keys.back(), selection.untouched);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const Score mean = sums[i] / static_cast<Score>(elements);
        const Key expected =
            std::isnan(mean) ? KeyTraits<Key>::nan : static_cast<Key>(bits_of(mean));
        ASSERT_EQ(keys[i], expected) << mean;
      }
    }
  }
  std::vector<Key> keys(rising.size());
  selection.select.make_keys(keys.data(), rising.data(), static_cast<std::int64_t>(keys.size()), 1);
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end(), std::less_equal<>())) << "rise strictly";
  EXPECT_LT(keys.back(), KeyTraits<Key>::nan);
  EXPECT_LT(KeyTraits<Key>::nan, Key{1} << KeyTraits<Key>::bits);
}

TEST_P(KernelsTest, MakeKeysOrdersAsTheMeansDo) {
  expect_keys_order_as_scores<std::uint32_t>(table());
  expect_keys_order_as_scores<std::uint64_t>(table());
}

template <class Key>
void expect_plain_histogram(const Kernels& table) {
  Selection<Key> selection(table);
  for (const std::int64_t n : edge_sizes) {
    for (int low = KeyTraits<Key>::bits; low > 0;) {
      const int bits = std::min(11, low);
      low -= bits;
      const auto keys = selection.random_keys(n);
      const Key some = keys.empty() ? 0 : keys[keys.size() / 2];
      const Key prefix = low + bits < KeyTraits<Key>::bits ? some >> (low + bits) : 0;

      std::vector<std::int64_t> expected(std::size_t{1} << bits, 7);  // counts are added to
      std::vector<std::int64_t> counts = expected;
      for (const Key key : keys) {
        const Key bucket = static_cast<Key>(key >> low) & ((Key{1} << bits) - 1);
        if (key >> low >> bits == prefix) ++expected[bucket];
      }
      selection.select.histogram(counts.data(), keys.data(), n, prefix, low, bits);
      ASSERT_EQ(counts, expected) << "n " << n << " shift " << low;
    }
  }
}

TEST_P(KernelsTest, HistogramCountsTheKeysOfThePrefix) {
  expect_plain_histogram<std::uint32_t>(table());
  expect_plain_histogram<std::uint64_t>(table());
}

template <class Key>
void expect_plain_ranges(const Kernels& table) {
  Selection<Key> selection(table);
  const auto& select = selection.select;
  for (const std::int64_t n : edge_sizes) {
    const auto keys = selection.random_keys(n);
    if (n > 0) {
      const auto [least, greatest] = select.range(keys.data(), n);
      EXPECT_EQ(least, *std::min_element(keys.begin(), keys.end()));
      EXPECT_EQ(greatest, *std::max_element(keys.begin(), keys.end()));
    }
    for (const Key lo : {Key{0}, Key{1}, Key{5}, KeyTraits<Key>::nan}) {
      EXPECT_EQ(select.count_below(keys.data(), n, lo),
                std::count_if(keys.begin(), keys.end(), [lo](Key key) { return key < lo; }));
      for (const Key hi : {lo, Key{5}, Key{77}, KeyTraits<Key>::nan, KeyTraits<Key>::nan + 1}) {
        std::vector<Key> expected, kept(keys.size() + 1, selection.untouched);
        std::copy_if(keys.begin(), keys.end(), std::back_inserter(expected),
                     [lo, hi](Key key) { return lo <= key && key < hi; });
        std::vector<Key> in_place = keys;
        select.keep_range(kept.data(), keys.data(), n, lo, hi);
        select.keep_range(in_place.data(), in_place.data(), n, lo, hi);
        in_place.resize(expected.size());
        EXPECT_EQ(in_place, expected);
        expected.resize(kept.size(), selection.untouched);
        EXPECT_EQ(kept, expected) << "n " << n << " from " << lo << " to " << hi;
      }
    }
  }
}

TEST_P(KernelsTest, RangesCountAndKeep) {
  expect_plain_ranges<std::uint32_t>(table());
  expect_plain_ranges<std::uint64_t>(table());
}

template <class Key>
void expect_plain_bracket(const Kernels& table) {
  Selection<Key> selection(table);
  for (const std::int64_t n : {0, 1, 15, 16, 17, 33, 63, 64, 65, 1023, 4096}) {
    const auto keys = selection.random_keys(n);
    for (const Key lo : {Key{0}, Key{1}, Key{5}, KeyTraits<Key>::nan}) {
      for (const Key hi : {lo, Key{5}, KeyTraits<Key>::nan - 1, KeyTraits<Key>::nan}) {
        if (hi < lo) continue;
        Bytes keep(keys.size() + 1, 7), expected_keep;
        std::vector<std::uint16_t> inside(keys.size() + 1, 7), expected_inside;
        BracketCounts expected{};
        for (std::size_t i = 0; i < keys.size(); ++i) {
          expected_keep.push_back(keys[i] > lo ? 1 : 0);
          if (keys[i] < lo) ++expected.below;
          if (keys[i] == lo) ++expected.at_lo;
          if (keys[i] == hi && hi > lo) ++expected.at_hi;
          if (keys[i] > lo && keys[i] < hi)
            expected_inside.push_back(static_cast<std::uint16_t>(i));
        }
        expected_keep.push_back(7);
        const BracketCounts found =
            selection.select.bracket(keep.data(), inside.data(), keys.data(), n, lo, hi);
        EXPECT_EQ(keep, expected_keep);
        EXPECT_EQ(found.below, expected.below);
        EXPECT_EQ(found.at_lo, expected.at_lo);
        EXPECT_EQ(found.at_hi, expected.at_hi);
        ASSERT_EQ(found.inside, static_cast<std::int64_t>(expected_inside.size()));
        inside.resize(expected_inside.size());
        EXPECT_EQ(inside, expected_inside);
      }
    }
  }
}

TEST_P(KernelsTest, BracketSortsKeysOutAroundTwo) {
  expect_plain_bracket<std::uint32_t>(table());
  expect_plain_bracket<std::uint64_t>(table());
}

template <class Key>
void expect_plain_count(const Kernels& table) {
  Selection<Key> selection(table);
  for (const std::int64_t n : edge_sizes) {
    const auto keys = selection.random_keys(n);
    for (const Key key : {Key{0}, Key{5}, KeyTraits<Key>::nan, Key{77}}) {
      EXPECT_EQ(selection.select.count_equal(keys.data(), n, key),
                std::count(keys.begin(), keys.end(), key));
    }
  }
}

TEST_P(KernelsTest, CountEqualCounts) {
  expect_plain_count<std::uint32_t>(table());
  expect_plain_count<std::uint64_t>(table());
}

template <class Key>
void expect_plain_threshold(const Kernels& table) {
  Selection<Key> selection(table);
  for (const std::int64_t n : edge_sizes) {
    for (const std::int64_t ties : {std::int64_t{-3}, std::int64_t{0}, std::int64_t{1},
                                    std::int64_t{2}, n, std::numeric_limits<std::int64_t>::max()}) {
      for (const Key cut : {Key{0}, Key{5}, KeyTraits<Key>::nan - 1, KeyTraits<Key>::nan}) {
        const auto keys = selection.random_keys(n);
        Bytes expected(keys.size() + 1, 9), keep(keys.size() + 1, 9);
        std::int64_t left = ties;
        for (std::size_t i = 0; i < keys.size(); ++i) {
          expected[i] = keys[i] > cut ? 1 : 0;
          if (keys[i] == cut) expected[i] = left-- > 0 ? 0 : 1;
        }
        selection.select.threshold(keep.data(), keys.data(), n, cut, ties);
        ASSERT_EQ(keep, expected) << "n " << n << " ties " << ties;
      }
    }
  }
}

TEST_P(KernelsTest, ThresholdPrunesTheFirstTies) {
  expect_plain_threshold<std::uint32_t>(table());
  expect_plain_threshold<std::uint64_t>(table());
}

TEST_P(KernelsTest, ZeroMaskedWritesTheMaskedElementsOnly) {
  Random random(30);
  for (const DType dtype : all_dtypes) {
    const auto item = static_cast<std::int64_t>(item_size(dtype));
    for (const std::int64_t n : edge_sizes) {
      for (const std::int64_t stride : {item, -item, 3 * item, item + 1}) {
        Tensor tensor(dtype, Axes{n}, Axes{stride}, random.below(8));
        for (auto& byte : tensor.memory()) byte = static_cast<std::uint8_t>(random.bits() | 1);
        Tensor expected = tensor;
        Bytes mask;
        for (std::int64_t i = 0; i < n; ++i) {
          mask.push_back(static_cast<std::uint8_t>(random.below(3)));  // 2 keeps as well
          if (mask.back() == 0) expected.set_bits(i, 0);
        }
        table().zero_masked[static_cast<int>(dtype)](static_cast<std::byte*>(tensor.view().data()),
                                                     stride, mask.data(), n);
        ASSERT_EQ(tensor.memory(), expected.memory()) << "n " << n << " stride " << stride;
      }
    }
  }
}

TEST(AvailableKernels, EndWithTheScalarOnes) {
  const auto tables = all_tables();
  ASSERT_FALSE(tables.empty());
  EXPECT_EQ(tables.back(), &scalar_kernels());
  EXPECT_STREQ(scalar_kernels().name, "scalar");
}

}  // namespace
}  // namespace datasparse
