// Any sequence of calls of the C functions, with arguments good and bad: each gives a status and,
// where that is an error, a message; callbacks fail and throw now and then.

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "datasparse/datasparse.h"
#include "require.hpp"

namespace {

/// The arguments, and the objects that the calls work on. Handles may be NULL.
class Session {
 public:
  explicit Session(FuzzedDataProvider& input) : input_(input), data_(64) {
    for (std::size_t i = 0; i < data_.size(); ++i) data_[i] = static_cast<float>(i % 7) - 3;
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    datasparse_scheduler_release(scheduler_);
    datasparse_schedule_release(schedule_);
    datasparse_mask_release(mask_);
    datasparse_params_release(params_);
    datasparse_sparsifier_release(sparsifier_);
  }

  void call();

 private:
  static constexpr int calls = 26;

  const char* name() { return input_.PickValueInArray<const char*>({"a", "b", "", "c", nullptr}); }
  const char* key() {
    return input_.PickValueInArray<const char*>({"sparsity_level", "sparse_block_shape",
                                                 "zeros_per_block", "norm", "own", "a", "b", "",
                                                 nullptr});
  }
  double number() {
    return input_.PickValueInArray<double>({0.0, 0.5, 1.0, -0.25, 2.0, 1e300, -INFINITY,
                                            std::numeric_limits<double>::quiet_NaN(),
                                            DATASPARSE_BASE_VALUE});
  }
  int64_t integer() {
    return input_.PickValueInArray<int64_t>({0, 1, 2, 3, 8, -1, -2, 1000, INT64_MIN, INT64_MAX});
  }
  datasparse_array array() {
    shape_[0] = input_.ConsumeIntegralInRange<int64_t>(-1, 8);
    shape_[1] = input_.ConsumeIntegralInRange<int64_t>(0, 8);
    datasparse_array result =
        datasparse_array_of(input_.ConsumeIntegralInRange(-1, 4), data_.data(),
                            input_.ConsumeIntegralInRange(-1, 2), shape_);
    // float64 takes twice the room.
    if (result.dtype == DATASPARSE_FLOAT64) shape_[0] = std::min<int64_t>(shape_[0], 4);
    if (input_.ConsumeBool()) result.version = input_.ConsumeIntegralInRange<uint32_t>(0, 2);
    result.read_only = input_.ConsumeBool() ? 1 : 0;
    return result;
  }

  /// Lets a callback do something of what callbacks do.
  datasparse_status callback(datasparse_params* values) {
    switch (input_.ConsumeIntegralInRange(0, 5)) {
      case 0: return 123;
      case 1: throw std::runtime_error("thrown");
      case 2: datasparse_set_error_message("refused"); return DATASPARSE_CALLBACK_ERROR;
      case 3: return datasparse_sparsifier_step(sparsifier_);
      default: break;
    }
    if (values == nullptr) return DATASPARSE_OK;
    return datasparse_params_set_float(values, name(), number());
  }
  datasparse_own_state own_state() { return {this, nullptr, nullptr, nullptr, nullptr}; }

  datasparse_status make_sparsifier();
  datasparse_status make_scheduler();
  datasparse_status make_schedule();

