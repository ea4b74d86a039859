#include "datasparse/adaptive_data_scheduler.hpp"

#include <limits>

#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

using Mode = AdaptiveRule::Mode;
constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

class AdaptiveScheduler : public ::testing::Test {
 protected:
  AdaptiveScheduler() : sparsifier(std::make_shared<DataNormSparsifier>(spec(0.8, 1, 1))) {
    sparsifier->add_data("a", ArrayView(numbers, {4}));
    sparsifier->step();
  }
  std::shared_ptr<AdaptiveDataScheduler> make(const AdaptiveRule& rule) const {
    return make_scheduler<AdaptiveDataScheduler>(
        sparsifier, "sparsity_level",
        DataScheduler::Schedules{{"*", schedules::Linear{{0.0, 0.5, 0, 4}}}}, rule);
  }
  /// The positions to which metrics lead one after another.
  std::vector<std::int64_t> positions(const AdaptiveRule& rule,
                                      const std::vector<double>& metrics) const {
    const auto scheduler = make(rule);
    std::vector<std::int64_t> result;
    for (const double metric : metrics) {
      scheduler->step(metric);
      result.push_back(scheduler->position());
      EXPECT_EQ(GroupParams(*sparsifier).get("sparsity_level"),
                (ParamMap{{"a", static_cast<double>(scheduler->position()) / 8}}));
    }
    return result;
  }

  float numbers[4] = {1, 2, 3, 4};
  std::shared_ptr<DataNormSparsifier> sparsifier;
};

using Positions = std::vector<std::int64_t>;

TEST_F(AdaptiveScheduler, GoesOnWhileTheMetricIsGood) {
  EXPECT_EQ(positions({}, {3, 2, 2, 1, 0, 0}), (Positions{1, 2, 3, 4, 4, 4}));
  EXPECT_EQ(positions({Mode::max}, {1, 2, 2, 3}), (Positions{1, 2, 3, 4}));
}

TEST_F(AdaptiveScheduler, GoesBackWhereItIsBad) {
  EXPECT_EQ(positions({}, {1, 1, 2, 2, 2, 1}), (Positions{1, 2, 1, 0, 0, 1}));
  EXPECT_EQ(positions({Mode::max, 0, 0, 3}, {1, 1, 0.5, 1}), (Positions{1, 2, 0, 1}));
}

TEST_F(AdaptiveScheduler, TakesForGoodWhatIsWithinTheTolerance) {
  EXPECT_EQ(positions({Mode::min, 0.5}, {1, 1.5, 1.75, 1.25}), (Positions{1, 2, 1, 2}));
  EXPECT_EQ(positions({Mode::max, 0.5}, {1, 0.5, 0.25, 0.75}), (Positions{1, 2, 1, 2}));
}

TEST_F(AdaptiveScheduler, MeasuresFromTheBestEver) {
  EXPECT_EQ(positions({Mode::min, 0.25}, {1, 0.5, 0.75, 1}), (Positions{1, 2, 3, 2}));
}

TEST_F(AdaptiveScheduler, WaitsAsLongAsItIsPatient) {
  EXPECT_EQ(positions({Mode::min, 0, 2}, {1, 1, 2, 2, 2, 2, 2, 2}),
            (Positions{1, 2, 2, 2, 1, 1, 1, 0}));
  EXPECT_EQ(positions({Mode::min, 0, 2}, {1, 2, 2, 1, 2, 2, 1}), (Positions{1, 1, 1, 2, 2, 2, 3}))
      << "a good metric ends the row";
}

TEST_F(AdaptiveScheduler, TakesForBadWhatIsNoNumber) {
  for (const Mode mode : {Mode::min, Mode::max}) {
    EXPECT_EQ(positions({mode}, {nan, inf, -inf, 1, inf, -inf, nan, 1}),
              (Positions{0, 0, 0, 1, 0, 0, 0, 1}));
  }
}

TEST_F(AdaptiveScheduler, StaysWithinItsSteps) {
  AdaptiveRule rule;
  rule.steps = 2;
  EXPECT_EQ(positions(rule, {1, 1, 1, 1}), (Positions{1, 2, 2, 2}));
  rule.steps = 0;
  EXPECT_EQ(positions(rule, {1, 2}), (Positions{0, 0}));
}

TEST_F(AdaptiveScheduler, MayHaveNoEndAndAllPatience) {
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  AdaptiveRule endless;
  endless.steps = endless.patience = most;
  const auto scheduler = make(endless);
  auto state = scheduler->save_state();
  state.own.set("position", most);
  state.own.set("bad_steps", most);
  state.own.set("best", 1.0);
  scheduler->load_state(state);
  scheduler->step(0.5);
  EXPECT_EQ(scheduler->position(), most);
  state.own.set("best", 0.0);
  scheduler->load_state(state);
  scheduler->step(1.0);
  EXPECT_EQ(scheduler->position(), most - endless.back_off);
}

