// The C functions from C++: the same masks as by the classes, and no exception that gets through.
// What every function does with NULL is in test_c_abi.py, which reads the header.

#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "datasparse/checkpoint.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/datasparse.h"
#include "support.hpp"

extern "C" int c_header_works(void);  // c_header_test.c

namespace datasparse {
namespace {

#define ASSERT_OK(call) ASSERT_EQ(call, DATASPARSE_OK) << datasparse_error_message()
#define EXPECT_OK(call) EXPECT_EQ(call, DATASPARSE_OK) << datasparse_error_message()

void expect_error(datasparse_status status, datasparse_status expected, const std::string& part) {
  EXPECT_EQ(status, expected) << datasparse_error_message();
  EXPECT_NE(std::string(datasparse_error_message()).find(part), std::string::npos)
      << datasparse_error_message();
}

/// A handle that is released at the end of the test.
template <class T, void (*release)(T*)>
class Handle {
 public:
  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { release(held_); }

  operator T*() const { return held_; }
  T** out() { return &held_; }
  void reset() {
    release(held_);
    held_ = nullptr;
  }

 private:
  T* held_ = nullptr;
};
using SparsifierHandle = Handle<datasparse_sparsifier, datasparse_sparsifier_release>;
using SchedulerHandle = Handle<datasparse_scheduler, datasparse_scheduler_release>;
using ScheduleHandle = Handle<datasparse_schedule, datasparse_schedule_release>;
using ParamsHandle = Handle<datasparse_params, datasparse_params_release>;
using MaskHandle = Handle<datasparse_mask, datasparse_mask_release>;
using NamesHandle = Handle<datasparse_names, datasparse_names_release>;
using ReportHandle = Handle<datasparse_report, datasparse_report_release>;

std::vector<float> random_data(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> data(count);
  for (float& x : data) x = static_cast<float>(random.unit() - 0.5);
  return data;
}

/// A sparsifier of one group "w" of 6 x 8, with blocks of one element.
class CAbi : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto spec = datasparse_block_spec_of(0.5, 1, 1);
    ASSERT_OK(datasparse_data_norm_sparsifier_create(&spec, nullptr, nullptr, sparsifier.out()));
    ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "w", &array, nullptr));
  }

  Bytes mask(const char* name = "w") {
    MaskHandle handle;
    uint8_t* bytes = nullptr;
    std::size_t size = 0;
    EXPECT_OK(datasparse_sparsifier_mask(sparsifier, name, handle.out()));
    EXPECT_OK(datasparse_mask_bytes(handle, &bytes, &size));
    return {bytes, bytes + size};
  }
  double level(const char* name = "w") {
    ParamsHandle config;
    double value = NAN;
    EXPECT_OK(datasparse_sparsifier_config(sparsifier, name, config.out()));
    EXPECT_OK(datasparse_params_get_float(config, "sparsity_level", &value));
    return value;
  }

  std::vector<float> data = random_data(48, 1);
  const int64_t shape[2] = {6, 8};
  const datasparse_array array = datasparse_array_of(DATASPARSE_FLOAT32, data.data(), 2, shape);
  SparsifierHandle sparsifier;
};

TEST_F(CAbi, MasksAreThoseOfTheClasses) {
  DataNormSparsifier twin(BlockSpec{0.5, 1, 1, std::nullopt, Norm::L1});
  twin.add_data("w", ArrayView(data.data(), {6, 8}));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  twin.step();
  const Mask expected = twin.get_mask("w");
  EXPECT_EQ(mask(), Bytes(expected.data(), expected.data() + 48));

  Bytes direct(48);
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  ASSERT_OK(datasparse_block_mask(&array, &spec, direct.data(), direct.size()));
  EXPECT_EQ(mask(), direct);

  auto of_values = spec;
  of_values.norm = DATASPARSE_NO_NORM;
  Bytes without(48);
  ASSERT_OK(datasparse_block_mask(&array, &of_values, without.data(), without.size()));
  const BlockSpec values{0.5, 1, 1, std::nullopt, Norm::none};
  EXPECT_EQ(without, mask_of(ArrayView(data.data(), {6, 8}), values));
  EXPECT_NE(without, direct);

  ASSERT_OK(datasparse_sparsifier_apply_mask(sparsifier));
  for (std::size_t i = 0; i < data.size(); ++i) EXPECT_EQ(data[i] != 0, direct[i] != 0);
}

TEST_F(CAbi, EveryFieldOfAnArrayCounts) {
  const int64_t strides[2] = {4, 24};  // the transpose of 8 x 6
  datasparse_array transposed = array;
  transposed.strides = strides;
  std::vector<float> copy(48);
  for (std::size_t i = 0; i < 48; ++i) copy[i] = data[i / 8 + i % 8 * 6];
  const auto contiguous = datasparse_array_of(DATASPARSE_FLOAT32, copy.data(), 2, shape);
  const auto spec = datasparse_block_spec_of(0.5, 1, 4);
  Bytes a(48), b(48);
  ASSERT_OK(datasparse_block_mask(&transposed, &spec, a.data(), 48));
  ASSERT_OK(datasparse_block_mask(&contiguous, &spec, b.data(), 48));
  EXPECT_EQ(a, b);

  datasparse_array read_only = array;
  read_only.read_only = 1;
  expect_error(datasparse_apply_mask(&read_only, a.data(), 48), DATASPARSE_VALUE_ERROR,
               "read-only");
  std::vector<double> doubles(data.begin(), data.end());
  const auto wide = datasparse_array_of(DATASPARSE_FLOAT64, doubles.data(), 2, shape);
  ASSERT_OK(datasparse_block_mask(&wide, &spec, b.data(), 48));
  std::vector<uint16_t> halves(48, 0x3c00);
  for (const int32_t dtype : {DATASPARSE_FLOAT16, DATASPARSE_BFLOAT16}) {
    const auto half = datasparse_array_of(dtype, halves.data(), 2, shape);
    ASSERT_OK(datasparse_block_mask(&half, &spec, b.data(), 48));
    EXPECT_EQ(std::count(b.begin(), b.end(), 0), 24);
  }
}

TEST_F(CAbi, AStructOfAnotherVersionOrKindIsRefused) {
  datasparse_array wrong = array;
  wrong.version = 3;
  expect_error(datasparse_sparsifier_add_data(sparsifier, "x", &wrong, nullptr),
               DATASPARSE_VALUE_ERROR,
               "data->version must be at least 1 and at most 2, that of this library, got 3");
  wrong = array;
  wrong.dtype = 4;
  expect_error(datasparse_sparsifier_add_data(sparsifier, "x", &wrong, nullptr),
               DATASPARSE_VALUE_ERROR, "data->dtype must be");
  for (const int32_t ndim : {-1, 33}) {
    wrong = array;
    wrong.ndim = ndim;
    expect_error(datasparse_sparsifier_add_data(sparsifier, "x", &wrong, nullptr),
                 DATASPARSE_VALUE_ERROR, "data->ndim must be 0 to 32");
  }
  wrong = array;
  wrong.data = nullptr;
  expect_error(datasparse_sparsifier_add_data(sparsifier, "x", &wrong, nullptr),
               DATASPARSE_VALUE_ERROR, "null");
  wrong = array;
  wrong.shape = nullptr;
  expect_error(datasparse_sparsifier_add_data(sparsifier, "x", &wrong, nullptr),
               DATASPARSE_VALUE_ERROR, "data->shape must not be NULL");

  auto spec = datasparse_block_spec_of(0.5, 1, 1);
  spec.norm = 3;
  Bytes bytes(48);
  expect_error(datasparse_block_mask(&array, &spec, bytes.data(), 48), DATASPARSE_VALUE_ERROR,
               "spec->norm must be");
  spec = datasparse_block_spec_of(1.5, 1, 1);
  expect_error(datasparse_block_mask(&array, &spec, bytes.data(), 48), DATASPARSE_VALUE_ERROR,
               "sparsity_level must be in [0, 1], got 1.5");
  spec.version = 0;
  expect_error(datasparse_block_mask(&array, &spec, bytes.data(), 48), DATASPARSE_VALUE_ERROR,
               "spec->version must be at least 1");
}

TEST_F(CAbi, AMaskOfAnotherSizeIsRefused) {
  Bytes bytes(48, 7);
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  for (const std::size_t size : {std::size_t{0}, std::size_t{47}, std::size_t{49}}) {
    const std::string rule = "mask_size must be 48";
    expect_error(datasparse_block_mask(&array, &spec, bytes.data(), size), DATASPARSE_VALUE_ERROR,
                 rule);
    expect_error(datasparse_apply_mask(&array, bytes.data(), size), DATASPARSE_VALUE_ERROR, rule);
    expect_error(datasparse_sparsifier_add_data_with_mask(sparsifier, "x", &array, nullptr,
                                                          bytes.data(), size),
                 DATASPARSE_VALUE_ERROR, rule);
  }
  EXPECT_EQ(bytes, Bytes(48, 7));
  int32_t contains = 1;
  ASSERT_OK(datasparse_sparsifier_contains(sparsifier, "x", &contains));
  EXPECT_EQ(contains, 0);
}

