// Every table of kernels against plain loops, at sizes around the widths of vectors.

#include "kernels/kernels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/buffer.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

const std::vector<std::int64_t> edge_sizes{0,  1,  3,  7,  8,  9,  15, 16,
                                           17, 31, 32, 33, 63, 64, 65, 130};

class KernelsTest : public ::testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& table() const { return *GetParam(); }
};

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

const std::vector<Norm> all_norms{Norm::L1, Norm::L2, Norm::none};

/// What an element adds to its block's sum.
template <class Sum>
Sum term(Norm norm, Sum x) {
  return norm == Norm::L1 ? std::abs(x) : norm == Norm::L2 ? x * x : x;
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
            expected[static_cast<std::size_t>(place++ / width)] += term(norm, x);
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
  for (const Norm norm : all_norms) {
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

/// By the definition of keys: from 0 on, one for each number in between.
template <class Key>
Key plain_key(typename KeyTraits<Key>::Score score) {
  if (std::isnan(score)) return KeyTraits<Key>::nan;
  const auto from_zero = static_cast<Key>(bits_of(std::abs(score)));
  return score < 0 ? KeyTraits<Key>::zero - from_zero : KeyTraits<Key>::zero + from_zero;
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
                                KeyTraits<Key>::zero - 1,
                                KeyTraits<Key>::zero,
                                KeyTraits<Key>::nan - 1,
                                KeyTraits<Key>::nan,
                                static_cast<Key>(random.bits()) % greatest};
    std::vector<Key> keys;
    for (std::int64_t i = 0; i < n; ++i) {
      keys.push_back(random.one_in(3) ? static_cast<Key>(random.bits()) % greatest
                                      : random.pick(pool));
    }
    return keys;
  }

  const SelectionKernels<Key>& select;
  Random random;
  static constexpr Key greatest = KeyTraits<Key>::nan + 1;  // past.hpp
};

template <class Key>
void expect_keys_order_as_scores(const Kernels& table) {
  using Score = typename KeyTraits<Key>::Score;
  Selection<Key> selection(table);
  constexpr Score infinity = std::numeric_limits<Score>::infinity();
  constexpr Score nan = std::numeric_limits<Score>::quiet_NaN();
  constexpr Score denormal = std::numeric_limits<Score>::denorm_min();
  // Each greater than the one before.
  const std::vector<Score> rising{-infinity,
                                  -std::numeric_limits<Score>::max(),
                                  Score{-1},
                                  -std::numeric_limits<Score>::min(),
                                  -denormal,
                                  0,
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
        ASSERT_EQ(keys[i], plain_key<Key>(mean)) << mean;
      }
    }
  }
  std::vector<Key> keys(rising.size());
  selection.select.make_keys(keys.data(), rising.data(), static_cast<std::int64_t>(keys.size()), 1);
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end(), std::less_equal<>())) << "rise strictly";
  EXPECT_LT(keys.back(), KeyTraits<Key>::nan);
  EXPECT_GT(keys.front(), Key{1}) << "there is room below all keys";
  EXPECT_LT(KeyTraits<Key>::nan, std::numeric_limits<Key>::max() - 2) << "and above";
  const Score zeros[2] = {Score{0}, -Score{0}};
  selection.select.make_keys(keys.data(), zeros, 2, 1);
  EXPECT_EQ(keys[0], KeyTraits<Key>::zero);
  EXPECT_EQ(keys[1], KeyTraits<Key>::zero);
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
void expect_plain_split(const Kernels& table) {
  Selection<Key> selection(table);
  const auto& select = selection.select;
  for (const std::int64_t n : edge_sizes) {
    const auto keys = selection.random_keys(n);
    for (const Key lo : {Key{0}, Key{1}, Key{5}, KeyTraits<Key>::zero, KeyTraits<Key>::nan}) {
      const auto below =
          std::count_if(keys.begin(), keys.end(), [lo](Key key) { return key < lo; });
      EXPECT_EQ(select.count_below(keys.data(), n, lo), below);
      for (const Key hi : {lo, Key{77}, KeyTraits<Key>::zero + 1, KeyTraits<Key>::nan + 1}) {
        if (hi < lo) continue;
        std::vector<Key> expected;
        std::copy_if(keys.begin(), keys.end(), std::back_inserter(expected),
                     [lo, hi](Key key) { return lo <= key && key < hi; });
        const auto inside = static_cast<std::int64_t>(expected.size());
        for (const std::int64_t room : {std::int64_t{0}, inside / 2, inside, n}) {
          std::vector<Key> kept(static_cast<std::size_t>(room) + 1, selection.untouched);
          const SplitCounts counts = select.split(kept.data(), room, keys.data(), n, lo, hi);
          EXPECT_EQ(counts.below, below);
          EXPECT_EQ(counts.inside, inside);
          EXPECT_EQ(kept.back(), selection.untouched) << "n " << n << " room " << room;
          const auto copied = static_cast<std::size_t>(std::min(room, inside));
          EXPECT_TRUE(std::equal(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(copied),
                                 expected.begin()));
        }
        std::vector<Key> in_place = keys;
        select.split(in_place.data(), n, in_place.data(), n, lo, hi);
        in_place.resize(expected.size());
        EXPECT_EQ(in_place, expected);
      }
    }
  }
}

