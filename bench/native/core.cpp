// What is measured from C++, where no Python is in the way: many small groups, and counting. Built
// against the core by build.py.

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "datasparse/datasparse.hpp"

namespace {

std::string name_of_group(std::int64_t group) { return "group" + std::to_string(group); }

}  // namespace

/// A sparsifier of `groups` rows of `elements` float32 each. It lives as long as the process.
extern "C" datasparse::DataNormSparsifier* bench_groups(float* data, std::int64_t groups,
                                                        std::int64_t elements, double level,
                                                        std::int64_t height, std::int64_t width) {
  datasparse::BlockSpec spec;
  spec.sparsity_level = level;
  spec.block_height = height;
  spec.block_width = width;
  auto sparsifier = std::make_unique<datasparse::DataNormSparsifier>(spec);
  for (std::int64_t group = 0; group < groups; ++group) {
    sparsifier->add_data(name_of_group(group),
                         datasparse::ArrayView(data + group * elements, {1, elements}));
  }
  return sparsifier.release();
}

extern "C" void bench_set_level(datasparse::DataNormSparsifier* sparsifier, double level) {
  datasparse::ParamMap values;
  for (const auto& name : sparsifier->names()) values.set(name, level);
  datasparse::GroupParams(*sparsifier).set("sparsity_level", values);
}

extern "C" void bench_step(datasparse::DataNormSparsifier* sparsifier) { sparsifier->step(); }

/// Copies all masks, one after another.
extern "C" void bench_masks(const datasparse::DataNormSparsifier* sparsifier,
                            std::uint8_t* target) {
  for (const auto& name : sparsifier->names()) {
    const datasparse::Mask mask = sparsifier->get_mask(name);
    std::memcpy(target, mask.data(), static_cast<std::size_t>(mask.size()));
    target += mask.size();
  }
}

extern "C" void bench_set_threads(int threads) { datasparse::set_num_threads(threads); }

extern "C" std::int64_t bench_count_zeros(const std::uint8_t* mask, std::int64_t n, int repeats) {
  std::int64_t zeros = 0;
  for (int i = 0; i < repeats; ++i) zeros = datasparse::count_zeros(mask, n);
  return zeros;
}
