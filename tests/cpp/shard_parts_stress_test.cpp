// Masks of tensors in parts, on many ranks that see sums alone, against those of whole tensors.
// Built twice, as stress_test.cpp is.

#include "datasparse/error.hpp"
#include "datasparse/shard_parts.hpp"
#include "mask/pattern.hpp"
#include "mask/pruned_share.hpp"
#include "pool_cases.hpp"

namespace datasparse {
namespace {

/// A rectangle of a tensor: from `begin` to `end` along each axis.
struct Box {
  std::vector<std::int64_t> begin, end;

  explicit Box(const Axes& whole) : begin(whole.begin(), whole.end()), end(begin) {}
  Axes shape() const {
    Axes lengths;
    for (std::size_t axis = 0; axis < begin.size(); ++axis) {
      lengths.push_back(end[axis] - begin[axis]);
    }
    return lengths;
  }
};

/// Of the elements of the whole, in C order, those in the box.
template <class Values>
Values within(const Values& whole, const Axes& shape, const Box& box) {
  Values part;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    auto rest = static_cast<std::int64_t>(i);
    bool inside = true;
    for (int axis = shape.size() - 1; axis >= 0; --axis) {
      const std::int64_t place = rest % shape[axis];
      rest /= shape[axis];
      const auto own = static_cast<std::size_t>(axis);
      inside = inside && place >= box.begin[own] && place < box.end[own];
    }
    if (inside) part.push_back(whole[i]);
  }
  return part;
}

/// A case, cut along the axis of its rows, and along the first one of its columns.
class Cut {
 public:
  Cut(Case& of, std::size_t parts, Random& random) : of_(of), view_(of.tensor.view()) {
    const Axes& shape = view_.shape();
    if (layout_matters(of.spec, shape, of.layout)) order_ = of.layout;
    matrix_ = MatrixShape::of(shape, order_);
    // Blocks are cut from the matrix of the layout, also where its order does not matter.
    pattern_ = Pattern::of(of.spec, MatrixShape::of(shape, of.layout));
    const auto axis = [&](int i) { return order_.size() > 0 ? static_cast<int>(order_[i]) : i; };
    const int columns = shape.size() > 1 ? axis(1) : 0;
    behind_ = shape.size() > 1 && shape[columns] > 0 ? matrix_.columns / shape[columns] : 1;
    row_axis_ = shape.size() > 1 ? axis(0) : -1;
    column_axis_ = columns;
    std::size_t down = 1, across = 1;
    if (row_axis_ >= 0 && random.one_in(2)) {
      down = parts;
    } else if (row_axis_ >= 0 && random.one_in(2)) {
      down = static_cast<std::size_t>(random.between(1, static_cast<std::int64_t>(parts)));
      across = parts / down;
    } else {
      across = parts;
    }
    // Rows may be cut within blocks, where these are pruned as a whole.
    const bool cuts_blocks = (order_.size() == 0 || keeps_order(shape, order_)) && row_axis_ == 0 &&
                             pattern_.zeros == pattern_.size();
    const std::int64_t row_step = cuts_blocks && random.one_in(2) ? 1 : pattern_.height;
    const auto rows = borders(row_axis_ < 0 ? 1 : shape[row_axis_], row_step, down, random);
    if (row_step == 1) cuts_ = rows;
    std::int64_t step = 1;  // of the other axis, so that no block is cut
    while (step * behind_ % pattern_.width != 0) ++step;
    const auto cuts = borders(shape.size() == 0 ? 1 : shape[column_axis_], step, across, random);
    for (std::size_t part = 0; part < parts; ++part) {
      Box box(shape);  // which has nothing
      const std::size_t r = part / across, c = part % across;
      if (r < down && shape.size() > 0) {
        std::fill(box.begin.begin(), box.begin.end(), 0);
        if (row_axis_ >= 0) {
          box.begin[static_cast<std::size_t>(row_axis_)] = rows[r];
          box.end[static_cast<std::size_t>(row_axis_)] = rows[r + 1];
        }
        box.begin[static_cast<std::size_t>(column_axis_)] = cuts[c];
        box.end[static_cast<std::size_t>(column_axis_)] = cuts[c + 1];
      }
      boxes_.push_back(box);
    }
  }