TEST_P(KernelsTest, SplitCountsAndCopies) {
  expect_plain_split<std::uint32_t>(table());
  expect_plain_split<std::uint64_t>(table());
}

/// What bracket() must find among those keys, and write.
template <class Key>
struct PlainBracket {
  Bytes keep;
  std::vector<std::uint16_t> inside;
  std::int64_t kept = 0;

  PlainBracket(const std::vector<Key>& keys, Key from, Key first, Key width) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      keep.push_back(keys[i] >= from ? 1 : 0);
      kept += keep.back();
      if (keys[i] >= first && keys[i] - first < width) {
        inside.push_back(static_cast<std::uint16_t>(i));
      }
    }
  }

  /// `keep` and `places` are what was written, with a byte beyond.
  void expect(Bytes found_keep, std::vector<std::uint16_t> places, BracketCounts counts) const {
    ASSERT_EQ(counts.kept, kept);
    ASSERT_EQ(counts.inside, static_cast<std::int64_t>(inside.size()));
    EXPECT_EQ(found_keep.back(), 7);
    found_keep.pop_back();
    EXPECT_EQ(found_keep, keep);
    places.resize(inside.size());
    EXPECT_EQ(places, inside);
  }
};

template <class Key>
void expect_plain_bracket(const Kernels& table) {
  Selection<Key> selection(table);
  for (const std::int64_t n : {0, 1, 15, 16, 17, 33, 63, 64, 65, 1023, 4096, 4097}) {
    const auto keys = selection.random_keys(n);
    for (const Key first : {Key{0}, Key{5}, KeyTraits<Key>::zero - 1, KeyTraits<Key>::nan}) {
      for (const Key width : {Key{0}, Key{1}, Key{4}, KeyTraits<Key>::zero + 2}) {
        if (width > std::numeric_limits<Key>::max() - first) continue;  // keys end before
        for (const Key from : {Key{0}, first, first + 1, KeyTraits<Key>::nan + 1}) {
          Bytes keep(keys.size() + 1, 7);
          std::vector<std::uint16_t> places(keys.size() + places_slack, 7);
          const BracketCounts counts = selection.select.bracket(keep.data(), places.data(),
                                                                keys.data(), n, from, first, width);
          PlainBracket<Key>(keys, from, first, width).expect(keep, places, counts);
        }
      }
    }
  }
}

TEST_P(KernelsTest, BracketKeepsAndFindsCandidates) {
  expect_plain_bracket<std::uint32_t>(table());
  expect_plain_bracket<std::uint64_t>(table());
}