  FuzzedDataProvider& input_;
  std::vector<float> data_;
  int64_t shape_[2] = {};
  datasparse_sparsifier* sparsifier_ = nullptr;
  datasparse_scheduler* scheduler_ = nullptr;
  datasparse_schedule* schedule_ = nullptr;
  datasparse_params* params_ = nullptr;
  datasparse_mask* mask_ = nullptr;
};

Session& session(void* user_data) { return *static_cast<Session*>(user_data); }

datasparse_status Session::make_sparsifier() {
  datasparse_sparsifier* made = nullptr;
  datasparse_block_spec spec =
      datasparse_block_spec_of(number(), input_.ConsumeIntegralInRange<int64_t>(-2, 4),
                               input_.ConsumeIntegralInRange<int64_t>(-2, 4));
  const datasparse_sparsifier_overrides overrides = {
      input_.ConsumeIntegralInRange<uint32_t>(0, 2),
      own_state(),
      [](void* user_data, const datasparse_sparsifier* self, const char* name,
         const datasparse_array* data, const datasparse_params* config, uint8_t*) {
        if (session(user_data).input_.ConsumeBool()) {
          datasparse_data_norm_update_mask(self, name, data, config);
        }
        return session(user_data).callback(nullptr);
      },
      nullptr,
      nullptr,
      nullptr};
  const auto* given = input_.ConsumeBool() ? &overrides : nullptr;
  const datasparse_status status =
      input_.ConsumeBool() ? datasparse_data_norm_sparsifier_create(&spec, params_, given, &made)
                           : datasparse_sparsifier_create(params_, given, &made);
  if (status == DATASPARSE_OK) datasparse_sparsifier_release(std::exchange(sparsifier_, made));
  return status;
}

datasparse_status Session::make_schedule() {
  datasparse_schedule* made = nullptr;
  datasparse_status status = DATASPARSE_OK;
  switch (input_.ConsumeIntegralInRange(0, 4)) {
    case 0: status = datasparse_schedule_constant(number(), &made); break;
    case 1:
      status = datasparse_schedule_polynomial(number(), number(), integer(), integer(), integer(),
                                              number(), &made);
      break;
    case 2: status = datasparse_schedule_cyclic(number(), number(), integer(), &made); break;
    case 3: status = datasparse_schedule_clamp(schedule_, number(), number(), &made); break;
    default: {
      const datasparse_schedule* const both[] = {schedule_, schedule_};
      const int64_t milestone = integer();
      status = datasparse_schedule_sequential(both, 2, &milestone, &made);
    }
  }
  if (status == DATASPARSE_OK) datasparse_schedule_release(std::exchange(schedule_, made));
  return status;
}

datasparse_status Session::make_scheduler() {
  datasparse_scheduler* made = nullptr;
  datasparse_status status = DATASPARSE_OK;
  const datasparse_adaptive_rule rule = {
      1, input_.ConsumeIntegralInRange(-1, 2), number(), integer(), integer(), integer()};
  const char* const pattern = name();
  switch (input_.ConsumeIntegralInRange(0, 2)) {
    case 0: {
      const datasparse_scheduler_overrides overrides = {
          1, own_state(),
          [](void* user_data, int64_t, const datasparse_params*, const datasparse_params*,
             datasparse_params* values) { return session(user_data).callback(values); }};
      status = datasparse_scheduler_create(sparsifier_, key(), &overrides, integer(), &made);
      break;
    }
    case 1:
      status = datasparse_data_scheduler_create(sparsifier_, key(), schedule_, integer(), &made);
      break;
    default:
      status = datasparse_adaptive_data_scheduler_create(sparsifier_, key(), &pattern, &schedule_,
                                                         1, 0, &rule, integer(), &made);
  }
  if (status == DATASPARSE_OK) datasparse_scheduler_release(std::exchange(scheduler_, made));
  return status;
}

void Session::call() {
  datasparse_status status = DATASPARSE_OK;
  datasparse_params* params = nullptr;
  datasparse_mask* mask = nullptr;
  const datasparse_array data = array();
  double value = 0;
  int64_t count = 0;
  const std::vector<uint8_t> bytes(64, 1);
  const char* const names[] = {name(), name()};
  switch (input_.ConsumeIntegralInRange(0, calls)) {
    case 0: status = make_sparsifier(); break;
    case 1: status = make_schedule(); break;
    case 2: status = make_scheduler(); break;
    case 3: status = datasparse_sparsifier_add_data(sparsifier_, name(), &data, params_); break;
    case 4:
      status = datasparse_sparsifier_add_data_with_mask(
          sparsifier_, name(), &data, nullptr, bytes.data(),
          input_.ConsumeIntegralInRange<std::size_t>(0, 64));
      break;
    case 5: status = datasparse_sparsifier_remove_data(sparsifier_, name()); break;
    case 6: status = datasparse_sparsifier_step(sparsifier_); break;
    case 7: status = datasparse_sparsifier_apply_mask(sparsifier_); break;
    case 8: status = datasparse_sparsifier_apply_mask_of(sparsifier_, names, 2); break;
    case 9: status = datasparse_sparsifier_squash_mask_of(sparsifier_, names, 2); break;
    case 10: status = datasparse_scheduler_step(scheduler_); break;
    case 11: status = datasparse_scheduler_step_with_metric(scheduler_, number()); break;
    case 12: status = datasparse_params_create(&params); break;
    case 13: status = datasparse_params_set_float(params_, key(), number()); break;
    case 14: status = datasparse_params_set_int(params_, key(), integer()); break;
    case 15: status = datasparse_params_set_string(params_, key(), name()); break;
    case 16: status = datasparse_params_set_none(params_, key()); break;
    case 17: status = datasparse_params_erase(params_, key()); break;
    case 18: status = datasparse_params_get_float(params_, key(), &value); break;
    case 19: status = datasparse_sparsifier_config(sparsifier_, name(), &params); break;
    case 20: status = datasparse_sparsifier_update_config(sparsifier_, name(), params_); break;
    case 21: status = datasparse_sparsifier_get_param(sparsifier_, key(), &params); break;
    case 22: status = datasparse_sparsifier_set_param(sparsifier_, key(), params_); break;
    case 23: status = datasparse_sparsifier_mask(sparsifier_, name(), &mask); break;
    case 24: status = datasparse_mask_zeros(mask_, &count); break;
    case 25: status = datasparse_scheduler_last_param(scheduler_, &params); break;
    default: status = datasparse_schedule_value(schedule_, integer(), number(), &value);
  }
  require(status >= DATASPARSE_OK && status != DATASPARSE_INTERNAL_ERROR, "a known status");
  if (status != DATASPARSE_OK) {
    require(datasparse_error_message()[0] != '\0', "an error with a message");
    require(params == nullptr && mask == nullptr, "an error that writes nothing");
  }
  if (params != nullptr) {
    datasparse_params_release(params_);
    params_ = params;
  }
  if (mask != nullptr) {
    datasparse_mask_release(mask_);
    mask_ = mask;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider input(bytes, size);
  Session session(input);
  while (input.remaining_bytes() > 0) session.call();
  return 0;
}
