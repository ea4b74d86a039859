#include "datasparse/data_sparsifier.hpp"

#include <atomic>
#include <thread>

#include "datasparse/apply_mask.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "datasparse/group_table.hpp"
#include "datasparse/mask_rule.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

using Names = std::vector<std::string>;

/// Masks the first element of every group.
void mask_first(Scripted& sparsifier, const std::string& name, const ArrayView& data) {
  if (data.size() > 0) sparsifier.get_mask(name).data()[0] = 0;
}

/// Expects that `work` throws an Error, and that the sparsifier is as it was.
template <class Error, class Work>
std::string expect_refused(const BaseDataSparsifier& sparsifier, const Work& work) {
  const auto before = sparsifier.save_state();
  const auto names = sparsifier.names();
  std::string message = message_of<Error>(work);
  EXPECT_EQ(sparsifier.save_state(), before);
  EXPECT_EQ(sparsifier.names(), names);
  return message;
}

// --- groups ----------------------------------------------------------------------------------

TEST(DataSparsifier, KeepsGroupsInTheOrderInWhichTheyCame) {
  float numbers[6] = {};
  Scripted sparsifier;
  for (const char* name : {"zeta", "alpha", "layer.0.weight", " "}) {
    sparsifier.add_data(name, ArrayView(numbers, {2, 3}));
  }
  EXPECT_EQ(sparsifier.names(), (Names{"zeta", "alpha", "layer.0.weight", " "}));
  EXPECT_TRUE(sparsifier.contains("alpha"));
  EXPECT_FALSE(sparsifier.contains("beta"));
  sparsifier.remove_data("alpha");
  EXPECT_EQ(sparsifier.names(), (Names{"zeta", "layer.0.weight", " "}));
  sparsifier.add_data("alpha", ArrayView(numbers, {6}));
  EXPECT_EQ(sparsifier.names().back(), "alpha");
}

TEST(DataSparsifier, BeginsWithAMaskOfOnesInTheShapeOfTheData) {
  float numbers[6] = {};
  Scripted sparsifier;
  sparsifier.add_data("a", ArrayView(numbers, {2, 3}));
  EXPECT_EQ(sparsifier.get_mask("a").shape(), (Axes{2, 3}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes(6, 1));
}

TEST(DataSparsifier, HandsOutItsOwnMaskNotACopy) {
  float numbers[2] = {};
  Scripted sparsifier;
  sparsifier.add_data("a", ArrayView(numbers, {2}));
  Mask outlives;
  {
    const Mask mask = sparsifier.get_mask("a");
    mask.data()[1] = 0;
    outlives = mask;
  }
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{1, 0}));
  sparsifier.remove_data("a");
  EXPECT_EQ(bytes_of(outlives), (Bytes{1, 0}));
}

TEST(DataSparsifier, GivesBackTheSourceItWasGiven) {
  float number = 0;
  const auto source = std::make_shared<CountingSource>(ArrayView(&number, {1}));
  Scripted sparsifier;
  sparsifier.add_data("a", source);
  EXPECT_EQ(sparsifier.get_data("a"), source);
  EXPECT_EQ(source->pins, source->unpins);
}

TEST(DataSparsifier, RefusesAnEmptyNameAndNoData) {
  float number = 0;
  Scripted sparsifier;
  expect_refused<ValueError>(sparsifier, [&] { sparsifier.add_data("", ArrayView(&number, {1})); });
}

TEST(DataSparsifier, RefusesASourceThatIsNull) {
  Scripted sparsifier;
  expect_refused<Error>(sparsifier,
                        [&] { sparsifier.add_data("a", std::shared_ptr<DataSource>()); });
}

TEST(DataSparsifier, NamesTheNearestNameWhereOneIsUnknown) {
  float number = 0;
  Scripted sparsifier;
  sparsifier.add_data("embedding", ArrayView(&number, {1}));
  const std::vector<std::function<void()>> calls{
      [&] { sparsifier.get_mask("embeding"); },
      [&] { sparsifier.get_data("embeding"); },
      [&] { sparsifier.remove_data("embeding"); },
      [&] { sparsifier.squashed("embeding"); },
      [&] { GroupTable(sparsifier).row("embeding"); },
      [&] { sparsifier.config("embeding"); },
      [&] { sparsifier.config_value("embeding", "x"); },
      [&] { sparsifier.update_config("embeding", {}); },
      [&] { GroupParams(sparsifier).replace({{"embedding", {}}, {"embeding", {}}}); },
      [&] { GroupParams(sparsifier).erase("embeding", "x"); },
      [&] { GroupParams(sparsifier).set("x", {{"embedding", 1}, {"embeding", 1}}); },
      [&] { sparsifier.state("embeding"); },
      [&] { sparsifier.replace_state("embeding", {}); },
      [&] { sparsifier.apply_mask({"embedding", "embeding"}); },
      [&] { sparsifier.squash_mask({"embedding", "embeding"}); }};
  for (const auto& call : calls) {
    EXPECT_EQ(expect_refused<UnknownNameError>(sparsifier, call),
              "no data named 'embeding'; did you mean 'embedding'?");
  }
}

TEST(DataSparsifier, PinFailureAddsNothing) {
  float number = 0;
  const auto source = std::make_shared<CountingSource>(ArrayView(&number, {1}));
  source->fails = true;
  Scripted sparsifier;
  expect_refused<std::runtime_error>(sparsifier, [&] { sparsifier.add_data("a", source); });
  EXPECT_EQ(source->unpins, 0);
}

// --- adding a name again ---------------------------------------------------------------------

class Readding : public ::testing::Test {
 protected:
  Readding() : sparsifier(mask_first, {{"level", 1}, {"other", 2}}) {
    sparsifier.add_data("a", ArrayView(numbers, {4}), {{"level", 7}});
    sparsifier.step();
    sparsifier.replace_state("a", {{"seen", 3}});
  }

  float numbers[4] = {}, more[4] = {};
  Scripted sparsifier;
};

TEST_F(Readding, KeepsConfigMaskAndState) {
  const Mask before = sparsifier.get_mask("a");
  sparsifier.add_data("a", ArrayView(more, {4}), {{"other", 9}});
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"level", 7}, {"other", 9}}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 1, 1, 1}));
  EXPECT_EQ(sparsifier.state("a"), (ParamMap{{"seen", 3}}));
  EXPECT_EQ(sparsifier.names(), Names{"a"});
  EXPECT_EQ(sparsifier.get_data("a")->pin().data(), more);
  EXPECT_EQ(before.data(), sparsifier.get_mask("a").data()) << "handles stay good";
}

TEST_F(Readding, WithoutReuseKeepsTheConfigOnly) {
  sparsifier.add_data("a", make_source(ArrayView(more, {2, 2})), {}, false);
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"level", 7}, {"other", 2}}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes(4, 1));
  EXPECT_EQ(sparsifier.get_mask("a").shape(), (Axes{2, 2}));
  EXPECT_EQ(sparsifier.state("a"), ParamMap());
}

TEST_F(Readding, RefusesToReuseAMaskOfAnotherShape) {
  const auto message = expect_refused<ValueError>(
      sparsifier, [&] { sparsifier.add_data("a", ArrayView(more, {2, 2})); });
  EXPECT_TRUE(contains(message, "(4,)") && contains(message, "(2, 2)")) << message;
  EXPECT_EQ(sparsifier.get_data("a")->pin().data(), numbers);
}

TEST_F(Readding, TakesAMaskGivenRatherThanTheOldOne) {
  const Bytes mask{1, 1, 0, 0};
  sparsifier.add_data("a", make_source(ArrayView(more, {2, 2})), {}, true, mask.data());
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), mask);
  EXPECT_EQ(sparsifier.get_mask("a").shape(), (Axes{2, 2}));
  EXPECT_NE(sparsifier.get_mask("a").data(), mask.data()) << "copied";
}

TEST_F(Readding, RefusesAMaskOfOtherValuesThan0And1) {
  const Bytes mask{1, 0, 2, 0};
  const auto message = expect_refused<ValueError>(sparsifier, [&] {
    sparsifier.add_data("a", make_source(ArrayView(more, {4})), {}, true, mask.data());
  });
  EXPECT_TRUE(contains(message, "mask of 'a'") && contains(message, "got 2")) << message;
}

TEST_F(Readding, OfASquashedNameStartsAfresh) {
  sparsifier.squash_mask({"a"});
  sparsifier.add_data("b", ArrayView(numbers, {4}));
  sparsifier.add_data("a", ArrayView(more, {2, 2}));
  EXPECT_FALSE(sparsifier.squashed("a"));
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"level", 1}, {"other", 2}}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes(4, 1));
  EXPECT_EQ(sparsifier.state("a"), ParamMap());
}

TEST_F(Readding, SaysWhetherTheMaskWasGivenOrReused) {
  const Bytes mask(4, 1);
  const auto source = make_source(ArrayView(more, {4}));
  EXPECT_FALSE(sparsifier.add_data("new", source));
  EXPECT_TRUE(sparsifier.add_data("new", source));
  EXPECT_FALSE(sparsifier.add_data("new", source, {}, false));
  EXPECT_TRUE(sparsifier.add_data("new", source, {}, false, mask.data()));
  EXPECT_TRUE(sparsifier.add_data("other", source, {}, true, mask.data()));
  sparsifier.squash_mask({"other"});
  EXPECT_FALSE(sparsifier.add_data("other", source));
}