template <class Key>
void expect_plain_count(const Kernels& table) {
  Selection<Key> selection(table);
  for (const std::int64_t n : edge_sizes) {
    const auto keys = selection.random_keys(n);
    for (const Key key : {Key{0}, Key{5}, KeyTraits<Key>::zero, KeyTraits<Key>::nan, Key{77}}) {
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
      for (const Key cut : {Key{0}, Key{5}, KeyTraits<Key>::zero, KeyTraits<Key>::nan}) {
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

/// Blocks of some tensor, and the keys that a plain loop gives them.
template <class Key>
struct SomeBlocks {
  using Sum = typename KeyTraits<Key>::Score;
  Tensor tensor;
  Blocks blocks;
  std::vector<Key> keys;

  /// `gap` elements are left out between blocks, or rows of them.
  SomeBlocks(DType dtype, Norm norm, std::int64_t count, std::int64_t rows, std::int64_t width,
             std::int64_t gap, bool stacked, Values kind, Random& random)
      : tensor(dtype, Axes{count * rows * (width + gap) + 1}, Axes{item(dtype)}, random.below(8)) {
    fill(tensor, kind, random);
    const auto* const data = static_cast<const std::byte*>(tensor.view().data());
    const std::int64_t across = stacked ? width + gap : count * (width + gap);
    const std::int64_t step = stacked ? rows * (width + gap) : width + gap;
    blocks = {data, across * item(dtype), step * item(dtype), count, rows, width};
    const std::vector<double> values = reference::values_of(tensor.view());
    for (std::int64_t b = 0; b < count; ++b) {
      Sum sum = 0;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t i = 0; i < width; ++i) {
          const auto x =
              static_cast<Sum>(values[static_cast<std::size_t>(b * step + r * across + i)]);
          sum += term(norm, x);
        }
      }
      const Sum mean = sum / static_cast<Sum>(rows * width);
      keys.push_back(plain_key<Key>(mean));
    }
  }

 private:
  static std::int64_t item(DType dtype) { return static_cast<std::int64_t>(item_size(dtype)); }
};

template <class Key>
void expect_plain_scores(const Kernels& table, DType dtype) {
  Random random(40 + static_cast<std::uint64_t>(dtype));
  constexpr Key untouched = 0x55555555U;
  for (const Norm norm : all_norms) {
    const auto at = [&](const auto& kernels) {
      return kernels[static_cast<int>(dtype)][static_cast<int>(norm)];
    };
    for (const std::int64_t count : {0, 1, 3, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 300}) {
      for (const std::int64_t width : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33}) {
        for (const std::int64_t rows : {1, 2, 5}) {
          const auto kind =
              random.pick<Values>({Values::numbers, Values::special, Values::any_bits});
          const SomeBlocks<Key> some(dtype, norm, count, rows, width, random.below(3),
                                     random.one_in(2), kind, random);
          const std::string what = name_of(dtype) + std::string(" blocks ") +
                                   std::to_string(count) + " of " + std::to_string(rows) + " x " +
                                   std::to_string(width);
          std::vector<Key> keys(some.keys.size() + 1, untouched);
          at(table.score)(keys.data(), some.blocks);
          ASSERT_EQ(keys.back(), untouched) << what;
          keys.pop_back();
          ASSERT_EQ(keys, some.keys) << what;

          // Not of every type, where there is no norm.
          ASSERT_TRUE(at(table.bracket) != nullptr || norm == Norm::none) << what;
          ASSERT_EQ(at(table.bracket) == nullptr, at(table.score_at) == nullptr) << what;
          if (at(table.bracket) == nullptr) continue;
          std::vector<std::uint16_t> places;
          std::vector<Key> expected;
          for (std::int64_t b = random.below(3); b < count; b += 1 + random.below(4)) {
            places.push_back(static_cast<std::uint16_t>(b));
            expected.push_back(some.keys[static_cast<std::size_t>(b)]);
          }
          std::vector<Key> chosen(places.size() + 1, untouched);
          at(table.score_at)(chosen.data(), some.blocks, places.data(),
                             static_cast<std::int64_t>(places.size()));
          ASSERT_EQ(chosen.back(), untouched) << what;
          chosen.pop_back();
          ASSERT_EQ(chosen, expected) << what;

          // With its neighbours now and then, so that there are keys at the ends.
          const Key first = static_cast<Key>((count > 0 ? random.pick(some.keys) : Key{5}) +
                                             static_cast<Key>(random.below(2)));
          Key bound = static_cast<Key>(first + static_cast<Key>(random.below(1 << 20)));
          if (count > 0 && random.one_in(2)) bound = std::max(first, random.pick(some.keys));
          const Key from = random.one_in(2) ? first : bound;
          for (const Store store : {Store::ordinary, Store::past_cache}) {
            Bytes keep(some.keys.size() + 1, 7);
            std::vector<std::uint16_t> inside(some.keys.size() + places_slack);
            const BracketCounts counts = at(table.bracket)(keep.data(), inside.data(), some.blocks,
                                                           from, first, bound - first, store);
            const PlainBracket<Key> plain(some.keys, from, first, static_cast<Key>(bound - first));
            plain.expect(keep, inside, counts);

            const auto bracket_ends = at(table.bracket_ends);
            if (bracket_ends != nullptr) {
              keep.assign(some.keys.size() + 1, 7);
              const BracketEndCounts ends = bracket_ends(keep.data(), inside.data(), some.blocks,
                                                         from, first, bound - first, store);
              plain.expect(keep, inside, ends.counts);
              const auto equal = [&some](Key key) {
                return std::count(some.keys.begin(), some.keys.end(), key);
              };
              ASSERT_EQ(ends.before, first > 0 ? equal(static_cast<Key>(first - 1)) : 0) << what;
              ASSERT_EQ(ends.behind, equal(bound)) << what;
            }

            const auto bracket_mask = at(table.bracket_mask);
            const bool side_by_side =
                some.blocks.step == width * static_cast<std::int64_t>(item_size(dtype));
            if (bracket_mask == nullptr || !side_by_side) continue;
            const std::int64_t pitch = count * width + random.below(3);
            Bytes mask(static_cast<std::size_t>(rows * pitch) + 1, 7), right = mask;
            for (std::int64_t r = 0; r < rows; ++r) {
              for (std::int64_t i = 0; i < count * width; ++i) {
                right[static_cast<std::size_t>(r * pitch + i)] =
                    plain.keep[static_cast<std::size_t>(i / width)];
              }
            }
            const BracketCounts found = bracket_mask(mask.data(), pitch, inside.data(), some.blocks,
                                                     from, first, bound - first, store);
            ASSERT_EQ(mask, right) << what;
            keep.assign(plain.keep.begin(), plain.keep.end());
            keep.push_back(7);
            plain.expect(keep, inside, found);
          }
        }
      }
    }
  }
}

TEST_P(KernelsTest, ScoreAndBracketBlocksOfAnyShape) {
  expect_plain_scores<std::uint32_t>(table(), DType::float16);
  expect_plain_scores<std::uint32_t>(table(), DType::bfloat16);
  expect_plain_scores<std::uint32_t>(table(), DType::float32);
  expect_plain_scores<std::uint64_t>(table(), DType::float64);
}

/// All that elements of 16 bits can be, which are compared as they are: at the ends of what is
/// below all normal numbers, of infinity, of NaN, and anywhere.
TEST_P(KernelsTest, BracketElementsOf16Bits) {
  Random random(45);
  std::vector<std::uint16_t> elements(65536);
  std::iota(elements.begin(), elements.end(), std::uint16_t{0});
  const Blocks blocks{reinterpret_cast<const std::byte*>(elements.data()), 0, 2, 65536, 1, 1};
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    for (const Norm norm : {Norm::L1, Norm::L2}) {
      const auto at = [&](const auto& kernels) {
        return kernels[static_cast<int>(dtype)][static_cast<int>(norm)];
      };
      if (at(table().bracket) == nullptr) continue;
      std::vector<std::uint32_t> keys(65536);
      at(scalar_kernels().score)(keys.data(), blocks);
      const auto equal = [&keys](std::uint32_t key) {
        return std::count(keys.begin(), keys.end(), key);
      };
      std::vector<int> ends{0, 1, 0x7FFF};
      for (const int end : {0x80, 0x400, 0x7C00, 0x7F80}) {
        for (const int bits : {end - 1, end, end + 1}) ends.push_back(bits);
      }
      for (int i = 0; i < 12; ++i) ends.push_back(static_cast<int>(random.below(32768)));
      for (const int bits : ends) {
        const std::uint32_t first =
            keys[static_cast<std::size_t>(bits)] - 1 + static_cast<std::uint32_t>(random.below(3));
        const auto width = static_cast<std::uint32_t>(random.below(1 << 16));
        const std::uint32_t from = first + (random.one_in(2) ? width : 0);
        const PlainBracket<std::uint32_t> plain(keys, from, first, width);
        for (const bool count_ends : {false, true}) {
          Bytes keep(keys.size() + 1, 7);
          std::vector<std::uint16_t> inside(keys.size() + places_slack);
          BracketEndCounts found{};
          if (count_ends) {
            if (at(table().bracket_ends) == nullptr) continue;
            found = at(table().bracket_ends)(keep.data(), inside.data(), blocks, from, first, width,
                                             Store::past_cache);
            ASSERT_EQ(found.before, equal(first - 1)) << bits;
            ASSERT_EQ(found.behind, equal(first + width)) << bits;
          } else {
            found.counts = at(table().bracket)(keep.data(), inside.data(), blocks, from, first,
                                               width, Store::ordinary);
          }
          plain.expect(keep, inside, found.counts);
        }
      }
    }
  }
}