  struct Part {
    ShardJob job;
    Bytes mask, expected, kept;
  };
  /// One of the parts, which must stay where it is.
  void fill(Part& part, std::size_t i, bool counts) const {
    const Box& box = boxes_[i];
    auto* data = static_cast<std::byte*>(view_.data());
    const Axes lengths = box.shape();
    for (int axis = 0; axis < lengths.size(); ++axis) {
      data += box.begin[static_cast<std::size_t>(axis)] * view_.strides()[axis];
    }
    const ArrayView local(data, view_.dtype(), lengths, view_.strides(), true);
    const Axes& shape = view_.shape();
    part.expected = within(of_.expected, shape, box);
    part.mask =
        of_.past.mask.empty() ? Bytes(part.expected.size(), 1) : within(of_.past.mask, shape, box);
    if (!of_.past.stays_zero.empty()) {
      part.kept = packed_bits(within(of_.past.stays_zero, shape, box));
    }
    BlockSpec spec = of_.spec;
    spec.block_height = pattern_.height;
    spec.block_width = pattern_.width;
    spec.zeros_per_block = pattern_.zeros;
    part.job.mask = {local,   spec,   part.mask.data(),
                     nullptr, order_, part.kept.empty() ? nullptr : part.kept.data()};
    const auto begin = [&](int axis) { return box.begin[static_cast<std::size_t>(axis)]; };
    part.job.shard = {matrix_.rows, matrix_.columns, row_axis_ < 0 ? 0 : begin(row_axis_),
                      begin(column_axis_) * behind_, counts};
    part.job.cuts = cuts_;
  }

 private:
  /// Where `parts` parts of an axis end: at multiples of `step`, or with the axis.
  static std::vector<std::int64_t> borders(std::int64_t n, std::int64_t step, std::size_t parts,
                                           Random& random) {
    std::vector<std::int64_t> all{0, n};
    while (all.size() < parts + 1) all.push_back(random.between(0, n / step) * step);
    std::sort(all.begin(), all.end());
    return all;
  }

  Case& of_;
  ArrayView view_;
  Axes order_;
  MatrixShape matrix_{};
  Pattern pattern_{};
  std::int64_t behind_ = 1;
  int row_axis_ = 0, column_axis_ = 0;
  std::vector<std::int64_t> cuts_;
  std::vector<Box> boxes_;
};

/// How many low bits of all keys of these are 0.
int key_step_of(Case& one) {
  const auto size = one.spec.block_height * one.spec.block_width;
  if (size != 1 || one.spec.norm == Norm::L2) return 0;
  return one.tensor.dtype() == DType::bfloat16 ? 16 : one.tensor.dtype() == DType::float16 ? 13 : 0;
}

ShardSearch search_of(std::vector<Case>& some, const std::vector<std::size_t>& groups,
                      PoolPlan plan) {
  ShardSearch search;
  search.groups = groups;
  search.plan = std::move(plan);
  bool any_wide = false, any_narrow = false, any_norm = false;
  int step = 16;
  for (const std::size_t i : groups) {
    (some[i].tensor.dtype() == DType::float64 ? any_wide : any_narrow) = true;
    any_norm = any_norm || some[i].spec.normalize;
    search.has_sign = search.has_sign || some[i].spec.norm == Norm::none;
    step = std::min(step, key_step_of(some[i]));
  }
  search.is_wide = any_wide || any_norm;
  if (!search.is_wide) search.key_step = step;
  return search;
}

/// A pool, or each by itself.
std::vector<ShardSearch> searches_of(std::vector<Case>& some) {
  std::vector<ShardSearch> searches;
  if (!some.front().spec.pool.empty()) {
    std::vector<PoolGroup> groups;
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < some.size(); ++i) {
      groups.push_back(
          {&some[i].spec, viewed_shape(some[i].tensor.view().shape(), some[i].layout)});
      all.push_back(i);
    }
    searches.push_back(search_of(some, all, PoolPlan::of("all", groups)));
    return searches;
  }
  for (std::size_t i = 0; i < some.size(); ++i) {
    const MatrixShape matrix = MatrixShape::of(some[i].tensor.view().shape(), some[i].layout);
    const std::int64_t blocks = Pattern::of(some[i].spec, matrix).blocks_of(matrix);
    PoolPlan plan;
    plan.members.push_back({blocks, 1, 0, blocks});
    plan.budget = PrunedShare::of(some[i].spec).pruned_of(blocks);
    searches.push_back(search_of(some, {i}, plan));
  }
  return searches;
}

