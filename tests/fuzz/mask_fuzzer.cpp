// Masks of whatever libFuzzer makes up, by every table of kernels, against a slow reference. The
// engine is built with small limits, so that a few hundred blocks take every way that gigabytes
// take.

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
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
  return spec;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider input(bytes, size);
  BlockSpec spec = spec_of(input);
  const int steps = input.ConsumeIntegralInRange(1, 3);
  const Axes layout = input.ConsumeBool() ? Axes{1, 0} : Axes{};
  const std::uint64_t zeros_before = input.ConsumeIntegralInRange(1, 20);
  const std::uint64_t zeros_kept = input.ConsumeIntegralInRange(0, 5);
  Data data(input);
  try {
    spec = spec.resolved(viewed_shape(data.view.shape(), layout));
  } catch (const ValueError&) {
    return 0;  // more zeros than a block has elements
  }
  const reference::Rules rules{spec.sparsity_level,
                               spec.block_height,
                               spec.block_width,
                               spec.zeros_per_block,
                               static_cast<reference::Norm>(spec.norm),
                               spec.min_kept,
                               spec.monotone};
  reference::Past past;
  std::uint64_t state = 1;
  const auto one_in = [&state](std::uint64_t n) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (state >> 33) % n == 0;
  };
  std::vector<std::uint8_t> kept(static_cast<std::size_t>(data.view.size() + 7) / 8);
  for (std::size_t i = 0; i < static_cast<std::size_t>(data.view.size()); ++i) {
    past.mask.push_back(one_in(zeros_before) ? 0 : 1);
    past.stays_zero.push_back(zeros_kept > 0 && one_in(zeros_kept));
    if (past.stays_zero.back()) kept[i / 8] |= static_cast<std::uint8_t>(1 << (i % 8));
  }
  const auto expected = reference::mask(data.view, rules, layout, past);
  for (const Kernels* table : available_kernels()) {
    CutHint hint;
    for (int step = 0; step < steps; ++step) {  // the later ones start from the hint
      std::vector<std::uint8_t> mask = past.mask;
      compute_masks(
          {{data.view, spec, mask.data(), &hint, layout, zeros_kept > 0 ? kept.data() : nullptr}},
          *table);
      if (mask == expected) continue;
      std::cerr << table->name << " makes another mask in step " << step << '\n';
      std::abort();
    }
  }
  return 0;
}