template <class Key>
void expect_plain_zeros(const Kernels& table) {
  Selection<Key> selection(table);
  for (const std::int64_t width : {2, 4, 8, 16}) {
    for (std::int64_t zeros = 1; zeros < width; ++zeros) {
      for (const std::int64_t blocks : {0, 1, 2, 3, 4, 5, 15, 16, 17, 33, 65}) {
        const auto keys = selection.random_keys(blocks * width);
        Bytes mask(keys.size() + 1, 7);
        Bytes expected(keys.size(), 1);
        for (std::int64_t b = 0; b < blocks; ++b) {
          std::vector<std::int64_t> order(static_cast<std::size_t>(width));
          std::iota(order.begin(), order.end(), b * width);
          std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
            return keys[static_cast<std::size_t>(i)] < keys[static_cast<std::size_t>(j)];
          });
          for (std::int64_t i = 0; i < zeros; ++i) {
            expected[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = 0;
          }
        }
        selection.select.zero_least(mask.data(), keys.data(), blocks, width, zeros);
        ASSERT_EQ(mask.back(), 7);
        mask.pop_back();
        ASSERT_EQ(mask, expected) << zeros << " of " << width << " in " << blocks << " blocks";
      }
    }
  }
}

TEST_P(KernelsTest, ZeroLeastZeroesTheFirstOfEqualOnes) {
  expect_plain_zeros<std::uint32_t>(table());
  expect_plain_zeros<std::uint64_t>(table());
}

