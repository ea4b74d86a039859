#include "tiles/matrix.hpp"

#include "support.hpp"

namespace datasparse {
namespace {

/// The offsets from the view's first element of `n` columns of a row, as for_each_run() visits
/// them.
std::vector<std::int64_t> visited(const Matrix& matrix, const ArrayView& view, std::int64_t row,
                                  std::int64_t begin, std::int64_t n) {
  std::vector<std::int64_t> offsets;
  matrix.for_each_run(
      row, begin, n,
      [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count, std::int64_t offset) {
        EXPECT_EQ(offset, static_cast<std::int64_t>(offsets.size()));
        EXPECT_GT(count, 0);
        for (std::int64_t i = 0; i < count; ++i) {
          offsets.push_back(run + i * stride - static_cast<std::byte*>(view.data()));
        }
      });
  return offsets;
}

/// The same as for_each_runs() does.
std::vector<std::int64_t> visited_together(const Matrix& matrix, const ArrayView& view,
                                           std::int64_t row, std::int64_t begin, std::int64_t n) {
  std::vector<std::int64_t> offsets;
  matrix.for_each_runs(row, begin, n,
                       [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t count,
                           std::int64_t offset, std::int64_t runs, std::ptrdiff_t step) {
                         EXPECT_EQ(offset, static_cast<std::int64_t>(offsets.size()));
                         EXPECT_GT(count * runs, 0);
                         for (std::int64_t i = 0; i < runs * count; ++i) {
                           const std::byte* const element =
                               run + i / count * step + i % count * stride;
                           offsets.push_back(element - static_cast<std::byte*>(view.data()));
                         }
                       });
  return offsets;
}

std::vector<std::int64_t> expected(const ArrayView& view, std::int64_t first, std::int64_t n) {
  std::vector<std::int64_t> offsets;
  for (std::int64_t i = first; i < first + n; ++i) {
    offsets.push_back(reference::offset_of(view.shape(), view.strides(), i));
  }
  return offsets;
}

struct Layout {
  Tensor tensor;
  ArrayView view;
};

Layout random_layout(Random& random) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t axes = random.between(0, 5); axes > 0; --axes) {
    lengths.push_back(random.between(1, 5));
  }
  const Axes shape(lengths);
  const DType dtype = random.pick(all_dtypes);
  Tensor tensor(dtype, shape, random_strides(random, dtype, shape));
  const ArrayView view = tensor.view();
  return {std::move(tensor), view};
}

TEST(Matrix, TakesItsRowsFromTheFirstAxis) {
  float numbers[24] = {};
  const auto size_of = [&numbers](const Axes& shape) {
    const Matrix matrix(ArrayView(numbers, shape));
    return std::pair(matrix.rows(), matrix.columns());
  };
  EXPECT_EQ(size_of({}), (std::pair<std::int64_t, std::int64_t>(1, 1)));
  EXPECT_EQ(size_of({24}), (std::pair<std::int64_t, std::int64_t>(1, 24)));
  EXPECT_EQ(size_of({24, 1}), (std::pair<std::int64_t, std::int64_t>(24, 1)));
  EXPECT_EQ(size_of({2, 3, 4}), (std::pair<std::int64_t, std::int64_t>(2, 12)));
  EXPECT_EQ(size_of({2, 0, 4}), (std::pair<std::int64_t, std::int64_t>(2, 0)));
  EXPECT_EQ(size_of({0, 4}), (std::pair<std::int64_t, std::int64_t>(0, 4)));
}

TEST(Matrix, MergesAxesThatFollowEachOther) {
  float numbers[24] = {};
  const ArrayView view(numbers, {2, 3, 4});
  int runs = 0;
  Matrix(view).for_each_run(
      1, 0, 12, [&](const std::byte*, std::ptrdiff_t stride, std::int64_t n, std::int64_t) {
        ++runs;
        EXPECT_EQ(stride, 4);
        EXPECT_EQ(n, 12);
      });
  EXPECT_EQ(runs, 1);
}

TEST(Matrix, VisitsElementsInCOrderForAnyLayout) {
  Random random(5);
  for (int i = 0; i < 4000; ++i) {
    const auto [tensor, view] = random_layout(random);
    const Matrix matrix(view);
    const auto row = random.below(matrix.rows());
    const auto begin = random.below(matrix.columns());
    const auto n = random.between(0, matrix.columns() - begin);
    ASSERT_EQ(visited(matrix, view, row, begin, n),
              expected(view, row * matrix.columns() + begin, n))
        << to_string(view.shape()) << to_string(view.strides());
    ASSERT_EQ(visited_together(matrix, view, row, begin, n),
              expected(view, row * matrix.columns() + begin, n))
        << to_string(view.shape()) << to_string(view.strides());
  }
}