TEST_F(CAbi, ARemovedNameIsUnknownToEveryFunction) {
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "gone", &array, nullptr));
  ASSERT_OK(datasparse_sparsifier_remove_data(sparsifier, "gone"));
  ParamsHandle params;
  ASSERT_OK(datasparse_params_create(params.out()));
  const char* const names[] = {"w", "gone"};
  datasparse_mask* no_mask = nullptr;
  datasparse_params* no_params = nullptr;
  for (const datasparse_status status :
       {datasparse_sparsifier_remove_data(sparsifier, "gone"),
        datasparse_sparsifier_mask(sparsifier, "gone", &no_mask),
        datasparse_sparsifier_config(sparsifier, "gone", &no_params),
        datasparse_sparsifier_update_config(sparsifier, "gone", params),
        datasparse_sparsifier_state(sparsifier, "gone", &no_params),
        datasparse_sparsifier_replace_state(sparsifier, "gone", params),
        datasparse_sparsifier_apply_mask_of(sparsifier, names, 2),
        datasparse_sparsifier_squash_mask_of(sparsifier, names, 2)}) {
    EXPECT_EQ(status, DATASPARSE_UNKNOWN_NAME);
  }
  ASSERT_OK(datasparse_params_set_float(params, "gone", 0.5));
  expect_error(datasparse_sparsifier_set_param(sparsifier, "sparsity_level", params),
               DATASPARSE_UNKNOWN_NAME, "gone");
  EXPECT_EQ(no_mask, nullptr);
  EXPECT_EQ(no_params, nullptr);
  expect_error(datasparse_sparsifier_get_param(sparsifier, "sparsity_level", nullptr),
               DATASPARSE_VALUE_ERROR, "values must not be NULL");
}

TEST_F(CAbi, ParamsHoldEveryKind) {
  ParamsHandle params;
  ASSERT_OK(datasparse_params_create(params.out()));
  const int64_t integers[] = {1, 4};
  const double floats[] = {0.5, 0.25, 2};
  ASSERT_OK(datasparse_params_set_none(params, "none"));
  ASSERT_OK(datasparse_params_set_bool(params, "bool", 2));
  ASSERT_OK(datasparse_params_set_int(params, "int", -3));
  ASSERT_OK(datasparse_params_set_float(params, "float", 0.75));
  ASSERT_OK(datasparse_params_set_string(params, "string", "L2"));
  ASSERT_OK(datasparse_params_set_ints(params, "ints", integers, 2));
  ASSERT_OK(datasparse_params_set_floats(params, "floats", floats, 3));
  ASSERT_OK(datasparse_params_set_ints(params, "no ints", nullptr, 0));

  std::size_t size = 0;
  ASSERT_OK(datasparse_params_size(params, &size));
  EXPECT_EQ(size, 8U);
  const char* key = nullptr;
  for (int32_t kind = 0; kind < 7; ++kind) {
    int32_t found = -1;
    ASSERT_OK(datasparse_params_key(params, static_cast<std::size_t>(kind), &key));
    ASSERT_OK(datasparse_params_kind(params, key, &found));
    EXPECT_EQ(found, kind) << key;
  }
  expect_error(datasparse_params_key(params, 8, &key), DATASPARSE_VALUE_ERROR,
               "index must be below 8, got 8");

  int32_t truth = 0;
  int64_t integer = 0;
  double number = 0;
  const char* string = nullptr;
  const int64_t* integer_list = nullptr;
  const double* float_list = nullptr;
  std::size_t count = 0;
  EXPECT_OK(datasparse_params_get_bool(params, "bool", &truth));
  EXPECT_OK(datasparse_params_get_int(params, "int", &integer));
  EXPECT_OK(datasparse_params_get_float(params, "float", &number));
  EXPECT_OK(datasparse_params_get_string(params, "string", &string));
  EXPECT_OK(datasparse_params_get_ints(params, "ints", &integer_list, &count));
  EXPECT_EQ(count, 2U);
  EXPECT_OK(datasparse_params_get_floats(params, "floats", &float_list, &count));
  EXPECT_EQ(count, 3U);
  EXPECT_EQ(truth, 1);
  EXPECT_EQ(integer, -3);
  EXPECT_EQ(number, 0.75);
  EXPECT_STREQ(string, "L2");
  EXPECT_EQ(integer_list[1], 4);
  EXPECT_EQ(float_list[2], 2.0);

  EXPECT_OK(datasparse_params_get_float(params, "int", &number));
  EXPECT_EQ(number, -3.0);
  expect_error(datasparse_params_get_int(params, "float", &integer), DATASPARSE_VALUE_ERROR,
               "0.75");
  expect_error(datasparse_params_get_bool(params, "int", &truth), DATASPARSE_TYPE_ERROR, "a bool");
  expect_error(datasparse_params_get_string(params, "ints", &string), DATASPARSE_TYPE_ERROR,
               "(1, 4)");
  expect_error(datasparse_params_get_int(params, "imt", &integer), DATASPARSE_UNKNOWN_NAME,
               "did you mean 'int'?");
}

TEST_F(CAbi, ParamsAreCopiedAndErased) {
  ParamsHandle params, copy;
  const int64_t* integers = nullptr;
  const double* floats = nullptr;
  std::size_t count = 7;
  ASSERT_OK(datasparse_params_create(params.out()));
  ASSERT_OK(datasparse_params_set_int(params, "a", 1));
  ASSERT_OK(datasparse_params_set_floats(params, "empty", nullptr, 0));
  ASSERT_OK(datasparse_params_copy(params, copy.out()));
  ASSERT_OK(datasparse_params_erase(params, "a"));
  expect_error(datasparse_params_erase(params, "a"), DATASPARSE_UNKNOWN_NAME, "'a'");
  ASSERT_OK(datasparse_params_size(copy, &count));
  EXPECT_EQ(count, 2U);
  ASSERT_OK(datasparse_params_get_ints(copy, "empty", &integers, &count));
  EXPECT_EQ(count, 0U);
  ASSERT_OK(datasparse_params_get_floats(copy, "empty", &floats, &count));
  EXPECT_EQ(count, 0U);
}

TEST_F(CAbi, ConfigIsReadAndWritten) {
  ParamsHandle changes, values;
  ASSERT_OK(datasparse_params_create(changes.out()));
  ASSERT_OK(datasparse_params_set_float(changes, "sparsity_level", 0.25));
  ASSERT_OK(datasparse_sparsifier_update_config(sparsifier, "w", changes));
  EXPECT_EQ(level(), 0.25);
  ASSERT_OK(datasparse_params_set_float(changes, "sparsity_level", 2));
  expect_error(datasparse_sparsifier_update_config(sparsifier, "w", changes),
               DATASPARSE_VALUE_ERROR, "sparsity_level of 'w' must be in [0, 1], got 2");
  EXPECT_EQ(level(), 0.25);
  ASSERT_OK(datasparse_params_set_float(changes, "sparsity_level", 0.5));
  ASSERT_OK(datasparse_params_set_none(changes, "sparsty_level"));
  expect_error(datasparse_sparsifier_update_config(sparsifier, "w", changes), DATASPARSE_TYPE_ERROR,
               "did you mean 'sparsity_level'?");

  ASSERT_OK(datasparse_sparsifier_get_param(sparsifier, "sparsity_level", values.out()));
  ASSERT_OK(datasparse_params_set_float(values, "w", 0.75));
  ASSERT_OK(datasparse_sparsifier_set_param(sparsifier, "sparsity_level", values));
  EXPECT_EQ(level(), 0.75);

  ParamsHandle state, read;
  ASSERT_OK(datasparse_params_create(state.out()));
  ASSERT_OK(datasparse_params_set_int(state, "seen", 3));
  ASSERT_OK(datasparse_sparsifier_replace_state(sparsifier, "w", state));
  ASSERT_OK(datasparse_sparsifier_state(sparsifier, "w", read.out()));
  int64_t seen = 0;
  ASSERT_OK(datasparse_params_get_int(read, "seen", &seen));
  EXPECT_EQ(seen, 3);
}

