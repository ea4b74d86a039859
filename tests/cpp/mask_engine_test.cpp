#include "select/mask_engine.hpp"

#include <algorithm>
#include <limits>

#include "select/sampling.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

struct Job {
  Tensor tensor;
  BlockSpec spec;
  Bytes mask;
};

/// Computes all masks at once, and expects of each what the reference says.
void expect_reference(std::vector<Job>& jobs) {
  std::vector<MaskJob> batch;
  for (auto& job : jobs) {
    job.mask.assign(static_cast<std::size_t>(job.tensor.size()), 7);
    const ArrayView view = job.tensor.view();
    batch.push_back({view, job.spec.resolved(view.shape()), job.mask.data()});
  }
  compute_masks(batch);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const ArrayView view = jobs[i].tensor.view();
    ASSERT_EQ(difference(jobs[i].mask, reference::mask(view, rules_of(jobs[i].spec))), "")
        << "job " << i << ": " << describe(view, jobs[i].spec);
  }
}

TEST(ComputeMasks, OfNothingDoesNothing) {
  compute_masks({});
  compute_masks({{ArrayView(), BlockSpec().resolved({0}), nullptr}});
}

TEST(ComputeMasks, MixesTypesSizesAndSpecs) {
  Random random(400);
  for (const int threads : {1, 2, 4}) {
    const Threads scope(threads);
    std::vector<Job> jobs;
    for (int i = 0; i < 400; ++i) {
      const Axes shape{random.between(0, 80), random.between(0, 80)};
      Tensor tensor(random.pick(all_dtypes), shape);
      fill(tensor, random_kind(random), random);
      jobs.push_back(
          {std::move(tensor), spec(random.unit(), random.between(1, 5), random.between(1, 5)), {}});
    }
    for (const Axes& shape : {Axes{parallel_from}, parallel_matrix(300), Axes{70, 70}}) {
      Tensor tensor(random.pick(all_dtypes), shape);
      fill(tensor, Values::few, random);
      jobs.push_back({std::move(tensor), spec(0.4, -1, 100, 99), {}});
    }
    expect_reference(jobs);
  }
}

// Groups of several tiles each, too small to be split among the threads: they run side by side, and
// each counts its ties tile by tile.
TEST(ComputeMasks, GroupsOfSeveralTilesWithTiesDoNotDisturbEachOther) {
  Random random(401);
  for (const int threads : {2, 4}) {
    const Threads scope(threads);
    for (int round = 0; round < std::max(3 / slowdown, 1); ++round) {
      std::vector<Job> jobs;
      for (int i = 0; i < 40; ++i) {
        Tensor tensor(i % 4 == 0 ? DType::float64 : DType::float16, {random.between(4097, 60000)});
        fill(tensor, i % 2 == 0 ? Values::few : Values::equal, random);
        jobs.push_back({std::move(tensor), spec(random.unit(), 1, 1), {}});
      }
      expect_reference(jobs);
    }
  }
}

TEST(ComputeMasks, ManySmallGroupsAgree) {
  Random random(402);
  const Threads scope(4);
  std::vector<Job> jobs;
  for (int i = 0; i < 20000; ++i) {
    Tensor tensor(DType::float32, {random.between(1, 8), random.between(1, 8)});
    fill(tensor, random_kind(random), random);
    jobs.push_back({std::move(tensor), spec(random.unit(), 1, 2, random.between(0, 2)), {}});
  }
  expect_reference(jobs);
}