/// Down columns as along the rows of the same keys, turned, by the scalar table.
template <class Key>
void expect_zeros_down(const Kernels& table) {
  Selection<Key> selection(table);
  const auto& plain = selection_of<Key>(scalar_kernels());
  for (const std::int64_t height : {2, 3, 4, 8, 16}) {
    for (std::int64_t zeros = 1; zeros < height; ++zeros) {
      for (const std::int64_t columns : {0, 1, 2, 7, 8, 16, 33, 63, 64, 65, 150}) {
        const std::int64_t pitch = columns + 3, mask_pitch = columns + 1;
        const auto keys = selection.random_keys(height * pitch);
        Bytes mask(static_cast<std::size_t>(height * mask_pitch), 7), expected = mask;
        for (std::int64_t c = 0; c < columns; ++c) {
          std::vector<Key> turned;
          for (std::int64_t r = 0; r < height; ++r) {
            turned.push_back(keys[static_cast<std::size_t>(r * pitch + c)]);
          }
          Bytes own(turned.size());
          plain.zero_least(own.data(), turned.data(), 1, height, zeros);
          for (std::int64_t r = 0; r < height; ++r) {
            expected[static_cast<std::size_t>(r * mask_pitch + c)] =
                own[static_cast<std::size_t>(r)];
          }
        }
        selection.select.zero_least_down(mask.data(), mask_pitch, keys.data(), pitch, columns,
                                         height, zeros);
        ASSERT_EQ(mask, expected) << zeros << " of " << height << " in " << columns << " columns";
      }
    }
  }
}

TEST_P(KernelsTest, ZeroLeastDownColumnsIsThatAlongRows) {
  expect_zeros_down<std::uint32_t>(table());
  expect_zeros_down<std::uint64_t>(table());
}

/// Each table's kernel that makes the keys itself against its keys and the plain kernel.
template <class Key>
void expect_zeros_without_keys(const Kernels& table, DType dtype) {
  Random random(70 + static_cast<std::uint64_t>(dtype));
  Selection<Key> plain(scalar_kernels());
  for (const Norm norm : all_norms) {
    const auto kernel = table.zero_least[static_cast<int>(dtype)][static_cast<int>(norm)];
    if (kernel == nullptr) continue;
    const auto score = scalar_kernels().score[static_cast<int>(dtype)][static_cast<int>(norm)];
    for (const std::int64_t width : {2, 4, 8}) {
      for (const std::int64_t blocks : {0, 1, 2, 3, 8, 15, 16, 17, 33, 65, 512}) {
        for (const auto kind : {Values::numbers, Values::special, Values::any_bits}) {
          const std::int64_t n = blocks * width;
          const auto item = static_cast<std::int64_t>(item_size(dtype));
          Tensor tensor(dtype, Axes{n}, Axes{item}, random.below(8));
          fill(tensor, kind, random);
          const auto* const data = static_cast<const std::byte*>(tensor.view().data());
          std::vector<Key> keys(static_cast<std::size_t>(n));
          score(keys.data(), {data, 0, item, n, 1, 1});
          const std::int64_t zeros = 1 + random.below(width - 1);
          std::vector<std::uint8_t> expected(static_cast<std::size_t>(n));
          plain.select.zero_least(expected.data(), keys.data(), blocks, width, zeros);
          for (const Store store : {Store::ordinary, Store::past_cache}) {
            Buffer<std::uint8_t> mask;  // begins with a cache line, as masks do
            mask.require(n + 1);
            std::fill_n(mask.get(), n + 1, std::uint8_t{7});
            kernel(mask.get(), data, blocks, width, zeros, store);
            ASSERT_EQ(mask[n], 7);
            ASSERT_EQ(std::vector<std::uint8_t>(mask.get(), mask.get() + n), expected)
                << name_of(dtype) << ", " << zeros << " of " << width << " in " << blocks;
          }
        }
      }
    }
  }
}

TEST_P(KernelsTest, ZeroLeastWithoutKeysInMemory) {
  expect_zeros_without_keys<std::uint32_t>(table(), DType::float16);
  expect_zeros_without_keys<std::uint32_t>(table(), DType::bfloat16);
  expect_zeros_without_keys<std::uint32_t>(table(), DType::float32);
  expect_zeros_without_keys<std::uint64_t>(table(), DType::float64);
}