TEST_F(AdaptiveScheduler, ChecksItsRule) {
  const auto refusal = [this](const AdaptiveRule& rule) {
    return message_of<ValueError>([&] { make(rule); });
  };
  EXPECT_EQ(refusal({Mode::min, -1}), "tolerance must be finite and at least 0, got -1.0");
  EXPECT_EQ(refusal({Mode::min, nan}), "tolerance must be finite and at least 0, got nan");
  EXPECT_EQ(refusal({Mode::min, 0, -1}), "patience must be at least 0, got -1");
  EXPECT_EQ(refusal({Mode::min, 0, 0, 0}), "back_off must be at least 1, got 0");
  EXPECT_EQ(refusal({Mode::min, 0, 0, 1, -1}), "steps must be at least 0, got -1");
  EXPECT_EQ(message_of<ValueError>([&] {
              make_scheduler<AdaptiveDataScheduler>(
                  sparsifier, "sparsity_level",
                  DataScheduler::Schedules{{"*", schedules::Cyclic{0.0, 0.5, 4}}}, AdaptiveRule());
            }),
            "steps must be given for a schedule that never ends, got None for "
            "Cyclic(low=0.0, high=0.5, period=4)");
}

TEST_F(AdaptiveScheduler, ResumesWhereItWasSaved) {
  const AdaptiveRule rule{Mode::min, 0.25, 1};
  const std::vector<double> metrics{1, 0.5, 0.5, 2, 2, 2, 0.6, nan, nan, 0.4, 0.3};
  const auto unbroken = positions(rule, metrics);
  for (std::size_t stop = 0; stop < metrics.size(); ++stop) {
    const auto first = make(rule);
    for (std::size_t i = 0; i < stop; ++i) first->step(metrics[i]);
    const auto saved = first->save_state();
    const auto resumed = make(rule);
    resumed->load_state(saved);
    for (std::size_t i = stop; i < metrics.size(); ++i) {
      resumed->step(metrics[i]);
      EXPECT_EQ(resumed->position(), unbroken[i]);
    }
  }
}

TEST_F(AdaptiveScheduler, RefusesEveryDamagedStateAndChangesNothing) {
  const auto scheduler = make({Mode::min, 0, 1});
  scheduler->step(1);
  scheduler->step(2);
  const auto own = scheduler->save_state().own;
  EXPECT_EQ(own, (ParamMap{{"position", 1}, {"bad_steps", 1}, {"best", 1.0}}));
  const std::vector<std::pair<std::string, ParamValue>> damages{
      {"position", -1}, {"position", 5},   {"position", 1.0}, {"position", ParamValue()},
      {"bad_steps", 2}, {"bad_steps", -1}, {"best", nan},     {"best", "1"},
      {"more", 1}};
  for (const auto& [key, value] : damages) {
    auto state = scheduler->save_state();
    state.last_epoch = 77;
    state.own.set(key, value);
    EXPECT_THROW(scheduler->load_state(state), ValueError) << key << to_string(value);
    EXPECT_EQ(scheduler->save_state().own, own);
    EXPECT_EQ(scheduler->last_epoch(), 2);
  }
  for (const char* key : {"position", "bad_steps", "best"}) {
    auto state = scheduler->save_state();
    state.own.erase(key);
    EXPECT_THROW(scheduler->load_state(state), ValueError) << key;
  }
  auto state = scheduler->save_state();
  state.own.set("position", 3);
  state.last_param = {{"a", 1.5}};
  EXPECT_THROW(scheduler->load_state(state), ValueError);
  EXPECT_EQ(scheduler->save_state().own, own) << "what could not be written undoes it";
}

TEST_F(AdaptiveScheduler, IsAsBeforeWhereAStepFails) {
  const auto scheduler = make_scheduler<AdaptiveDataScheduler>(
      sparsifier, "sparsity_level",
      DataScheduler::Schedules{{"*", schedules::Piecewise{{{0, 0.5}, {1, 1.5}}}}}, AdaptiveRule());
  const auto own = scheduler->save_state().own;
  EXPECT_THROW(scheduler->step(1), ValueError);
  EXPECT_EQ(scheduler->save_state().own, own);
  EXPECT_EQ(scheduler->last_epoch(), 0);
}

TEST_F(AdaptiveScheduler, StaysWhereItIsWithoutAMetric) {
  const auto scheduler = make({});
  scheduler->step(1);
  BaseDataScheduler& base = *scheduler;
  base.step();
  EXPECT_EQ(scheduler->position(), 1);
  EXPECT_EQ(scheduler->last_epoch(), 2);
}

TEST_F(AdaptiveScheduler, PlansAsIfAllWentWell) {
  AdaptiveRule rule;
  rule.steps = 2;
  EXPECT_EQ(make(rule)->plan(4).values, (std::vector<ParamValue>{0.0, 0.125, 0.25, 0.25}));
}

}  // namespace
}  // namespace datasparse
