#include "datasparse/schedule.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

#include "datasparse/error.hpp"
#include "support.hpp"

namespace datasparse {

static void PrintTo(const Schedule& schedule, std::ostream* out) { *out << to_string(schedule); }

namespace {

using namespace schedules;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t last_step = std::numeric_limits<std::int64_t>::max();

/// A schedule, the base, and its values at some steps: worked out by hand.
struct Row {
  Schedule schedule;
  double base;
  std::vector<std::pair<std::int64_t, double>> values;
};

const Ramp ramp{0.1, 0.9, 10, 30, 5};  // updated at 10, 15, 20, 25, 30

const std::vector<Row> table{
    {Constant{}, 0.6, {{0, 0.6}, {1, 0.6}, {last_step, 0.6}}},
    {Constant{0.25}, 0.6, {{0, 0.25}, {last_step, 0.25}}},
    {Step{10, 0.5}, 0.8, {{0, 0.8}, {9, 0.8}, {10, 0.4}, {19, 0.4}, {20, 0.2}, {21, 0.2}}},
    {Step{1, 0}, 0.8, {{0, 0.8}, {1, 0}, {last_step, 0}}},
    {MultiStep{{2, 5}, 0.5}, 0.8, {{0, 0.8}, {1, 0.8}, {2, 0.4}, {4, 0.4}, {5, 0.2}, {6, 0.2}}},
    {MultiStep{{0}, 2}, 0.25, {{0, 0.5}, {last_step, 0.5}}},
    {Exponential{0.5}, 0.8, {{0, 0.8}, {1, 0.4}, {2, 0.2}, {3, 0.1}}},
    {Exponential{0.5, 2}, 0.8, {{0, 0.8}, {1, 0.8}, {2, 0.2}, {3, 0.2}, {4, 0.05}}},
    {Linear{ramp},
     0.6,
     {{0, 0.1},
      {9, 0.1},
      {10, 0.1},
      {14, 0.1},
      {15, 0.3},
      {19, 0.3},
      {20, 0.5},
      {25, 0.7},
      {29, 0.7},
      {30, 0.9},
      {31, 0.9},
      {last_step, 0.9}}},
    {Linear{{0.0, std::nullopt, 0, 4}}, 0.8, {{0, 0}, {1, 0.2}, {3, 0.6}, {4, 0.8}, {5, 0.8}}},
    {Linear{{std::nullopt, 0.0, 0, 4}}, 0.8, {{0, 0.8}, {1, 0.6}, {3, 0.2}, {4, 0}}},
    // Ramps that begin and end at one step.
    {Linear{{0.25, 0.75, 3, 3}}, 0.5, {{0, 0.25}, {2, 0.25}, {3, 0.75}, {4, 0.75}}},
    {Polynomial{{0.0, std::nullopt, 1, 1, 9}}, 0.5, {{0, 0}, {1, 0.5}, {last_step, 0.5}}},
    {Cosine{{std::nullopt, 0.25, 2, 2}}, 0.5, {{1, 0.5}, {2, 0.25}}},
    {Linear{{0.0, 0.75, 0, 0}}, 0.5, {{0, 0.75}, {1, 0.75}}},
    // Every 4 steps of 10: at 0, 4 and 8, and the end where it was said to be.
    {Linear{{0.0, 1.0, 0, 10, 4}}, 0.5, {{3, 0}, {4, 0.4}, {7, 0.4}, {8, 0.8}, {9, 0.8}, {10, 1}}},
    // 0.9 + (0.1 - 0.9) (1 - t)^3 at t = 0, 1/4, 1/2, 3/4, 1
    {Polynomial{ramp},
     0.6,
     {{9, 0.1},
      {10, 0.1},
      {14, 0.1},
      {15, 0.5625},
      {19, 0.5625},
      {20, 0.8},
      {25, 0.8875},
      {29, 0.8875},
      {30, 0.9},
      {31, 0.9}}},
    {Polynomial{{0.0, 0.8, 0, 4}, 1}, 0.6, {{0, 0}, {1, 0.2}, {2, 0.4}, {3, 0.6}, {4, 0.8}}},
    {Polynomial{{0.0, 1.0, 0, 4}, 0.5}, 0.6, {{0, 0}, {3, 0.5}, {4, 1}}},
    // (1 - cos(pi t)) / 2 at t = 0, 1/4, 1/2, 3/4, 1
    {Cosine{ramp},
     0.6,
     {{9, 0.1},
      {10, 0.1},
      {14, 0.1},
      {15, 0.1 + 0.8 * 0.14644660940672624},
      {20, 0.5},
      {25, 0.1 + 0.8 * 0.85355339059327376},
      {30, 0.9},
      {31, 0.9}}},
    {Cyclic{0.2, 0.8, 6},
     0.5,
     {{0, 0.2}, {1, 0.4}, {2, 0.6}, {3, 0.8}, {4, 0.6}, {5, 0.4}, {6, 0.2}, {9, 0.8}}},
    {Cyclic{0.0, std::nullopt, 3}, 0.9, {{0, 0}, {1, 0.6}, {2, 0.6}, {3, 0}}},
    {OneShot{5}, 0.7, {{0, 0}, {4, 0}, {5, 0.7}, {6, 0.7}}},
    {OneShot{0, 0.5, 0.25}, 0.7, {{0, 0.25}, {1, 0.25}}},
    {Piecewise{{{2, 0.25}, {5, std::nullopt}, {6, 0.5}}},
     0.75,
     {{0, 0.75}, {1, 0.75}, {2, 0.25}, {4, 0.25}, {5, 0.75}, {6, 0.5}, {last_step, 0.5}}},
    {Lambda([](std::int64_t step) { return static_cast<double>(step) / 4; }),
     0.5,
     {{0, 0}, {1, 0.125}, {4, 0.5}}},
    {Sequential{{Constant{0.1}, Linear{{0.2, 0.6, 0, 4}}, Step{2, 0.5}}, {3, 8}},
     0.8,
     {{2, 0.1}, {3, 0.2}, {4, 0.3}, {7, 0.6}, {8, 0.8}, {9, 0.8}, {10, 0.4}}},
    {Product{{Linear{{0.0, std::nullopt, 0, 4}}, Step{2, 0.5}, Constant{}}},
     0.8,
     {{0, 0}, {1, 0.2}, {2, 0.2}, {3, 0.3}, {4, 0.2}}},
    {Clamp{Linear{{0.0, 1.0, 0, 10}}, 0.25, 0.75},
     0.5,
     {{0, 0.25}, {2, 0.25}, {5, 0.5}, {9, 0.75}}},
    {Clamp{Linear{{0.0, 1.0, 0, 10}}, 0.0, std::nullopt}, 0.5, {{4, 0.4}, {6, 0.5}}},
    {Round{Linear{{0.0, 5.0, 0, 10}}},
     0.5,
     {{0, 0}, {1, 0}, {2, 1}, {3, 2}, {5, 2}, {7, 4}, {9, 4}, {10, 5}}},
};

TEST(Schedule, HasTheValuesWorkedOutByHand) {
  for (const auto& [schedule, base, values] : table) {
    for (const auto& [step, value] : values) {
      EXPECT_DOUBLE_EQ(schedule(step, base), value) << to_string(schedule) << " at " << step;
    }
  }
}

TEST(Schedule, StaysWhatItIsFromItsEndOn) {
  for (const auto& row : table) {
    const auto end = row.schedule.end();
    if (!end) continue;
    const double value = row.schedule(*end, row.base);
    for (const std::int64_t later : {*end + 1, *end + 17, last_step}) {
      EXPECT_EQ(row.schedule(later, row.base), value) << to_string(row.schedule);
    }
    if (*end == 0) continue;
    bool constant = true;
    for (std::int64_t step = 0; step < *end; ++step) {
      constant &= row.schedule(step, row.base) == value;
    }
    EXPECT_FALSE(constant) << to_string(row.schedule) << " ends before " << *end;
  }
}

TEST(Schedule, KnowsWhichNeverEnd) {
  EXPECT_FALSE((Schedule(Step{3, 0.5}).end()));
  EXPECT_EQ((Schedule(Step{3, 0}).end()), 3) << "0 stays 0";
  EXPECT_EQ((Schedule(Exponential{0, 2}).end()), 2);
  EXPECT_FALSE((Schedule(Cyclic{0.0, 1.0, 4}).end()));
  EXPECT_FALSE((Schedule(Product{{Constant{}, Exponential{0.9}}}).end()));
  EXPECT_EQ((Schedule(Product{{OneShot{7}, Linear{{0.0, 1.0, 0, 3}}}}).end()), 7);
  EXPECT_EQ((Schedule(Sequential{{Cyclic{0.0, 1.0, 4}, OneShot{7}}, {10}}).end()), 17);
}

TEST(Schedule, NeverLeavesTheBoundsOfARamp) {
  Random random(11);
  for (int i = 0; i < 20000; ++i) {
    const double a = random.unit() * (random.one_in(5) ? 1e300 : 1), b = random.unit();
    const std::int64_t begin = random.below(5), end = begin + random.below(41);
    const Ramp any{a, b, begin, end, 1 + random.below(9)};
    for (const Schedule& schedule :
         {Schedule(Linear{any}), Schedule(Polynomial{any, 1 + 3 * random.unit()}),
          Schedule(Cosine{any}), Schedule(Cyclic{std::min(a, b), std::max(a, b), end + 2})}) {
      for (std::int64_t step = 0; step < end + 3; ++step) {
        const double value = schedule(step, 0.5);
        ASSERT_GE(value, std::min(a, b)) << to_string(schedule) << " at " << step;
        ASSERT_LE(value, std::max(a, b)) << to_string(schedule) << " at " << step;
      }
    }
  }
}

TEST(Schedule, TakesPowersByMultiplicationOnly) {
  EXPECT_EQ(Schedule(Exponential{0.9})(5, 1.0), 0.9 * (0.9 * 0.9 * (0.9 * 0.9)));
  EXPECT_EQ(Schedule(Exponential{0.5})(1074, 1.0), 0x1p-1074);
  EXPECT_EQ(Schedule(Exponential{0.5})(last_step, 1.0), 0);
  EXPECT_EQ(Schedule(Exponential{2})(1024, 1.0), inf);
}

TEST(Schedule, HasTheCosineOfALongDouble) {
  const Schedule schedule = Cosine{{0.0, 1.0, 0, 10000}};
  for (std::int64_t step = 0; step <= 10000; ++step) {
    const auto t = static_cast<long double>(step) / 10000;
    const long double exact = (1 - std::cos(std::acos(-1.0L) * t)) / 2;
    EXPECT_NEAR(schedule(step, 0.5), static_cast<double>(exact), 2.3e-16) << step;
  }
  EXPECT_EQ(schedule(5000, 0.5), 0.5);
}

// --- kinds of values --------------------------------------------------------------------------

ParamValue at(const Schedule& schedule, std::int64_t step, const ParamValue& base) {
  return schedule(step, base, "zeros_per_block", "emb");
}

TEST(Schedule, GivesIntegersForAnIntegerBase) {
  const Schedule schedule = Linear{{0.0, std::nullopt, 0, 8}};
  const std::vector<std::int64_t> zeros{0, 0, 1, 2, 2, 2, 3, 4, 4, 4};  // half to even
  for (std::size_t step = 0; step < zeros.size(); ++step) {
    EXPECT_EQ(at(schedule, static_cast<std::int64_t>(step), std::int64_t{4}), zeros[step]);
  }
  EXPECT_EQ(at(schedule, 1, 4.0), 0.5) << "a float stays one";
}

TEST(Schedule, RoundsAtTheEndOnly) {
  const Schedule slow = Linear{{0.0, std::nullopt, 0, 8}};
  EXPECT_EQ(at(Product{{slow, Constant{4.0}}}, 1, 4), 2) << "not 4 times 0";
}

TEST(Schedule, RoundsNothingThatWasAskedForInFractions) {
  const Schedule whole = Linear{{0.0, std::nullopt, 0, 8}}, level = Linear{{1.0, 0.2, 0, 4}};
  EXPECT_EQ(at(level, 0, 1), 1.0);
  EXPECT_DOUBLE_EQ(*at(level, 1, 1).get_if<double>(), 0.8);
  EXPECT_EQ(at(level, 4, 1), 0.2);

  const auto one = [](std::int64_t) { return 1.0; };
  for (const Schedule& schedule : std::vector<Schedule>{
           Constant{0.5},
           Step{1, 0.5},
           MultiStep{{1}, 1.5},
           Exponential{0.5},
           Linear{{0.5, 1.0, 0, 4}},
           Polynomial{{1.0, 0.5, 0, 4}},
           Cosine{{std::nullopt, 0.5, 0, 4}},
           Cyclic{0.5, 2.0, 4},
           Cyclic{0.0, 1.5, 4},
           OneShot{2, 0.5, 1.0},
           OneShot{2, 0.0, 0.5},
           Piecewise{{{0, 1.0}, {3, 0.5}}},
           Lambda(one),
           Sequential{{whole, level}, {3}},
           Sequential{{Lambda(one), whole}, {3}},
           Product{{whole, Constant{0.5}}},
           Product{{whole, Step{2, 0.5}}},
           Product{{whole, Lambda(one)}},
           Clamp{level, 0.0, 1.0},
           Clamp{whole, 0.5, 2.0},
           Clamp{whole, 0.0, 2.5},
       }) {
    EXPECT_FALSE(schedule.is_of_integers()) << to_string(schedule);
    for (const std::int64_t step : {0, 1, 3, 9}) {
      const auto value = at(schedule, step, 3);
      ASSERT_NE(value.get_if<double>(), nullptr) << to_string(schedule) << " at " << step;
      EXPECT_EQ(*value.get_if<double>(), schedule(step, 3.0)) << to_string(schedule);
    }
    EXPECT_TRUE(Schedule(Round{schedule}).is_of_integers());
    EXPECT_NE(at(Round{schedule}, 1, 3).get_if<std::int64_t>(), nullptr) << to_string(schedule);
    EXPECT_NE(at(Round{schedule}, 1, 3.0).get_if<double>(), nullptr) << "of a float";
  }
}

TEST(Schedule, KnowsWhichAreOfIntegers) {
  const Schedule whole = Polynomial{{0.0, std::nullopt, 0, 8}, 2.5};
  for (const Schedule& schedule : std::vector<Schedule>{
           Constant{}, Constant{-2.0}, Step{1, 2}, Step{1, 0}, MultiStep{{1}, 3}, Exponential{1},
           Cosine{{1.0, 2.0, 0, 4}}, Cyclic{std::nullopt, 4.0, 3}, OneShot{2, 0.0, 4.0}, OneShot{2},
           Piecewise{{{0, 1.0}, {3, std::nullopt}}}, whole, Sequential{{whole, Constant{2.0}}, {3}},
           Product{{whole, Step{2, 2}}}, Clamp{whole, std::nullopt, 3.0},
           Clamp{Round{Constant{0.5}}, 0.0, 3.0}}) {
    EXPECT_TRUE(schedule.is_of_integers()) << to_string(schedule);
    EXPECT_NE(at(schedule, 1, 3).get_if<std::int64_t>(), nullptr) << to_string(schedule);
    EXPECT_NE(at(schedule, 1, 3.0).get_if<double>(), nullptr) << to_string(schedule);
  }
}

TEST(Schedule, RoundsForAKeyOfIntegers) {
  const Schedule level = Linear{{1.0, 0.2, 0, 4}};
  const auto rounded = [&](const ParamValue& base) {
    return level(2, base, "zeros_per_block", "emb", true);
  };
  EXPECT_EQ(rounded(1), 1);
  EXPECT_EQ(rounded(1.0), 1) << "the kind is the key's";
  EXPECT_EQ(Schedule(Exponential{0.5})(1, 4.0, "zeros_per_block", "emb", true), 2);
  EXPECT_THROW(rounded(true), TypeError);
}

TEST(Schedule, RefusesABaseThatIsNoNumber) {
  for (const ParamValue& base :
       {ParamValue(), ParamValue(true), ParamValue("L1"), ParamValue(ParamValue::Ints{1, 4})}) {
    const auto message = message_of<TypeError>([&] { at(Constant{}, 0, base); });
    EXPECT_EQ(message.rfind("zeros_per_block of 'emb' must be a number, got ", 0), 0U) << message;
  }
}

TEST(Schedule, RefusesIntegersThatADoubleMayMiss) {
  const std::int64_t most = std::int64_t{1} << 53;
  EXPECT_EQ(at(Constant{}, 0, most), most);
  EXPECT_EQ(at(Constant{}, 0, -most), -most);
  EXPECT_THROW(at(Constant{}, 0, most + 2), ValueError);
  EXPECT_THROW(at(Exponential{10}, 20, 1), ValueError);
  const Schedule lost = Lambda([](std::int64_t) { return nan; });
  EXPECT_THROW(at(Round{lost}, 0, 1), ValueError);
  EXPECT_THROW(lost(0, 1, "zeros_per_block", "emb", true), ValueError);
  EXPECT_TRUE(holds_nan(at(lost, 0, 1))) << "who takes the value refuses it";
}

TEST(Schedule, RefusesANegativeStep) {
  EXPECT_EQ(message_of<ValueError>([] { Schedule(Constant{})(-1, 0.5); }),
            "step must be at least 0, got -1");
}

// --- the rules of the arguments ---------------------------------------------------------------

template <class Kind>
std::string refusal(Kind kind) {
  return message_of<ValueError>([&] { Schedule{kind}; });
}

TEST(Schedule, ChecksItsArguments) {
  EXPECT_EQ(refusal(Constant{inf}), "value must be finite, got inf");
  EXPECT_EQ(refusal(Step{0, 0.5}), "step_size must be at least 1, got 0");
  EXPECT_EQ(refusal(Step{1, -0.5}), "gamma must be finite and at least 0, got -0.5");
  EXPECT_EQ(refusal(Step{1, nan}), "gamma must be finite and at least 0, got nan");
  EXPECT_EQ(refusal(MultiStep{{}, 1}), "milestones must hold one step at least, got ()");
  EXPECT_EQ(refusal(MultiStep{{3, 3}, 1}), "milestones must increase, from 0 or above, got (3, 3)");
  EXPECT_EQ(refusal(MultiStep{{-1}, 1}), "milestones must increase, from 0 or above, got (-1,)");
  EXPECT_EQ(refusal(Exponential{0.5, 0}), "every must be at least 1, got 0");
  EXPECT_EQ(refusal(Linear{{0.0, 1.0, 0, -1}}), "end must be at least begin, 0, got -1");
  EXPECT_EQ(refusal(Linear{{0.0, 1.0, -1, 5}}), "begin must be at least 0, got -1");
  EXPECT_EQ(refusal(Cosine{{0.0, 1.0, 7, 5}}), "end must be at least begin, 7, got 5");
  EXPECT_EQ(refusal(Cosine{{nan, 1.0, 1, 5}}), "initial must be finite, got nan");
  EXPECT_EQ(refusal(Linear{{0.0, inf, 1, 5}}), "final must be finite, got inf");
  EXPECT_EQ(refusal(Linear{{0.0, 1.0, 1, 5, 0}}), "every must be at least 1, got 0");
  EXPECT_EQ(refusal(Polynomial{{0.0, 1.0, 1, 5}, 0}), "power must be finite and above 0, got 0.0");
  EXPECT_EQ(refusal(Cyclic{0.5, 0.4, 5}), "low must be at most high, got 0.5 and 0.4");
  EXPECT_EQ(refusal(Cyclic{0.4, 0.5, 1}), "period must be at least 2, got 1");
  EXPECT_EQ(refusal(OneShot{-1}), "at must be at least 0, got -1");
  EXPECT_EQ(refusal(OneShot{1, nan}), "before must be finite, got nan");
  EXPECT_EQ(refusal(OneShot{1, 0.5, nan}), "value must be finite, got nan");
  EXPECT_EQ(refusal(Piecewise{}), "values must hold one step at least, got ()");
  EXPECT_EQ(refusal(Piecewise{{{1, nan}}}), "values must be finite, got nan");
  EXPECT_EQ(refusal(Piecewise{{{2, 1.0}, {1, 1.0}}}),
            "the steps of values must increase, from 0 or above, got (2, 1)");
  EXPECT_EQ(refusal(Sequential{{Constant{}}, {1}}),
            "milestones must be one fewer than schedules, got 1 for 1");
  EXPECT_EQ(refusal(Sequential{{}, {}}),
            "milestones must be one fewer than schedules, got 0 for 0");
  EXPECT_EQ(refusal(Sequential{{Constant{}, Constant{}}, {0}}),
            "milestones must increase, from 1 or above, got (0,)");
  EXPECT_EQ(refusal(Product{}), "schedules must hold one at least, got none");
  EXPECT_EQ(refusal(Clamp{Constant{}, 0.5, 0.4}), "low must be at most high, got 0.5 and 0.4");
  EXPECT_THROW(Schedule(Lambda(nullptr)), TypeError);
}

TEST(Schedule, BoundsDepthAndSize) {
  Schedule deep = Constant{};
  for (int i = 1; i < Schedule::max_depth; ++i) deep = Round{deep};
  EXPECT_EQ(deep(0, 0.2), 0);
  EXPECT_THROW(deep = Round{deep}, ValueError);
  Schedule wide = Constant{};
  for (int i = 0; i < 12; ++i) wide = Product{{wide, wide}};
  EXPECT_EQ(wide(0, 1.0), 1);
  EXPECT_THROW((wide = Product{{wide, wide}}), ValueError);
}

// --- values among values ----------------------------------------------------------------------

TEST(Schedule, IsEqualByWhatItHolds) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    for (std::size_t j = 0; j < table.size(); ++j) {
      EXPECT_EQ(table[i].schedule == table[j].schedule, i == j);
    }
  }
  const auto make = [](double low) {
    return Schedule(
        Clamp{Sequential{{Step{3, 0.5}, Piecewise{{{1, std::nullopt}}}}, {4}}, low, 1.0});
  };
  EXPECT_EQ(make(0.25), make(0.25));
  EXPECT_EQ(make(0.25).hash(), make(0.25).hash());
  EXPECT_NE(make(0.25), make(0.5));
  EXPECT_NE(make(0.25).hash(), make(0.5).hash());
  EXPECT_EQ(Schedule(Constant{0.0}).hash(), Schedule(Constant{-0.0}).hash()) << "they are equal";
}

