#include "datasparse/array_view.hpp"

#include <set>

#include "datasparse/error.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

TEST(DType, HasASizeAndAName) {
  EXPECT_EQ(item_size(DType::float16), 2U);
  EXPECT_EQ(item_size(DType::bfloat16), 2U);
  EXPECT_EQ(item_size(DType::float32), 4U);
  EXPECT_EQ(item_size(DType::float64), 8U);
  EXPECT_STREQ(name_of(DType::float16), "float16");
  EXPECT_STREQ(name_of(DType::bfloat16), "bfloat16");
  EXPECT_STREQ(name_of(DType::float32), "float32");
  EXPECT_STREQ(name_of(DType::float64), "float64");
}

TEST(Axes, HoldsUpTo32) {
  Axes axes;
  for (int i = 0; i < 32; ++i) axes.push_back(i);
  EXPECT_EQ(axes.size(), 32);
  EXPECT_EQ(axes[31], 31);
  EXPECT_THROW(axes.push_back(32), ValueError);
  EXPECT_EQ(axes.size(), 32);
  EXPECT_THROW(Axes(std::vector<std::int64_t>(33, 1)), ValueError);
}

TEST(Axes, AreIndependentOfTheirCopies) {
  for (int size = 0; size < Axes::max_size; ++size) {
    Axes axes;
    for (int i = 0; i < size; ++i) axes.push_back(i);
    const Axes before = axes;
    Axes other = axes;
    axes.push_back(7);
    other.push_back(8);
    ASSERT_EQ(before.size(), size);
    for (int i = 0; i < size; ++i) ASSERT_TRUE(before[i] == i && axes[i] == i && other[i] == i);
    ASSERT_EQ(axes[size], 7);
    ASSERT_EQ(other[size], 8);
    other = before;
    ASSERT_EQ(other, before);
  }
}

TEST(Axes, AreEqualWhereLengthsAndNumberAgree) {
  EXPECT_EQ(Axes({2, 3}), Axes(std::vector<std::int64_t>{2, 3}));
  EXPECT_NE(Axes({2, 3}), Axes({2}));
  EXPECT_NE(Axes({2, 3}), Axes({2, 4}));
  EXPECT_EQ(Axes(), Axes());
}

TEST(Axes, ReadAsPythonWritesAShape) {
  EXPECT_EQ(to_string(Axes{}), "()");
  EXPECT_EQ(to_string(Axes{5}), "(5,)");
  EXPECT_EQ(to_string(Axes{3, 4}), "(3, 4)");
  EXPECT_EQ(to_string(Axes{-1, 0, 7}), "(-1, 0, 7)");
}

TEST(Axes, CountTheElements) {
  EXPECT_EQ(element_count(Axes{}), 1);
  EXPECT_EQ(element_count(Axes{7}), 7);
  EXPECT_EQ(element_count(Axes{3, 0, 5}), 0);
  EXPECT_EQ(element_count(Axes{1 << 20, 1 << 20}), std::int64_t{1} << 40);
}

TEST(RequirePossible, RefusesShapesWhoseProductsWouldOverflow) {
  const std::int64_t large = std::int64_t{1} << 40, limit = std::int64_t{1} << 59;
  for (const Axes& shape : {Axes{}, Axes{0}, Axes{limit}, Axes{0, limit}, Axes{2, limit / 2}}) {
    EXPECT_NO_THROW(require_possible(shape, "shape")) << to_string(shape);
  }
  for (const Axes& shape :
       {Axes{-1}, Axes{0, -1}, Axes{limit + 1}, Axes{2, limit}, Axes{large, large},
        Axes{0, large, large}, Axes{large, large, 0}, Axes{large, 0, large}}) {
    const auto message = message_of<ValueError>([&] { require_possible(shape, "shape of 'a'"); });
    EXPECT_EQ(message.rfind("shape of 'a' must", 0), 0U) << message;
    EXPECT_NE(message.find(to_string(shape)), std::string::npos) << message;
    EXPECT_THROW(ArrayView(static_cast<float*>(nullptr), shape), ValueError);
    EXPECT_THROW(BlockSpec().resolved(shape), ValueError);
  }
}