TEST_P(KernelsTest, RepeatAndCountBytes) {
  Random random(50);
  for (const std::int64_t n : {0, 1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1000}) {
    Bytes bytes;
    for (std::int64_t i = 0; i < n; ++i)
      bytes.push_back(static_cast<std::uint8_t>(random.below(2) * random.below(256)));
    EXPECT_EQ(table().count_zeros(bytes.data(), n), std::count(bytes.begin(), bytes.end(), 0));
    for (const std::int64_t times : {1, 2, 3, 4, 5, 8, 16, 17}) {
      Bytes expected, out(static_cast<std::size_t>(n * times) + 1, 7);
      for (const std::uint8_t byte : bytes) {
        expected.insert(expected.end(), static_cast<std::size_t>(times), byte);
      }
      expected.push_back(7);
      table().repeat(out.data(), bytes.data(), n, times);
      ASSERT_EQ(out, expected) << n << " bytes, " << times << " times";
    }
  }
}

TEST_P(KernelsTest, DrawsAreThoseOfTheGenerator) {
  // The first two numbers of SplitMix64 from 0 and from 1234567, as its authors' code gives them.
  std::uint32_t first[2];
  table().draw(first, 0, 0, 2);
  EXPECT_EQ(first[0], 0x80000000U | (0xE220A8397B1DCDAFU >> 34));
  EXPECT_EQ(first[1], 0x80000000U | (0x6E789E6AA1B965F4U >> 34));
  table().draw(first, 1234567, 0, 2);
  EXPECT_EQ(first[0], 0x80000000U | (6457827717110365317U >> 34));
  EXPECT_EQ(first[1], 0x80000000U | (3203168211198807973U >> 34));
  Random random(53);
  for (const std::int64_t n : {0, 1, 3, 7, 8, 9, 15, 16, 17, 33, 1000}) {
    const std::uint64_t stream = random.bits();
    const auto begin = static_cast<std::int64_t>(random.bits() >> 20);
    std::vector<std::uint32_t> keys(static_cast<std::size_t>(n) + 1, 7), expected;
    for (std::int64_t i = 0; i < n; ++i) {
      // One after another, from a state that was moved on.
      std::uint64_t state = stream;
      state += 0x9E3779B97F4A7C15U * static_cast<std::uint64_t>(begin + i + 1);
      std::uint64_t z = state;
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
      z ^= z >> 31;
      expected.push_back(0x80000000U + static_cast<std::uint32_t>(z / (std::uint64_t{1} << 34)));
    }
    expected.push_back(7);
    table().draw(keys.data(), stream, begin, n);
    ASSERT_EQ(keys, expected) << n << " draws";
  }
}

/// What the bits of marks mean, one block at a time: see tiles/choice.hpp.
struct Mark {
  bool was_active, dropped, grown, stays;

  explicit Mark(std::uint8_t byte)
      : was_active((byte & 1) != 0),
        dropped((byte & 2) != 0),
        grown((byte & 4) != 0),
        stays((byte & 8) != 0) {}
  bool survives() const { return was_active && !dropped; }
  bool is_dead() const { return !was_active && dropped; }
  bool may_be_chosen(bool inactive) const {
    return inactive ? !survives() && !is_dead() : was_active;
  }
};

template <class Key>
void expect_ranked_others(const SelectionKernels<Key>& select, const Bytes& eligible) {
  std::vector<Key> keys, expected;
  for (const std::uint8_t may : eligible) {
    keys.push_back(static_cast<Key>(keys.size() + 1));
    expected.push_back(may != 0 ? keys.back() : KeyTraits<Key>::nan + 1);
  }
  keys.push_back(7);
  expected.push_back(7);
  select.rank_others(keys.data(), eligible.data(), static_cast<std::int64_t>(eligible.size()));
  ASSERT_EQ(keys, expected) << eligible.size() << " keys";
}

template <class Key>
void expect_ranked_within(const SelectionKernels<Key>& select, const Bytes& states, bool drops) {
  const auto n = static_cast<std::int64_t>(states.size());
  std::vector<Key> keys, expected;
  for (std::int64_t i = 0; i < n; ++i) {
    keys.push_back(static_cast<Key>(i + 1));
    const Mark mark(states[static_cast<std::size_t>(i)]);
    const Key own = mark.survives() == drops ? keys.back() : 0;
    const Key of_active = drops ? own : KeyTraits<Key>::nan + 1;
    expected.push_back(mark.survives() ? of_active : mark.is_dead() ? Key{0} : own);
  }
  keys.push_back(7);
  expected.push_back(7);
  select.rank_within(keys.data(), states.data(), n, drops);
  ASSERT_EQ(keys, expected) << n << " marks";
}

