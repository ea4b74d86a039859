// DataScheduler: schedules by pattern, and plans.

#include <limits>

#include "datasparse/adaptive_data_scheduler.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

using namespace schedules;
using Schedules = DataScheduler::Schedules;

class ScheduledSparsifier : public ::testing::Test {
 protected:
  ScheduledSparsifier() : sparsifier(std::make_shared<DataNormSparsifier>(spec(0.8, 1, 2))) {
    for (const char* name : {"fc1", "fc2", "emb"}) {
      sparsifier->add_data(name, ArrayView(numbers, {2, 5}));
    }
    sparsifier->update_config("emb", {{"sparsity_level", 0.4}});
    sparsifier->step();
  }
  ParamMap levels() const { return GroupParams(*sparsifier).get("sparsity_level"); }
  template <class... Arguments>
  std::shared_ptr<DataScheduler> make(const Arguments&... arguments) const {
    return make_scheduler<DataScheduler>(sparsifier, "sparsity_level", arguments...);
  }

  float numbers[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  std::shared_ptr<DataNormSparsifier> sparsifier;
};

TEST_F(ScheduledSparsifier, GetsTheValuesOfTheSchedule) {
  const Schedule schedule = Cosine{{0.0, std::nullopt, 0, 5}};
  const auto scheduler = make(schedule);
  for (std::int64_t step = 0; step < 8; ++step) {
    const double a = schedule(step, 0.8), b = schedule(step, 0.4);
    EXPECT_EQ(levels(), (ParamMap{{"fc1", a}, {"fc2", a}, {"emb", b}}));
    EXPECT_EQ(scheduler->get_last_param(), levels());
    EXPECT_EQ(scheduler->get_schedule_param(), levels());
    scheduler->step();
  }
}

TEST_F(ScheduledSparsifier, GivesANameItsOwnAndThenTheFirstPattern) {
  make(Schedules{{"*2", Constant{0.1}}, {"?[cm]*", Constant{0.2}}, {"fc1", Constant{0.3}}});
  EXPECT_EQ(levels(), (ParamMap{{"fc1", 0.3}, {"fc2", 0.1}, {"emb", 0.2}}));
}

TEST_F(ScheduledSparsifier, RefusesPatternsThatAreOfNoUse) {
  EXPECT_EQ(
      message_of<ValueError>([&] { make(Schedules{{"fc*", Constant{}}, {"em", Constant{}}}); }),
      "pattern 'em' must match a group, and matches none; did you mean 'emb'? (pass "
      "strict=False for groups that are added later)");
  EXPECT_EQ(
      message_of<ValueError>([&] { make(Schedules{{"*", Constant{}}, {"f*", Constant{}}}); }),
      "pattern 'f*' must be of use to a group, but others have 'fc1' and all that it matches: "
      "a name comes first, then the patterns in their order");
  EXPECT_EQ(message_of<ValueError>([&] { make(Schedules{}); }),
            "schedule must hold one pattern at least, got none");
  EXPECT_EQ(message_of<ValueError>([&] { make(Schedules{{"*", Constant{}}, {"*", Constant{}}}); }),
            "schedule must hold every pattern once, got '*' twice");
  EXPECT_NO_THROW(make(Schedules{{"*", Constant{}}, {"x", Constant{}}}, false));
}

TEST_F(ScheduledSparsifier, RefusesAParameterThatIsNoNumber) {
  for (const char* key : {"norm", "sparse_block_shape"}) {
    EXPECT_THROW(make_scheduler<DataScheduler>(sparsifier, key, Schedule(Constant{0.5})),
                 TypeError);
    EXPECT_THROW(make_scheduler<DataScheduler>(std::make_shared<DataNormSparsifier>(), key,
                                               Schedule(Constant{0.5})),
                 TypeError);
  }
}

TEST_F(ScheduledSparsifier, KnowsItsEnds) {
  EXPECT_EQ(make(Schedule(Linear{{0.0, 0.5, 0, 7}}))->ends(), (std::vector<std::int64_t>{7}));
  EXPECT_EQ(make(Schedules{{"fc1", OneShot{9}},
                           {"fc*", Cyclic{0.0, 0.5, 4}},
                           {"e*", Linear{{0.0, 0.5, 1, 3}}},
                           {"x", Cosine{{0.0, 0.5, 0, 9}}}},
                 false)
                ->ends(),
            (std::vector<std::int64_t>{3, 9}));
  EXPECT_TRUE(make(Schedule(Exponential{0.5}))->ends().empty());
  AdaptiveRule rule;
  rule.steps = 5;
  EXPECT_TRUE(make_scheduler<AdaptiveDataScheduler>(
                  sparsifier, "sparsity_level", Schedules{{"*", Linear{{0.0, 0.5, 0, 7}}}}, rule)
                  ->ends()
                  .empty())
      << "its schedules do not go by steps";
}

/// Counts how often it is asked, and says so of one key.
class Declaring : public DataNormSparsifier {
 public:
  explicit Declaring(std::string key, const ParamMap& own)
      : DataNormSparsifier({}, own), key_(std::move(key)) {}
  bool is_integer_param(const std::string& key) const override {
    ++asked;
    return key == key_ || DataNormSparsifier::is_integer_param(key);
  }
  void check_config(const std::string&, const ParamMap&) const override {}
  mutable int asked = 0;

