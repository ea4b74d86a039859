#include "mask_engine.hpp"

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
    for (int round = 0; round < 3; ++round) {
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

}  // namespace
}  // namespace datasparse