void expect_right_in_parts(std::vector<Case>& some, Random& random) {
  const auto ranks = static_cast<std::size_t>(random.one_in(20)  ? random.between(10, 64)
                                              : random.one_in(3) ? random.between(1, 2)
                                                                 : random.between(1, 9));
  const bool has_copies = random.one_in(4);
  const auto searches = searches_of(some);
  // Parts stay where they are: jobs have the addresses of their masks.
  std::vector<std::vector<Cut::Part>> parts(ranks * (has_copies ? 2 : 1));
  for (auto& of_rank : parts) of_rank.resize(some.size());
  for (std::size_t i = 0; i < some.size(); ++i) {
    const Cut cut(some[i], ranks, random);
    for (std::size_t r = 0; r < parts.size(); ++r) cut.fill(parts[r][i], r % ranks, r < ranks);
  }
  std::vector<std::unique_ptr<ShardParts>> all;
  for (auto& of_rank : parts) {
    std::vector<ShardJob> jobs;
    for (auto& part : of_rank) jobs.push_back(part.job);
    all.push_back(std::make_unique<ShardParts>(jobs, searches));
  }
  const auto summed = [&](const auto& ask) {
    std::vector<std::int64_t> sum;
    for (auto& one : all) {
      const std::vector<std::int64_t> own = ask(*one);
      sum.resize(own.size());
      for (std::size_t i = 0; i < own.size(); ++i) sum[i] += own[i];
    }
    return sum;
  };
  const auto prelude = [](ShardParts& one) { return one.prelude(); };
  for (auto sum = summed(prelude); !sum.empty(); sum = summed(prelude)) {
    for (auto& one : all) one->begin(sum);
  }
  ShardSelection selection =
      all.front()->selection(random.one_in(2) ? 8192 : random.between(2, 200));
  while (!selection.done()) {
    selection.tell(summed([&](ShardParts& one) { return one.count(selection); }));
  }
  for (auto& one : all) one->find(selection);
  for (auto& one : all) one->write();
  for (std::size_t r = 0; r < parts.size(); ++r) {
    for (std::size_t i = 0; i < some.size(); ++i) {
      ASSERT_EQ(difference(parts[r][i].mask, parts[r][i].expected), "")
          << "rank " << r << " of " << ranks << ", group " << i << ": "
          << describe(some[i].tensor.view(), some[i].spec) << ", from row "
          << parts[r][i].job.shard.row << " and column " << parts[r][i].job.shard.column << ", "
          << to_string(parts[r][i].job.mask.data.shape()) << ", cut at "
          << testing::PrintToString(parts[r][i].job.cuts);
    }
  }
}

TEST(ShardPartsStress, PoolsInPartsAreThoseOfOneMachine) {
  const int count = limits_are_small ? cases(60, 5000) : cases(6, 200);
  Random random(701);
  int done = 0;
  while (done < count) {
    auto some = random_pool(random, limits_are_small ? 16 * in_memory_max : 200000);
    const Threads scope(static_cast<int>(random.between(1, 3)));
    if (!expect_pool(some)) continue;
    try {
      expect_right_in_parts(some, random);
    } catch (const std::exception& error) {
      FAIL() << "pool " << done << ": " << error.what() << described(some);
    }
    if (HasFatalFailure()) FAIL() << "pool " << done << ":" << described(some);
    ++done;
  }
}

TEST(ShardPartsStress, TensorsByThemselvesInParts) {
  const int count = limits_are_small ? cases(60, 5000) : cases(6, 200);
  Random random(702);
  for (int done = 0; done < count; ++done) {
    std::vector<Case> some;
    const auto groups = random.between(1, 12);
    for (std::int64_t i = 0; i < groups; ++i) {
      some.push_back(random_case(random, limits_are_small ? 4 * in_memory_max : 100000));
    }
    const Threads scope(static_cast<int>(random.between(1, 3)));
    try {
      expect_right_in_parts(some, random);
    } catch (const std::exception& error) {
      FAIL() << "pool " << done << ": " << error.what() << described(some);
    }
    if (HasFatalFailure()) FAIL() << "case " << done << ":" << described(some);
  }
}

/// Where a pool gives blocks back, one of its members may have to give none: what was counted of
/// its blocks that could have come back says nothing then.
TEST(ShardParts, CountsAreForgottenWithTheirOrder) {
  constexpr std::int64_t few = 16, many = 64;
  Tensor low(DType::float64, Axes{few}), high(DType::float64, Axes{many});
  Bytes low_mask(few, 1), high_mask(many, 1);
  for (std::int64_t i = 0; i < few; ++i) {
    low.set_bits(i, bits_of(DType::float64, i < 8 ? 0 : 1));
    low_mask[static_cast<std::size_t>(i)] = i < 8 ? 0 : 1;
  }
  for (std::int64_t i = 0; i < many; ++i) {
    high.set_bits(i, bits_of(DType::float64, 1 + 0.01 * static_cast<double>(i)));
    high_mask[static_cast<std::size_t>(i)] = i < 60 ? 0 : 1;
  }
  BlockSpec rule = spec(0.5, 1, 1, {}, Norm::L1);
  rule.monotone = rule.normalize = true;
  rule.pool = "all";
  const std::vector<PoolGroup> groups{{&rule, Axes{few}}, {&rule, Axes{many}}};
  ShardSearch search;
  search.groups = {0, 1};
  search.plan = PoolPlan::of("all", groups);
  search.is_wide = true;
  ShardParts parts({{{low.view(), rule, low_mask.data()}, {1, few}},
                    {{high.view(), rule, high_mask.data()}, {1, many}}},
                   {search});
  for (auto sums = parts.prelude(); !sums.empty(); sums = parts.prelude()) parts.begin(sums);
  ShardSelection selection = parts.selection();
  while (!selection.done()) selection.tell(parts.count(selection));
  parts.find(selection);
  EXPECT_EQ(parts.pruned(0), 8);
  EXPECT_EQ(parts.pruned(1), 32);
}

