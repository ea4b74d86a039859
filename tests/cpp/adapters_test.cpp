#include "datasparse/adapters.hpp"

#include <array>
#include <vector>

#include "datasparse/data_norm_sparsifier.hpp"
#include "support.hpp"

/// A half of somebody's own.
struct Half {
  std::uint16_t bits;
};
template <>
struct datasparse::DTypeOf<Half> : std::integral_constant<DType, DType::float16> {};

namespace datasparse {
namespace {

/// As linear algebra libraries have them.
class OwnMatrix {
 public:
  OwnMatrix(std::size_t rows, std::size_t columns) : values_(rows * columns) {}
  double* data() { return values_.data(); }
  const double* data() const { return values_.data(); }
  std::size_t size() const { return values_.size(); }

 private:
  std::vector<double> values_;
};

TEST(Adapters, ViewsOfContainers) {
  std::vector<float> vector(12);
  EXPECT_EQ(view_of(vector), ArrayView(vector.data(), {12}));
  EXPECT_EQ(view_of(vector, {3, 4}), ArrayView(vector.data(), {3, 4}));
  EXPECT_FALSE(view_of(vector).read_only());
  const std::vector<float>& constant = vector;
  EXPECT_TRUE(view_of(constant).read_only());
  std::array<double, 6> array{};
  EXPECT_EQ(view_of(array, {2, 3}), ArrayView(array.data(), {2, 3}));
  float plain[4] = {};
  EXPECT_EQ(view_of(plain), ArrayView(plain, {4}));
  OwnMatrix matrix(2, 5);
  EXPECT_EQ(view_of(matrix, {2, 5}), ArrayView(matrix.data(), {2, 5}));
  const OwnMatrix fixed(2, 5);
  EXPECT_TRUE(view_of(fixed, {2, 5}).read_only());
  std::vector<Half> halves(3);
  EXPECT_EQ(view_of(halves).dtype(), DType::float16);
  std::vector<float> empty;
  EXPECT_EQ(view_of(empty, {0, 7}).size(), 0);
}

struct RowMajor {
  static constexpr bool IsRowMajor = true;
};
struct ColumnMajor {
  enum { IsRowMajor = 0 };
};

TEST(Adapters, AMatrixMayBeColumnMajor) {
  EXPECT_TRUE(IsColumnMajor<ColumnMajor>::value);
  EXPECT_FALSE(IsColumnMajor<RowMajor>::value);
  EXPECT_FALSE(IsColumnMajor<std::vector<float>>::value);
}

TEST(Adapters, AShapeMustFit) {
  std::vector<float> vector(12);
  for (const Axes& shape : {Axes{12, 2}, Axes{}, Axes{-3, -4}}) {
    EXPECT_THROW(view_of(vector, shape), ValueError) << to_string(shape);
    EXPECT_THROW(source_of(vector, shape), ValueError) << to_string(shape);
  }
  EXPECT_EQ(message_of<ValueError>([&] { view_of(vector, {3, 3}); }),
            "shape must have the 12 elements of the container, got (3, 3)");
}

TEST(Adapters, ASourceFollowsItsContainer) {
  std::vector<float> weights = {1, 2, 3, 4};
  DataNormSparsifier sparsifier(BlockSpec{0.5, 1, 1, std::nullopt, Norm::L1});
  sparsifier.add_data("weights", source_of(weights, {4}));
  sparsifier.step();
  const Mask mask = sparsifier.get_mask("weights");
  EXPECT_EQ(bytes_of(mask), (Bytes{0, 0, 1, 1}));

  std::vector<float> others = {4, 3, 2, 1};
  weights.swap(others);  // other memory
  sparsifier.step();
  sparsifier.apply_mask();
  EXPECT_EQ(weights, (std::vector<float>{4, 3, 0, 0}));
  EXPECT_EQ(others, (std::vector<float>{1, 2, 3, 4}));

  weights.push_back(5);
  EXPECT_THROW(sparsifier.step(), ValueError);
  EXPECT_EQ(bytes_of(mask), (Bytes{1, 1, 0, 0}));
}

}  // namespace
}  // namespace datasparse