TEST_F(CAbi, GroupsComeAndGo) {
  std::vector<float> other = random_data(10, 2);
  const int64_t length = 10;
  const auto row = datasparse_array_of(DATASPARSE_FLOAT32, other.data(), 1, &length);
  Bytes given(10, 1);
  given[3] = 0;
  ASSERT_OK(
      datasparse_sparsifier_add_data_with_mask(sparsifier, "row", &row, nullptr, given.data(), 10));
  EXPECT_EQ(mask("row"), given);

  NamesHandle names;
  std::size_t size = 0;
  const char* name = nullptr;
  ASSERT_OK(datasparse_sparsifier_names(sparsifier, names.out()));
  ASSERT_OK(datasparse_names_size(names, &size));
  ASSERT_EQ(size, 2U);
  ASSERT_OK(datasparse_names_at(names, 1, &name));
  EXPECT_STREQ(name, "row");
  expect_error(datasparse_names_at(names, 2, &name), DATASPARSE_VALUE_ERROR, "index");

  const char* const squashed[] = {"row"};
  ASSERT_OK(datasparse_sparsifier_squash_mask_of(sparsifier, squashed, 1));
  EXPECT_EQ(other[3], 0.0F);
  ReportHandle report;
  ASSERT_OK(datasparse_sparsifier_report(sparsifier, report.out()));
  ASSERT_OK(datasparse_report_size(report, &size));
  ASSERT_EQ(size, 2U);
  datasparse_group group{};
  expect_error(datasparse_report_at(report, 0, &group), DATASPARSE_VALUE_ERROR, "group->version");
  group.version = DATASPARSE_ABI_VERSION;
  ASSERT_OK(datasparse_report_at(report, 0, &group));
  EXPECT_STREQ(group.name, "w");
  EXPECT_EQ(group.status, DATASPARSE_ACTIVE);
  EXPECT_EQ(group.dtype, DATASPARSE_FLOAT32);
  ASSERT_EQ(group.ndim, 2);
  EXPECT_EQ(group.shape[1], 8);
  EXPECT_EQ(group.elements, 48);
  EXPECT_EQ(group.zeros, 0);
  ASSERT_OK(datasparse_report_at(report, 1, &group));
  EXPECT_EQ(group.status, DATASPARSE_SQUASHED);
  EXPECT_EQ(group.dtype, -1);
  EXPECT_EQ(group.zeros, 1);

  // A mask outlives its group, and its sparsifier.
  MaskHandle kept;
  ASSERT_OK(datasparse_sparsifier_mask(sparsifier, "row", kept.out()));
  ASSERT_OK(datasparse_sparsifier_remove_data(sparsifier, "row"));
  sparsifier.reset();
  int64_t zeros = 0;
  const int64_t* axes = nullptr;
  int32_t ndim = 0;
  ASSERT_OK(datasparse_mask_zeros(kept, &zeros));
  EXPECT_EQ(zeros, 1);
  ASSERT_OK(datasparse_mask_shape(kept, &axes, &ndim));
  ASSERT_EQ(ndim, 1);
  EXPECT_EQ(axes[0], 10);
}

TEST_F(CAbi, AStepCanBeSwitchedOff) {
  int32_t enabled = 0;
  int64_t steps = -1;
  ASSERT_OK(datasparse_sparsifier_set_enable_mask_update(sparsifier, 0));
  ASSERT_OK(datasparse_sparsifier_enable_mask_update(sparsifier, &enabled));
  EXPECT_EQ(enabled, 0);
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  ASSERT_OK(datasparse_sparsifier_step_count(sparsifier, &steps));
  EXPECT_EQ(steps, 1);
  EXPECT_EQ(mask(), Bytes(48, 1));
}

// --- schedules and schedulers -------------------------------------------------------------------

TEST_F(CAbi, SchedulesAreThoseOfTheClasses) {
  using namespace schedules;
  const int64_t steps[] = {3, 7};
  const double values[] = {0.25, DATASPARSE_BASE_VALUE};
  ScheduleHandle linear, step;
  ASSERT_OK(datasparse_schedule_linear(0.0, DATASPARSE_BASE_VALUE, 2, 12, 2, linear.out()));
  ASSERT_OK(datasparse_schedule_step(4, 0.5, step.out()));
  const datasparse_schedule* const both[] = {linear, step};
  const Schedule as_linear = Linear{{0.0, std::nullopt, 2, 12, 2}}, as_step = Step{4, 0.5};

  using Make = std::function<datasparse_status(datasparse_schedule**)>;
  const std::vector<std::pair<Make, Schedule>> cases = {
      {[](auto** s) { return datasparse_schedule_constant(0.3, s); }, Constant{0.3}},
      {[](auto** s) { return datasparse_schedule_constant(DATASPARSE_BASE_VALUE, s); }, Constant{}},
      {[&](auto** s) { return datasparse_schedule_multi_step(steps, 2, 0.5, s); },
       MultiStep{{3, 7}, 0.5}},
      {[](auto** s) { return datasparse_schedule_exponential(0.9, 2, s); }, Exponential{0.9, 2}},
      {[](auto** s) { return datasparse_schedule_polynomial(0.1, 0.9, 0, 10, 1, 3, s); },
       Polynomial{{0.1, 0.9, 0, 10, 1}, 3}},
      {[](auto** s) { return datasparse_schedule_cosine(0.1, 0.9, 0, 10, 1, s); },
       Cosine{{0.1, 0.9, 0, 10, 1}}},
      {[](auto** s) { return datasparse_schedule_cyclic(0.1, 0.9, 6, s); }, Cyclic{0.1, 0.9, 6}},
      {[](auto** s) { return datasparse_schedule_one_shot(5, 0.1, 0.8, s); }, OneShot{5, 0.1, 0.8}},
      {[&](auto** s) { return datasparse_schedule_piecewise(steps, values, 2, s); },
       Piecewise{{{3, 0.25}, {7, std::nullopt}}}},
      {[&](auto** s) { return datasparse_schedule_sequential(both, 2, steps, s); },
       Sequential{{as_linear, as_step}, {3}}},
      {[&](auto** s) { return datasparse_schedule_product(both, 2, s); },
       Product{{as_linear, as_step}}},
      {[&](auto** s) { return datasparse_schedule_clamp(linear, 0.2, 0.4, s); },
       Clamp{as_linear, 0.2, 0.4}},
      {[&](auto** s) { return datasparse_schedule_round(linear, s); }, Round{as_linear}}};
  for (const auto& [make, expected] : cases) {
    ScheduleHandle schedule;
    ASSERT_OK(make(schedule.out()));
    for (int64_t i = 0; i < 15; ++i) {
      double value = NAN;
      ASSERT_OK(datasparse_schedule_value(schedule, i, 0.7, &value));
      EXPECT_EQ(value, expected(i, 0.7)) << to_string(expected) << " at " << i;
    }
  }
  ScheduleHandle jump;
  ASSERT_OK(datasparse_schedule_cosine(0.25, DATASPARSE_BASE_VALUE, 3, 3, 1, jump.out()));
  for (const auto& [at, expected] : {std::pair<int64_t, double>{2, 0.25}, {3, 0.5}, {4, 0.5}}) {
    double value = NAN;
    ASSERT_OK(datasparse_schedule_value(jump, at, 0.5, &value));
    EXPECT_EQ(value, expected) << at;
  }

  datasparse_schedule* none = nullptr;
  expect_error(datasparse_schedule_linear(0, 1, 3, 2, 1, &none), DATASPARSE_VALUE_ERROR,
               "end must be at least begin, 3, got 2");
  expect_error(datasparse_schedule_step(0, 0.5, &none), DATASPARSE_VALUE_ERROR,
               "step_size must be at least 1, got 0");
  expect_error(datasparse_schedule_linear(NAN, 1, 0, 1, 1, &none), DATASPARSE_VALUE_ERROR,
               "initial must be finite");
  EXPECT_EQ(none, nullptr);
}

TEST_F(CAbi, ASchedulerFollowsItsSchedule) {
  ScheduleHandle schedule;
  SchedulerHandle scheduler;
  ASSERT_OK(datasparse_schedule_linear(0.0, DATASPARSE_BASE_VALUE, 0, 4, 1, schedule.out()));
  ASSERT_OK(datasparse_data_scheduler_create(sparsifier, "sparsity_level", schedule, -1,
                                             scheduler.out()));
  schedule.reset();
  EXPECT_EQ(level(), 0.0);  // the initial step has been made
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  ASSERT_OK(datasparse_scheduler_step(scheduler));
  EXPECT_EQ(level(), 0.125);

  int64_t epoch = -1;
  double value = NAN;
  ParamsHandle last, base;
  ASSERT_OK(datasparse_scheduler_last_epoch(scheduler, &epoch));
  ASSERT_OK(datasparse_scheduler_last_param(scheduler, last.out()));
  ASSERT_OK(datasparse_scheduler_base_param(scheduler, base.out()));
  EXPECT_EQ(epoch, 1);
  ASSERT_OK(datasparse_params_get_float(last, "w", &value));
  EXPECT_EQ(value, 0.125);
  ASSERT_OK(datasparse_params_get_float(base, "w", &value));
  EXPECT_EQ(value, 0.5);
  expect_error(datasparse_scheduler_step_with_metric(scheduler, 1.0), DATASPARSE_TYPE_ERROR,
               "adaptive");
  datasparse_scheduler* none = nullptr;
  expect_error(datasparse_data_scheduler_create(sparsifier, "sparsty_level", schedule, -1, &none),
               DATASPARSE_VALUE_ERROR, "schedule must not be NULL");
  ASSERT_OK(datasparse_schedule_constant(0.5, schedule.out()));
  expect_error(datasparse_data_scheduler_create(sparsifier, "sparsty_level", schedule, -1, &none),
               DATASPARSE_VALUE_ERROR, "did you mean 'sparsity_level'?");
  EXPECT_EQ(none, nullptr);
}