TEST(Schedule, ComparesFunctionsByIdentity) {
  const auto zero = [](std::int64_t) { return 0.0; };
  const Schedule schedule = Lambda(zero), copy = schedule;
  EXPECT_EQ(schedule, copy);
  EXPECT_EQ(schedule.hash(), copy.hash());
  EXPECT_NE(schedule, Schedule(Lambda(zero)));
}

TEST(Schedule, PrintsItselfAsPythonWould) {
  EXPECT_EQ(to_string(Schedule(Polynomial{{0.0, 0.9, 0, 1000, 100}})),
            "Polynomial(initial=0.0, final=0.9, begin=0, end=1000, every=100, power=3.0)");
  EXPECT_EQ(to_string(Schedule(Sequential{{Constant{}, MultiStep{{1, 2}, 0.5}}, {4}})),
            "Sequential(schedules=[Constant(value=None), MultiStep(milestones=[1, 2], gamma=0.5)], "
            "milestones=[4])");
  EXPECT_EQ(to_string(Schedule(Piecewise{{{0, 0.5}, {3, std::nullopt}}})),
            "Piecewise({0: 0.5, 3: None})");
  EXPECT_EQ(to_string(Schedule(Lambda([](std::int64_t) { return 0.0; }))), "Lambda(<function>)");
}

static_assert(std::is_nothrow_copy_constructible_v<Schedule>);
static_assert(!std::is_constructible_v<Schedule, double>);

}  // namespace
}  // namespace datasparse