TEST(Matrix, OfALayoutIsThatOfThePermutedView) {
  Random random(7);
  for (int i = 0; i < 1000; ++i) {
    const auto [tensor, view] = random_layout(random);
    const Axes layout = random_permutation(random, view.shape().size());
    const ArrayView turned(view.data(), view.dtype(), reference::permuted(view.shape(), layout),
                           reference::permuted(view.strides(), layout), true);
    const Matrix matrix(view, layout);
    ASSERT_EQ(matrix.rows(), Matrix(turned).rows());
    ASSERT_EQ(matrix.columns(), Matrix(turned).columns());
    for (std::int64_t row = 0; row < matrix.rows(); ++row) {
      ASSERT_EQ(visited(matrix, view, row, 0, matrix.columns()),
                expected(turned, row * matrix.columns(), matrix.columns()));
    }
  }
}

TEST(Matrix, VisitsAllRunsOfARowOfAPermutedTensorAtOnce) {
  Tensor tensor(DType::float32, {4, 8, 3, 3});
  const ArrayView view = tensor.view();
  int visits = 0;
  Matrix(view, {0, 2, 3, 1})
      .for_each_runs(1, 0, 72,
                     [&](const std::byte*, std::ptrdiff_t stride, std::int64_t n, std::int64_t,
                         std::int64_t runs, std::ptrdiff_t step) {
                       ++visits;
                       EXPECT_EQ(stride, 36);
                       EXPECT_EQ(n, 8);
                       EXPECT_EQ(runs, 9);
                       EXPECT_EQ(step, 4);
                     });
  EXPECT_EQ(visits, 1);
}

TEST(Matrix, PartsOfPartsAreWhereTheyShouldBe) {
  Random random(6);
  for (int i = 0; i < 4000; ++i) {
    const auto [tensor, view] = random_layout(random);
    const Matrix whole(view);
    Matrix part = whole;
    std::int64_t row = 0, column = 0;
    for (int depth = 0; depth < 2; ++depth) {
      const auto down = random.below(part.rows());
      const auto across = random.below(part.columns());
      part = part.part(down, across, random.between(1, part.rows() - down),
                       random.between(1, part.columns() - across));
      row += down;
      column += across;
    }
    for (std::int64_t r = 0; r < part.rows(); ++r) {
      ASSERT_EQ(visited(part, view, r, 0, part.columns()),
                expected(view, (row + r) * whole.columns() + column, part.columns()));
    }
    if (!part.is_one_row()) continue;
    const Matrix one = part.as_one_row();
    std::vector<std::int64_t> all;
    for (std::int64_t r = 0; r < part.rows(); ++r) {
      const auto more = visited(part, view, r, 0, part.columns());
      all.insert(all.end(), more.begin(), more.end());
    }
    ASSERT_EQ(visited(one, view, 0, 0, one.columns()), all)
        << to_string(view.shape()) << to_string(view.strides());
  }
}

TEST(Matrix, IsOneRowOnlyWhereTheOrderStaysTheSame) {
  Random random(7);
  int merged = 0;
  for (int i = 0; i < 4000; ++i) {
    const auto [tensor, view] = random_layout(random);
    const Matrix matrix(view);
    if (!matrix.is_one_row()) continue;
    const Matrix row = matrix.as_one_row();
    ASSERT_EQ(row.rows(), 1);
    ASSERT_EQ(row.columns(), view.size());
    ASSERT_EQ(visited(row, view, 0, 0, view.size()), expected(view, 0, view.size()))
        << to_string(view.shape()) << to_string(view.strides());
    merged += matrix.rows() > 1 ? 1 : 0;
  }
  EXPECT_GT(merged, 100);
  float numbers[24] = {};
  EXPECT_TRUE(Matrix(ArrayView(numbers, {4, 6})).is_one_row());
  EXPECT_FALSE(Matrix(ArrayView(numbers, DType::float32, {4, 3}, {24, 4}, false)).is_one_row());
}

TEST(Matrix, RowsWithinRowsKeepTheOrder) {
  // 3 outputs of 5 places and 64 or 63 inputs: of a transposed convolution, inputs x outputs x
  // places.
  for (const std::int64_t inputs : {64, 63}) {
    std::vector<float> numbers(static_cast<std::size_t>(inputs * 15));
    const ArrayView view(numbers.data(), {inputs, 3, 5});
    const Axes layout{1, 2, 0};
    const Matrix whole(view, layout);
    ASSERT_EQ(whole.rows(), 3);
    const Matrix rows = whole.for_blocks(1, 4);
    EXPECT_EQ(rows.rows(), inputs == 64 ? 15 : 3);  // 63 are no blocks of 4, and few
    EXPECT_EQ(rows.rows() * rows.columns(), view.size());
    EXPECT_EQ(whole.for_blocks(2, 4).rows(), 3);
    EXPECT_EQ(whole.for_blocks(1, 3).rows(), 3);
    std::vector<const std::byte*> places[2];
    for (const Matrix* matrix : {&whole, &rows}) {
      auto& found = places[matrix == &rows ? 1 : 0];
      for (std::int64_t row = 0; row < matrix->rows(); ++row) {
        matrix->for_each_run(
            row, 0, matrix->columns(),
            [&](const std::byte* run, std::ptrdiff_t stride, std::int64_t n, std::int64_t) {
              for (std::int64_t i = 0; i < n; ++i) found.push_back(run + i * stride);
            });
      }
    }
    EXPECT_EQ(places[0], places[1]);
  }
}

}  // namespace
}  // namespace datasparse