// --- options of a group ----------------------------------------------------------------------

/// Layout, zeros that stay and updates of a group, as add_data() takes them.
GroupOptions options(std::optional<Axes> layout, std::optional<bool> keep_zeros = std::nullopt,
                     std::optional<bool> update = std::nullopt) {
  GroupOptions result;
  result.layout = layout;
  result.keep_zeros = keep_zeros;
  result.update = update;
  return result;
}

class Options : public ::testing::Test {
 protected:
  bool add(BaseDataSparsifier& sparsifier, const GroupOptions& given, bool reuse_mask = true) {
    return sparsifier.add_data("a", make_source(ArrayView(numbers, {2, 3})), {}, reuse_mask,
                               nullptr, given);
  }

  float numbers[6] = {1, 0, 3, -0.0F, 5, 6};
};

TEST_F(Options, LayoutIsReadBackAndReplacedWhereItIsSaid) {
  Scripted sparsifier;
  EXPECT_FALSE(add(sparsifier, options(Axes{1, 0})));
  EXPECT_EQ(GroupTable(sparsifier).row("a").layout, (Axes{1, 0}));
  EXPECT_TRUE(add(sparsifier, {}));
  EXPECT_EQ(GroupTable(sparsifier).row("a").layout, (Axes{1, 0}));
  add(sparsifier, options(Axes{0, 1}));
  EXPECT_EQ(GroupTable(sparsifier).row("a").layout, Axes()) << "the order of memory";
  for (const Axes& wrong : {Axes{0}, Axes{0, 0}, Axes{0, 2}, Axes{-1, 0}, Axes{0, 1, 2}}) {
    const auto message =
        expect_refused<ValueError>(sparsifier, [&] { add(sparsifier, options(wrong)); });
    EXPECT_TRUE(contains(message, "layout of 'a'") && contains(message, to_string(wrong)));
  }
}

TEST_F(Options, ConfigIsCompiledForTheLayout) {
  struct Compiling final : MaskRule {
    std::any compile(const std::string&, const ParamMap&, const Axes* shape) const override {
      if (shape != nullptr) shapes.push_back(*shape);
      return {};
    }
    bool check_value(const std::any&, const std::string&, const std::string&,
                     const ParamValue&) const override {
      return false;
    }
    void put_value(std::any&, const std::string&, const ParamValue&) const noexcept override {}
    ParamValue shown(const std::any&, const std::string&,
                     const ParamValue& written) const override {
      return written;
    }
    ZeroCounts count_zeros(const std::vector<RuleGroup>&) const override { return {}; }
    void compute(const std::vector<RuleJob>&) const override {}
    mutable std::vector<Axes> shapes;
  };
  struct Ruled final : BaseDataSparsifier {
    using BaseDataSparsifier::BaseDataSparsifier;
    void update_mask(const std::string&, const ArrayView&, const ParamMap&) override {}
  };
  const Compiling rule;
  Ruled sparsifier({}, &rule);
  add(sparsifier, options(Axes{1, 0}));
  sparsifier.update_config("a", {{"x", 1}});
  GroupParams(sparsifier).replace({{"a", {{"x", 2}}}});
  GroupParams(sparsifier).set("x", {{"a", 3}});
  GroupParams(sparsifier).erase("a", "x");
  sparsifier.load_state(sparsifier.save_state());
  EXPECT_EQ(rule.shapes, std::vector<Axes>(6, Axes{3, 2}));
}

TEST_F(Options, ZerosStayAtOnceAndBehindEveryOverride) {
  Scripted sparsifier([](Scripted& self, const std::string& name, const ArrayView&) {
    std::fill_n(self.get_mask(name).data(), 6, std::uint8_t{1});
  });
  EXPECT_FALSE(add(sparsifier, options({}, true)));
  const Bytes without{1, 0, 1, 0, 1, 1};
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), without);
  std::fill_n(numbers, 6, 1.0F);
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), without);
  EXPECT_EQ(sparsifier.save_state().groups[0].kept_zeros, (Bytes{0x0A}));
  add(sparsifier, options({}, false));
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes(6, 1));
}

TEST_F(Options, StepThatFailsBringsBackKeptZerosToo) {
  bool fails = false;
  Scripted sparsifier([&](Scripted& self, const std::string& name, const ArrayView&) {
    std::fill_n(self.get_mask(name).data(), 6, std::uint8_t{1});
    if (fails) throw std::runtime_error("override");
  });
  add(sparsifier, options({}, true));
  fails = true;
  expect_refused<std::runtime_error>(sparsifier, [&] { sparsifier.step(); });
}

TEST_F(Options, FrozenGroupIsNeitherPinnedNorUpdated) {
  const auto source = std::make_shared<CountingSource>(ArrayView(numbers, {6}));
  int calls = 0;
  Scripted sparsifier([&](Scripted&, const std::string&, const ArrayView&) { ++calls; });
  sparsifier.add_data("a", source, {}, true, nullptr, options({}, {}, false));
  const int pins = source->pins;
  sparsifier.step();
  EXPECT_TRUE(GroupTable(sparsifier).row("a").frozen);
  EXPECT_EQ(source->pins, pins);
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(sparsifier.step_count(), 1);
  sparsifier.apply_mask();
  EXPECT_EQ(source->pins, pins + 1);
  sparsifier.add_data("a", source, {}, true, nullptr, options({}, {}, true));
  sparsifier.step();
  EXPECT_EQ(calls, 1);
}

TEST_F(Options, RestoreAndClaimingBringThemBack) {
  DataNormSparsifier original(spec(0.5, 1, 1)), other;
  add(original, options(Axes{1, 0}, true, false));
  const auto saved = original.save_state();
  other.load_state(saved);
  EXPECT_EQ(other.save_state(), saved) << "while it waits";
  add(other, {});
  EXPECT_EQ(other.save_state(), saved);
  other.load_state(saved);
  EXPECT_EQ(other.save_state(), saved);
}

/// A source whose scores are other numbers than its data.
struct ScoredSource : CountingSource {
  ScoredSource(const ArrayView& data, const ArrayView& of_scores)
      : CountingSource(data), scores(of_scores) {}
  ArrayView pin_scores() override {
    pin();
    return scores;
  }
  ArrayView scores;
};

TEST_F(Options, StepRanksTheScoresAndApplyZeroesTheData) {
  float data[4] = {1, 2, 3, 4}, scores[4] = {9, 1, 1, 9}, wrong[3] = {};
  const auto source = std::make_shared<ScoredSource>(ArrayView(data, {4}), ArrayView(scores, {4}));
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  sparsifier.add_data("w", source);
  sparsifier.step();
  sparsifier.apply_mask();
  EXPECT_EQ(std::vector<float>(data, data + 4), (std::vector<float>{1, 0, 0, 4}));
  EXPECT_EQ(scores[1], 1);
  EXPECT_EQ(GroupTable(sparsifier).figures()[0].zeros_in_data, 2);
  EXPECT_EQ(source->pins, source->unpins);
  source->scores = ArrayView(wrong, {3});
  const auto message = expect_refused<ValueError>(sparsifier, [&] { sparsifier.step(); });
  EXPECT_TRUE(contains(message, "data of 'w' must keep the shape (4,), got (3,)")) << message;
  EXPECT_EQ(source->pins, source->unpins);
}

TEST_F(Options, CountsOfAPlanKnowThem) {
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  add(sparsifier, options({}, true));
  const auto count = [&](double level) {
    return GroupParams(sparsifier).count_zeros("sparsity_level", {{"a", level}}).groups[0];
  };
  EXPECT_EQ(count(0.0), (ZeroCount{2, 2}));
  EXPECT_EQ(count(0.5), (ZeroCount{3, 5}));
  EXPECT_EQ(count(1.0), (ZeroCount{6, 6}));
  add(sparsifier, options({}, false, false));
  sparsifier.get_mask("a").data()[0] = 0;
  EXPECT_EQ(count(0.5), (ZeroCount{3, 3})) << "frozen as it is";
}

// --- groups without a weight -----------------------------------------------------------------

TEST(DeadGroups, AreWarnedOfOnceWhenTheStepIsComplete) {
  float numbers[8] = {};
  DataNormSparsifier sparsifier(spec(0.99, 1, 1));
  sparsifier.add_data("a", ArrayView(numbers, {8}));
  sparsifier.add_data("all", ArrayView(numbers, {8}), {{"sparsity_level", 1.0}});
  sparsifier.add_data("none", ArrayView(numbers, {0}));
  const Messages messages;
  sparsifier.step();
  sparsifier.step();
  ASSERT_EQ(messages.items.size(), 1U);
  EXPECT_EQ(messages.items[0].first, Severity::warning);
  EXPECT_EQ(
      messages.items[0].second,
      "step() pruned all weights of 'a', 8 of 8: lower its sparsity_level, or set min_kept=1");
}

