#include "datasparse/distribution.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "datasparse/adapters.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "mask/pruned_share.hpp"
#include "support.hpp"

namespace datasparse::distributions {
namespace {

using Counts = std::vector<std::int64_t>;

/// What masks of single elements zero, by the rule of every level.
Counts zeros_of(const ParamMap& levels, const Shapes& shapes) {
  Counts zeros;
  std::size_t place = 0;
  for (const auto& [name, level] : levels) {
    EXPECT_EQ(name, shapes[place].first);
    const auto elements = element_count(shapes[place++].second);
    zeros.push_back(PrunedShare{level.as_number(name), 0}.pruned_of(elements));
  }
  EXPECT_EQ(place, shapes.size());
  return zeros;
}

Counts erk_zeros(const Shapes& shapes, double level, double power = 1,
                 const std::vector<std::string>& dense = {}) {
  return zeros_of(erk(shapes, level, power, dense), shapes);
}

Counts uniform_zeros(const Shapes& shapes, double level) {
  return zeros_of(uniform(shapes, level), shapes);
}

// Elements 235200, 30000, 1000: 266200 together. Sums of lengths 1084, 400, 110: 1594 together.
const Shapes lenet{{"fc1", {300, 784}}, {"fc2", {100, 300}}, {"fc3", {10, 100}}};

// Elements 150, 2400, 30720, 10080, 840: 44190. Sums of lengths 17, 32, 376, 204, 94: 723.
const Shapes convolutional{{"conv1", {6, 1, 5, 5}},
                           {"conv2", {16, 6, 5, 5}},
                           {"fc1", {120, 256}},
                           {"fc2", {84, 120}},
                           {"fc3", {10, 84}}};

TEST(Distribution, ErkOfLeNetIsAsWorkedOutByHand) {
  // 212960 zeros, 53240 kept. 53240 / 1594 × 110 = 3674 of fc3 is more than it has: dense. Then
  // 52240 are kept of the others, whose sum is 1484: 52240 / 1484 = 35.202156.
  // fc1: 235200 - 35.202156 × 1084 = 197040.8625. fc2: 30000 - 35.202156 × 400 = 15919.1375.
  EXPECT_EQ(erk_zeros(lenet, 0.8), (Counts{197041, 15919, 0}));
  // 239580 zeros, 26620 kept. 26620 / 1594 × 110 = 1837: fc3 is dense. 25620 / 1484 = 17.264151.
  // 235200 - 17.264151 × 1084 = 216485.6604, 30000 - 17.264151 × 400 = 23094.3396.
  EXPECT_EQ(erk_zeros(lenet, 0.9), (Counts{216486, 23094, 0}));
  // 252890 zeros, 13310 kept. 13310 / 1594 = 8.350063: 919 of fc3, so none is dense.
  // 226148.5320, 26659.9749, 81.4931: two are left, for the remainders .9749 and .5320.
  EXPECT_EQ(erk_zeros(lenet, 0.95), (Counts{226149, 26660, 81}));
  // 260876 zeros, 5324 kept. 5324 / 1594 = 3.340025. 231579.4128, 28663.9900, 632.5972.
  EXPECT_EQ(erk_zeros(lenet, 0.98), (Counts{231579, 28664, 633}));
}

TEST(Distribution, ErkOfAConvolutionalNetIsAsWorkedOutByHand) {
  // 35352 zeros, 8838 kept. 8838 / 723 = 12.224: 208 of conv1 and 1149 of fc3, which are dense.
  // 7848 / 612 = 12.823529. conv2: 2400 - 12.823529 × 32 = 1989.6471. fc1: 25898.3529.
  // fc2: 10080 - 12.823529 × 204 = 7464.
  EXPECT_EQ(erk_zeros(convolutional, 0.8), (Counts{0, 1990, 25898, 7464, 0}));
  // 39771 zeros, 4419 kept. 4419 / 723 = 6.112033, none is dense.
  // 46.0954, 2204.4149, 28421.8755, 8833.1452, 265.4689: the remainders .8755 and .4689.
  EXPECT_EQ(erk_zeros(convolutional, 0.9), (Counts{46, 2204, 28422, 8833, 266}));
  // 41980.5 is 41980 zeros, 2210 kept. 2210 / 723 = 3.056708.
  // 98.0360, 2302.1853, 29570.6777, 9456.4315, 552.6694.
  EXPECT_EQ(erk_zeros(convolutional, 0.95), (Counts{98, 2302, 29571, 9456, 553}));
  // 43306.2 is 43306 zeros, 884 kept. 884 / 723 = 1.222683.
  // 129.2144, 2360.8741, 30260.2711, 9830.5726, 725.0678.
  EXPECT_EQ(erk_zeros(convolutional, 0.98), (Counts{129, 2361, 30260, 9831, 725}));
  // 8838 zeros, 35352 kept. 35352 / 723 = 48.896: conv1 and fc3 are dense. 34362 / 612 = 56.147:
  // now 11454 of fc2, too. 24282 / 408 = 59.514706. 495.5294 and 8342.4706.
  EXPECT_EQ(erk_zeros(convolutional, 0.2), (Counts{0, 496, 8342, 0, 0}));
}

TEST(Distribution, APowerBetweenUniformAndErk) {
  // Densities are as the roots of 1084/235200, 400/30000 and 110/1000, which are 0.06788883,
  // 0.11547005 and 0.33166248. × elements: 15967.4536, 3464.1016, 331.6625; 19763.2177 together.
  // 26620 kept: 26620 / 19763.2177 = 1.3469466.
  // 235200 - 21507.30 = 213692.70, 30000 - 4665.96 = 25334.04, 1000 - 446.73 = 553.27.
  EXPECT_EQ(erk_zeros(lenet, 0.9, 0.5), (Counts{213693, 25334, 553}));
  EXPECT_EQ(erk(lenet, 0.9, 0), uniform(lenet, 0.9));
  // Squares: as 1, 8.37 and 570. fc3 is dense, and fc2 has 25620 × 5.3333 / (4.9961 + 5.3333).
  EXPECT_EQ(erk_zeros(lenet, 0.9, 2), (Counts{222808, 16772, 0}));
  // All that may be kept goes to where it is densest.
  EXPECT_EQ(erk_zeros(lenet, 0.9, 1e300), (Counts{235200, 4380, 0}));
  EXPECT_EQ(erk_zeros(lenet, 0.9, std::numeric_limits<double>::denorm_min()),
            uniform_zeros(lenet, 0.9));
}

TEST(Distribution, UniformIsTheLevelButForRounding) {
  EXPECT_EQ(uniform(lenet, 0.9), (ParamMap{{"fc1", 0.9}, {"fc2", 0.9}, {"fc3", 0.9}}));
  // 12 zeros of 24: 1.5, 2.5, 3.5 and 4.5 are ties, and the first two are rounded up.
  const Shapes ties{{"a", {3}}, {"b", {5}}, {"c", {7}}, {"d", {9}}};
  EXPECT_EQ(uniform_zeros(ties, 0.5), (Counts{2, 3, 3, 4}));
  // 7 of 21: a third each of 1, 10 and 10. The remainders are equal, but for what a division loses.
  EXPECT_EQ(uniform_zeros({{"a", {10}}, {"b", {1}}, {"c", {10}}}, 1.0 / 3), (Counts{4, 0, 3}));
}

TEST(Distribution, TheSumIsRoundedHalfToEven) {
  EXPECT_EQ(uniform_zeros({{"a", {1}}, {"b", {4}}}, 0.5), (Counts{0, 2}));  // 2.5
  EXPECT_EQ(uniform_zeros({{"a", {3}}, {"b", {4}}}, 0.5), (Counts{2, 2}));  // 3.5
}

TEST(Distribution, NothingAndAll) {
  EXPECT_EQ(erk_zeros(convolutional, 0), (Counts{0, 0, 0, 0, 0}));
  EXPECT_EQ(erk_zeros(convolutional, 1), (Counts{150, 2400, 30720, 10080, 840}));
  EXPECT_EQ(erk({}, 0.5), ParamMap());
  EXPECT_EQ(uniform({}, 1), ParamMap());
  EXPECT_EQ(erk_zeros(convolutional, 0, 1, {"*"}), (Counts{0, 0, 0, 0, 0}));
}

TEST(Distribution, ScalarsVectorsAndEmptyLayers) {
  const Shapes shapes{{"scalar", {}}, {"vector", {9}}, {"empty", {0, 7}}, {"matrix", {4, 5}}};
  // The sums are 1, 9 and 9: 15 / 19 is kept of the scalar, 135 / 19 of each of the others. Zeros
  // are .2105, 1.8947 and 12.8947.
  EXPECT_EQ(erk(shapes, 0.5),
            (ParamMap{{"scalar", 0.0}, {"vector", 2.0 / 9}, {"empty", 0.0}, {"matrix", 0.65}}));
  EXPECT_EQ(erk(shapes, 1),
            (ParamMap{{"scalar", 1.0}, {"vector", 1.0}, {"empty", 0.0}, {"matrix", 1.0}}));
  EXPECT_EQ(erk({{"empty", {0}}}, 0.9), (ParamMap{{"empty", 0.0}}));
  EXPECT_EQ(uniform({{"empty", {0}}}, 0.9), (ParamMap{{"empty", 0.0}}));
}

TEST(Distribution, DenseLayersAreMadeUpForByTheOthers) {
  // 212960 zeros of fc1 and fc3: 236200 - 212960 = 23240 kept, 23240 / 1194 = 19.4640. fc3 would
  // have 2141: dense. What is left is fc1's.
  EXPECT_EQ(erk_zeros(lenet, 0.8, 1, {"fc2"}), (Counts{212960, 0, 0}));
  EXPECT_EQ(erk_zeros(lenet, 0.8, 1, {"fc[23]"}), (Counts{212960, 0, 0}));
}

TEST(Distribution, AVeryNameStandsForItselfAlone) {
  const Shapes shapes{{"a[0]", {10, 10}}, {"a0", {10, 10}}, {"b", {10, 10}}};
  EXPECT_EQ(erk_zeros(shapes, 0.5, 1, {"a[0]"}), (Counts{0, 75, 75}));
  EXPECT_EQ(erk_zeros(shapes, 0.3, 1, {"a?"}), (Counts{45, 0, 45}));
}

TEST(Distribution, DenseThatLeavesTooLittleIsAnErrorWithThePossibleRange) {
  EXPECT_EQ(message_of<Error>([] { erk(lenet, 0.9, 1, {"fc1"}); }),
            "level must be in [0.0, 0.11645379413974455], since all but 31000 of the 266200 "
            "elements are dense, got 0.9");
  EXPECT_EQ(erk_zeros(lenet, 0.11645379413974455, 1, {"fc1"}), (Counts{0, 30000, 1000}));
  EXPECT_THROW(erk(lenet, 0.5, 1, {"*"}), ValueError);
}

TEST(Distribution, NamesThatAreNone) {
  EXPECT_EQ(message_of<Error>([] { erk(lenet, 0.9, 1, {"fc4"}); }),
            "dense must name layers, and none is named or matched by 'fc4'; did you mean 'fc1'?");
  EXPECT_THROW(erk(lenet, 0.9, 1, {"conv*"}), UnknownNameError);
  EXPECT_EQ(message_of<Error>([] { uniform({{"a", {2}}, {"b", {3}}, {"a", {4}}}, 0.5); }),
            "shapes must hold every name once, got 'a' twice");
}

TEST(Distribution, ValuesOutOfRange) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double level : {-0.1, 1.1, nan, infinity}) {
    EXPECT_THROW(erk(lenet, level), ValueError) << level;
    EXPECT_THROW(uniform(lenet, level), ValueError) << level;
  }
  for (const double power : {-1.0, -1e-300, nan, infinity}) {
    EXPECT_THROW(erk(lenet, 0.5, power), ValueError) << power;
  }
  EXPECT_EQ(message_of<Error>([] { uniform(lenet, 1.5); }), "level must be in [0, 1], got 1.5");
  EXPECT_EQ(message_of<Error>([] { erk(lenet, 0.5, -1); }),
            "power must be a finite number of at least 0, got -1.0");
  EXPECT_EQ(message_of<Error>([] { uniform({{"a", {2, -1}}}, 0.5); }),
            "the shape of 'a' must not be negative, got (2, -1)");
  constexpr std::int64_t most = std::int64_t{1} << 51;
  EXPECT_EQ(message_of<Error>([] { uniform({{"a", {most}}, {"b", {1}}}, 0.5); }),
            "shapes must have at most 2^51 elements together, got more with 'b' of (1,)");
}

