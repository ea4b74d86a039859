#include "datasparse/apply_mask.hpp"

#include "datasparse/error.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

Bytes random_mask(Random& random, std::int64_t n) {
  Bytes mask;
  for (std::int64_t i = 0; i < n; ++i) mask.push_back(random.one_in(2) ? 1 : 0);
  return mask;
}

/// Applies a random mask, and expects that nothing but the masked elements has changed.
void expect_only_masked_change(Tensor& tensor, Random& random) {
  for (auto& byte : tensor.memory()) byte = static_cast<std::uint8_t>(random.bits() | 1);
  const Bytes mask = random_mask(random, tensor.size());
  Tensor expected = tensor;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    if (mask[static_cast<std::size_t>(i)] == 0) expected.set_bits(i, 0);
  }
  apply_mask(tensor.view(), mask.data());
  ASSERT_EQ(difference(tensor.memory(), expected.memory()), "")
      << to_string(tensor.view().shape()) << to_string(tensor.view().strides());
}

TEST(ApplyMask, WritesPositiveZeroAlsoOverNaNAndInf) {
  Tensor tensor(DType::float32, {4});
  tensor.set_bits(0, 0xFFC01234);  // a NaN with sign and payload
  tensor.set_bits(1, 0xFF800000);  // -Inf
  tensor.set_bits(2, 0x80000000);  // -0
  tensor.set_bits(3, 0xC0000000);
  const Bytes mask(4, 0);
  apply_mask(tensor.view(), mask.data());
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(tensor.bits(i), 0U);
}

TEST(ApplyMask, LeavesEveryBitOfTheOthers) {
  Tensor tensor(DType::float64, {2});
  tensor.set_bits(0, 0xFFF0000000000001);  // a signalling NaN
  tensor.set_bits(1, 0x8000000000000000);
  const Bytes mask(2, 1);
  apply_mask(tensor.view(), mask.data());
  EXPECT_EQ(tensor.bits(0), 0xFFF0000000000001U);
  EXPECT_EQ(tensor.bits(1), 0x8000000000000000U);
}

TEST(ApplyMask, ReachesExactlyTheElementsOfAnyLayout) {
  Random random(40);
  int tried = 0;
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::int64_t> lengths;
    for (std::int64_t axes = random.between(0, 4); axes > 0; --axes) {
      lengths.push_back(random.between(0, 9));
    }
    const Axes shape(lengths);
    const DType dtype = random.pick(all_dtypes);
    Tensor tensor(dtype, shape, random_strides(random, dtype, shape, false), random.below(3));
    if (tensor.view().overlaps_itself()) continue;
    expect_only_masked_change(tensor, random);
    ++tried;
  }
  EXPECT_GT(tried, 2000);
}

TEST(ApplyMask, SplitsLargeDataAmongThreads) {
  Random random(41);
  for (const int threads : {1, 2, 3, 4}) {
    if (slowdown > 1 && threads % 3 != 0) continue;
    const Threads scope(threads);
    for (const Axes& shape : {Axes{65536}, Axes{65537}, Axes{parallel_from - 1},
                              Axes{parallel_from}, Axes{parallel_from + 65537}, parallel_matrix(3),
                              parallel_matrix(1000), Axes{parallel_from / 3 + 1, 3},
                              Axes{parallel_from, 1}, Axes{parallel_from / 999, 50, 20}}) {
      Tensor tensor(DType::float16, shape);
      expect_only_masked_change(tensor, random);
      Tensor strided(DType::float32, shape, random_strides(random, DType::float32, shape, false));
      if (!strided.view().overlaps_itself()) expect_only_masked_change(strided, random);
    }
  }
}

TEST(ApplyMask, TakesEmptyData) {
  EXPECT_NO_THROW(apply_mask(ArrayView(static_cast<float*>(nullptr), {0}), nullptr));
  EXPECT_NO_THROW(apply_mask(ArrayView(static_cast<float*>(nullptr), {5, 0}), nullptr));
}

TEST(ApplyMask, RefusesReadOnlyMemoryUntouched) {
  std::vector<float> numbers{1, 2, 3};
  const Bytes mask(3, 0);
  const ArrayView view(static_cast<const float*>(numbers.data()), {3});
  EXPECT_THROW(apply_mask(view, mask.data()), ValueError);
  EXPECT_EQ(numbers, (std::vector<float>{1, 2, 3}));
}

TEST(ApplyMask, RefusesMemoryThatOverlapsItselfUntouched) {
  std::vector<float> numbers{1, 2, 3, 4};
  const Bytes mask(6, 0);
  for (const Axes& strides : {Axes{0, 4}, Axes{4, 4}, Axes{-4, 4}}) {
    const ArrayView view(numbers.data() + 1, DType::float32, {2, 3}, strides, false);
    EXPECT_THROW(apply_mask(view, mask.data()), ValueError) << to_string(strides);
  }
  EXPECT_EQ(numbers, (std::vector<float>{1, 2, 3, 4}));
}

TEST(CountZeros, CountsZeroBytes) {
  const Bytes mask{0, 1, 255, 0, 2};
  EXPECT_EQ(count_zeros(mask.data(), 5), 2);
  EXPECT_EQ(count_zeros(nullptr, 0), 0);
}

}  // namespace
}  // namespace datasparse