TEST(ArrayView, IsEmptyByDefault) {
  const ArrayView view;
  EXPECT_EQ(view.size(), 0);
  EXPECT_EQ(view.shape(), Axes{0});
}

TEST(ArrayView, OfContiguousMemoryHasStridesInBytes) {
  double numbers[24] = {};
  const ArrayView view(numbers, {2, 3, 4});
  EXPECT_EQ(view.strides(), (Axes{96, 32, 8}));
  EXPECT_EQ(view.dtype(), DType::float64);
  EXPECT_EQ(view.data(), numbers);
  EXPECT_EQ(view.size(), 24);
  EXPECT_FALSE(view.read_only());
}

TEST(ArrayView, OfConstantMemoryIsReadOnly) {
  const float numbers[2] = {};
  EXPECT_TRUE(ArrayView(numbers, {2}).read_only());
  const double doubles[2] = {};
  EXPECT_TRUE(ArrayView(doubles, {2}).read_only());
}

TEST(ArrayView, RefusesWhatCannotBeAView) {
  float number = 0;
  EXPECT_THROW(ArrayView(&number, {-1}), ValueError);
  EXPECT_THROW(ArrayView(static_cast<float*>(nullptr), {2}), ValueError);
  EXPECT_THROW(ArrayView(static_cast<float*>(nullptr), Axes{}), ValueError) << "0-d holds one";
  EXPECT_THROW(ArrayView(&number, DType::float32, {2, 2}, {4}, false), ValueError);
  EXPECT_NO_THROW(ArrayView(static_cast<float*>(nullptr), {0, 4}));
}

TEST(ArrayView, IsEqualWhereEveryFieldIs) {
  float numbers[6] = {};
  const ArrayView view(numbers, {2, 3});
  EXPECT_TRUE(view == ArrayView(numbers, {2, 3}));
  EXPECT_FALSE(view == ArrayView(numbers + 1, DType::float32, {2, 3}, {12, 4}, false));
  EXPECT_FALSE(view == ArrayView(numbers, {3, 2}));
  EXPECT_FALSE(view == ArrayView(numbers, DType::float32, {2, 3}, {12, -4}, false));
  EXPECT_FALSE(view == ArrayView(numbers, DType::float32, {2, 3}, true));
  EXPECT_FALSE(view == ArrayView(numbers, DType::bfloat16, {2, 3}, {12, 4}, false));
}

ArrayView strided(DType dtype, const Axes& shape, const Axes& strides) {
  static double somewhere = 0;  // never read: only the layout counts
  return ArrayView(&somewhere, dtype, shape, strides, false);
}

/// Whether two elements share a byte, by marking every byte of each.
bool overlaps_by_brute_force(const ArrayView& view) {
  std::set<std::int64_t> taken;
  for (std::int64_t i = 0; i < view.size(); ++i) {
    const auto first = reference::offset_of(view.shape(), view.strides(), i);
    for (std::size_t byte = 0; byte < item_size(view.dtype()); ++byte) {
      if (!taken.insert(first + static_cast<std::int64_t>(byte)).second) return true;
    }
  }
  return false;
}

TEST(OverlapsItself, WhereAnAxisIsBroadcast) {
  EXPECT_TRUE(strided(DType::float32, {4, 3}, {0, 4}).overlaps_itself());
  EXPECT_TRUE(strided(DType::float32, {4, 3}, {4, 0}).overlaps_itself());
  EXPECT_TRUE(strided(DType::float32, {2}, {0}).overlaps_itself());
}

TEST(OverlapsItself, NotWhereNoTwoElementsExist) {
  EXPECT_FALSE(strided(DType::float32, {1, 3}, {0, 4}).overlaps_itself());
  EXPECT_FALSE(strided(DType::float32, {}, {}).overlaps_itself());
  EXPECT_FALSE(strided(DType::float32, {0, 3}, {0, 0}).overlaps_itself());
  EXPECT_FALSE(ArrayView().overlaps_itself());
}