TEST_F(CAbi, PatternsAndMetricsDriveSchedulers) {
  ScheduleHandle ramp, constant;
  ASSERT_OK(datasparse_schedule_linear(0.0, 0.8, 0, 4, 1, ramp.out()));
  ASSERT_OK(datasparse_schedule_constant(0.25, constant.out()));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "other", &array, nullptr));
  const char* const patterns[] = {"w", "*"};
  const datasparse_schedule* const schedules[] = {constant, ramp};
  {
    SchedulerHandle scheduler;
    ASSERT_OK(datasparse_data_scheduler_create_matching(sparsifier, "sparsity_level", patterns,
                                                        schedules, 2, 1, 1, scheduler.out()));
    EXPECT_EQ(level("w"), 0.25);
    EXPECT_EQ(level("other"), 0.4);  // last_epoch 1 has become 2
  }
  const char* const unneeded[] = {"*", "nothing"};
  datasparse_scheduler* none = nullptr;
  expect_error(datasparse_data_scheduler_create_matching(sparsifier, "sparsity_level", unneeded,
                                                         schedules, 2, 1, -1, &none),
               DATASPARSE_VALUE_ERROR, "nothing");

  datasparse_adaptive_rule rule = {DATASPARSE_ABI_VERSION, DATASPARSE_MIN, 0.0, 0, 1, -1};
  SchedulerHandle adaptive;
  ASSERT_OK(datasparse_adaptive_data_scheduler_create(
      sparsifier, "sparsity_level", patterns + 1, schedules + 1, 1, 1, &rule, -1, adaptive.out()));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  ASSERT_OK(datasparse_scheduler_step_with_metric(adaptive, 1.0));
  EXPECT_EQ(level("w"), 0.2);
  ASSERT_OK(datasparse_scheduler_step_with_metric(adaptive, 2.0));
  EXPECT_EQ(level("w"), 0.0);
  rule.mode = 2;
  expect_error(datasparse_adaptive_data_scheduler_create(sparsifier, "sparsity_level", patterns + 1,
                                                         schedules + 1, 1, 1, &rule, -1, &none),
               DATASPARSE_VALUE_ERROR, "rule->mode");
  rule.mode = DATASPARSE_MAX;
  rule.back_off = 0;
  expect_error(datasparse_adaptive_data_scheduler_create(sparsifier, "sparsity_level", patterns + 1,
                                                         schedules + 1, 1, 1, &rule, -1, &none),
               DATASPARSE_VALUE_ERROR, "back_off");
}

// --- callbacks ----------------------------------------------------------------------------------

/// What the callbacks below are given, and what they do.
struct Script {
  std::function<datasparse_status(int64_t, const datasparse_params*, const datasparse_params*,
                                  datasparse_params*)>
      schedule;
  std::function<datasparse_status(const datasparse_sparsifier*, const char*,
                                  const datasparse_array*, const datasparse_params*, uint8_t*)>
      update;
  std::function<datasparse_status(const char*, const datasparse_params*)> check;
  std::function<datasparse_status(const datasparse_sparsifier*, const char*,
                                  const datasparse_array*, const datasparse_params*,
                                  datasparse_array*)>
      scores;
  std::vector<void*> released_scores;
  std::function<datasparse_status(datasparse_array*)> pin;
  int pinned = 0, written = 0, released = 0;
  double own = 0, waiting = 0;
};

Script& script(void* user_data) { return *static_cast<Script*>(user_data); }

datasparse_own_state own_state(Script& target) {
  return {&target, [](void* user_data) { ++script(user_data).released; },
          [](void* user_data, datasparse_params* attributes) {
            return datasparse_params_set_float(attributes, "own", script(user_data).own);
          },
          [](void* user_data, const datasparse_params* attributes) {
            return datasparse_params_get_float(attributes, "own", &script(user_data).waiting);
          },
          [](void* user_data) { script(user_data).own = script(user_data).waiting; }};
}

datasparse_scheduler_overrides scheduling(Script& target) {
  return {DATASPARSE_ABI_VERSION, own_state(target),
          [](void* user_data, int64_t epoch, const datasparse_params* base,
             const datasparse_params* last, datasparse_params* values) {
            return script(user_data).schedule(epoch, base, last, values);
          }};
}

datasparse_sparsifier_overrides updating(Script& target) {
  return {
      DATASPARSE_ABI_VERSION,
      own_state(target),
      [](void* user_data, const datasparse_sparsifier* sparsifier, const char* name,
         const datasparse_array* data, const datasparse_params* config,
         uint8_t* mask) { return script(user_data).update(sparsifier, name, data, config, mask); },
      target.check == nullptr
          ? nullptr
          : +[](void* user_data, const char* name,
                const datasparse_params* config) { return script(user_data).check(name, config); },
      nullptr,
      nullptr};
}

datasparse_sparsifier_overrides scoring(Script& target) {
  datasparse_sparsifier_overrides overrides = updating(target);
  overrides.update_mask = nullptr;
  overrides.get_scores = [](void* user_data, const datasparse_sparsifier* sparsifier,
                            const char* name, const datasparse_array* data,
                            const datasparse_params* config, datasparse_array* scores) {
    return script(user_data).scores(sparsifier, name, data, config, scores);
  };
  overrides.release_scores = [](void* user_data, void* data) {
    script(user_data).released_scores.push_back(data);
  };
  return overrides;
}

/// Halves what was there last.
datasparse_status halve(int64_t epoch, const datasparse_params* base, const datasparse_params* last,
                        datasparse_params* values) {
  const datasparse_params* from = epoch == 0 ? base : last;
  std::size_t size = 0;
  if (const auto status = datasparse_params_size(from, &size)) return status;
  for (std::size_t i = 0; i < size; ++i) {
    const char* name = nullptr;
    double value = NAN;
    if (const auto status = datasparse_params_key(from, i, &name)) return status;
    if (const auto status = datasparse_params_get_float(from, name, &value)) return status;
    const double next = epoch == 0 ? value : value / 2;
    if (const auto status = datasparse_params_set_float(values, name, next)) return status;
  }
  return DATASPARSE_OK;
}

TEST_F(CAbi, AScheduleOfOnesOwn) {
  Script own;
  own.schedule = halve;
  {
    SchedulerHandle scheduler;
    const auto overrides = scheduling(own);
    ASSERT_OK(
        datasparse_scheduler_create(sparsifier, "sparsity_level", &overrides, -1, scheduler.out()));
    ASSERT_OK(datasparse_sparsifier_step(sparsifier));
    ASSERT_OK(datasparse_scheduler_step(scheduler));
    ASSERT_OK(datasparse_scheduler_step(scheduler));
    EXPECT_EQ(level(), 0.125);
    sparsifier.reset();  // the scheduler keeps it
    ASSERT_OK(datasparse_scheduler_step(scheduler));
    EXPECT_EQ(own.released, 0);
  }
  EXPECT_EQ(own.released, 1);
}

TEST_F(CAbi, WhatACallbackReturnsOrThrowsComesBack) {
  Script own;
  own.schedule = halve;
  SchedulerHandle scheduler;
  const auto overrides = scheduling(own);
  ASSERT_OK(
      datasparse_scheduler_create(sparsifier, "sparsity_level", &overrides, -1, scheduler.out()));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));

  const auto fails = [&](datasparse_status expected, const std::string& message, auto schedule) {
    own.schedule = schedule;
    expect_error(datasparse_scheduler_step(scheduler), expected, message);
    int64_t epoch = -1;
    ASSERT_OK(datasparse_scheduler_last_epoch(scheduler, &epoch));
    EXPECT_EQ(epoch, 0);
    EXPECT_EQ(level(), 0.5);
    datasparse_scheduler* none = nullptr;
    expect_error(datasparse_scheduler_create(sparsifier, "sparsity_level", &overrides, -1, &none),
                 expected, message);
    EXPECT_EQ(none, nullptr);
    EXPECT_EQ(own.released, 0);  // it is the caller's still
  };
  using In = const datasparse_params*;
  fails(123, "get_schedule_param returned 123",
        [](int64_t, In, In, datasparse_params*) { return 123; });
  fails(DATASPARSE_CALLBACK_ERROR, "no level today", [](int64_t, In, In, datasparse_params*) {
    datasparse_set_error_message("no level today");
    return DATASPARSE_CALLBACK_ERROR;
  });
  fails(DATASPARSE_UNKNOWN_NAME, "unknown key 'v'; known: 'w'",
        [](int64_t, In base, In, datasparse_params*) {
          double value = 0;
          return datasparse_params_get_float(base, "v", &value);
        });
  fails(DATASPARSE_CALLBACK_ERROR, "get_schedule_param: thrown",
        [](int64_t, In, In, datasparse_params*) -> datasparse_status {
          throw std::runtime_error("thrown");
        });
  fails(DATASPARSE_CALLBACK_ERROR, "get_schedule_param threw an exception",
        [](int64_t, In, In, datasparse_params*) -> datasparse_status { throw 1; });
  fails(DATASPARSE_VALUE_ERROR, "got 1.5", [](int64_t, In, In, datasparse_params* values) {
    return datasparse_params_set_float(values, "w", 1.5);
  });
  fails(DATASPARSE_UNKNOWN_NAME, "phantom", [](int64_t, In, In, datasparse_params* values) {
    return datasparse_params_set_float(values, "phantom", 0.5);
  });
  fails(DATASPARSE_STATE_ERROR, "may only be read", [](int64_t, In base, In, datasparse_params*) {
    return datasparse_params_set_float(const_cast<datasparse_params*>(base), "w", 0.5);
  });
  if (::testing::Test::HasFailure()) return;
  fails(DATASPARSE_STATE_ERROR, "step()",
        [&](int64_t, In, In, datasparse_params*) { return datasparse_scheduler_step(scheduler); });
}

