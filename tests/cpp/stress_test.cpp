// The mask engine against a stable sort, on what is hard on it: few distinct values, clusters, ties
// at both ends of the bracket, brackets that miss, candidates without end. Built twice: with the
// engine's own limits, and with small ones (small_limits.hpp), where a few hundred blocks go every
// way. With DATASPARSE_FULL set it runs long.

#include <algorithm>
#include <iostream>
#include <limits>
#include <thread>

#include "stress.hpp"
#include "tiles/grid.hpp"

namespace datasparse {
namespace {

TEST(Stress, RandomCasesAgreeWithAStableSort) {
  const int count = limits_are_small ? cases(6000, 250000) : cases(200, 10000);
  Random random(limits_are_small ? 500 : 501);
  int done = 0;
  while (done < count) {
    std::vector<Case> some;
    const std::int64_t jobs = random.one_in(10) ? random.between(2, 12) : 1;
    for (std::int64_t i = 0; i < jobs; ++i) {
      some.push_back(random_case(random, limits_are_small ? 16 * in_memory_max : 400000));
    }
    expect_right(some, static_cast<int>(random.between(1, 4)), *random.pick(all_tables()));
    if (HasFatalFailure()) {
      FAIL() << "after " << done << " cases";
    }
    done += static_cast<int>(jobs);
  }
  RecordProperty("cases", done);
  std::cout << done << " random cases" << std::endl;
}

TEST(Stress, HintsRightAndWrongChangeNoMask) {
  const int count = limits_are_small ? cases(500, 30000) : cases(100, 1500);
  Random random(505);
  int hinted = 0;
  for (int done = 0; done < count; ++done) {
    std::vector<Case> some;
    some.push_back(random_case(random, limits_are_small ? 16 * in_memory_max : 400000));
    Case& one = some.front();
    CutHint hint;
    one.hint = &hint;
    for (int step = 0; step < 4; ++step) {
      if (hint.blocks > 0) {
        ++hinted;
        if (random.one_in(2)) mislead(hint, random);
      }
      if (step > 0 && random.one_in(2)) {  // the level moves on
        const double by = (random.unit() - 0.5) / (random.one_in(2) ? 10 : 100);
        one.spec.sparsity_level = std::clamp(one.spec.sparsity_level + by, 0., 1.);
        if (one.spec.monotone) one.past.mask = one.expected;
        one.expect();
      }
      expect_right(some, static_cast<int>(random.between(1, 4)), *random.pick(all_tables()));
      if (HasFatalFailure()) FAIL() << "step " << step << " of case " << done;
    }
  }
  EXPECT_GT(hinted, 0);
  std::cout << count << " cases, " << hinted << " steps with a hint" << std::endl;
}

#if defined(DATASPARSE_LIMITS)  // with larger ones, hardly any data would reach the border
// A matrix needs the less room for candidates the fewer blocks it has, whatever its sample's size
// is rounded to. In a thread of its own, whose scratch memory fits these jobs and no more.
TEST(Stress, TheLargestMatrixHasRoomForTheOthersCandidates) {
  Random random(502);
  for (int round = 0; round < 600 / (1 + slowdown); ++round) {
    std::vector<Case> some;
    for (const std::int64_t n : {1185, 1186}) {  // samples of 96 and of 112 blocks
      Case one{Tensor(DType::float32, {n}), spec(0.3 + 0.4 * random.unit(), 1, 1), 0, {}, {}};
      const double spread = random.unit() * 0.1;  // lines alike make the bracket wide
      std::vector<double> lines;
      for (std::int64_t i = 0; i < n; i += 16) lines.push_back(random.unit());
      for (std::int64_t i = 0; i < n; ++i) {
        const double x = lines[static_cast<std::size_t>(i / 16)] + spread * random.unit();
        one.tensor.set_bits(i, bits_of(DType::float32, x));
      }
      one.expected = reference::mask(one.tensor.view(), rules_of(one.spec));
      some.push_back(std::move(one));
    }
    std::thread([&] { expect_right(some, 1, scalar_kernels()); }).join();
  }
}
#endif

// What is packed of a block at the edge may be more than of a whole one: its rows are shorter, so
// that tiles hold them better.
TEST(Stress, LargeBlocksAtTheEdgeHaveRoomToBePacked) {
  Random random(503);
  const std::int64_t wanted = tile_elements / Grid::stacked_max;
  const std::int64_t width = wanted * 3 / 4;
  const Axes shape{70, width + wanted / 4};
  const auto item = static_cast<std::int64_t>(item_size(DType::float32));
  for (const std::int64_t zeros : {std::int64_t{1}, 30 * width}) {
    Case one{Tensor(DType::float32, shape, {2 * item * shape[1], 2 * item}),
             spec(1, 66, width, zeros),
             0,
             {},
             {}};
    fill(one.tensor, Values::numbers, random);
    one.expected = reference::mask(one.tensor.view(), rules_of(one.spec));
    std::vector<Case> some;
    some.push_back(std::move(one));
    std::thread([&] { expect_right(some, 1, scalar_kernels()); }).join();
  }
}

/// Inputs that are hard on a selection, by name.
const std::vector<const char*> named_inputs{
    "constant",  "two-valued",   "256 values", "sorted",  "reversed", "90% zeros", "one outlier",
    "Zipf rows", "Zipf columns", "denormals",  "all NaN", "half NaN", "strided",   "transposed"};

Tensor named_input(const std::string& name, DType dtype, std::int64_t rows, std::int64_t columns,
                   Random& random) {
  const auto item = static_cast<std::int64_t>(item_size(dtype));
  Tensor tensor = name == "strided"
                      ? Tensor(dtype, {rows, columns}, {3 * item * columns, 3 * item}, 1)
                  : name == "transposed" ? Tensor(dtype, {rows, columns}, {item, item * rows})
                                         : Tensor(dtype, {rows, columns});
  const std::int64_t n = tensor.size();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (std::int64_t i = 0; i < n; ++i) {
    double x = random.unit() - 0.5;
    if (name == "constant") x = 0.25;
    if (name == "two-valued") x = random.one_in(2) ? 1 : -2;
    if (name == "256 values") x = static_cast<double>(random.between(-128, 127));
    if (name == "sorted") x = static_cast<double>(i) / 2;
    if (name == "reversed") x = static_cast<double>(n - i) / 2;
    if (name == "90% zeros" && !random.one_in(10)) x = random.one_in(2) ? 0. : -0.;
    if (name == "one outlier" && i == n / 3) x = 6e4;
    if (name == "Zipf rows") x /= static_cast<double>(1 + i / columns);
    if (name == "Zipf columns") x /= static_cast<double>(1 + i % columns);
    if (name == "all NaN") x = nan;
    if (name == "half NaN" && random.one_in(2)) x = nan;
    const bool denormal = name == "denormals";
    tensor.set_bits(i, denormal ? compose(dtype, false, 0, random.bits()) : bits_of(dtype, x));
  }
  return tensor;
}

/// The same mask by every table on 1 to 4 threads, and the right one.
void expect_right_everywhere(Case one) {
  one.expected = reference::mask(one.tensor.view(), rules_of(one.spec));
  std::vector<Case> some;
  some.push_back(std::move(one));
  for (const Kernels* table : all_tables()) {
    for (int threads = 1; threads <= 4; ++threads) {
      if (threads > 1 && some[0].tensor.size() < parallel_from) continue;  // runs on one
      expect_right(some, threads, *table);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Stress, EveryTableAndNumberOfThreadsGivesTheSameMaskOfHardInputs) {
  Random random(504);
  std::vector<std::int64_t> sizes{0,  1,  7,  8,  9,  15,   16,   17,   31,
                                  32, 33, 63, 64, 65, 1023, 4095, 4096, 4097};
  for (const std::int64_t edge : {tile_blocks_max, in_memory_max, parallel_from}) {
    for (std::int64_t d = -1; d <= 1; ++d) sizes.push_back(edge + d);
  }
  const std::vector<BlockSpec> specs{spec(0.5, 1, 1),
                                     spec(0.9, 1, 4),
                                     spec(1, 1, 4, 2),
                                     spec(0.3, 4, 4),
                                     spec(0.7, 3, 5, 4, Norm::L2),
                                     spec(0.1, 1, 1, std::nullopt, Norm::L2),
                                     spec(0.5, 1, 1, std::nullopt, Norm::none),
                                     spec(0.3, 1, 4, 3, Norm::none)};
  std::size_t turn = 0;
  for (const char* name : named_inputs) {
    for (const std::int64_t size : sizes) {
      for (const DType dtype : all_dtypes) {
        // Large ones one type at a time, in turn; under sanitizers a third of them.
        if (size > 4000 && !(is_full() && size < 40000) &&
            (dtype != all_dtypes[turn % all_dtypes.size()] || (slowdown > 1 && turn % 3 != 0)))
          continue;
        const std::int64_t rows = random.one_in(2) ? 1 : random.between(1, 9);
        const std::int64_t columns = (size + rows - 1) / rows;
        const BlockSpec& chosen = turn % 2 == 0 ? specs[0] : random.pick(specs);
        Case one{named_input(name, dtype, rows, columns, random),
                 chosen,
                 static_cast<std::size_t>(random.below(65)),
                 {},
                 {}};
        expect_right_everywhere(std::move(one));
        if (HasFatalFailure()) FAIL() << name;
      }
      ++turn;
    }
    // Enough blocks for the sample and for several threads, the blocks' own threshold included.
    for (const BlockSpec& chosen : specs) {
      if (!limits_are_small && !is_full() && &chosen != &specs[turn % specs.size()]) continue;
      const std::int64_t block = chosen.block_height * chosen.block_width;
      const std::int64_t elements = std::max(parallel_from + 100, (in_memory_max + 100) * block);
      Case one{named_input(name, random.pick(all_dtypes), 16, elements / 16 + random.between(0, 9),
                           random),
               chosen,
               static_cast<std::size_t>(random.below(65)),
               {},
               {}};
      expect_right_everywhere(std::move(one));
      if (HasFatalFailure()) FAIL() << name;
    }
    ++turn;
  }
}

}  // namespace
}  // namespace datasparse