 private:
  std::string key_;
};

TEST(DataSchedulerOfIntegers, RoundsOnlyWhatIsDeclaredOrOfIntegers) {
  float numbers[10] = {};
  const Schedule level = Linear{{1.0, 0.2, 0, 4}};
  for (const bool declared : {true, false}) {
    const auto sparsifier =
        std::make_shared<Declaring>(declared ? "rate" : "other", ParamMap{{"rate", 1}});
    for (const char* name : {"a", "b", "c"}) sparsifier->add_data(name, ArrayView(numbers, {10}));
    const auto scheduler = make_scheduler<DataScheduler>(sparsifier, "rate", level);
    const auto plan = scheduler->plan(6);
    std::vector<ParamValue> values;
    for (std::int64_t step = 0; step < 6; ++step) {
      const auto value = sparsifier->config_value("b", "rate");
      const double exact = level(step, 1.0);
      EXPECT_EQ(value, declared ? ParamValue(exact < 0.5 ? 0 : 1) : ParamValue(exact));
      EXPECT_EQ(value, plan.values[static_cast<std::size_t>(step * 3 + 1)]);
      EXPECT_EQ(scheduler->get_schedule_param().at("c"), value);
      sparsifier->asked = 0;
      scheduler->step();
      EXPECT_EQ(sparsifier->asked, 1) << "once a step, not once a group";
    }
  }
}

TEST(DataSchedulerOfIntegers, KnowsWhichKeysOfTheNormSparsifierCount) {
  const DataNormSparsifier sparsifier;
  const BaseDataSparsifier& base = sparsifier;
  for (const char* key : {"zeros_per_block", "min_kept"}) EXPECT_TRUE(base.is_integer_param(key));
  for (const char* key : {"sparsity_level", "norm", "sparse_block_shape", ""}) {
    EXPECT_FALSE(base.is_integer_param(key));
  }
}

TEST_F(ScheduledSparsifier, RoundsZerosPerBlockWhateverTheSchedule) {
  const auto scheduler =
      make_scheduler<DataScheduler>(sparsifier, "zeros_per_block", Schedule(Exponential{0.5}));
  for (const std::int64_t zeros : {2, 1, 0, 0}) {
    EXPECT_EQ(sparsifier->config_value("emb", "zeros_per_block"), ParamValue(zeros));
    scheduler->step();
  }
}

TEST_F(ScheduledSparsifier, GoesOnWithGroupsThatComeAndGo) {
  const auto scheduler = make(Schedule(Linear{{0.0, std::nullopt, 0, 4}}));
  sparsifier->remove_data("fc1");
  sparsifier->add_data("late", ArrayView(numbers, {10}), {{"sparsity_level", 0.2}});
  scheduler->step();
  EXPECT_EQ(levels(), (ParamMap{{"fc2", 0.2}, {"emb", 0.1}, {"late", 0.05}}));
  scheduler->set_base_param({{"emb", 1.0}});
  scheduler->step();
  EXPECT_EQ(levels(), (ParamMap{{"fc2", 0.4}, {"emb", 0.5}, {"late", 0.1}}))
      << "a base that is not given stays";
  const auto before = scheduler->base_param();
  EXPECT_NE(message_of<UnknownNameError>([&] { scheduler->set_base_param({{"gone", 1.0}}); }), "");
  EXPECT_NE(message_of<ValueError>([&] { scheduler->set_base_param({{"emb", 1.5}}); }), "");
  EXPECT_EQ(scheduler->base_param(), before);
}

TEST_F(ScheduledSparsifier, GoesOnWithoutTheLastGroup) {
  const auto scheduler = make(Schedule(Linear{{0.0, std::nullopt, 0, 4}}));
  scheduler->step();
  sparsifier->remove_data("emb");
  scheduler->step();
  EXPECT_EQ(levels(), (ParamMap{{"fc1", 0.4}, {"fc2", 0.4}}));
  EXPECT_EQ(scheduler->get_last_param(), levels());
}

TEST_F(ScheduledSparsifier, IsAsBeforeWhereAValueIsRefused) {
  const auto scheduler = make(Schedules{{"fc*", Linear{{0.0, 0.5, 0, 2}}}, {"emb", Step{1, 2}}});
  scheduler->step();
  const auto before = sparsifier->save_state();
  EXPECT_THROW(scheduler->step(), ValueError);
  EXPECT_EQ(sparsifier->save_state(), before);
  EXPECT_EQ(scheduler->last_epoch(), 1);
  EXPECT_EQ(scheduler->get_last_param(), levels());
}

TEST_F(ScheduledSparsifier, MasksAsIfTheWholeConfigHadBeenWritten) {
  const auto twin = std::make_shared<DataNormSparsifier>(spec(0.8, 1, 2));
  twin->add_data("w", ArrayView(numbers, {2, 5}));
  const auto zeros = make_scheduler<DataScheduler>(sparsifier, "zeros_per_block",
                                                   Schedule(Linear{{0.0, std::nullopt, 0, 2}}));
  const auto level = make(Schedule(Linear{{0.0, 1.0, 0, 2}}));
  for (int step = 0; step < 4; ++step) {
    sparsifier->step();
    twin->update_config("w", sparsifier->config("fc1"));
    twin->step();
    EXPECT_EQ(bytes_of(sparsifier->get_mask("fc1")), bytes_of(twin->get_mask("w")));
    zeros->step();
    level->step();
  }
}

/// Has a rule of its own, which a quick check of the level alone would pass by.
struct Cautious : DataNormSparsifier {
  using DataNormSparsifier::DataNormSparsifier;
  void check_config(const std::string& name, const ParamMap& config) const override {
    DataNormSparsifier::check_config(name, config);
    if (config.at("sparsity_level").as_number("") > 0.5) throw ValueError("too much");
  }
};

TEST(ScheduledSubclass, HasItsSay) {
  float numbers[4] = {1, 2, 3, 4};
  const auto cautious = std::make_shared<Cautious>(spec(0.25, 1, 1));
  cautious->add_data("a", ArrayView(numbers, {4}));
  const auto scheduler =
      make_scheduler<DataScheduler>(cautious, "sparsity_level", Schedule(Step{1, 2}));
  scheduler->step();
  EXPECT_EQ(message_of<ValueError>([&] { scheduler->step(); }), "too much");
  EXPECT_TRUE(GroupParams(*cautious).count_zeros("sparsity_level", {{"a", 0.5}}).groups.empty())
      << "a subclass may have its own update_mask()";
}

// --- plans ------------------------------------------------------------------------------------

TEST_F(ScheduledSparsifier, PlansWhatItDoes) {
  const auto scheduler = make(Schedules{{"fc*", Polynomial{{0.0, 0.9, 1, 5}}}});
  const auto before = sparsifier->save_state();
  const Plan plan = scheduler->plan(7);
  EXPECT_EQ(sparsifier->save_state(), before);
  EXPECT_EQ(plan.groups, (std::vector<std::string>{"fc1", "fc2", "emb"}));
  EXPECT_EQ(plan.elements, (std::vector<std::int64_t>{10, 10, 10}));
  ASSERT_EQ(plan.values.size(), 21U);
  ASSERT_EQ(plan.zeros.size(), 21U);
  for (std::size_t step = 0; step < 7; ++step) {
    sparsifier->step();
    for (std::size_t group = 0; group < 3; ++group) {
      const auto& name = plan.groups[group];
      EXPECT_EQ(plan.values[3 * step + group], *levels().find(name));
      const auto mask = bytes_of(sparsifier->get_mask(name));
      const auto zeros = std::count(mask.begin(), mask.end(), 0);
      EXPECT_GE(zeros, plan.zeros[3 * step + group].least);
      EXPECT_LE(zeros, plan.zeros[3 * step + group].most);
    }
    scheduler->step();
  }
}

TEST_F(ScheduledSparsifier, PlansFromAnyStepOn) {
  const auto scheduler = make(Schedule(Linear{{0.0, 0.8, 0, 4}}));
  sparsifier->squash_mask({"fc1", "emb"});
  const Plan plan = scheduler->plan(2, 3);
  EXPECT_EQ(plan.groups, (std::vector<std::string>{"fc2"})) << "what is squashed stays as it is";
  EXPECT_EQ(plan.values.back(), 0.8);
  EXPECT_THROW(scheduler->plan(-1), ValueError);
  EXPECT_THROW(scheduler->plan(1, -1), ValueError);
  EXPECT_EQ(
      message_of<ValueError>([&] { scheduler->plan(2, std::numeric_limits<std::int64_t>::max()); }),
      "first must be at least 0 and at most 2^53, got 9223372036854775807");
  EXPECT_EQ(message_of<ValueError>([&] { scheduler->plan(std::int64_t{1} << 62); }),
            "steps * groups must be at most 100000000, got 4611686018427387904 * 1");
  EXPECT_EQ(message_of<ValueError>([&] { make(Schedule(OneShot{3, 0.5, 1.35}))->plan(9); }),
            "step 3: sparsity_level of 'fc2' must be in [0, 1], got 1.35");
}

TEST(CountZeros, IsWhatAMaskHas) {
  Random random(5);
  for (int i = 0; i < 3000; ++i) {
    Axes shape;
    for (std::int64_t axis = random.below(4); axis > 0; --axis) shape.push_back(random.below(8));
    BlockSpec block = spec(random.unit(), 1 + random.below(5), 1 + random.below(5));
    if (random.one_in(5)) block.block_height = -1;
    if (random.one_in(5)) block.block_width = -1;
    if (random.one_in(4)) block.sparsity_level = random.pick(std::vector<double>{0, 0.5, 1});
    if (random.one_in(2)) {
      block.zeros_per_block = random.below(*block.resolved(shape).zeros_per_block + 1);
    }
    Tensor tensor(DType::float32, shape);
    fill(tensor, Values::numbers, random);
    const auto mask = mask_of(tensor.view(), block);
    const auto zeros = std::count(mask.begin(), mask.end(), 0);
    const auto [least, most] = count_zeros(shape, block);
    EXPECT_TRUE(least <= zeros && zeros <= most) << describe(tensor.view(), block) << " " << zeros;
    const auto whole = block.resolved(shape);
    const std::int64_t rows = shape.size() > 1 ? shape[0] : 1;
    if (tensor.size() > 0 && rows % whole.block_height == 0 &&
        tensor.size() / rows % whole.block_width == 0) {
      EXPECT_EQ(least, most) << describe(tensor.view(), block);
    }
  }
}

}  // namespace
}  // namespace datasparse