TEST_F(CAbi, AMaskOfOnesOwn) {
  ParamsHandle defaults;
  ASSERT_OK(datasparse_params_create(defaults.out()));
  ASSERT_OK(datasparse_params_set_float(defaults, "threshold", 0.25));
  Script own;
  own.update = [](const datasparse_sparsifier*, const char*, const datasparse_array* values,
                  const datasparse_params* config, uint8_t* bytes) {
    double threshold = 0;
    if (const auto status = datasparse_params_get_float(config, "threshold", &threshold)) {
      return status;
    }
    const auto* x = static_cast<const float*>(values->data);
    for (int64_t i = 0; i < values->shape[0] * values->shape[1]; ++i) {
      bytes[i] = std::fabs(static_cast<double>(x[i])) > threshold ? 1 : 0;
    }
    return static_cast<datasparse_status>(DATASPARSE_OK);
  };
  own.check = [](const char*, const datasparse_params* config) -> datasparse_status {
    double threshold = 0;
    if (const auto status = datasparse_params_get_float(config, "threshold", &threshold)) {
      return status;
    }
    if (threshold >= 0) return DATASPARSE_OK;
    datasparse_set_error_message("threshold must be at least 0");
    return DATASPARSE_VALUE_ERROR;
  };
  auto overrides = updating(own);
  sparsifier.reset();
  ASSERT_OK(datasparse_sparsifier_create(defaults, &overrides, sparsifier.out()));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "w", &array, nullptr));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  Bytes expected;
  for (const float x : data) expected.push_back(std::fabs(x) > 0.25F ? 1 : 0);
  EXPECT_EQ(mask(), expected);

  ASSERT_OK(datasparse_params_set_float(defaults, "threshold", -1));
  expect_error(datasparse_sparsifier_update_config(sparsifier, "w", defaults),
               DATASPARSE_VALUE_ERROR, "threshold must be at least 0");
  datasparse_sparsifier* none = nullptr;
  expect_error(datasparse_sparsifier_create(defaults, &overrides, &none), DATASPARSE_VALUE_ERROR,
               "threshold must be at least 0");
  EXPECT_EQ(own.released, 0);

  // Half a mask written, then a failure: all masks are as before.
  own.update = [](const datasparse_sparsifier*, const char*, const datasparse_array*,
                  const datasparse_params*, uint8_t* bytes) -> datasparse_status {
    std::fill_n(bytes, 20, std::uint8_t{0});
    throw std::logic_error("halfway");
  };
  expect_error(datasparse_sparsifier_step(sparsifier), DATASPARSE_CALLBACK_ERROR,
               "update_mask: halfway");
  EXPECT_EQ(mask(), expected);
  overrides.update_mask = nullptr;
  expect_error(datasparse_sparsifier_create(nullptr, &overrides, &none), DATASPARSE_VALUE_ERROR,
               "overrides->update_mask must not be NULL");
  sparsifier.reset();
  EXPECT_EQ(own.released, 1);
}

TEST_F(CAbi, AMaskOnTopOfANorm) {
  ParamsHandle own_keys;
  ASSERT_OK(datasparse_params_create(own_keys.out()));
  ASSERT_OK(datasparse_params_set_int(own_keys, "kept_column", 0));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  Bytes expected = mask();
  for (std::size_t row = 0; row < 6; ++row) expected[row * 8 + 3] = 1;

  Script own;
  own.update = [](const datasparse_sparsifier* self, const char* name, const datasparse_array* x,
                  const datasparse_params* config, uint8_t* bytes) -> datasparse_status {
    if (const auto status = datasparse_data_norm_update_mask(self, name, x, config)) return status;
    int64_t column = 0;
    if (const auto status = datasparse_params_get_int(config, "kept_column", &column))
      return status;
    for (int64_t row = 0; row < x->shape[0]; ++row) bytes[row * x->shape[1] + column] = 1;
    return DATASPARSE_OK;
  };
  const auto overrides = updating(own);
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  sparsifier.reset();
  ASSERT_OK(datasparse_data_norm_sparsifier_create(&spec, own_keys, &overrides, sparsifier.out()));
  ASSERT_OK(datasparse_params_set_int(own_keys, "kept_column", 3));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "w", &array, own_keys));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  EXPECT_EQ(mask(), expected);
  // From inside, the sparsifier may be read, and not be changed.
  own.update = [](const datasparse_sparsifier* self, const char* name, const datasparse_array* x,
                  const datasparse_params*, uint8_t*) {
    int64_t steps = 0;
    EXPECT_OK(datasparse_sparsifier_step_count(self, &steps));
    EXPECT_EQ(steps, 1);
    return datasparse_sparsifier_add_data(const_cast<datasparse_sparsifier*>(self), name, x,
                                          nullptr);
  };
  expect_error(datasparse_sparsifier_step(sparsifier), DATASPARSE_STATE_ERROR, "update_mask");
  ASSERT_OK(datasparse_params_set_int(own_keys, "kept_colum", 3));
  expect_error(datasparse_sparsifier_add_data(sparsifier, "v", &array, own_keys),
               DATASPARSE_TYPE_ERROR, "kept_colum");
  sparsifier.reset();
  EXPECT_EQ(own.released, 1);
}

TEST_F(CAbi, ScoresOfOnesOwn) {
  std::vector<double> inverted;
  for (const float x : data) inverted.push_back(1 / static_cast<double>(x));
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  Bytes expected(48);
  const auto as_array = datasparse_array_of(DATASPARSE_FLOAT64, inverted.data(), 2, shape);
  ASSERT_OK(datasparse_block_mask(&as_array, &spec, expected.data(), expected.size()));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  const Bytes by_data = mask();
  ASSERT_NE(by_data, expected);

  Script own;
  own.scores = [&](const datasparse_sparsifier* self, const char* name, const datasparse_array* x,
                   const datasparse_params* config, datasparse_array* scores) {
    EXPECT_EQ(scores->data, x->data) << "they come as the data";
    int64_t steps = 0;
    EXPECT_OK(datasparse_sparsifier_step_count(self, &steps));
    double level = 0;
    EXPECT_OK(datasparse_params_get_float(config, "sparsity_level", &level));
    EXPECT_EQ(level, 0.5);
    if (std::string(name) == "w") {
      *scores = datasparse_array_of(DATASPARSE_FLOAT64, inverted.data(), x->ndim, x->shape);
    }
    return static_cast<datasparse_status>(DATASPARSE_OK);
  };
  const auto overrides = scoring(own);
  sparsifier.reset();
  ASSERT_OK(datasparse_data_norm_sparsifier_create(&spec, nullptr, &overrides, sparsifier.out()));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "w", &array, nullptr));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "v", &array, nullptr));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  EXPECT_EQ(mask(), expected);
  EXPECT_EQ(mask("v"), by_data);
  EXPECT_EQ(own.released_scores, (std::vector<void*>{inverted.data()}));

  const auto fails = [&](datasparse_status status, const std::string& message, auto scores) {
    own.scores = scores;
    own.released_scores.clear();
    expect_error(datasparse_sparsifier_step(sparsifier), status, message);
    EXPECT_EQ(mask(), expected);
  };
  using Self = const datasparse_sparsifier*;
  using In = const datasparse_array*;
  using Params = const datasparse_params*;
  fails(123, "get_scores returned 123",
        [](Self, const char*, In, Params, datasparse_array*) { return 123; });
  EXPECT_TRUE(own.released_scores.empty());
  fails(DATASPARSE_CALLBACK_ERROR, "get_scores: thrown",
        [](Self, const char*, In, Params, datasparse_array*) -> datasparse_status {
          throw std::runtime_error("thrown");
        });
  fails(DATASPARSE_VALUE_ERROR, "scores->dtype",
        [&](Self, const char*, In, Params, datasparse_array* scores) {
          scores->dtype = 99;
          return static_cast<datasparse_status>(DATASPARSE_OK);
        });
  EXPECT_EQ(own.released_scores, (std::vector<void*>{data.data()}));
  const int64_t flat = 48;
  fails(DATASPARSE_VALUE_ERROR, "scores of 'w' must have the shape of its data, (6, 8), got (48,)",
        [&](Self, const char*, In, Params, datasparse_array* scores) {
          *scores = datasparse_array_of(DATASPARSE_FLOAT64, inverted.data(), 1, &flat);
          return static_cast<datasparse_status>(DATASPARSE_OK);
        });
  EXPECT_EQ(own.released_scores, (std::vector<void*>{inverted.data()}));
  fails(DATASPARSE_STATE_ERROR, "from inside get_scores()",
        [&](Self self, const char* name, In x, Params, datasparse_array*) {
          return datasparse_sparsifier_add_data(const_cast<datasparse_sparsifier*>(self), name, x,
                                                nullptr);
        });
  fails(DATASPARSE_STATE_ERROR, "only update_mask",
        [&](Self self, const char* name, In x, Params config, datasparse_array*) {
          return datasparse_data_norm_update_mask(self, name, x, config);
        });
  sparsifier.reset();
  EXPECT_EQ(own.released, 1);
}

