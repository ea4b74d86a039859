// Masks of whatever libFuzzer makes up, by every table of kernels, against a slow reference. The
// engine is built with small limits, so that a few hundred blocks take every way that gigabytes
// take.

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <vector>

#include "base/layout.hpp"
#include "datasparse/error.hpp"
#include "kernels/kernels.hpp"
#include "reference.hpp"
#include "select/cut_hint.hpp"
#include "select/mask_engine.hpp"

namespace {

using namespace datasparse;

/// Elements from a few bit patterns, so that many are equal, in memory with gaps and of any order.
struct Data {
  explicit Data(FuzzedDataProvider& input) {
    const DType dtype = static_cast<DType>(input.ConsumeIntegralInRange(0, 3));
    const auto size = static_cast<std::int64_t>(item_size(dtype));
    const std::int64_t rows = input.ConsumeIntegralInRange<std::int64_t>(0, 40);
    const std::int64_t columns = input.ConsumeIntegralInRange<std::int64_t>(0, 60);
    const std::int64_t gap = input.ConsumeIntegralInRange<std::int64_t>(1, 2) * size;
    const bool transposed = input.ConsumeBool();
    const std::size_t origin = input.ConsumeIntegralInRange<std::size_t>(0, 7);
    const std::vector<std::uint8_t> patterns =
        input.ConsumeBytes<std::uint8_t>(input.ConsumeIntegralInRange<std::size_t>(8, 256));

    memory.resize(origin + static_cast<std::size_t>(rows * columns * gap) + 8);
    std::uint64_t state = patterns.size();
    for (std::size_t i = 0; i + 8 <= memory.size() && patterns.size() >= 8; i += 8) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      const std::size_t from = (state >> 33) % (patterns.size() - 7);
      std::copy_n(patterns.data() + from, 8, memory.data() + i);
    }
    const Axes strides = transposed ? Axes{gap, rows * gap} : Axes{columns * gap, gap};
    view = ArrayView(memory.data() + origin, dtype, {rows, columns}, strides, true);
  }

  std::vector<std::uint8_t> memory;
  ArrayView view;
};

BlockSpec spec_of(FuzzedDataProvider& input) {
  BlockSpec spec;
  const auto length = [&] {
    const auto drawn = input.ConsumeIntegralInRange<std::int64_t>(0, 12);
    return drawn == 0 ? -1 : drawn;
  };
  spec.sparsity_level = input.ConsumeIntegralInRange(0, 100) / 100.0;
  spec.block_height = length();
  spec.block_width = length();
  spec.norm = input.PickValueInArray({Norm::L1, Norm::L2, Norm::none});
  if (input.ConsumeBool()) {
    spec.zeros_per_block = input.ConsumeIntegralInRange<std::int64_t>(0, 12);
  }
  if (input.ConsumeBool()) spec.min_kept = input.ConsumeIntegralInRange<std::int64_t>(0, 40);
  spec.monotone = input.ConsumeBool();
  spec.min_level = input.ConsumeIntegralInRange(0, 4) / 8.0;
  spec.max_level = input.ConsumeIntegralInRange(8, 16) / 16.0;
  return spec;
}

/// One mask to be made, and what is right.
struct Group {
  explicit Group(FuzzedDataProvider& input)
      : spec(spec_of(input)), layout(input.ConsumeBool() ? Axes{1, 0} : Axes{}) {
    const auto zeros_before = input.ConsumeIntegralInRange<std::uint64_t>(1, 20);
    const auto zeros_kept = input.ConsumeIntegralInRange<std::uint64_t>(0, 5);
    data.emplace(input);
    std::uint64_t state = 1;
    const auto one_in = [&state](std::uint64_t n) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      return (state >> 33) % n == 0;
    };
    kept.resize(static_cast<std::size_t>(data->view.size() + 7) / 8);
    for (std::size_t i = 0; i < static_cast<std::size_t>(data->view.size()); ++i) {
      past.mask.push_back(one_in(zeros_before) ? 0 : 1);
      past.stays_zero.push_back(zeros_kept > 0 && one_in(zeros_kept));
      if (past.stays_zero.back()) kept[i / 8] |= static_cast<std::uint8_t>(1 << (i % 8));
    }
    if (zeros_kept == 0) kept.clear();
  }

  reference::Rules rules() const {
    return {spec.sparsity_level,
            spec.block_height,
            spec.block_width,
            spec.zeros_per_block,
            static_cast<reference::Norm>(spec.norm),
            spec.min_kept,
            spec.monotone};
  }
  reference::PoolGroup in_pool() const {
    reference::PoolGroup group{
        {}, spec.sparsity_level, 0, spec.min_level, spec.max_level, spec.min_kept, spec.normalize};
    reference::mask(data->view, rules(), layout, past, &group.blocks);
    const auto [rows, columns] = reference::matrix_of(viewed_shape(data->view.shape(), layout));
    const auto size = std::min(spec.block_height, rows) * std::min(spec.block_width, columns);
    group.zeros = std::min(spec.zeros_per_block.value_or(size), size);
    return group;
  }
  MaskJob job() {
    mask = past.mask;
    return {data->view, spec, mask.data(), &hint, layout, kept.empty() ? nullptr : kept.data()};
  }

  BlockSpec spec;
  Axes layout;
  std::optional<Data> data;
  reference::Past past;
  std::vector<std::uint8_t> kept, mask, expected;
  CutHint hint;
};

/// Fills in what is right; false where the bounds of a pool leave no room.
bool expect(std::vector<Group>& groups, bool pooled) {
  std::optional<std::vector<std::int64_t>> pruned;
  if (pooled) {
    std::vector<reference::PoolGroup> pool;
    for (const auto& group : groups) pool.push_back(group.in_pool());
    pruned = reference::walk(pool);
    if (!pruned) return false;
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    auto rules = groups[i].rules();
    if (pooled) rules.pruned = (*pruned)[i];
    groups[i].expected =
        reference::mask(groups[i].data->view, rules, groups[i].layout, groups[i].past);
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider input(bytes, size);
  const int steps = input.ConsumeIntegralInRange(1, 3);
  const bool pooled = input.ConsumeBool();
  const bool normalized = input.ConsumeBool();
  std::vector<Group> groups;
  for (int left = input.ConsumeIntegralInRange(1, 4); left > 0; --left) {
    Group& group = groups.emplace_back(input);
    if (pooled) group.spec.pool = "all";
    group.spec.normalize = normalized;
    if (!pooled) group.spec.max_level = 1;
    try {
      group.spec = group.spec.resolved(viewed_shape(group.data->view.shape(), group.layout));
    } catch (const ValueError&) {
      return 0;  // more zeros than a block has elements
    }
  }
  const bool is_possible = expect(groups, pooled);
  for (const Kernels* table : available_kernels()) {
    for (auto& group : groups) group.hint = {};
    for (int step = 0; step < steps; ++step) {  // the later ones start from the hint
      std::vector<MaskJob> jobs;
      for (auto& group : groups) jobs.push_back(group.job());
      try {
        compute_masks(jobs, *table);
      } catch (const ValueError&) {
        if (!is_possible) break;
        throw;
      }
      for (const auto& group : groups) {
        if (is_possible && group.mask == group.expected) continue;
        std::cerr << table->name << " makes another mask in step " << step << '\n';
        std::abort();
      }
    }
  }
  return 0;
}