TEST(Distribution, LevelsAreValuesOfASparsifier) {
  BlockSpec single;
  single.block_width = 1;
  DataNormSparsifier sparsifier(single);
  std::vector<std::vector<float>> data;
  data.reserve(convolutional.size());
  for (const auto& [name, shape] : convolutional) {
    data.emplace_back(static_cast<std::size_t>(element_count(shape)));
    std::iota(data.back().begin(), data.back().end(), 1.0F);
    sparsifier.add_data(name, source_of(data.back(), shape));
  }
  GroupParams(sparsifier).set("sparsity_level", erk(convolutional, 0.9));
  sparsifier.step();
  Counts zeros;
  for (const auto& item : convolutional) {
    const Mask mask = sparsifier.get_mask(item.first);
    zeros.push_back(std::count(mask.data(), mask.data() + mask.size(), 0));
  }
  EXPECT_EQ(zeros, (Counts{46, 2204, 28422, 8833, 266}));
}

TEST(Distribution, LevelsGiveTheZerosThatWereAssignedWhateverTheSize) {
  std::mt19937_64 random(1);
  for (int bits = 1; bits <= 50; ++bits) {
    for (int round = 0; round < 100; ++round) {
      const auto size = [&] {
        const std::uint64_t most = std::uint64_t{1} << bits;
        return static_cast<std::int64_t>(round % 2 == 0 ? most - random() % 2 : random() % most);
      };
      const Shapes shapes{{"a", {size()}}, {"b", {size()}}};
      const double level = std::generate_canonical<double, 53>(random);
      const auto zeros = uniform_zeros(shapes, level);
      const auto elements = shapes[0].second[0] + shapes[1].second[0];
      EXPECT_EQ(zeros[0] + zeros[1], (PrunedShare{level, 0}.pruned_of(elements))) << elements;
    }
  }
  // 2^44 + 1/2 and 2^44 - 1/2 are ties.
  constexpr std::int64_t half = std::int64_t{1} << 44;
  EXPECT_EQ(uniform_zeros({{"a", {2 * half + 1}}, {"b", {2 * half - 1}}}, 0.5),
            (Counts{half + 1, half - 1}));
  // Any count is met, at the greatest size: the level that gives it is zeros / elements.
  for (const std::int64_t elements :
       {(std::int64_t{1} << 31) - 1, std::int64_t{1} << 31, (std::int64_t{1} << 31) + 1,
        (std::int64_t{1} << 51) - 1, std::int64_t{1} << 51}) {
    for (int round = 0; round < 1000; ++round) {
      const auto zeros = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(elements));
      const double level = static_cast<double>(zeros) / static_cast<double>(elements);
      EXPECT_EQ((PrunedShare{level, 0}.pruned_of(elements)), zeros);
      EXPECT_EQ(uniform_zeros({{"a", {elements}}}, level), (Counts{zeros}));
    }
  }
}

}  // namespace
}  // namespace datasparse::distributions