TEST(OverlapsItself, NotForSlicesTransposesAndReversals) {
  EXPECT_FALSE(strided(DType::float32, {3, 4}, {4, 12}).overlaps_itself());
  EXPECT_FALSE(strided(DType::float32, {3, 4}, {-32, 8}).overlaps_itself());
  EXPECT_FALSE(strided(DType::float64, {3, 4, 5}, {8, -240, 48}).overlaps_itself());
}

TEST(OverlapsItself, WhereWindowsSlide) {
  EXPECT_TRUE(strided(DType::float32, {5, 3}, {4, 4}).overlaps_itself());
  EXPECT_TRUE(strided(DType::float32, {5, 3}, {-4, 8}).overlaps_itself());
}

TEST(OverlapsItself, WhereElementsShareOnlySomeBytes) {
  EXPECT_TRUE(strided(DType::float32, {2}, {3}).overlaps_itself());
  EXPECT_TRUE(strided(DType::float64, {2}, {-4}).overlaps_itself());
  EXPECT_FALSE(strided(DType::float32, {2}, {5}).overlaps_itself());
}

TEST(OverlapsItself, DecidesStridesThatInterleave) {
  // Offsets 0, 6, 12 and 0, 4: all six differ by at least 2, the size of an element.
  EXPECT_FALSE(strided(DType::float16, {3, 2}, {6, 4}).overlaps_itself());
  // The same with four columns: 12 = 0 + 3 × 4 = 2 × 6 + 0.
  EXPECT_TRUE(strided(DType::float16, {3, 4}, {6, 4}).overlaps_itself());
  // Offsets 0, -8, -16 and 0, 12: all six differ by at least 4.
  EXPECT_FALSE(strided(DType::float32, {3, 2}, {-8, 12}).overlaps_itself());
}

TEST(OverlapsItself, AgreesWithBruteForce) {
  Random random(1);
  int overlapping = 0;
  constexpr int cases = 20000;
  for (int i = 0; i < cases; ++i) {
    std::vector<std::int64_t> shape, strides;
    for (std::int64_t axes = random.between(0, 4); axes > 0; --axes) {
      shape.push_back(random.between(0, 5));
      strides.push_back(random.between(-40, 40));
    }
    const auto view = strided(random.pick(all_dtypes), Axes(shape), Axes(strides));
    const bool expected = overlaps_by_brute_force(view);
    ASSERT_EQ(view.overlaps_itself(), expected)
        << name_of(view.dtype()) << to_string(view.shape()) << to_string(view.strides());
    overlapping += expected ? 1 : 0;
  }
  EXPECT_GT(overlapping, cases / 10);
  EXPECT_LT(overlapping, cases * 9 / 10);
}

TEST(OverlapsItself, AgreesWithBruteForceOnLayoutsThatSlicingMakes) {
  Random random(2);
  for (int i = 0; i < 5000; ++i) {
    std::vector<std::int64_t> lengths;
    for (std::int64_t axes = random.between(1, 4); axes > 0; --axes) {
      lengths.push_back(random.between(1, 5));
    }
    const Axes shape(lengths);
    const DType dtype = random.pick(all_dtypes);
    const auto view = strided(dtype, shape, random_strides(random, dtype, shape));
    ASSERT_EQ(view.overlaps_itself(), overlaps_by_brute_force(view))
        << name_of(dtype) << to_string(shape) << to_string(view.strides());
  }
}

TEST(RequireWritable, NamesTheCallAndTheLayout) {
  float number = 0;
  const ArrayView read_only(&number, DType::float32, {1}, true);
  const auto first =
      message_of<ValueError>([&] { require_writable(read_only, "apply_mask of 'emb'"); });
  EXPECT_EQ(first, "apply_mask of 'emb' needs writable memory, got a read-only array");

  const ArrayView broadcast(&number, DType::float32, {3}, {0}, false);
  const auto second = message_of<ValueError>([&] { require_writable(broadcast, "squash_mask"); });
  EXPECT_NE(second.find("squash_mask needs memory whose elements do not overlap"),
            std::string::npos);
  EXPECT_NE(second.find("(3,)"), std::string::npos) << second;
  EXPECT_NO_THROW(require_writable(ArrayView(&number, {1}), ""));
}

}  // namespace
}  // namespace datasparse