TEST_F(CAbi, AnUpdateMaskBesideScoresIsCalledAlone) {
  Script own;
  own.scores = [](const datasparse_sparsifier*, const char*, const datasparse_array*,
                  const datasparse_params*, datasparse_array*) -> datasparse_status { return 123; };
  own.update = [](const datasparse_sparsifier*, const char*, const datasparse_array*,
                  const datasparse_params*, uint8_t* bytes) -> datasparse_status {
    bytes[0] = 0;
    return DATASPARSE_OK;
  };
  auto overrides = scoring(own);
  overrides.update_mask = updating(own).update_mask;
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  sparsifier.reset();
  ASSERT_OK(datasparse_data_norm_sparsifier_create(&spec, nullptr, &overrides, sparsifier.out()));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "w", &array, nullptr));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  Bytes expected(48, 1);
  expected[0] = 0;
  EXPECT_EQ(mask(), expected);
  sparsifier.reset();
}

TEST_F(CAbi, OverridesOfVersion1EndBeforeScores) {
  struct {
    uint32_t version;
    datasparse_own_state own;
    decltype(datasparse_sparsifier_overrides::update_mask) update_mask;
    decltype(datasparse_sparsifier_overrides::check_config) check_config;
    void* behind;  // of the caller's, who knows no more
  } old = {1, {nullptr, nullptr, nullptr, nullptr, nullptr}, nullptr, nullptr, &old};
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  const Bytes expected = mask();
  sparsifier.reset();
  ASSERT_OK(datasparse_data_norm_sparsifier_create(
      &spec, nullptr, reinterpret_cast<const datasparse_sparsifier_overrides*>(&old),
      sparsifier.out()));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "w", &array, nullptr));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  EXPECT_EQ(mask(), expected);
}

TEST_F(CAbi, NoNamesAreNoGroups) {
  const std::vector<const char*> none;
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  ASSERT_OK(datasparse_sparsifier_apply_mask_of(sparsifier, none.data(), none.size()));
  ASSERT_OK(datasparse_sparsifier_squash_mask_of(sparsifier, none.data(), none.size()));
  EXPECT_EQ(std::count(data.begin(), data.end(), 0.0F), 0);
  ASSERT_OK(datasparse_sparsifier_squash_mask(sparsifier));
  EXPECT_EQ(std::count(data.begin(), data.end(), 0.0F), 24);
}

TEST_F(CAbi, ATensorOfAnotherShapeTakesOverANameAndItsConfig) {
  ParamsHandle changes;
  ASSERT_OK(datasparse_params_create(changes.out()));
  ASSERT_OK(datasparse_params_set_float(changes, "sparsity_level", 0.25));
  ASSERT_OK(datasparse_sparsifier_update_config(sparsifier, "w", changes));
  const int64_t flat = 48;
  const auto other = datasparse_array_of(DATASPARSE_FLOAT32, data.data(), 1, &flat);
  expect_error(datasparse_sparsifier_add_data(sparsifier, "w", &other, nullptr),
               DATASPARSE_VALUE_ERROR, "(48,)");
  ASSERT_OK(datasparse_sparsifier_add_data_with_mask(sparsifier, "w", &other, nullptr, nullptr, 0));
  EXPECT_EQ(level(), 0.25);
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  const Bytes bytes = mask();
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), 12);
}

TEST_F(CAbi, ACallbackMayReleaseTheHandleThatIsInUse) {
  Script own;
  datasparse_sparsifier* handle = nullptr;
  own.update = [&](const datasparse_sparsifier*, const char*, const datasparse_array*,
                   const datasparse_params*, uint8_t*) -> datasparse_status {
    datasparse_sparsifier_release(handle);
    return DATASPARSE_OK;
  };
  const auto overrides = updating(own);
  ASSERT_OK(datasparse_sparsifier_create(nullptr, &overrides, &handle));
  ASSERT_OK(datasparse_sparsifier_add_data(handle, "w", &array, nullptr));
  ASSERT_OK(datasparse_sparsifier_step(handle));
  EXPECT_EQ(own.released, 1);
}

TEST_F(CAbi, UserDataOutliveTheSourcesThatMayPointIntoThem) {
  std::vector<std::string> released;
  struct Owner {
    std::vector<std::string>* released;
    const char* name;
  } as_source{&released, "source"}, as_sparsifier{&released, "sparsifier"};
  const auto release = [](void* user_data) {
    const Owner& owner = *static_cast<Owner*>(user_data);
    owner.released->emplace_back(owner.name);
  };
  const datasparse_sparsifier_overrides overrides = {
      DATASPARSE_ABI_VERSION,
      {&as_sparsifier, release, nullptr, nullptr, nullptr},
      nullptr,
      nullptr,
      nullptr,
      nullptr};
  static float value = 1;
  const datasparse_source source = {DATASPARSE_ABI_VERSION,
                                    &as_source,
                                    release,
                                    [](void*, datasparse_array* target) {
                                      *target = datasparse_array_of(DATASPARSE_FLOAT32, &value, 0,
                                                                    nullptr);
                                      return static_cast<datasparse_status>(DATASPARSE_OK);
                                    },
                                    nullptr,
                                    nullptr};
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  SparsifierHandle made;
  ASSERT_OK(datasparse_data_norm_sparsifier_create(&spec, nullptr, &overrides, made.out()));
  ASSERT_OK(datasparse_sparsifier_add_source(made, "x", &source, nullptr));
  made.reset();
  EXPECT_EQ(released, (std::vector<std::string>{"source", "sparsifier"}));
}

TEST_F(CAbi, AMaskByNormIsForUpdateMaskAlone) {
  ParamsHandle config;
  ASSERT_OK(datasparse_sparsifier_config(sparsifier, "w", config.out()));
  expect_error(datasparse_data_norm_update_mask(sparsifier, "w", &array, config),
               DATASPARSE_STATE_ERROR, "only update_mask");
  EXPECT_EQ(mask(), Bytes(48, 1));

  Script own;  // nor for another callback, though that holds the lock
  const datasparse_sparsifier* self = nullptr;
  own.check = [&](const char* name, const datasparse_params* values) {
    if (self == nullptr || *name == '\0') return static_cast<datasparse_status>(DATASPARSE_OK);
    return datasparse_data_norm_update_mask(self, name, &array, values);
  };
  auto overrides = updating(own);
  overrides.update_mask = nullptr;
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  sparsifier.reset();
  ASSERT_OK(datasparse_data_norm_sparsifier_create(&spec, nullptr, &overrides, sparsifier.out()));
  ASSERT_OK(datasparse_sparsifier_add_data(sparsifier, "w", &array, nullptr));
  self = sparsifier;
  expect_error(datasparse_sparsifier_update_config(sparsifier, "w", config), DATASPARSE_STATE_ERROR,
               "only update_mask");
  EXPECT_EQ(mask(), Bytes(48, 1));
  sparsifier.reset();
}