TEST(DeadGroups, StepIsCompleteWhereTheHandlerThrows) {
  float numbers[8] = {};
  DataNormSparsifier sparsifier(spec(0.99, 1, 1));
  for (const char* name : {"a", "b"}) sparsifier.add_data(name, ArrayView(numbers, {8}));
  const auto before = set_message_handler(
      [](Severity, const std::string& text) { throw std::runtime_error(text); });
  const auto first = message_of<std::runtime_error>([&] { sparsifier.step(); });
  const auto second = message_of<std::runtime_error>([&] { sparsifier.step(); });
  sparsifier.step();
  set_message_handler(before);
  EXPECT_TRUE(contains(first, "'a'") && contains(second, "'b'")) << first << second;
  EXPECT_EQ(sparsifier.step_count(), 3);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), Bytes(8, 0));
}

// --- config ----------------------------------------------------------------------------------

/// Accepts the integer "level" of at most 10 and nothing else.
class Strict : public Scripted {
 public:
  explicit Strict(Update script = {}) : Scripted(std::move(script), {{"level", 1}}) {}
  void check_config(const std::string& name, const ParamMap& config) const override {
    for (const auto& [key, value] : config) {
      if (key != "level") throw TypeError("unknown config key '" + key + "'");
      if (value.as_integer(key, name) > 10) throw ValueError(label(key, name) + " is too high");
    }
    if (!config.contains("level")) throw ValueError("level is missing");
  }
};

TEST(Config, BeatsTheDefaults) {
  float number = 0;
  Scripted sparsifier({}, {{"x", 1}, {"y", 2}});
  sparsifier.add_data("a", ArrayView(&number, {1}), {{"y", 3}, {"z", 4}});
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"x", 1}, {"y", 3}, {"z", 4}}));
  EXPECT_EQ(sparsifier.config_value("a", "y"), ParamValue(3));
  EXPECT_THROW(sparsifier.config_value("a", "w"), UnknownNameError);
  EXPECT_EQ(sparsifier.defaults(), (ParamMap{{"x", 1}, {"y", 2}}));
}

TEST(Config, IsUpdatedReplacedAndErased) {
  float number = 0;
  Scripted sparsifier({}, {{"x", 1}, {"y", 2}});
  sparsifier.add_data("a", ArrayView(&number, {1}), {{"y", 3}});
  sparsifier.update_config("a", {{"x", 5}, {"z", 6}});
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"x", 5}, {"y", 3}, {"z", 6}}));
  GroupParams(sparsifier).erase("a", "z");
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"x", 5}, {"y", 3}}));
  expect_refused<UnknownNameError>(sparsifier, [&] { GroupParams(sparsifier).erase("a", "z"); });
  GroupParams(sparsifier).replace({{"a", {{"y", 9}}}});
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"x", 1}, {"y", 9}}));
}

TEST(Config, OfLaterGroupsTakesTheNewDefaults) {
  float number = 0;
  Scripted sparsifier({}, {{"x", 1}});
  sparsifier.add_data("a", ArrayView(&number, {1}));
  sparsifier.replace_defaults({{"x", 2}});
  sparsifier.add_data("b", ArrayView(&number, {1}));
  EXPECT_EQ(GroupParams(sparsifier).get("x"), (ParamMap{{"a", 1}, {"b", 2}}));
}

TEST(Config, IsCheckedWhereverItIsWritten) {
  float number = 0;
  Strict sparsifier;
  sparsifier.add_data("a", ArrayView(&number, {1}));
  sparsifier.add_data("b", ArrayView(&number, {1}));
  const std::vector<std::function<void()>> wrong_values{
      [&] { sparsifier.add_data("c", ArrayView(&number, {1}), {{"level", 11}}); },
      [&] { sparsifier.add_data("a", ArrayView(&number, {1}), {{"level", 11}}); },
      [&] { sparsifier.update_config("a", {{"level", 11}}); },
      [&] { GroupParams(sparsifier).replace({{"b", {{"level", 5}}}, {"a", {{"level", 11}}}}); },
      [&] { GroupParams(sparsifier).erase("a", "level"); },
      [&] { GroupParams(sparsifier).set("level", {{"a", 5}, {"b", 11}}); },
      [&] { sparsifier.replace_defaults({{"level", 11}}); }};
  for (const auto& call : wrong_values) expect_refused<ValueError>(sparsifier, call);
  expect_refused<TypeError>(sparsifier, [&] { sparsifier.update_config("a", {{"levle", 1}}); });
  expect_refused<TypeError>(sparsifier, [&] { GroupParams(sparsifier).set("levle", {{"a", 1}}); });
}

TEST(Config, OfManyGroupsIsWrittenAllOrNone) {
  float number = 0;
  Strict sparsifier;
  for (const char* name : {"a", "b", "c"}) sparsifier.add_data(name, ArrayView(&number, {1}));
  GroupParams(sparsifier).set("level", {{"c", 3}, {"a", 2}});
  EXPECT_EQ(GroupParams(sparsifier).get("level"), (ParamMap{{"a", 2}, {"b", 1}, {"c", 3}}));
  expect_refused<UnknownNameError>(
      sparsifier, [&] { GroupParams(sparsifier).set("level", {{"a", 9}, {"cc", 9}}); });
  EXPECT_EQ(GroupParams(sparsifier).get("level"), (ParamMap{{"a", 2}, {"b", 1}, {"c", 3}}));
}

TEST(Config, ThatWasWrittenIsReturnedAsItIsReadFromThenOn) {
  float number = 0;
  Strict sparsifier;
  for (const char* name : {"a", "b"}) sparsifier.add_data(name, ArrayView(&number, {1}));
  EXPECT_EQ(GroupParams(sparsifier).set("level", {{"b", 3}}), (ParamMap{{"a", 1}, {"b", 3}}));
  EXPECT_EQ(GroupParams(sparsifier).set("level", {}), GroupParams(sparsifier).get("level"));
}