/// What was counted before the data of one part could not be loaded is not counted again.
TEST(ShardParts, CountAnewWhereALoadHasFailed) {
  constexpr std::int64_t n = 64;
  Tensor first(DType::float32, Axes{n}), second(DType::float32, Axes{n});
  for (std::int64_t i = 0; i < n; ++i) {
    first.set_bits(i, bits_of(DType::float32, static_cast<double>(1 + i)));
    second.set_bits(i, bits_of(DType::float32, static_cast<double>(n - i)));
  }
  const auto source = std::make_shared<CountingSource>(second.view());
  const BlockSpec rule = spec(0.5, 1, 1, {}, Norm::L1);
  const std::vector<ShardJob> jobs{
      {{first.view(), rule, nullptr}, {1, n}, {}, std::make_shared<CountingSource>(first.view())},
      {{second.view(), rule, nullptr}, {1, n}, {}, source}};
  ShardSearch search;
  search.groups = {0, 1};
  search.plan.members = {{n, 1, 0, n}, {n, 1, 0, n}};
  search.plan.budget = n;
  ShardParts parts(jobs, {search}), untouched(jobs, {search});
  ASSERT_TRUE(parts.prelude().empty());
  ShardSelection selection = parts.selection();
  source->fails = true;
  EXPECT_THROW(parts.count(selection), std::runtime_error);
  source->fails = false;
  const auto numbers = parts.count(selection);
  EXPECT_EQ(numbers, untouched.count(selection));
  selection.tell(numbers);
  while (!selection.done()) selection.tell(parts.count(selection));
  parts.find(selection);
  EXPECT_EQ(parts.pruned(0), n / 2);
  EXPECT_EQ(parts.pruned(1), n / 2);
}

TEST(ShardParts, GroupsWithoutAJobAreRefused) {
  Tensor tensor(DType::float32, Axes{8});
  Bytes mask(8, 1);
  const ShardJob job{{tensor.view(), spec(0.5, 1, 1, {}, Norm::L1), mask.data()}, {1, 8}};
  ShardSearch search;
  search.groups = {1};
  search.plan.members = {{8, 1, 0, 8}};
  search.plan.budget = 4;
  EXPECT_THROW(ShardParts({job}, {search}), ValueError);
  const ShardSelection selection({search});
  EXPECT_THROW(ShardParts({job}, {}).count(selection), ValueError);
}

TEST(ShardParts, SumsOfAnotherNumberAreRefused) {
  Tensor tensor(DType::float32, Axes{6, 8});
  Bytes mask(48, 1);
  BlockSpec rule = spec(0.5, 4, 4, {}, Norm::L1);
  rule.monotone = true;
  ShardSearch search;
  search.groups = {0};
  search.plan.members = {{6, 1, 0, 6}};
  search.plan.budget = 3;
  ShardParts parts({{{tensor.view(), rule, mask.data()}, {12, 8, 6, 0}, {6}}}, {search});
  EXPECT_THROW(parts.begin({1}), ValueError) << "none were asked for";
  for (auto sums = parts.prelude(); !sums.empty(); sums = parts.prelude()) {
    EXPECT_THROW(parts.begin({}), ValueError);
    auto more = sums;
    more.push_back(0);
    EXPECT_THROW(parts.begin(more), ValueError);
    parts.begin(sums);
    EXPECT_THROW(parts.begin(sums), ValueError) << "they are told already";
  }
}

TEST(ShardParts, APartThatCutsABlockIsRefused) {
  Tensor tensor(DType::float32, Axes{6, 8});
  Bytes mask(48, 1);
  ShardJob job{{tensor.view(), spec(0.5, 4, 4, {}, Norm::L1), mask.data()}, {12, 8, 6, 0}};
  const auto message = message_of<ValueError>([&] { ShardParts({job}, {}); });
  EXPECT_NE(message.find("must not cut blocks of (4, 4), got rows 6 to 12"), std::string::npos)
      << message;
}

TEST(ShardParts, APartOutsideOfItsTensorIsRefused) {
  Tensor tensor(DType::float32, Axes{6, 8});
  Bytes mask(48, 1);
  ShardJob job{{tensor.view(), spec(0.5, 1, 1, {}, Norm::L1), mask.data()}, {8, 8, 4, 0}};
  EXPECT_THROW(ShardParts({job}, {}), ValueError);
}

}  // namespace
}  // namespace datasparse