TEST_F(CAbi, ASourceIsAskedAtEveryStep) {
  Script owner;
  std::vector<float> here = random_data(48, 3), there = random_data(48, 4);
  owner.pin = [&](datasparse_array* target) {
    ++owner.pinned;
    *target = datasparse_array_of(DATASPARSE_FLOAT32, here.data(), 2, shape);
    return static_cast<datasparse_status>(DATASPARSE_OK);
  };
  datasparse_source source = {
      DATASPARSE_ABI_VERSION,
      &owner,
      [](void* user_data) { ++script(user_data).released; },
      [](void* user_data, datasparse_array* target) { return script(user_data).pin(target); },
      [](void* user_data) { --script(user_data).pinned; },
      [](void* user_data) { ++script(user_data).written; }};
  ASSERT_OK(datasparse_sparsifier_add_source(sparsifier, "moves", &source, nullptr));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  const Bytes first = mask("moves");
  here.swap(there);
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  EXPECT_NE(mask("moves"), first);
  ASSERT_OK(datasparse_sparsifier_apply_mask(sparsifier));
  EXPECT_EQ(std::count(here.begin(), here.end(), 0.0F), 24);
  EXPECT_EQ(owner.pinned, 0);
  EXPECT_EQ(owner.written, 1);

  const Bytes before = mask("moves");
  owner.pin = [&](datasparse_array*) -> datasparse_status { throw std::runtime_error("lost"); };
  expect_error(datasparse_sparsifier_step(sparsifier), DATASPARSE_CALLBACK_ERROR, "pin: lost");
  owner.pin = [&](datasparse_array* target) {
    ++owner.pinned;
    target->dtype = 99;
    return static_cast<datasparse_status>(DATASPARSE_OK);
  };
  expect_error(datasparse_sparsifier_step(sparsifier), DATASPARSE_VALUE_ERROR, "array->dtype");
  EXPECT_EQ(owner.pinned, 0);
  EXPECT_EQ(mask("moves"), before);
  EXPECT_EQ(owner.released, 0);
  ASSERT_OK(datasparse_sparsifier_remove_data(sparsifier, "moves"));
  EXPECT_EQ(owner.released, 1);
  expect_error(datasparse_sparsifier_add_source(sparsifier, "", &source, nullptr),
               DATASPARSE_VALUE_ERROR, "");
  EXPECT_EQ(owner.released, 1);
}

// --- checkpoints --------------------------------------------------------------------------------

TEST_F(CAbi, CheckpointsAreThoseOfTheClasses) {
  const std::string path = ::testing::TempDir() + "c_abi.safetensors";
  Script own;
  own.schedule = halve;
  own.own = 1.5;
  const auto overrides = scheduling(own);
  SchedulerHandle scheduler;
  ASSERT_OK(
      datasparse_scheduler_create(sparsifier, "sparsity_level", &overrides, -1, scheduler.out()));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  ASSERT_OK(datasparse_scheduler_step(scheduler));
  const datasparse_scheduler* const saved[] = {scheduler};
  ASSERT_OK(datasparse_save_checkpoint(path.c_str(), sparsifier, saved, 1));

  const Checkpoint file = read_checkpoint(path);
  EXPECT_EQ(file.sparsifier.groups.at(0).name, "w");
  EXPECT_EQ(attribute<double>(file.schedulers.at(0).attributes, "own"), 1.5);

  const Bytes before = mask();
  own.own = 0;
  ASSERT_OK(datasparse_scheduler_step(scheduler));
  ASSERT_OK(datasparse_sparsifier_step(sparsifier));
  ASSERT_NE(mask(), before);
  datasparse_scheduler* const restored[] = {scheduler};
  ASSERT_OK(datasparse_load_checkpoint(path.c_str(), sparsifier, restored, 1, 1));
  EXPECT_EQ(mask(), before);
  EXPECT_EQ(level(), 0.25);
  EXPECT_EQ(own.own, 1.5);

  expect_error(datasparse_load_checkpoint(path.c_str(), sparsifier, nullptr, 0, 1),
               DATASPARSE_VALUE_ERROR, "scheduler");
  expect_error(datasparse_load_checkpoint((path + ".no").c_str(), sparsifier, restored, 1, 1),
               DATASPARSE_FILE_ERROR, "No such file");
  datasparse_scheduler* const broken[] = {nullptr};
  expect_error(datasparse_load_checkpoint(path.c_str(), sparsifier, broken, 1, 1),
               DATASPARSE_VALUE_ERROR, "an item of schedulers must not be NULL");
  std::remove(path.c_str());
}

TEST_F(CAbi, EveryKindOfAttributeComesBackButNestedOnes) {
  // As a subclass in Python may have saved them.
  const std::string path = ::testing::TempDir() + "c_abi_attributes.safetensors";
  Checkpoint file;
  file.sparsifier = DataNormSparsifier().save_state();
  const auto write = [&](Attributes attributes) {
    file.attributes = std::move(attributes);
    write_checkpoint(path, file);
  };
  std::map<std::string, int32_t> kinds;
  struct Seen {
    std::map<std::string, int32_t>* kinds;
  } seen{&kinds};
  Script own;
  auto overrides = updating(own);
  overrides.update_mask = nullptr;
  overrides.own.user_data = &seen;
  overrides.own.release = nullptr;
  overrides.own.prepare_load = [](void* user_data, const datasparse_params* attributes) {
    std::size_t size = 0;
    EXPECT_OK(datasparse_params_size(attributes, &size));
    for (std::size_t i = 0; i < size; ++i) {
      const char* key = nullptr;
      EXPECT_OK(datasparse_params_key(attributes, i, &key));
      EXPECT_OK(
          datasparse_params_kind(attributes, key, &(*static_cast<Seen*>(user_data)->kinds)[key]));
    }
    return static_cast<datasparse_status>(DATASPARSE_OK);
  };
  overrides.own.commit_load = [](void*) {};
  const auto spec = datasparse_block_spec_of(0.5, 1, 1);
  SparsifierHandle restored;
  ASSERT_OK(datasparse_data_norm_sparsifier_create(&spec, nullptr, &overrides, restored.out()));

  using Tuple = PlainData::Tuple;
  write({{"n", {}},
         {"b", true},
         {"i", 3},
         {"f", 0.5},
         {"s", "text"},
         {"is", Tuple{{1, 2}}},
         {"fs", PlainData::List{{0.5}}}});
  ASSERT_OK(datasparse_load_checkpoint(path.c_str(), restored, nullptr, 0, 1));
  const std::map<std::string, int32_t> expected = {
      {"n", DATASPARSE_NONE},   {"b", DATASPARSE_BOOL},   {"i", DATASPARSE_INT},
      {"f", DATASPARSE_FLOAT},  {"s", DATASPARSE_STRING}, {"is", DATASPARSE_INTS},
      {"fs", DATASPARSE_FLOATS}};
  EXPECT_EQ(kinds, expected);
  for (const PlainData& nested : {PlainData(PlainData::Dict{}), PlainData(Tuple{{1, "two"}}),
                                  PlainData(PlainData::Bytes{})}) {
    write({{"nested", nested}});
    expect_error(datasparse_load_checkpoint(path.c_str(), restored, nullptr, 0, 1),
                 DATASPARSE_VALUE_ERROR, "attribute 'nested' must be");
  }
  std::remove(path.c_str());

  overrides.own.commit_load = nullptr;
  datasparse_sparsifier* none = nullptr;
  expect_error(datasparse_data_norm_sparsifier_create(&spec, nullptr, &overrides, &none),
               DATASPARSE_VALUE_ERROR, "prepare_load and commit_load");
  overrides.own.prepare_load = nullptr;  // what is saved could not be loaded
  expect_error(datasparse_data_norm_sparsifier_create(&spec, nullptr, &overrides, &none),
               DATASPARSE_VALUE_ERROR, "prepare_load and commit_load");
}

// --- the process --------------------------------------------------------------------------------

TEST_F(CAbi, ACallThatSucceedsLeavesTheMessage) {
  Script own;
  own.schedule = halve;
  EXPECT_EQ(datasparse_params_create(nullptr), DATASPARSE_VALUE_ERROR);
  SchedulerHandle scheduler;
  const auto overrides = scheduling(own);
  ASSERT_OK(
      datasparse_scheduler_create(sparsifier, "sparsity_level", &overrides, -1, scheduler.out()));
  EXPECT_STREQ(datasparse_error_message(), "params must not be NULL");
  // A message from before is not that of a callback which has left none.
  own.schedule = [](int64_t, const datasparse_params*, const datasparse_params*,
                    datasparse_params*) { return 200; };
  expect_error(datasparse_scheduler_step(scheduler), 200, "get_schedule_param returned 200");
}

TEST(CAbiErrors, AreCutBetweenCharacters) {
  for (const std::string& begin : {std::string(), std::string("x"), std::string("xy")}) {
    std::string text = begin;
    while (text.size() < 3000) text += "\u20ac";  // three bytes
    datasparse_set_error_message(text.c_str());
    const std::string kept = datasparse_error_message();
    EXPECT_GT(kept.size(), 1000U);
    EXPECT_EQ((kept.size() - begin.size()) % 3, 0U);
    EXPECT_EQ(text.rfind(kept, 0), 0U);
  }
  datasparse_set_error_message("a message");
  datasparse_set_error_message(datasparse_error_message() + 2);
  EXPECT_STREQ(datasparse_error_message(), "message");
}