TEST(Config, CanBeCheckedWithoutBeingWritten) {
  float number = 0;
  Strict sparsifier;
  for (const char* name : {"a", "b"}) sparsifier.add_data(name, ArrayView(&number, {1}));
  const auto before = sparsifier.save_state();
  GroupParams(sparsifier).check("level", {{"a", 5}, {"b", 6}});
  EXPECT_EQ(sparsifier.save_state(), before);
  const auto check = [&](const std::string& key, const ParamMap& values) {
    return [&sparsifier, key, values] { GroupParams(sparsifier).check(key, values); };
  };
  expect_refused<ValueError>(sparsifier, check("level", {{"a", 5}, {"b", 11}}));
  expect_refused<TypeError>(sparsifier, check("levle", {{"a", 5}}));
  expect_refused<UnknownNameError>(sparsifier, check("level", {{"c", 5}}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_refused<ValueError>(sparsifier, check("level", {{"a", nan}}));
}

TEST(Config, OfASchedulerMustNotBeNaN) {
  float number = 0;
  Scripted sparsifier({}, {{"x", 1.0}});
  sparsifier.add_data("a", ArrayView(&number, {1}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto message = expect_refused<ValueError>(
      sparsifier, [&] { GroupParams(sparsifier).set("x", {{"a", nan}}); });
  EXPECT_TRUE(contains(message, "x of 'a'")) << message;
}

TEST(Config, ParamsAreThoseOfGroupsAndDefaults) {
  float number = 0;
  Scripted sparsifier({}, {{"x", 1}});
  sparsifier.add_data("a", ArrayView(&number, {1}), {{"y", 1}});
  sparsifier.add_data("b", ArrayView(&number, {1}));
  const Names known = GroupParams(sparsifier).known();
  EXPECT_EQ(std::set<std::string>(known.begin(), known.end()), (std::set<std::string>{"x", "y"}));
  EXPECT_EQ(GroupParams(sparsifier).get("y"), (ParamMap{{"a", 1}})) << "only those that have it";
  EXPECT_EQ(GroupParams(sparsifier).get("z"), ParamMap());
}

TEST(State, IsTheSubclassesOwn) {
  float number = 0;
  Scripted sparsifier([](Scripted& self, const std::string& name, const ArrayView&) {
    const ParamMap state = self.state(name);
    const auto* count = state.find("count");
    self.replace_state(name, {{"count", count == nullptr ? 1 : count->as_integer("count") + 1}});
  });
  sparsifier.add_data("a", ArrayView(&number, {1}));
  sparsifier.step();
  sparsifier.step();
  EXPECT_EQ(sparsifier.state("a"), (ParamMap{{"count", 2}}));
}

// --- the step --------------------------------------------------------------------------------

TEST(Step, UpdatesEveryGroupInTurnWithItsDataAndConfig) {
  float a = 0, b[2] = {};
  struct Recording : BaseDataSparsifier {
    void update_mask(const std::string& name, const ArrayView& data,
                     const ParamMap& config) override {
      names.push_back(name);
      pointers.push_back(data.data());
      configs.push_back(config);
    }
    Names names;
    std::vector<void*> pointers;
    std::vector<ParamMap> configs;
  } sparsifier;
  sparsifier.add_data("b", ArrayView(b, {2}), {{"k", 2}});
  sparsifier.add_data("a", ArrayView(&a, {}), {{"k", 1}});
  sparsifier.step();
  EXPECT_EQ(sparsifier.names, (Names{"b", "a"}));
  EXPECT_EQ(sparsifier.pointers, (std::vector<void*>{b, &a}));
  EXPECT_EQ(sparsifier.configs, (std::vector<ParamMap>{{{"k", 2}}, {{"k", 1}}}));
  EXPECT_EQ(sparsifier.step_count(), 1);
}

TEST(Step, ReachesSourcesThroughTheAccessOfASubclass) {
  struct Guarded : Scripted {
    Guarded() : Scripted(mask_first) {
      access_data_by([this](const std::function<void()>& work) {
        inside = true;
        work();
        inside = false;
      });
    }
    bool inside = false;
  } sparsifier;
  struct Watched : DataSource {
    explicit Watched(const bool& from) : inside(from) {}
    ArrayView pin() override {
      EXPECT_TRUE(inside);
      return {numbers, {2}};
    }
    void unpin() noexcept override { unpins += inside ? 1 : 0; }
    void mark_written() override { EXPECT_TRUE(inside); }
    const bool& inside;
    float numbers[2] = {1, 1};
    int unpins = 0;
  };
  const auto source = std::make_shared<Watched>(sparsifier.inside);
  sparsifier.add_data("a", source);
  sparsifier.step();
  sparsifier.apply_mask();
  EXPECT_EQ(source->unpins, 3);
  EXPECT_EQ(source->numbers[0], 0);
}

TEST(Step, CountsButChangesNothingWhileUpdatesAreOff) {
  float number = 0;
  const auto source = std::make_shared<CountingSource>(ArrayView(&number, {1}));
  Scripted sparsifier(mask_first);
  sparsifier.add_data("a", source);
  const int pins = source->pins;
  EXPECT_TRUE(sparsifier.enable_mask_update());
  sparsifier.set_enable_mask_update(false);
  sparsifier.step();
  EXPECT_EQ(sparsifier.step_count(), 1);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes{1});
  EXPECT_EQ(source->pins, pins);
  sparsifier.set_enable_mask_update(true);
  sparsifier.step();
  EXPECT_EQ(sparsifier.step_count(), 2);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes{0});
}

TEST(Step, PinsAllSourcesBeforeTheFirstUpdateAndUnpinsThemAfterTheLast) {
  float number = 0;
  std::vector<std::shared_ptr<CountingSource>> sources;
  int updates = 0;
  Scripted sparsifier([&](Scripted&, const std::string&, const ArrayView&) {
    ++updates;
    for (const auto& source : sources) EXPECT_EQ(source->pins, source->unpins + 1);
  });
  for (const char* name : {"a", "b", "c"}) {
    sources.push_back(std::make_shared<CountingSource>(ArrayView(&number, {1})));
    sparsifier.add_data(name, sources.back());
  }
  sparsifier.step();
  EXPECT_EQ(updates, 3);
  for (const auto& source : sources) {
    EXPECT_EQ(source->pins, source->unpins);
    EXPECT_EQ(source->writes, 0);
  }
}

TEST(Step, AsksEverySourceAnewWhereItsMemoryIs) {
  float here[2] = {1, 2}, there[2] = {2, 1};
  const auto source = std::make_shared<CountingSource>(ArrayView(here, {2}));
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  sparsifier.add_data("a", source);
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 1}));
  source->view = ArrayView(there, {2});
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{1, 0}));
}

TEST(Step, UnpinsEverythingWhereOneSourceCannotBePinned) {
  float number = 0;
  std::vector<std::shared_ptr<CountingSource>> sources;
  Scripted sparsifier([](Scripted&, const std::string&, const ArrayView&) { ADD_FAILURE(); });
  for (const char* name : {"a", "b", "c", "d"}) {
    sources.push_back(std::make_shared<CountingSource>(ArrayView(&number, {1})));
    sparsifier.add_data(name, sources.back());
  }
  sources[2]->fails = true;
  expect_refused<std::runtime_error>(sparsifier, [&] { sparsifier.step(); });
  expect_refused<std::runtime_error>(sparsifier, [&] { sparsifier.apply_mask(); });
  expect_refused<std::runtime_error>(sparsifier, [&] { sparsifier.squash_mask(); });
  for (const auto& source : sources) EXPECT_EQ(source->pins, source->unpins);
  EXPECT_EQ(sources[0]->pins, 4) << "add_data, and the three attempts";
  EXPECT_EQ(sources[3]->pins, 1) << "add_data only";
}

TEST(Step, RefusesDataThatChangedTheirShape) {
  float numbers[4] = {4, 3, 2, 1};
  const auto source = std::make_shared<CountingSource>(ArrayView(numbers, {4}));
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  sparsifier.add_data("first", ArrayView(numbers, {4}));
  sparsifier.add_data("a", source);
  source->view = ArrayView(numbers, {2, 2});
  for (const auto& call : std::vector<std::function<void()>>{[&] { sparsifier.step(); },
                                                             [&] { sparsifier.apply_mask(); }}) {
    const auto message = expect_refused<ValueError>(sparsifier, call);
    EXPECT_TRUE(contains(message, "'a'") && contains(message, "(4,)") &&
                contains(message, "(2, 2)"))
        << message;
  }
  EXPECT_EQ(source->pins, source->unpins);
}

TEST(Step, TakesDataThatChangedTheirType) {
  float numbers[2] = {1, 2};
  double doubles[2] = {2, 1};
  const auto source = std::make_shared<CountingSource>(ArrayView(numbers, {2}));
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  sparsifier.add_data("a", source);
  source->view = ArrayView(doubles, {2});
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{1, 0}));
}

// --- one step is one transaction -------------------------------------------------------------

class Transaction : public ::testing::Test {
 protected:
  /// Scribbles over its group and, for the second one, over the others; then throws.
  static void scribble_then_throw(Scripted& self, const std::string& name, const ArrayView& data) {
    for (std::int64_t i = 0; i < data.size(); ++i)
      self.get_mask(name).data()[i] = i % 3 == 0 ? 0 : 1;
    self.replace_state(name, {{"scribbled", true}});
    if (name != "b") return;
    self.get_mask("c").data()[0] = 0;
    self.replace_state("c", {{"scribbled", true}});
    throw std::runtime_error("the second group");
  }

  Transaction() : sparsifier(mask_first, {{"x", 1}}) {
    for (const char* name : {"a", "b", "c"}) {
      sources.push_back(std::make_shared<CountingSource>(ArrayView(numbers, {9})));
      sparsifier.add_data(name, sources.back());
      sparsifier.replace_state(name, {{"old", name}});
    }
    sparsifier.step();
    sparsifier.update = scribble_then_throw;
  }

  float numbers[9] = {};
  std::vector<std::shared_ptr<CountingSource>> sources;
  Scripted sparsifier;
};

TEST_F(Transaction, ThatFailsInTheSecondGroupChangesNothing) {
  EXPECT_EQ(expect_refused<std::runtime_error>(sparsifier, [&] { sparsifier.step(); }),
            "the second group");
  EXPECT_EQ(sparsifier.step_count(), 1);
  for (const auto& source : sources) EXPECT_EQ(source->pins, source->unpins);
}

TEST_F(Transaction, ThatFailedCanBeFollowedByOneThatSucceeds) {
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  sparsifier.update = [](Scripted& self, const std::string& name, const ArrayView&) {
    self.get_mask(name).data()[8] = 0;
  };
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 1, 1, 1, 1, 1, 1, 1, 0}));
  EXPECT_EQ(sparsifier.step_count(), 2);
}

TEST_F(Transaction, KeepsHandlesToItsMasksGood) {
  const Mask before = sparsifier.get_mask("a");
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  EXPECT_EQ(sparsifier.get_mask("a").data(), before.data());
}

TEST_F(Transaction, CoversTheMasksOfSquashedGroupsToo) {
  sparsifier.squash_mask({"c"});
  expect_refused<std::runtime_error>(sparsifier, [&] { sparsifier.step(); });
}

TEST_F(Transaction, PassesOnExceptionsThatAreNotStandard) {
  sparsifier.update = [](Scripted& self, const std::string& name, const ArrayView&) {
    self.get_mask(name).data()[3] = 0;
    throw 42;
  };
  const auto before = sparsifier.save_state();
  EXPECT_THROW(sparsifier.step(), int);
  EXPECT_EQ(sparsifier.save_state(), before);
}

// --- what an override may do -----------------------------------------------------------------