/// Values that are hard on a selection by sampling.
void fill_hard(Tensor& tensor, int kind, Random& random) {
  const std::int64_t n = tensor.size();
  const auto quiet_nan = std::numeric_limits<float>::quiet_NaN();
  for (std::int64_t i = 0; i < n; ++i) {
    float x = 0;
    switch (kind) {
      case 0: x = static_cast<float>(random.unit() - 0.5); break;
      case 1: x = static_cast<float>(i); break;                // sorted
      case 2: x = static_cast<float>(n - i); break;            // reversed
      case 3: x = static_cast<float>(random.below(3)); break;  // ties at both ends
      case 4: x = static_cast<float>(random.below(256)); break;
      case 5: x = random.below(10) < 9 ? 0.F : 1.F + static_cast<float>(random.unit()); break;
      case 6: x = i == n / 3 ? 1e30F : static_cast<float>(random.unit()); break;
      case 7: x = random.one_in(2) ? quiet_nan : static_cast<float>(random.unit()); break;
      case 8: x = 1.F / static_cast<float>(1 + i % 512); break;             // Zipf by column
      case 9: x = 1.F / static_cast<float>(1 + i / 512); break;             // Zipf by row
      case 10: x = static_cast<float>(random.below(1000)) * 1e-42F; break;  // denormals
      case 11:  // clusters: most of the bracket in one narrow spot
        x = random.below(100) < 60 ? 1.F + static_cast<float>(random.below(64)) * 0x1p-23F
                                   : static_cast<float>(random.unit() * 2);
        break;
      case 12: x = quiet_nan; break;
      default: x = i % 16 == 0 ? 1.F : static_cast<float>(random.unit()); break;
    }
    std::uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof(bits));
    tensor.set_bits(i, bits);
  }
}
constexpr int hard_kinds = 14;

TEST(ComputeMasks, OfManyTilesWithHardValuesAgreeWithAStableSort) {
  Random random(403);
  constexpr int most_threads = 4;
  for (int round = 0; round < hard_kinds * most_threads * (slowdown > 1 ? 1 : 3); ++round) {
    const Threads scope(static_cast<int>(1 + round / hard_kinds % most_threads));
    const std::int64_t n =
        round % 20 == 0 ? parallel_from + random.below(5000) : random.between(32769, 60000);
    std::vector<Job> jobs;
    Tensor tensor(DType::float32, {n});
    fill_hard(tensor, round % hard_kinds, random);
    const double level =
        random.one_in(4) ? static_cast<double>(random.between(1, 9)) / 10 : random.unit();
    jobs.push_back({std::move(tensor), spec(level, 1, 1), {}});
    expect_reference(jobs);
  }
}

// One value where the sample looks, and others elsewhere: the bracket misses, and counting must
// take over.
TEST(ComputeMasks, SurviveABracketThatMisses) {
  Random random(404);
  constexpr std::int64_t n = 40000;
  const std::int64_t runs = std::min(runs_of_sample(n), n / 2 / run_length);
  std::vector<bool> is_sampled(n);
  for (std::int64_t run = 0; run < runs; ++run) {
    const std::int64_t begin = place_of_run(run, n / runs) / run_length * run_length;
    for (std::int64_t i = begin; i < begin + run_length; ++i) {
      is_sampled[static_cast<std::size_t>(i)] = true;
    }
  }
  for (const double level : {0.1, 0.5, 0.9}) {
    for (const float spike : {0.F, 2.F}) {
      Tensor tensor(DType::float32, {n});
      for (std::int64_t i = 0; i < n; ++i) {
        const auto part = static_cast<float>(random.unit());
        const float x = is_sampled[static_cast<std::size_t>(i)] ? spike : part;
        std::uint32_t bits = 0;
        std::memcpy(&bits, &x, sizeof(bits));
        tensor.set_bits(i, bits);
      }
      std::vector<Job> jobs;
      jobs.push_back({std::move(tensor), spec(level, 1, 1), {}});
      expect_reference(jobs);
    }
  }
}

// Too large a tile to be packed, and more columns than a chunk has blocks: the keys of a block's
// elements come by way of as many sums.
TEST(ComputeMasks, OfWideBlocksInTransposedMemory) {
  Random random(405);
  for (const DType dtype : {DType::float16, DType::float32, DType::float64}) {
    for (const std::int64_t columns : {513, 2048, 4057, 4096}) {
      const auto item = static_cast<std::int64_t>(item_size(dtype));
      constexpr std::int64_t rows = 18;
      Tensor tensor(dtype, Axes{rows, columns}, Axes{item, item * rows});
      fill(tensor, Values::numbers, random);
      std::vector<Job> jobs;
      jobs.push_back({std::move(tensor), spec(0.7, 1, -1, random.between(1, columns - 1)), {}});
      expect_reference(jobs);
    }
  }
}

}  // namespace
}  // namespace datasparse