TEST(CAbiRuntime, MessagesBelongToTheirThread) {
  EXPECT_EQ(datasparse_params_create(nullptr), DATASPARSE_VALUE_ERROR);
  std::thread([] { EXPECT_STREQ(datasparse_error_message(), ""); }).join();
  EXPECT_STREQ(datasparse_error_message(), "params must not be NULL");
  datasparse_set_error_message(nullptr);
  EXPECT_STREQ(datasparse_error_message(), "");
}

TEST(CAbiRuntime, SettingsAreThoseOfTheLibrary) {
  EXPECT_STREQ(datasparse_version(), version());
  EXPECT_EQ(datasparse_abi_version(), DATASPARSE_ABI_VERSION);
  const char* name = nullptr;
  ASSERT_OK(datasparse_instruction_set(&name));
  EXPECT_EQ(name, instruction_set());
  ASSERT_OK(datasparse_set_num_threads(1));
  EXPECT_EQ(datasparse_get_num_threads(), 1);
  ASSERT_OK(datasparse_set_num_threads(0));
  expect_error(datasparse_set_num_threads(-1), DATASPARSE_VALUE_ERROR, "-1");
}

TEST_F(CAbi, WarningsGoToTheHandler) {
  std::vector<std::string> heard;
  ASSERT_OK(datasparse_set_message_handler(
      [](void* user_data, int32_t severity, const char* message) {
        EXPECT_EQ(severity, DATASPARSE_WARNING);
        static_cast<std::vector<std::string>*>(user_data)->emplace_back(message);
      },
      &heard));
  ScheduleHandle schedule;
  SchedulerHandle scheduler;
  ASSERT_OK(datasparse_schedule_constant(0.5, schedule.out()));
  ASSERT_OK(datasparse_data_scheduler_create(sparsifier, "sparsity_level", schedule, -1,
                                             scheduler.out()));
  ASSERT_OK(datasparse_scheduler_step(scheduler));  // before the sparsifier's first
  ASSERT_OK(datasparse_set_message_handler(nullptr, nullptr));
  ASSERT_EQ(heard.size(), 1U);
}

TEST(CAbiHeader, IsC) { EXPECT_EQ(c_header_works(), 1); }

TEST(CAbiLayout, IsPromised) {
  // Within a version of the ABI these never change.
  static_assert(DATASPARSE_ABI_VERSION == 2);
  static_assert(sizeof(datasparse_array) == 16 + 3 * sizeof(void*));
  static_assert(sizeof(datasparse_block_spec) == 40);
  static_assert(sizeof(datasparse_own_state) == 5 * sizeof(void*));
  static_assert(sizeof(datasparse_sparsifier_overrides) == 10 * sizeof(void*));
  static_assert(sizeof(datasparse_scheduler_overrides) == 7 * sizeof(void*));
  static_assert(sizeof(datasparse_source) == 6 * sizeof(void*));
  static_assert(sizeof(datasparse_group) == 32 + 2 * sizeof(void*));
  static_assert(sizeof(datasparse_adaptive_rule) == 40);
  static_assert(offsetof(datasparse_array, version) == 0);
  static_assert(offsetof(datasparse_array, dtype) == 4);
  static_assert(offsetof(datasparse_array, ndim) == 8);
  static_assert(offsetof(datasparse_array, read_only) == 12);
  static_assert(offsetof(datasparse_array, data) == 16);
  static_assert(offsetof(datasparse_array, shape) == 16 + sizeof(void*));
  static_assert(offsetof(datasparse_array, strides) == 16 + 2 * sizeof(void*));
  static_assert(offsetof(datasparse_block_spec, version) == 0);
  static_assert(offsetof(datasparse_block_spec, norm) == 4);
  static_assert(offsetof(datasparse_block_spec, sparsity_level) == 8);
  static_assert(offsetof(datasparse_block_spec, block_height) == 16);
  static_assert(offsetof(datasparse_block_spec, block_width) == 24);
  static_assert(offsetof(datasparse_block_spec, zeros_per_block) == 32);
  static_assert(offsetof(datasparse_own_state, user_data) == 0);
  static_assert(offsetof(datasparse_own_state, release) == sizeof(void*));
  static_assert(offsetof(datasparse_own_state, save) == 2 * sizeof(void*));
  static_assert(offsetof(datasparse_own_state, prepare_load) == 3 * sizeof(void*));
  static_assert(offsetof(datasparse_own_state, commit_load) == 4 * sizeof(void*));
  static_assert(offsetof(datasparse_sparsifier_overrides, version) == 0);
  static_assert(offsetof(datasparse_sparsifier_overrides, own) == sizeof(void*));
  static_assert(offsetof(datasparse_sparsifier_overrides, update_mask) == 6 * sizeof(void*));
  static_assert(offsetof(datasparse_sparsifier_overrides, check_config) == 7 * sizeof(void*));
  static_assert(offsetof(datasparse_sparsifier_overrides, get_scores) == 8 * sizeof(void*));
  static_assert(offsetof(datasparse_sparsifier_overrides, release_scores) == 9 * sizeof(void*));
  static_assert(offsetof(datasparse_scheduler_overrides, version) == 0);
  static_assert(offsetof(datasparse_scheduler_overrides, own) == sizeof(void*));
  static_assert(offsetof(datasparse_scheduler_overrides, get_schedule_param) == 6 * sizeof(void*));
  static_assert(offsetof(datasparse_source, version) == 0);
  static_assert(offsetof(datasparse_source, user_data) == sizeof(void*));
  static_assert(offsetof(datasparse_source, release) == 2 * sizeof(void*));
  static_assert(offsetof(datasparse_source, pin) == 3 * sizeof(void*));
  static_assert(offsetof(datasparse_source, unpin) == 4 * sizeof(void*));
  static_assert(offsetof(datasparse_source, mark_written) == 5 * sizeof(void*));
  static_assert(offsetof(datasparse_group, version) == 0);
  static_assert(offsetof(datasparse_group, status) == 4);
  static_assert(offsetof(datasparse_group, dtype) == 8);
  static_assert(offsetof(datasparse_group, ndim) == 12);
  static_assert(offsetof(datasparse_group, name) == 16);
  static_assert(offsetof(datasparse_group, shape) == 16 + sizeof(void*));
  static_assert(offsetof(datasparse_group, elements) == 16 + 2 * sizeof(void*));
  static_assert(offsetof(datasparse_group, zeros) == 24 + 2 * sizeof(void*));
  static_assert(offsetof(datasparse_adaptive_rule, version) == 0);
  static_assert(offsetof(datasparse_adaptive_rule, mode) == 4);
  static_assert(offsetof(datasparse_adaptive_rule, tolerance) == 8);
  static_assert(offsetof(datasparse_adaptive_rule, patience) == 16);
  static_assert(offsetof(datasparse_adaptive_rule, back_off) == 24);
  static_assert(offsetof(datasparse_adaptive_rule, steps) == 32);
  static_assert(DATASPARSE_OK == 0);
  static_assert(DATASPARSE_TYPE_ERROR == 1);
  static_assert(DATASPARSE_VALUE_ERROR == 2);
  static_assert(DATASPARSE_UNKNOWN_NAME == 3);
  static_assert(DATASPARSE_STATE_ERROR == 4);
  static_assert(DATASPARSE_FILE_ERROR == 5);
  static_assert(DATASPARSE_OUT_OF_MEMORY == 6);
  static_assert(DATASPARSE_INTERNAL_ERROR == 7);
  static_assert(DATASPARSE_CALLBACK_ERROR == 100);
  static_assert(DATASPARSE_INFO == 0);
  static_assert(DATASPARSE_WARNING == 1);
  static_assert(DATASPARSE_FLOAT16 == 0);
  static_assert(DATASPARSE_BFLOAT16 == 1);
  static_assert(DATASPARSE_FLOAT32 == 2);
  static_assert(DATASPARSE_FLOAT64 == 3);
  static_assert(DATASPARSE_L1 == 0);
  static_assert(DATASPARSE_L2 == 1);
  static_assert(DATASPARSE_NONE == 0);
  static_assert(DATASPARSE_BOOL == 1);
  static_assert(DATASPARSE_INT == 2);
  static_assert(DATASPARSE_FLOAT == 3);
  static_assert(DATASPARSE_STRING == 4);
  static_assert(DATASPARSE_INTS == 5);
  static_assert(DATASPARSE_FLOATS == 6);
  static_assert(DATASPARSE_ACTIVE == 0);
  static_assert(DATASPARSE_SQUASHED == 1);
  static_assert(DATASPARSE_AWAITS_DATA == 2);
  static_assert(DATASPARSE_MIN == 0);
  static_assert(DATASPARSE_MAX == 1);
}

}  // namespace
}  // namespace datasparse