TEST(Override, MayReadEverything) {
  float numbers[4] = {1, 2, 3, 4};
  int updates = 0;
  Scripted sparsifier({}, {{"x", 1}});
  sparsifier.update = [&](Scripted& self, const std::string& name, const ArrayView& data) {
    ++updates;
    EXPECT_EQ(self.names(), (Names{"a", "b"}));
    EXPECT_TRUE(self.contains("b"));
    EXPECT_FALSE(self.squashed(name));
    EXPECT_EQ(self.get_data(name)->pin().data(), data.data());
    EXPECT_EQ(self.get_mask("b").size(), 4);
    EXPECT_EQ(self.config(name), (ParamMap{{"x", 1}}));
    EXPECT_EQ(self.config_value(name, "x"), ParamValue(1));
    EXPECT_EQ(GroupParams(self).get("x").size(), 2U);
    EXPECT_EQ(self.defaults().size(), 1U);
    EXPECT_EQ(GroupParams(self).known(), Names{"x"});
    EXPECT_EQ(self.state(name), ParamMap());
    EXPECT_TRUE(self.enable_mask_update());
    EXPECT_EQ(self.step_count(), 0);
    EXPECT_EQ(self.save_state().groups.size(), 2U);
  };
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  sparsifier.add_data("b", ArrayView(numbers, {4}));
  sparsifier.step();
  EXPECT_EQ(updates, 2);
}

TEST(Override, MustNotChangeGroups) {
  float number = 0;
  Scripted sparsifier({}, {{"x", 1}});
  int refused = 0;
  sparsifier.update = [&](Scripted& self, const std::string&, const ArrayView&) {
    const auto state = self.save_state();
    const std::vector<std::pair<std::string, std::function<void()>>> calls{
        {"step()", [&] { self.step(); }},
        {"add_data()", [&] { self.add_data("b", ArrayView(&number, {1})); }},
        {"remove_data()", [&] { self.remove_data("a"); }},
        {"apply_mask()", [&] { self.apply_mask(); }},
        {"apply_mask()", [&] { self.apply_mask({"a"}); }},
        {"squash_mask()", [&] { self.squash_mask(); }},
        {"squash_mask()", [&] { self.squash_mask({"a"}); }},
        {"writing a config", [&] { self.update_config("a", {{"x", 2}}); }},
        {"writing a config", [&] { GroupParams(self).replace({{"a", {{"x", 2}}}}); }},
        {"writing a config", [&] { GroupParams(self).erase("a", "x"); }},
        {"writing a config", [&] { GroupParams(self).set("x", {{"a", 2}}); }},
        {"writing the defaults", [&] { self.replace_defaults({}); }},
        {"writing enable_mask_update", [&] { self.set_enable_mask_update(false); }},
        {"loading a state", [&] { self.load_state(state); }}};
    for (const auto& [name, call] : calls) {
      EXPECT_EQ(message_of<StateError>(call),
                name + " must not be called from inside update_mask() of the same sparsifier");
      ++refused;
    }
  };
  sparsifier.add_data("a", ArrayView(&number, {1}));
  sparsifier.step();
  EXPECT_EQ(refused, 14);
  EXPECT_EQ(sparsifier.names(), Names{"a"});
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"x", 1}}));
}

TEST(Override, IsKnownToItsThreadOnly) {
  float number = 0;
  bool inside = false, in_other_thread = true;
  Scripted sparsifier([&](Scripted& self, const std::string&, const ArrayView&) {
    inside = GroupTable(self).in_override() && GroupTable(self).in_update_mask();
    std::thread([&] {
      in_other_thread = GroupTable(self).in_override() || GroupTable(self).in_update_mask();
    }).join();
  });
  sparsifier.add_data("a", ArrayView(&number, {1}));
  EXPECT_FALSE(GroupTable(sparsifier).in_override());
  EXPECT_FALSE(GroupTable(sparsifier).in_update_mask());
  sparsifier.step();
  EXPECT_TRUE(inside);
  EXPECT_FALSE(in_other_thread);
  EXPECT_FALSE(GroupTable(sparsifier).in_override());
  EXPECT_FALSE(GroupTable(sparsifier).in_update_mask());
}

TEST(Override, MayUseAnotherSparsifier) {
  float numbers[4] = {1, 2, 3, 4};
  DataNormSparsifier inner(spec(0.5, 1, 1));
  inner.add_data("a", ArrayView(numbers, {4}));
  Scripted outer([&](Scripted& self, const std::string& name, const ArrayView&) {
    inner.step();
    std::copy_n(inner.get_mask("a").data(), 4, self.get_mask(name).data());
  });
  outer.add_data("a", ArrayView(numbers, {4}));
  outer.step();
  EXPECT_EQ(bytes_of(outer.get_mask("a")), (Bytes{0, 0, 1, 1}));
}

TEST(Override, OfCheckConfigMayReadAndMustNotChange) {
  float number = 0;
  struct Curious : Scripted {
    void check_config(const std::string&, const ParamMap&) const override {
      reads += static_cast<int>(names().size());
      auto& self = const_cast<Curious&>(*this);
      const auto message = message_of<StateError>([&self] { self.step(); });
      EXPECT_TRUE(datasparse::contains(message, "check_config()")) << message;
      EXPECT_FALSE(GroupTable(self).in_update_mask());
    }
    mutable int reads = 0;
  } sparsifier;
  sparsifier.add_data("a", ArrayView(&number, {1}));
  sparsifier.update_config("a", {{"x", 1}});
  EXPECT_EQ(sparsifier.reads, 1);
}

TEST(Source, MustNotChangeTheSparsifierThatPinsIt) {
  float number = 0;
  Scripted sparsifier;
  struct Reentrant : CountingSource {
    Reentrant(const ArrayView& where, Scripted& owner) : CountingSource(where), sparsifier(owner) {}
    ArrayView pin() override {
      EXPECT_THROW(sparsifier.step(), StateError);
      return CountingSource::pin();
    }
    Scripted& sparsifier;
  };
  sparsifier.add_data("a", std::make_shared<Reentrant>(ArrayView(&number, {1}), sparsifier));
  sparsifier.step();
}

// A source's end may take other locks, such as an interpreter's: it must not come within ours.
TEST(Source, IsLetGoOutsideTheLock) {
  float numbers[2] = {};
  Scripted sparsifier;
  int within = 0, outside = 0;
  struct Parting : CountingSource {
    Parting(const ArrayView& where, std::function<void()> last_call)
        : CountingSource(where), last(std::move(last_call)) {}
    ~Parting() override { last(); }
    std::function<void()> last;
  };
  const auto add = [&] {
    sparsifier.add_data("a", std::make_shared<Parting>(ArrayView(numbers, {2}), [&] {
                          try {
                            sparsifier.set_enable_mask_update(true);
                            ++outside;
                          } catch (const StateError&) {
                            ++within;
                          }
                        }));
  };
  add();
  sparsifier.remove_data("a");
  EXPECT_EQ(outside, 1) << "removed";
  add();
  sparsifier.squash_mask();
  EXPECT_EQ(outside, 2) << "squashed";
  const auto squashed = sparsifier.save_state();
  add();
  sparsifier.load_state(squashed);
  EXPECT_EQ(outside, 3) << "loaded";
  add();
  add();
  EXPECT_EQ(outside, 4) << "replaced";
  sparsifier.remove_data("a");
  EXPECT_EQ(within, 0);
}

// --- applying and squashing ------------------------------------------------------------------

TEST(Apply, ZeroesTheOwnersMemoryAndKeepsTheMask) {
  float numbers[4] = {1, 2, 3, 4};
  const auto source = std::make_shared<CountingSource>(ArrayView(numbers, {4}));
  const Bytes mask{1, 0, 1, 0};
  Scripted sparsifier;
  sparsifier.add_data("a", source, {}, true, mask.data());
  sparsifier.apply_mask({"a"});
  EXPECT_EQ(numbers[0], 1);
  EXPECT_EQ(numbers[1], 0);
  EXPECT_EQ(numbers[3], 0);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), mask);
  EXPECT_EQ(source->writes, 1);
  EXPECT_FALSE(sparsifier.squashed("a"));
  sparsifier.apply_mask({"a", "a"});
  EXPECT_EQ(source->writes, 2) << "a name given twice counts once";
}

class Writing : public ::testing::Test {
 protected:
  Writing() : good(std::make_shared<CountingSource>(ArrayView(numbers, {4}))) {
    const Bytes mask(4, 0);
    sparsifier.add_data("good", good, {}, true, mask.data());
  }
  void add(const ArrayView& view) {
    const Bytes mask(static_cast<std::size_t>(view.size()), 0);
    sparsifier.add_data("bad", make_source(view), {}, true, mask.data());
  }
  void expect_both_refused() {
    for (const auto& call : std::vector<std::function<void()>>{
             [&] { sparsifier.apply_mask(); }, [&] { sparsifier.apply_mask({"good", "bad"}); },
             [&] { sparsifier.squash_mask(); }, [&] { sparsifier.squash_mask({"good", "bad"}); }}) {
      const auto message = expect_refused<ValueError>(sparsifier, call);
      EXPECT_TRUE(contains(message, "_mask of 'bad'")) << message;
    }
    EXPECT_EQ(numbers[0], 1) << "no group was written to";
    EXPECT_EQ(good->pins, good->unpins);
    EXPECT_EQ(good->writes, 0);
    EXPECT_FALSE(sparsifier.squashed("good"));
  }

  float numbers[4] = {1, 2, 3, 4};
  std::shared_ptr<CountingSource> good;
  Scripted sparsifier;
};

