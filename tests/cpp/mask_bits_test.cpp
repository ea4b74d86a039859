#include "mask/mask_bits.hpp"

#include "support.hpp"

namespace datasparse {
namespace {

// What is compared with is written without the library: bits by division, zeros by values.

bool bit(const PackedBits& bits, std::int64_t i) {
  return (bits[static_cast<std::size_t>(i / 8)] >> (i % 8) & 1) != 0;
}

TEST(MaskBits, FindZerosOfBothSignsAndNoOthers) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  float numbers[10] = {0, -0.0F, denormal, -denormal, nan, 1, -1, 0, 2, 0};
  EXPECT_EQ(zeros_in(ArrayView(numbers, {10})), (Bytes{0x83, 0x02}));
  double wide[3] = {-0.0, std::numeric_limits<double>::denorm_min(), 0};
  EXPECT_EQ(zeros_in(ArrayView(wide, {3, 1})), (Bytes{0x05}));
  std::uint16_t half[4] = {0x8000, 0x0001, 0x0000, 0x7C00};
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    EXPECT_EQ(zeros_in(ArrayView(half, dtype, {2, 2})), (Bytes{0x05}));
  }
  EXPECT_TRUE(zeros_in(ArrayView(numbers, {0, 4})).empty());
  EXPECT_EQ(zeros_in(ArrayView(numbers, Axes{})), (Bytes{0x01}));
}

TEST(MaskBits, AreThoseOfAnyStrides) {
  Random random(2100);
  for (int round = 0; round < 300; ++round) {
    std::vector<float> memory(600);
    for (auto& number : memory) number = random.one_in(3) ? 1.0F : 0.0F;
    const Axes shape{static_cast<std::int64_t>(random.below(5)),
                     static_cast<std::int64_t>(random.below(6)),
                     static_cast<std::int64_t>(random.below(7))};
    std::int64_t steps[3] = {random.one_in(2) ? 42 : 1, random.one_in(2) ? 7 : 11,
                             random.one_in(2) ? 1 : -1};
    if (random.one_in(4)) std::swap(steps[0], steps[2]);
    const Axes strides{4 * steps[0], 4 * steps[1], 4 * steps[2]};
    const ArrayView view(memory.data() + 300, DType::float32, shape, strides, false);
    const auto bits = zeros_in(view);
    const auto n = element_count(shape);
    Bytes mask(static_cast<std::size_t>(n));
    for (auto& byte : mask) byte = random.one_in(2) ? 1 : 0;
    std::int64_t i = 0, zeros = 0, pruned = 0;
    for (std::int64_t a = 0; a < shape[0]; ++a) {
      for (std::int64_t b = 0; b < shape[1]; ++b) {
        for (std::int64_t c = 0; c < shape[2]; ++c, ++i) {
          const bool zero =
              memory[static_cast<std::size_t>(300 + a * steps[0] + b * steps[1] + c * steps[2])] ==
              0;
          ASSERT_EQ(bit(bits, i), zero) << to_string(shape) << to_string(strides) << " at " << i;
          zeros += zero ? 1 : 0;
          pruned += zero && mask[static_cast<std::size_t>(i)] == 0 ? 1 : 0;
        }
      }
    }
    EXPECT_EQ(count_bits(bits.data(), bits.size()), zeros);
    EXPECT_EQ(count_pruned_zeros(view, mask.data()), pruned);
    Bytes joined = mask;
    prune_bits(joined.data(), bits.data(), n);
    for (i = 0; i < n; ++i) {
      const auto place = static_cast<std::size_t>(i);
      ASSERT_EQ(joined[place], bit(bits, i) ? 0 : mask[place]);
    }
  }
}

TEST(MaskBits, OfManyElementsAreFoundInPieces) {
  constexpr std::int64_t n = 3 * 65536 + 5;
  std::vector<float> numbers(static_cast<std::size_t>(n), 1.0F);
  const std::set<std::int64_t> places{0, 65535, 65536, 131071, 131072, n - 1};
  for (const auto place : places) numbers[static_cast<std::size_t>(place)] = 0;
  const auto bits = zeros_in(ArrayView(numbers.data(), {n}));
  ASSERT_EQ(bits.size(), static_cast<std::size_t>((n + 7) / 8));
  EXPECT_EQ(count_bits(bits.data(), bits.size()), static_cast<std::int64_t>(places.size()));
  for (const auto place : places) EXPECT_TRUE(bit(bits, place)) << place;
}

template <class Item>
void expect_expanded(Random& random, std::int64_t n, unsigned keep_of_16) {
  std::vector<Item> expected(static_cast<std::size_t>(n)), values;
  Bytes bits(static_cast<std::size_t>((n + 7) / 8), 0);
  for (std::int64_t i = 0; i < n; ++i) {
    if (random.below(16) >= keep_of_16) continue;
    const auto value = static_cast<Item>(random.below(std::uint64_t{1} << 60));
    expected[static_cast<std::size_t>(i)] = value;
    values.push_back(value);
    bits[static_cast<std::size_t>(i / 8)] |= static_cast<std::uint8_t>(1U << (i % 8));
  }
  constexpr auto guard = static_cast<Item>(0x5A5A5A5A5A5A5A5AU);
  std::vector<Item> memory(static_cast<std::size_t>(n) + 2, guard);
  std::copy(values.begin(), values.end(),
            memory.end() - 1 - static_cast<std::ptrdiff_t>(values.size()));
  expand_bits(reinterpret_cast<std::byte*>(memory.data() + 1), bits.data(), n, sizeof(Item));
  EXPECT_EQ(std::vector<Item>(memory.begin() + 1, memory.end() - 1), expected)
      << n << " elements of " << sizeof(Item) << " bytes";
  EXPECT_EQ(memory.front(), guard);
  EXPECT_EQ(memory.back(), guard);
  EXPECT_EQ(count_bits(bits.data(), bits.size()), static_cast<std::int64_t>(values.size()));
}

TEST(MaskBits, ExpandValuesWhereverTheyBelong) {
  Random random(2101);
  for (const std::int64_t n : {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 4099}) {
    for (const unsigned keep : {0U, 1U, 8U, 15U, 16U}) {
      expect_expanded<std::uint8_t>(random, n, keep);
      expect_expanded<std::uint16_t>(random, n, keep);
      expect_expanded<std::uint32_t>(random, n, keep);
      expect_expanded<std::uint64_t>(random, n, keep);
    }
  }
}

TEST(MaskBits, KeepAnyWhereverItIs) {
  for (const std::int64_t n : {0, 1, 7, 255, 256, 257, 511, 512, 513, 1000}) {
    Bytes mask(static_cast<std::size_t>(n) + 1, 0);
    mask.back() = 1;  // behind the end
    EXPECT_FALSE(keeps_any(mask.data(), n)) << n;
    for (std::int64_t i = 0; i < n; ++i) {
      mask[static_cast<std::size_t>(i)] = 2;
      EXPECT_TRUE(keeps_any(mask.data(), n)) << n << " at " << i;
      mask[static_cast<std::size_t>(i)] = 0;
    }
  }
}

}  // namespace
}  // namespace datasparse
