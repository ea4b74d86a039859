// The same training step by the C++ classes and by the C functions: what the latter cost. Built
// against the core by build.py.

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "datasparse/datasparse.h"
#include "datasparse/datasparse.hpp"

namespace {

using namespace datasparse;

/// The level of all groups, a little lower in every second step.
double factor(std::int64_t epoch) { return epoch % 2 == 0 ? 1.0 : 0.98; }

/// A mask of the trainer's own: every second element.
void keep_half(std::uint8_t* mask, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) mask[i] = static_cast<std::uint8_t>(i % 2);
}

// --- by the classes -----------------------------------------------------------------------------

class Levels : public BaseDataScheduler {
 public:
  explicit Levels(std::shared_ptr<BaseDataSparsifier> sparsifier)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level") {}

  ParamMap get_schedule_param() override {
    ParamMap levels;
    for (const auto& [name, level] : base_param()) {
      levels.set(name, level.as_number(name) * factor(last_epoch()));
    }
    return levels;
  }
};

class Own : public DataNormSparsifier {
 public:
  using DataNormSparsifier::DataNormSparsifier;

  void update_mask(const std::string& name, const ArrayView&, const ParamMap&) override {
    const Mask mask = get_mask(name);
    keep_half(mask.data(), mask.size());
  }
};

struct Classes {
  std::shared_ptr<BaseDataSparsifier> sparsifier;
  std::shared_ptr<BaseDataScheduler> scheduler;
};

// --- by the functions ---------------------------------------------------------------------------

struct Functions {
  datasparse_sparsifier* sparsifier = nullptr;
  datasparse_scheduler* scheduler = nullptr;
};

void check(datasparse_status status) {
  if (status != DATASPARSE_OK) std::abort();
}

datasparse_status levels(void*, std::int64_t epoch, const datasparse_params* base,
                         const datasparse_params*, datasparse_params* values) {
  std::size_t size = 0;
  check(datasparse_params_size(base, &size));
  for (std::size_t i = 0; i < size; ++i) {
    const char* name = nullptr;
    double level = 0;
    check(datasparse_params_key(base, i, &name));
    check(datasparse_params_get_float(base, name, &level));
    check(datasparse_params_set_float(values, name, level * factor(epoch)));
  }
  return DATASPARSE_OK;
}

datasparse_status own(void*, const datasparse_sparsifier*, const char*,
                      const datasparse_array* data, const datasparse_params*, std::uint8_t* mask) {
  keep_half(mask, data->shape[0]);
  return DATASPARSE_OK;
}

}  // namespace

/// `groups` rows of `elements` float32; with `overridden`, masks of the trainer's own.
extern "C" Classes* bench_classes(float* data, std::int64_t groups, std::int64_t elements,
                                  bool overridden) {
  const BlockSpec spec{0.5, 1, 1, std::nullopt, Norm::L1};
  std::shared_ptr<BaseDataSparsifier> sparsifier;
  if (overridden) {
    sparsifier = std::make_shared<Own>(spec);
  } else {
    sparsifier = std::make_shared<DataNormSparsifier>(spec);
  }
  for (std::int64_t i = 0; i < groups; ++i) {
    sparsifier->add_data("group" + std::to_string(i), ArrayView(data + i * elements, {elements}));
  }
  return new Classes{sparsifier, make_scheduler<Levels>(sparsifier)};
}

extern "C" void bench_classes_step(Classes* training) {
  training->sparsifier->step();
  training->sparsifier->apply_mask();
  training->scheduler->step();
}

extern "C" std::int64_t bench_classes_zeros(const Classes* training) {
  std::int64_t zeros = 0;
  for (const auto& name : training->sparsifier->names()) {
    zeros += training->sparsifier->get_mask(name).zeros();
  }
  return zeros;
}

extern "C" Functions* bench_functions(float* data, std::int64_t groups, std::int64_t elements,
                                      bool overridden) {
  auto* const training = new Functions();
  const datasparse_block_spec spec = datasparse_block_spec_of(0.5, 1, 1);
  datasparse_sparsifier_overrides updating = {DATASPARSE_ABI_VERSION, {}, own, nullptr};
  check(datasparse_data_norm_sparsifier_create(&spec, nullptr, overridden ? &updating : nullptr,
                                               &training->sparsifier));
  for (std::int64_t i = 0; i < groups; ++i) {
    const datasparse_array row =
        datasparse_array_of(DATASPARSE_FLOAT32, data + i * elements, 1, &elements);
    const std::string name = "group" + std::to_string(i);
    check(datasparse_sparsifier_add_data(training->sparsifier, name.c_str(), &row, nullptr));
  }
  const datasparse_scheduler_overrides scheduling = {DATASPARSE_ABI_VERSION, {}, levels};
  check(datasparse_scheduler_create(training->sparsifier, "sparsity_level", &scheduling, -1,
                                    &training->scheduler));
  return training;
}

extern "C" void bench_functions_step(Functions* training) {
  check(datasparse_sparsifier_step(training->sparsifier));
  check(datasparse_sparsifier_apply_mask(training->sparsifier));
  check(datasparse_scheduler_step(training->scheduler));
}

extern "C" std::int64_t bench_functions_zeros(const Functions* training) {
  datasparse_report* report = nullptr;
  std::size_t size = 0;
  std::int64_t zeros = 0;
  check(datasparse_sparsifier_report(training->sparsifier, &report));
  check(datasparse_report_size(report, &size));
  for (std::size_t i = 0; i < size; ++i) {
    datasparse_group group = {};
    group.version = DATASPARSE_ABI_VERSION;
    check(datasparse_report_at(report, i, &group));
    zeros += group.zeros;
  }
  datasparse_report_release(report);
  return zeros;
}