TEST_F(Writing, RefusesReadOnlyMemoryBeforeAnythingIsWritten) {
  const float constant[2] = {1, 2};
  add(ArrayView(constant, {2}));
  expect_both_refused();
}

TEST_F(Writing, RefusesOverlappingMemoryBeforeAnythingIsWritten) {
  float number = 1;
  add(ArrayView(&number, DType::float32, {3}, {0}, false));
  expect_both_refused();
  sparsifier.step();  // reading is fine
}

TEST(Squash, ReleasesTheTensorAndKeepsNameAndMask) {
  float numbers[4] = {1, 2, 3, 4};
  auto source = std::make_shared<CountingSource>(ArrayView(numbers, {4}));
  const std::weak_ptr<CountingSource> watch = source;
  Scripted sparsifier(mask_first, {{"x", 1}});
  sparsifier.add_data("a", std::move(source));
  sparsifier.step();
  sparsifier.squash_mask({"a"});
  EXPECT_EQ(numbers[0], 0);
  EXPECT_EQ(numbers[1], 2);
  EXPECT_TRUE(watch.expired());
  EXPECT_TRUE(sparsifier.squashed("a"));
  EXPECT_TRUE(sparsifier.contains("a"));
  EXPECT_EQ(sparsifier.names(), Names{"a"});
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 1, 1, 1}));
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"x", 1}}));
  const auto message = message_of<ValueError>([&] { sparsifier.get_data("a"); });
  EXPECT_TRUE(contains(message, "squashed")) << message;
}

TEST(Squash, IsSkippedByStepAndByTheCallsForAll) {
  float numbers[4] = {1, 2, 3, 4};
  int updates = 0;
  Scripted sparsifier([&](Scripted&, const std::string&, const ArrayView&) { ++updates; });
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  sparsifier.add_data("b", ArrayView(numbers, {4}));
  sparsifier.squash_mask({"a"});
  sparsifier.step();
  EXPECT_EQ(updates, 1);
  sparsifier.apply_mask();
  sparsifier.squash_mask();
  EXPECT_TRUE(sparsifier.squashed("b"));
  sparsifier.squash_mask();
  sparsifier.step();
  EXPECT_EQ(updates, 1);
  EXPECT_EQ(sparsifier.step_count(), 2);
}

TEST(Squash, OfASquashedNameIsRefused) {
  float number = 1;
  Scripted sparsifier;
  sparsifier.add_data("a", ArrayView(&number, {1}));
  sparsifier.add_data("b", ArrayView(&number, {1}));
  sparsifier.squash_mask({"a"});
  expect_refused<ValueError>(sparsifier, [&] { sparsifier.squash_mask({"b", "a"}); });
  expect_refused<ValueError>(sparsifier, [&] { sparsifier.apply_mask({"b", "a"}); });
}