TEST_P(KernelsTest, Marks) {
  Random random(52);
  for (const std::int64_t n : {0, 1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1000}) {
    Bytes states, keep;
    for (std::int64_t i = 0; i < n; ++i) {
      states.push_back(static_cast<std::uint8_t>(random.below(16)));
      keep.push_back(static_cast<std::uint8_t>(random.below(2)));
    }
    expect_ranked_others(table().select32, keep);
    expect_ranked_others(table().select64, keep);
    for (const bool inactive : {false, true}) {
      Bytes eligible = states, may;
      for (const std::uint8_t state : states) may.push_back(Mark(state).may_be_chosen(inactive));
      eligible.push_back(7);
      may.push_back(7);
      table().find_eligible(eligible.data(), n, inactive);
      ASSERT_EQ(eligible, may) << n << " marks";
      expect_ranked_within(table().select32, states, inactive);
      expect_ranked_within(table().select64, states, inactive);
      Bytes marked = states, expected = states;
      const std::uint8_t bit = inactive ? 4 : 2;
      for (std::size_t i = 0; i < states.size(); ++i) {
        if (!Mark(states[i]).may_be_chosen(inactive)) continue;
        const bool is_marked = (keep[i] != 0) == inactive;
        expected[i] = static_cast<std::uint8_t>((states[i] & ~bit) | (is_marked ? bit : 0));
      }
      marked.push_back(7);
      expected.push_back(7);
      table().mark(marked.data(), keep.data(), n, inactive);
      ASSERT_EQ(marked, expected) << n << " marks";
    }
    for (const bool before : {false, true}) {
      Bytes kept = states, old(states.size() + 1, 7), active = old;
      kept.push_back(7);
      Bytes expected_kept, expected_old, expected_active;
      bool any = false;
      for (const std::uint8_t byte : states) {
        const Mark mark(byte);
        const bool keeps = !mark.stays && (mark.survives() || mark.grown);
        const bool is_new = !mark.stays && mark.grown && !mark.was_active;
        any = any || is_new;
        expected_kept.push_back(keeps ? 1 : 0);
        expected_old.push_back(is_new ? 0 : 1);
        expected_active.push_back(keeps || (before && mark.was_active && !mark.stays) ? 1 : 0);
      }
      for (auto* bytes : {&expected_kept, &expected_old, &expected_active}) bytes->push_back(7);
      EXPECT_EQ(table().unmark(kept.data(), old.data(), active.data(), n, before), any);
      ASSERT_EQ(kept, expected_kept) << n << " marks";
      ASSERT_EQ(old, expected_old) << n << " marks";
      ASSERT_EQ(active, expected_active) << n << " marks";
    }
  }
}

TEST_P(KernelsTest, CopyRunReadsAndWritesNothingElse) {
  Random random(71);
  for (const std::int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 64, 100}) {
    for (const std::int64_t stride : {4, 8, 12, 7, -8}) {
      const std::int64_t reach = (n - 1) * std::abs(stride) + 4;
      Bytes in(static_cast<std::size_t>(reach));  // where a byte more is read, the sanitizer tells
      for (auto& byte : in) byte = static_cast<std::uint8_t>(random.bits());
      const std::int64_t first = stride < 0 ? reach - 4 : 0;
      Bytes out(static_cast<std::size_t>(n * 4) + 1, 7), expected = out;
      for (std::int64_t i = 0; i < n; ++i) {
        std::memcpy(expected.data() + i * 4, in.data() + first + i * stride, 4);
      }
      table().copy_run(reinterpret_cast<std::byte*>(out.data()),
                       reinterpret_cast<const std::byte*>(in.data() + first), stride, n);
      ASSERT_EQ(out, expected) << n << " elements, " << stride << " bytes apart";
    }
  }
}

TEST_P(KernelsTest, TransposeWritesTheRectangleOnly) {
  Random random(70);
  for (const std::int64_t rows : {0, 1, 3, 15, 16, 17, 33, 64}) {
    for (const std::int64_t columns : {0, 1, 2, 15, 16, 17, 32, 49, 80, 200}) {
      const std::int64_t height = rows + random.below(4), pitch = columns + random.below(4);
      std::vector<std::uint32_t> in, out(static_cast<std::size_t>(rows * pitch) + 1, 7);
      for (std::int64_t i = 0; i < columns * height; ++i) {
        in.push_back(static_cast<std::uint32_t>(random.bits()));  // signalling NaN among them
      }
      std::vector<std::uint32_t> expected = out;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < columns; ++c) {
          expected[static_cast<std::size_t>(r * pitch + c)] =
              in[static_cast<std::size_t>(c * height + r)];
        }
      }
      table().transpose(reinterpret_cast<std::byte*>(out.data()), pitch * 4,
                        reinterpret_cast<const std::byte*>(in.data()), height * 4, rows, columns);
      ASSERT_EQ(out, expected) << rows << " x " << columns;
    }
  }
}