TEST(Remove, ReleasesTheSourceAndForgetsTheGroup) {
  float number = 0;
  auto source = std::make_shared<CountingSource>(ArrayView(&number, {1}));
  const std::weak_ptr<CountingSource> watch = source;
  Scripted sparsifier(mask_first, {{"x", 1}});
  sparsifier.add_data("a", std::move(source), {{"x", 2}});
  sparsifier.step();
  sparsifier.remove_data("a");
  EXPECT_TRUE(watch.expired());
  EXPECT_TRUE(sparsifier.names().empty());
  sparsifier.add_data("a", ArrayView(&number, {1}));
  EXPECT_EQ(sparsifier.config("a"), (ParamMap{{"x", 1}}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes{1});
}

TEST(Remove, OfOneAmongManyFindsTheOthersStill) {
  float number = 0;
  Scripted sparsifier;
  for (int i = 0; i < 50; ++i) sparsifier.add_data(std::to_string(i), ArrayView(&number, {1}));
  for (int i = 0; i < 50; i += 2) sparsifier.remove_data(std::to_string(i));
  ASSERT_EQ(sparsifier.names().size(), 25U);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(sparsifier.contains(std::to_string(i)), i % 2 == 1);
  sparsifier.step();
}

// --- saving ----------------------------------------------------------------------------------

class Saving : public ::testing::Test {
 protected:
  Saving() : original(mask_first, {{"x", 1}}) {
    original.add_data("a", ArrayView(numbers, {9}), {{"x", 2}});
    original.add_data("b", ArrayView(numbers, {3, 3}));
    original.step();
    original.replace_state("a", {{"n", 5}});
    original.set_enable_mask_update(false);
    saved = original.save_state();
  }
  void attach(BaseDataSparsifier& sparsifier, const Names& names) {
    for (const auto& name : names) {
      sparsifier.add_data(name, ArrayView(numbers, name == "b" ? Axes{3, 3} : Axes{9}));
    }
  }

  float numbers[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  Scripted original;
  SparsifierState saved;
};

TEST_F(Saving, HoldsEverythingButTheData) {
  EXPECT_EQ(saved.version, SparsifierState::current_version);
  EXPECT_EQ(saved.step_count, 1);
  EXPECT_FALSE(saved.enable_mask_update);
  EXPECT_EQ(saved.defaults, (ParamMap{{"x", 1}}));
  ASSERT_EQ(saved.groups.size(), 2U);
  EXPECT_EQ(saved.groups[0].name, "a");
  EXPECT_EQ(saved.groups[0].config, (ParamMap{{"x", 2}}));
  EXPECT_EQ(saved.groups[0].shape, Axes{9});
  EXPECT_EQ(saved.groups[0].mask_bits, (Bytes{0xFE, 0x01}));
  EXPECT_EQ(saved.groups[0].state, (ParamMap{{"n", 5}}));
  EXPECT_EQ(saved.groups[1].shape, (Axes{3, 3}));
}

TEST_F(Saving, IsACopyThatLaterChangesDoNotReach) {
  original.set_enable_mask_update(true);
  original.update = [](Scripted& self, const std::string& name, const ArrayView&) {
    self.get_mask(name).data()[8] = 0;
  };
  original.step();
  original.update_config("a", {{"x", 3}});
  EXPECT_EQ(saved.groups[0].mask_bits, (Bytes{0xFE, 0x01}));
  original.load_state(saved);
  EXPECT_EQ(original.save_state(), saved);
}

TEST_F(Saving, RestoresByNameAndKeepsTheDataAttached) {
  Scripted other;
  attach(other, {"b", "a"});
  const Mask handle = other.get_mask("a");
  other.load_state(saved);
  EXPECT_EQ(other.config("a"), (ParamMap{{"x", 2}}));
  EXPECT_EQ(bytes_of(handle), (Bytes{0, 1, 1, 1, 1, 1, 1, 1, 1})) << "in the memory handed out";
  EXPECT_EQ(other.state("a"), (ParamMap{{"n", 5}}));
  EXPECT_EQ(other.step_count(), 1);
  EXPECT_FALSE(other.enable_mask_update());
  EXPECT_EQ(other.defaults(), (ParamMap{{"x", 1}}));
  EXPECT_EQ(other.get_data("a")->pin().data(), numbers);
  EXPECT_EQ(other.names(), (Names{"b", "a"}));
}

TEST_F(Saving, WaitsForDataThatAreAddedLater) {
  Scripted other;
  other.load_state(saved);
  EXPECT_TRUE(other.names().empty());
  EXPECT_EQ(other.save_state(), saved) << "what waits is saved as well";
  attach(other, {"a"});
  EXPECT_EQ(other.config("a"), (ParamMap{{"x", 2}}));
  EXPECT_EQ(bytes_of(other.get_mask("a")), (Bytes{0, 1, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(other.state("a"), (ParamMap{{"n", 5}}));
  attach(other, {"b"});
  EXPECT_EQ(other.save_state(), saved);
  other.remove_data("a");
  attach(other, {"a"});
  EXPECT_EQ(bytes_of(other.get_mask("a")), Bytes(9, 1)) << "claimed once";
}

TEST_F(Saving, WaitingStateIsTakenOverAsIfItWereThere) {
  Scripted other;
  other.load_state(saved);
  other.add_data("a", make_source(ArrayView(numbers, {9})), {{"y", 7}}, false);
  EXPECT_EQ(other.config("a"), (ParamMap{{"x", 2}, {"y", 7}}));
  EXPECT_EQ(bytes_of(other.get_mask("a")), Bytes(9, 1)) << "reuse_mask is off";
  EXPECT_EQ(other.state("a"), ParamMap());
}

TEST_F(Saving, WaitingStateOfAnotherShapeIsRefusedAndWaitsOn) {
  Scripted other;
  other.load_state(saved);
  const auto message =
      expect_refused<ValueError>(other, [&] { other.add_data("a", ArrayView(numbers, {3, 3})); });
  EXPECT_TRUE(contains(message, "'a'") && contains(message, "(9,)")) << message;
  attach(other, {"a"});
  EXPECT_EQ(other.state("a"), (ParamMap{{"n", 5}}));
}

TEST_F(Saving, AMaskGivenBeatsTheOneThatWaitsAlsoInAnotherShape) {
  const Bytes mask{0, 0, 1, 1, 1, 1, 1, 1, 0};
  Scripted same_shape, other_shape;
  same_shape.load_state(saved);
  same_shape.add_data("a", make_source(ArrayView(numbers, {9})), {}, true, mask.data());
  EXPECT_EQ(bytes_of(same_shape.get_mask("a")), mask);
  EXPECT_EQ(same_shape.state("a"), (ParamMap{{"n", 5}}));
  other_shape.load_state(saved);
  EXPECT_NO_THROW(
      other_shape.add_data("a", make_source(ArrayView(numbers, {3, 3})), {}, true, mask.data()));
}

TEST_F(Saving, StrictWantsTheNamesThatAreAttached) {
  Scripted fewer, more;
  attach(fewer, {"a"});
  attach(more, {"a", "b", "c"});
  const auto unexpected = expect_refused<ValueError>(fewer, [&] { fewer.load_state(saved); });
  EXPECT_TRUE(contains(unexpected, "'b'")) << unexpected;
  const auto missing = expect_refused<ValueError>(more, [&] { more.load_state(saved); });
  EXPECT_TRUE(contains(missing, "'c'")) << missing;

  fewer.load_state(saved, false);
  EXPECT_EQ(fewer.names(), Names{"a"});
  attach(fewer, {"b"});
  EXPECT_EQ(bytes_of(fewer.get_mask("b"))[0], 0);
  more.load_state(saved, false);
  EXPECT_EQ(bytes_of(more.get_mask("c")), Bytes(9, 1));
  EXPECT_EQ(bytes_of(more.get_mask("a"))[0], 0);
}

TEST_F(Saving, RestoresSquashedGroups) {
  original.squash_mask({"a"});
  const auto with_squashed = original.save_state();
  EXPECT_TRUE(with_squashed.groups[0].squashed);

  Scripted empty;
  empty.load_state(with_squashed);
  EXPECT_TRUE(empty.squashed("a"));
  EXPECT_EQ(bytes_of(empty.get_mask("a"))[0], 0);
  EXPECT_FALSE(empty.contains("b")) << "it waits";

  Scripted attached;
  attach(attached, {"a", "b"});
  attached.load_state(with_squashed);
  EXPECT_TRUE(attached.squashed("a"));
  EXPECT_FALSE(attached.squashed("b"));
  EXPECT_EQ(attached.save_state(), with_squashed);
}

TEST_F(Saving, AStateFromBeforeASquashIsClaimedWhenTheDataComeBack) {
  original.squash_mask({"a"});
  original.load_state(saved);
  original.add_data("a", ArrayView(numbers, {9}));
  EXPECT_EQ(original.config("a"), (ParamMap{{"x", 2}}));
  EXPECT_EQ(bytes_of(original.get_mask("a")), (Bytes{0, 1, 1, 1, 1, 1, 1, 1, 1}));
}

TEST_F(Saving, AStateThatWaitsForASquashedNameIsSavedOnce) {
  original.squash_mask({"a"});
  original.load_state(saved);
  const auto again = original.save_state();
  Scripted other;
  EXPECT_NO_THROW(other.load_state(again));
  other.add_data("a", ArrayView(numbers, {9}));
  EXPECT_EQ(bytes_of(other.get_mask("a")), (Bytes{0, 1, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_NO_THROW(original.load_state(again));
}

TEST_F(Saving, AStateThatWaitsForASquashedNameIsForgottenWithIt) {
  original.squash_mask({"a"});
  original.load_state(saved);
  original.remove_data("a");
  original.add_data("a", ArrayView(numbers, {9}));
  EXPECT_EQ(original.config("a"), (ParamMap{{"x", 1}}));
  EXPECT_EQ(bytes_of(original.get_mask("a")), Bytes(9, 1));
}

/// A state, with one thing wrong in it.
using Damage = std::function<void(SparsifierState&)>;

TEST_F(Saving, RefusesEveryDamagedEntryAndChangesNothing) {
  const std::vector<std::pair<std::string, Damage>> damages{
      {"version", [](auto& s) { s.version = 3; }},
      {"version", [](auto& s) { s.version = 0; }},
      {"step_count", [](auto& s) { s.step_count = -1; }},
      {"'b' twice", [](auto& s) { s.groups.push_back(s.groups[1]); }},
      {"", [](auto& s) { s.groups[1].name = ""; }},
      {"'b'", [](auto& s) { s.groups[1].mask_bits.pop_back(); }},
      {"'b'", [](auto& s) { s.groups[1].mask_bits.push_back(0); }},
      {"'b'", [](auto& s) { s.groups[1].mask_bits.clear(); }},
      {"'b'", [](auto& s) { s.groups[1].mask_bits[1] = 0x03; }},
      {"'b'", [](auto& s) { s.groups[1].shape = Axes{9}; }},
      {"'b'", [](auto& s) { s.groups[1].shape = Axes{3, 4}; }},
      {"'b'", [](auto& s) { s.groups[1].shape = Axes{-3, -3}; }},
      {"'b'",
       [](auto& s) { s.groups[1].shape = Axes{std::int64_t{1} << 40, std::int64_t{1} << 40}; }},
      {"'b'", [](auto& s) { s.groups[1].shape = Axes{0, 3}; }},
      {"layout in the state of 'b'", [](auto& s) { s.groups[1].layout = Axes{0}; }},
      {"layout in the state of 'b'", [](auto& s) { s.groups[1].layout = Axes{1, 1}; }},
      {"layout in the state of 'b'", [](auto& s) { s.groups[1].layout = Axes{1, 2}; }},
      {"'b' must hold 2 bytes of kept_zeros", [](auto& s) { s.groups[1].kept_zeros = {1}; }},
      {"'b' has kept_zeros bits beyond", [](auto& s) { s.groups[1].kept_zeros = {1, 2}; }},
      {"level of 'b'", [](auto& s) { s.groups[1].config.set("level", 11); }},
      {"level of 'b'", [](auto& s) { s.groups[1].config.set("level", "1"); }},
      {"levle", [](auto& s) { s.groups[1].config.set("levle", 1); }},
      {"level", [](auto& s) { s.groups[1].config.erase("level"); }},
      {"level", [](auto& s) { s.defaults.set("level", 11); }},
      {"level", [](auto& s) { s.defaults = {}; }},
  };
  Strict strict(mask_first);
  attach(strict, {"a", "b"});
  strict.step();
  const auto whole = strict.save_state();
  strict.step();
  strict.update_config("a", {{"level", 7}});
  for (const auto& [part, damage] : damages) {
    auto state = whole;
    damage(state);
    for (const bool names_must_match : {true, false}) {
      const auto message =
          expect_refused<Error>(strict, [&] { strict.load_state(state, names_must_match); });
      EXPECT_TRUE(contains(message, part)) << message;
    }
    const auto& shape = state.groups[1].shape;
    if (shape == Axes{9} || shape == Axes{3, 4}) continue;  // fit the bits, where there are no data
    Strict empty;
    expect_refused<Error>(empty, [&] { empty.load_state(state); });
  }
  strict.load_state(whole);
  EXPECT_EQ(strict.save_state(), whole);
}

TEST_F(Saving, RefusesEmptyShapesWhoseOtherLengthsLeave63Bits) {
  const std::int64_t large = std::int64_t{1} << 40;
  for (const Axes& shape : {Axes{0, large, large}, Axes{large, large, 0}}) {
    SparsifierState state;
    state.defaults = DataNormSparsifier().defaults();
    state.groups.push_back({"a", state.defaults, shape, {}, false, {}});
    DataNormSparsifier sparsifier;
    const auto message =
        expect_refused<ValueError>(sparsifier, [&] { sparsifier.load_state(state); });
    EXPECT_TRUE(contains(message, "shape in the state of 'a'")) << message;
  }
}

/// Lets a test call what bindings call.
struct Restorable : Scripted {
  using BaseDataSparsifier::restore;
  void check_config(const std::string&, const ParamMap&) const override { ++checks; }
  mutable int checks = 0;
};

TEST_F(Saving, RestoresACopyWithItsSourcesUntouched) {
  original.squash_mask({"b"});
  original.add_data("c", ArrayView(numbers, {9}));
  const auto with_three = original.save_state();
  const auto source = std::make_shared<CountingSource>(ArrayView(numbers, {9}));
  Restorable copy;
  copy.restore(with_three, {{"a", source}});
  EXPECT_EQ(copy.names(), (Names{"a", "b"})) << "c waits for its data";
  EXPECT_EQ(copy.get_data("a"), source);
  EXPECT_TRUE(copy.squashed("b"));
  EXPECT_EQ(copy.save_state(), with_three);
  EXPECT_EQ(source->pins, 0);
  EXPECT_EQ(copy.checks, 0);
  EXPECT_TRUE(copy.add_data("c", ArrayView(numbers, {9})));
}

TEST_F(Saving, RestoresOnlyIntoAnEmptySparsifier) {
  Restorable other;
  attach(other, {"a"});
  expect_refused<StateError>(other, [&] { other.restore(saved, {}); });
}

TEST(DataSparsifier, SaysAllOfAMessageBehindANulInAName) {
  DataNormSparsifier sparsifier;
  const std::string name("a\0b", 3);
  EXPECT_EQ(message_of<UnknownNameError>([&] { sparsifier.get_mask(name); }),
            "no data named 'a\\0b'");
}

// --- threads ---------------------------------------------------------------------------------

TEST(SparsifierThreads, TwoSparsifiersStepSideBySide) {
  Random random(500);
  std::vector<Tensor> tensors;
  for (int i = 0; i < 2; ++i) {
    tensors.emplace_back(DType::float32, parallel_matrix(300));
    fill(tensors.back(), Values::few, random);
  }
  std::vector<Bytes> masks(2);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      const Threads scope(2);
      DataNormSparsifier sparsifier(spec(0.3, 1, 4));
      sparsifier.add_data("a", tensors[i].view());
      for (int step = 0; step < 10; ++step) sparsifier.step();
      masks[i] = bytes_of(sparsifier.get_mask("a"));
    });
  }
  for (auto& thread : threads) thread.join();
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(difference(masks[i], reference::mask(tensors[i].view(), rules_of(spec(0.3, 1, 4)))),
              "");
  }
}

Mask saved_mask(const BaseDataSparsifier& sparsifier, const std::string& name) {
  Mask mask;
  for (const auto& group : sparsifier.save_state().groups) {
    if (group.name != name) continue;
    mask = Mask(group.shape);
    mask.unpack(group.mask_bits.data());
  }
  return mask;
}

TEST(SparsifierThreads, OneSparsifierServesFour) {
  Random random(501);
  Tensor tensor(DType::float32, {200, 200});
  fill(tensor, Values::numbers, random);
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  sparsifier.add_data("shared", tensor.view());
  constexpr int rounds = 50;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string own = "own" + std::to_string(t);
      for (int i = 0; i < rounds; ++i) {
        sparsifier.add_data(own, tensor.view(), {{"sparsity_level", 0.25}});
        sparsifier.step();
        // Another thread's step may be writing the mask itself: a saved one is of one moment.
        EXPECT_EQ(saved_mask(sparsifier, own).zeros(), 10000);
        EXPECT_EQ(saved_mask(sparsifier, "shared").zeros(), 20000);
        sparsifier.update_config(own, {{"sparsity_level", 0.5}});
        EXPECT_EQ(sparsifier.config_value(own, "sparsity_level"), ParamValue(0.5));
        EXPECT_GE(sparsifier.save_state().groups.size(), 2U);
        sparsifier.remove_data(own);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(sparsifier.step_count(), 4 * rounds);
  EXPECT_EQ(sparsifier.names(), Names{"shared"});
  EXPECT_EQ(sparsifier.get_mask("shared").zeros(), 20000);
}

TEST(SparsifierThreads, OverridesOfOneSparsifierNeverOverlap) {
  float number = 0;
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  Scripted sparsifier([&](Scripted&, const std::string&, const ArrayView&) {
    if (++inside > 1) overlapped = true;
    std::this_thread::yield();
    --inside;
  });
  sparsifier.add_data("a", ArrayView(&number, {1}));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) sparsifier.step();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(sparsifier.step_count(), 800);
}

TEST(SparsifierThreads, SquashingAllIsOneCallAlsoWhileGroupsComeAndGo) {
  float number = 0;
  const auto source = make_source(ArrayView(&number, {1}));
  Scripted sparsifier;
  for (int i = 0; i < 500; ++i) sparsifier.add_data("group" + std::to_string(i), source);
  sparsifier.squash_mask();  // many names to look at, before the one that comes and goes
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) {
      sparsifier.add_data("a", source);
      sparsifier.remove_data("a");
    }
  });
  std::string failure;
  for (int i = 0; i < 2000 && failure.empty(); ++i) {
    try {
      sparsifier.squash_mask();
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }
  done = true;
  other.join();
  EXPECT_EQ(failure, "");
}

TEST(DataSparsifier, ReadsAValueWithoutWaitingOrNotAtAll) {
  float numbers[2] = {1, 2};
  std::optional<ParamValue> inside, beside;
  Scripted sparsifier([&](Scripted& self, const std::string& name, const ArrayView&) {
    inside = GroupTable(self).try_value(name, "x");
    std::thread([&] { beside = GroupTable(self).try_value(name, "x"); }).join();
  });
  sparsifier.add_data("a", ArrayView(numbers, {2}), {{"x", 3}});
  sparsifier.step();
  EXPECT_EQ(inside, ParamValue(3)) << "the thread that has the lock may read";
  EXPECT_EQ(beside, std::nullopt);
  for (const std::size_t likely : {0u, 1u, 99u}) {  // where it is, and where it is not
    EXPECT_EQ(GroupTable(sparsifier).try_value("a", "x", likely), ParamValue(3));
  }
  EXPECT_THROW(GroupTable(sparsifier).try_value("b", "x"), UnknownNameError);
  EXPECT_THROW(GroupTable(sparsifier).try_value("a", "y"), UnknownNameError);
  EXPECT_EQ(sparsifier.config_value("a", "x"), ParamValue(3)) << "the lock is free again";
}

// --- figures ----------------------------------------------------------------------------------

TEST(DataSparsifierFigures, SayWhatIsInTheDataAndWhatIsDead) {
  float numbers[12] = {0, -0.0F, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1};
  const Bytes mask{0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0};
  DataNormSparsifier sparsifier(spec(0.5, -1, 2));
  GroupOptions order;
  sparsifier.add_data("rows", make_source(ArrayView(numbers, {3, 4})), {}, true, mask.data());
  order.layout = Axes{2, 1, 0};
  sparsifier.add_data("deep", make_source(ArrayView(numbers, {3, 2, 2})), {}, true, mask.data(),
                      order);
  const Bytes zeros(4, 0);
  sparsifier.add_data("dead", make_source(ArrayView(numbers, {4})), {}, true, zeros.data());
  const auto figures = GroupTable(sparsifier).figures();
  EXPECT_EQ(figures[0].zeros_in_data, 3);
  EXPECT_EQ(figures[0].dead_rows, 1);
  EXPECT_EQ(figures[0].dead_channels, 1);
  EXPECT_EQ(figures[0].block, (std::pair<std::int64_t, std::int64_t>(3, 2)));
  EXPECT_FALSE(figures[0].dead);
  EXPECT_EQ(figures[1].dead_rows, 0);
  EXPECT_EQ(figures[1].dead_channels, 1);
  EXPECT_EQ(figures[1].block, (std::pair<std::int64_t, std::int64_t>(2, 2)));
  EXPECT_TRUE(figures[2].dead);
  EXPECT_EQ(figures[2].dead_rows, std::nullopt);
  EXPECT_EQ(figures[2].zeros_in_data, 3);
  Scripted other;
  other.add_data("rows", ArrayView(numbers, {3, 4}), {{"sparse_block_shape", "none"}});
  EXPECT_EQ(GroupTable(other).figures()[0].block, std::nullopt);
  const std::int64_t most = std::int64_t{1} << 60;  // more elements than 64 bits tell
  other.update_config("rows", {{"sparse_block_shape", ParamValue::Ints{most, -1}}});
  EXPECT_EQ(GroupTable(other).figures()[0].block, (std::pair<std::int64_t, std::int64_t>(most, 4)));
}

TEST(DataSparsifierFigures, AreCountedFromTheMasks) {
  using Status = GroupFigures::Status;
  double numbers[12] = {};
  Scripted sparsifier({}, {{"key", 1}});
  sparsifier.add_data("active", ArrayView(numbers, {3, 4}));
  sparsifier.add_data("squashed", ArrayView(numbers, {5}), {{"key", 2}});
  sparsifier.get_mask("active").data()[7] = 0;
  sparsifier.get_mask("squashed").data()[0] = sparsifier.get_mask("squashed").data()[4] = 0;
  sparsifier.squash_mask({"squashed"});

  const auto figures = GroupTable(sparsifier).figures();
  ASSERT_EQ(figures.size(), 2U);
  EXPECT_EQ(figures[0].name, "active");
  EXPECT_EQ(figures[0].status, Status::active);
  EXPECT_EQ(figures[0].shape, (Axes{3, 4}));
  EXPECT_EQ(figures[0].dtype, DType::float64);
  EXPECT_EQ(figures[0].zeros, 1);
  EXPECT_EQ(figures[0].config, (ParamMap{{"key", 1}}));
  EXPECT_EQ(figures[1].status, Status::squashed);
  EXPECT_EQ(figures[1].dtype, std::nullopt);
  EXPECT_EQ(figures[1].zeros, 2);

  Scripted loaded;
  loaded.load_state(sparsifier.save_state());
  const auto waiting = GroupTable(loaded).figures();
  ASSERT_EQ(waiting.size(), 2U);
  EXPECT_EQ(waiting[0].name, "squashed");
  EXPECT_EQ(waiting[1].name, "active");
  EXPECT_EQ(waiting[1].status, Status::awaits_data);
  EXPECT_EQ(waiting[1].dtype, std::nullopt);
  EXPECT_EQ(waiting[1].zeros, 1);
  EXPECT_EQ(waiting[1].config, (ParamMap{{"key", 1}}));
}

}  // namespace
}  // namespace datasparse