TEST_P(KernelsTest, TransposeMask) {
  Random random(61);
  for (const std::int64_t rows : {0, 1, 3, 7, 8, 9, 15, 16, 17, 25, 49, 64, 65}) {
    for (const std::int64_t columns : {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100}) {
      const std::int64_t in_pitch = columns + random.below(3);
      const std::int64_t out_pitch = rows + random.below(3);
      Bytes in(static_cast<std::size_t>(rows * in_pitch));
      for (auto& byte : in) byte = static_cast<std::uint8_t>(random.below(2));
      in.resize(in.size() - static_cast<std::size_t>(rows > 0 ? in_pitch - columns : 0));
      Bytes out(static_cast<std::size_t>(columns * out_pitch + 1), 7), expected = out;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < columns; ++c) {
          expected[static_cast<std::size_t>(c * out_pitch + r)] =
              in[static_cast<std::size_t>(r * in_pitch + c)];
        }
      }
      table().transpose_mask(out.data(), out_pitch, in.data(), in_pitch, rows, columns);
      ASSERT_EQ(out, expected) << rows << " x " << columns;
    }
  }
}

TEST_P(KernelsTest, PackAndUnpackBits) {
  Random random(60);
  for (const std::int64_t n : {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1000}) {
    for (const std::int64_t offset : {0, 1, 64}) {  // aligned or not
      Bytes bytes(static_cast<std::size_t>(offset), 7), ones(static_cast<std::size_t>(offset), 7);
      Bytes packed(static_cast<std::size_t>((n + 7) / 8)), expected = packed;
      for (std::int64_t i = 0; i < n; ++i) {
        bytes.push_back(static_cast<std::uint8_t>(random.below(2) * (1 + random.below(255))));
        ones.push_back(bytes.back() != 0 ? 1 : 0);
        expected[static_cast<std::size_t>(i / 8)] |=
            static_cast<std::uint8_t>(ones.back() << (i % 8));
      }
      packed.push_back(7);
      expected.push_back(7);
      table().pack(packed.data(), bytes.data() + offset, n);
      ASSERT_EQ(packed, expected) << n << " bytes from " << offset;

      for (const Store store : {Store::ordinary, Store::past_cache}) {
        const std::size_t size = bytes.size();
        Buffer<std::uint8_t> out;
        out.require(static_cast<std::int64_t>(size) + 1);
        std::fill_n(out.get(), size + 1, std::uint8_t{7});
        table().unpack(out.get() + offset, packed.data(), n, store);
        ASSERT_EQ(Bytes(out.get(), out.get() + size), ones) << n << " bytes from " << offset;
        ASSERT_EQ(out.get()[size], 7);
      }
    }
  }
}

TEST_P(KernelsTest, ExpandGivesValuesToSetBitsAndReadsNoneBeyondTheEnd) {
  Random random(31);
  for (const std::int64_t n : edge_sizes) {
    for (const std::int64_t of_16 : {0, 1, 8, 15, 16}) {
      Bytes is_set(static_cast<std::size_t>(n));
      for (auto& byte : is_set) byte = random.below(16) < of_16 ? 1 : 0;
      PackedBits packed(packed_size(n));
      pack_bits(packed.data(), is_set.data(), n);
      const auto values = std::accumulate(is_set.begin(), is_set.end(), std::int64_t{0});
      std::vector<std::uint16_t> expected, memory(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < values; ++i) {
        memory[static_cast<std::size_t>(n - values + i)] = static_cast<std::uint16_t>(i + 1);
      }
      std::uint16_t next = 0;
      for (const auto bit : is_set) expected.push_back(bit == 0 ? std::uint16_t{0} : ++next);
      auto* const data = reinterpret_cast<std::byte*>(memory.data());
      const std::byte* const end = data + 2 * n;
      const std::int64_t done = table().expand(data, end - 2 * values, end, packed.data(), n);
      ASSERT_EQ(done % 8, 0);
      ASSERT_LE(done, n);
      // The rest is as it was: values stay at the end.
      for (std::int64_t i = 0; i < done; ++i) {
        ASSERT_EQ(memory[static_cast<std::size_t>(i)], expected[static_cast<std::size_t>(i)]) << n;
      }
      std::int64_t left = 0;
      for (std::int64_t i = done; i < n; ++i) left += is_set[static_cast<std::size_t>(i)];
      for (std::int64_t i = 0; i < left; ++i) {
        ASSERT_EQ(memory[static_cast<std::size_t>(n - 1 - i)], values - i) << n;
      }
    }
  }
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
  const auto& tables = all_tables();
  ASSERT_FALSE(tables.empty());
  EXPECT_EQ(tables.back(), &scalar_kernels());
  EXPECT_STREQ(scalar_kernels().name, "scalar");
}

}  // namespace
}  // namespace datasparse
