#include "datasparse/data_scheduler.hpp"

#include <future>
#include <limits>
#include <thread>
#include <type_traits>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

using Sparsifier = std::shared_ptr<BaseDataSparsifier>;

/// Halves the sparsity level of every group at each step.
class Halving : public BaseDataScheduler {
 public:
  explicit Halving(Sparsifier sparsifier, std::int64_t last_epoch = -1)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level", last_epoch) {}

  ParamMap get_schedule_param() override {
    if (last_epoch() == 0) return base_param();
    ParamMap values;
    for (const auto& [name, level] : GroupParams(*data_sparsifier()).get(schedule_param())) {
      values.set(name, 0.5 * level.as_number(schedule_param(), name));
    }
    return values;
  }
};

/// A scheduler whose get_schedule_param() is a function.
class ScriptedScheduler : public BaseDataScheduler {
 public:
  using Script = std::function<ParamMap(ScriptedScheduler&)>;
  ScriptedScheduler(Sparsifier sparsifier, Script values, std::int64_t last_epoch = -1,
                    bool verbose = false)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level", last_epoch, verbose),
        script(std::move(values)) {}
  ParamMap get_schedule_param() override { return script(*this); }

  Script script;
};

ParamMap nothing(ScriptedScheduler&) { return {}; }

class DataScheduler : public ::testing::Test {
 protected:
  DataScheduler() : sparsifier(std::make_shared<DataNormSparsifier>(spec(0.8, 1, 1))) {
    sparsifier->add_data("a", ArrayView(numbers, {10}));
    sparsifier->add_data("b", ArrayView(numbers, {10}), {{"sparsity_level", 0.4}});
  }
  double level(const std::string& name) const {
    return sparsifier->config_value(name, "sparsity_level").as_number("sparsity_level");
  }
  /// Expects that step() throws an Error and that scheduler and sparsifier are as they were.
  template <class Error>
  std::string expect_step_refused(BaseDataScheduler& scheduler) const {
    const auto before = sparsifier->save_state();
    const auto own = scheduler.save_state();
    std::string message = message_of<Error>([&] { scheduler.step(); });
    EXPECT_EQ(sparsifier->save_state(), before);
    EXPECT_EQ(scheduler.last_epoch(), own.last_epoch);
    EXPECT_EQ(scheduler.base_param(), own.base_param);
    EXPECT_EQ(scheduler.get_last_param(), own.last_param);
    return message;
  }

  float numbers[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  std::shared_ptr<DataNormSparsifier> sparsifier;
};

// --- construction ----------------------------------------------------------------------------

static_assert(std::is_abstract_v<Halving>, "a scheduler without its initial step must not compile");
static_assert(!std::is_abstract_v<StartedScheduler<Halving>>);
static_assert(!std::is_copy_constructible_v<BaseDataScheduler>);

TEST_F(DataScheduler, MakesItsInitialStepWhenItIsMade) {
  int calls = 0;
  const auto scheduler =
      make_scheduler<ScriptedScheduler>(sparsifier, [&](ScriptedScheduler& self) {
        ++calls;
        EXPECT_EQ(self.last_epoch(), 0) << "already advanced";
        EXPECT_EQ(self.base_param(), (ParamMap{{"a", 0.8}, {"b", 0.4}}));
        return ParamMap{{"a", 0.1}};
      });
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(scheduler->last_epoch(), 0);
  EXPECT_EQ(level("a"), 0.1);
  EXPECT_EQ(scheduler->get_last_param(), (ParamMap{{"a", 0.1}, {"b", 0.4}}));
  EXPECT_EQ(scheduler->schedule_param(), "sparsity_level");
  EXPECT_EQ(scheduler->data_sparsifier(), sparsifier);
  EXPECT_FALSE(scheduler->verbose());
}

TEST_F(DataScheduler, AdvancesFromTheLastEpochGiven) {
  EXPECT_EQ(make_scheduler<Halving>(sparsifier, 7)->last_epoch(), 8);
  EXPECT_EQ(level("a"), 0.4);
}

TEST_F(DataScheduler, CountsNoFurtherThanADoubleDoes) {
  constexpr std::int64_t most = std::int64_t{1} << 53;
  EXPECT_THROW(make_scheduler<Halving>(sparsifier, std::numeric_limits<std::int64_t>::max()),
               ValueError);
  EXPECT_THROW(make_scheduler<Halving>(sparsifier, most), ValueError);
  const auto scheduler = make_scheduler<Halving>(sparsifier, most - 1);
  EXPECT_EQ(scheduler->last_epoch(), most);
  EXPECT_EQ(message_of<ValueError>([&] { scheduler->step(); }),
            "last_epoch must be at least -1 and at most 2^53, got 9007199254740993");
  EXPECT_EQ(scheduler->last_epoch(), most);
  EXPECT_EQ(level("a"), 0.4);
}

TEST_F(DataScheduler, SendsNoWarningForItsInitialStep) {
  const Messages messages;
  make_scheduler<Halving>(sparsifier);
  EXPECT_TRUE(messages.items.empty());
}

TEST_F(DataScheduler, RefusesAnUnknownParameter) {
  struct Wrong : BaseDataScheduler {
    explicit Wrong(Sparsifier owner) : BaseDataScheduler(std::move(owner), "sparsity_levle") {}
    ParamMap get_schedule_param() override { return {}; }
  };
  EXPECT_EQ(
      message_of<ValueError>([&] { make_scheduler<Wrong>(sparsifier); }),
      "schedule_param must be a config key of the sparsifier, got 'sparsity_levle'; did you mean "
      "'sparsity_level'?");
  EXPECT_THROW(make_scheduler<ScriptedScheduler>(nullptr, nothing), Error);
  EXPECT_THROW(make_scheduler<ScriptedScheduler>(sparsifier, nothing, -2), ValueError);
}

TEST_F(DataScheduler, TakesAParameterThatOnlyTheDefaultsHave) {
  const auto empty = std::make_shared<DataNormSparsifier>();
  const auto scheduler = make_scheduler<Halving>(empty);
  EXPECT_TRUE(scheduler->get_last_param().empty());
}

TEST_F(DataScheduler, ThatFailsItsInitialStepChangesNothing) {
  const auto before = sparsifier->save_state();
  EXPECT_THROW(make_scheduler<ScriptedScheduler>(
                   sparsifier, [](ScriptedScheduler&) { return ParamMap{{"a", 0.1}, {"b", 2.0}}; }),
               ValueError);
  EXPECT_EQ(sparsifier->save_state(), before);
}

// --- the step --------------------------------------------------------------------------------

TEST_F(DataScheduler, HalvesLikeTheDocumentedExample) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  EXPECT_EQ(level("a"), 0.8) << "the base value for epoch 0";
  double expected = 0.8;
  for (int epoch = 1; epoch <= 10; ++epoch) {
    sparsifier->step();
    scheduler->step();
    expected *= 0.5;
    EXPECT_EQ(scheduler->last_epoch(), epoch);
    EXPECT_EQ(level("a"), expected);
    EXPECT_EQ(level("b"), expected / 2);
    EXPECT_EQ(scheduler->get_last_param(), (ParamMap{{"a", expected}, {"b", expected / 2}}));
  }
  EXPECT_EQ(scheduler->base_param(), (ParamMap{{"a", 0.8}, {"b", 0.4}}));
}

TEST_F(DataScheduler, LeavesTheGroupsThatAreLeftOut) {
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, nothing);
  sparsifier->step();
  scheduler->script = [](ScriptedScheduler&) { return ParamMap{{"b", 0.3}}; };
  scheduler->step();
  EXPECT_EQ(level("a"), 0.8);
  EXPECT_EQ(level("b"), 0.3);
  EXPECT_EQ(scheduler->get_last_param(), (ParamMap{{"a", 0.8}, {"b", 0.3}}));
}

TEST_F(DataScheduler, ChangesNothingWhereTheOverrideFails) {
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, nothing);
  sparsifier->step();
  scheduler->step();

  scheduler->script = [](ScriptedScheduler&) -> ParamMap { throw std::logic_error("no"); };
  EXPECT_EQ(expect_step_refused<std::logic_error>(*scheduler), "no");
  scheduler->script = [](ScriptedScheduler&) -> ParamMap { throw 42; };
  EXPECT_THROW(scheduler->step(), int);
  EXPECT_EQ(scheduler->last_epoch(), 1);

  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<ParamMap, std::string>> refused{
      {{{"a", 0.1}, {"bb", 0.1}}, "no data named 'bb'; did you mean 'b'?"},
      {{{"a", 0.1}, {"b", 1.5}}, "sparsity_level of 'b' must be in [0, 1], got 1.5"},
      {{{"a", 0.1}, {"b", nan}}, "sparsity_level of 'b' must not be NaN, got nan"},
      {{{"a", 0.1}, {"b", "0.5"}}, "sparsity_level of 'b' must be a number, got '0.5' (str)"},
      {{{"a", 0.1}, {"b", ParamValue()}},
       "sparsity_level of 'b' must be a number, got None (None)"}};
  for (const auto& [values, message] : refused) {
    scheduler->script = [&values = values](ScriptedScheduler&) { return values; };
    EXPECT_EQ(expect_step_refused<Error>(*scheduler), message);
  }
  scheduler->script = nothing;
  scheduler->step();
  EXPECT_EQ(scheduler->last_epoch(), 2);
}

TEST_F(DataScheduler, ThatFailsForgetsTheGroupsItWasAboutToPickUp) {
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, nothing);
  sparsifier->step();
  sparsifier->add_data("c", ArrayView(numbers, {10}));
  sparsifier->remove_data("a");
  scheduler->script = [](ScriptedScheduler&) -> ParamMap { throw std::logic_error("no"); };
  expect_step_refused<std::logic_error>(*scheduler);
}

TEST_F(DataScheduler, ChangesNothingWhereTheOverrideMovedTheEpochAndFailed) {
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, nothing);
  sparsifier->step();
  scheduler->script = [](ScriptedScheduler& self) -> ParamMap {
    self.set_last_epoch(10);
    self.set_base_param({});
    throw std::logic_error("no");
  };
  expect_step_refused<std::logic_error>(*scheduler);
}

TEST_F(DataScheduler, PicksUpGroupsThatWereAddedAndDropsRemovedOnes) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  sparsifier->step();
  scheduler->step();
  sparsifier->add_data("c", ArrayView(numbers, {10}), {{"sparsity_level", 0.6}});
  sparsifier->remove_data("a");
  EXPECT_EQ(scheduler->base_param(), (ParamMap{{"a", 0.8}, {"b", 0.4}})) << "at the next step";
  scheduler->step();
  EXPECT_EQ(scheduler->base_param(), (ParamMap{{"b", 0.4}, {"c", 0.6}}));
  EXPECT_EQ(level("c"), 0.3);
  EXPECT_EQ(scheduler->get_last_param(), (ParamMap{{"b", 0.1}, {"c", 0.3}}));
}

TEST_F(DataScheduler, DropsTheLastGroupWhereThatIsRemoved) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  sparsifier->step();
  scheduler->step();
  sparsifier->remove_data("b");
  scheduler->step();
  EXPECT_EQ(scheduler->base_param(), (ParamMap{{"a", 0.8}}));
  EXPECT_EQ(scheduler->get_last_param(), (ParamMap{{"a", 0.2}}));
}

TEST_F(DataScheduler, RefusesToBeSteppedFromInsideItsOverride) {
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, nothing);
  sparsifier->step();
  scheduler->script = [](ScriptedScheduler& self) {
    EXPECT_THROW(self.step(), StateError);
    return ParamMap{{"a", 0.2}};
  };
  scheduler->step();
  EXPECT_EQ(scheduler->last_epoch(), 1);
  EXPECT_EQ(level("a"), 0.2);
}

TEST_F(DataScheduler, RefusesToBeSteppedFromInsideUpdateMask) {
  const auto scripted =
      std::make_shared<Scripted>(Scripted::Update(), ParamMap{{"sparsity_level", 0.5}});
  scripted->add_data("a", ArrayView(numbers, {10}));
  const auto scheduler = make_scheduler<Halving>(scripted);
  scripted->update = [&](Scripted&, const std::string&, const ArrayView&) {
    EXPECT_THROW(scheduler->step(), StateError);
    EXPECT_EQ(scheduler->last_epoch(), 0);
  };
  scripted->step();
}

TEST_F(DataScheduler, NeverTouchesEnableMaskUpdate) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  sparsifier->set_enable_mask_update(false);
  sparsifier->step();
  scheduler->step();
  EXPECT_FALSE(sparsifier->enable_mask_update());
}

// --- messages --------------------------------------------------------------------------------

TEST_F(DataScheduler, WarnsOnceWhereItIsSteppedFirst) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  const Messages messages;
  scheduler->step();
  ASSERT_EQ(messages.items.size(), 1U);
  EXPECT_EQ(messages.items[0].first, Severity::warning);
  EXPECT_TRUE(contains(messages.items[0].second, "sparsifier.step()")) << messages.items[0].second;
  scheduler->step();
  EXPECT_EQ(messages.items.size(), 1U);
  EXPECT_EQ(scheduler->last_epoch(), 2) << "a warning, not an error";
}

TEST_F(DataScheduler, DoesNotWarnAfterTheSparsifiersFirstStep) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  const Messages messages;
  sparsifier->step();
  scheduler->step();
  EXPECT_TRUE(messages.items.empty());
}

TEST_F(DataScheduler, DoesNotWarnWhereItLeads) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  EXPECT_FALSE(scheduler->leads());
  const Messages messages;
  scheduler->set_leads(true);
  scheduler->step();
  EXPECT_TRUE(messages.items.empty());
  EXPECT_EQ(scheduler->last_epoch(), 1);

  const auto other = make_scheduler<Halving>(sparsifier);
  other->load_state(scheduler->save_state());
  EXPECT_FALSE(other->leads()) << "who drives it says so, not the state";
  scheduler->set_leads(false);
  scheduler->step();
  EXPECT_EQ(messages.items.size(), 1U) << "nothing was said before";
}

/// A handler that throws, for the length of a scope.
class ThrowingHandler {
 public:
  ThrowingHandler() {
    before_ = set_message_handler(
        [](Severity, const std::string& text) { throw std::runtime_error(text); });
  }
  ~ThrowingHandler() { set_message_handler(before_); }

 private:
  MessageHandler before_;
};

TEST_F(DataScheduler, WhoseWarningIsMadeAnErrorChangesNothing) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  const ThrowingHandler handler;
  expect_step_refused<std::runtime_error>(*scheduler);
}

TEST_F(DataScheduler, WhoseWarningIsMadeAnErrorWarnsAgain) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  const ThrowingHandler handler;
  EXPECT_THROW(scheduler->step(), std::runtime_error);
  EXPECT_THROW(scheduler->step(), std::runtime_error) << "nothing has changed, so neither has this";
}

TEST_F(DataScheduler, SaysWhatItSetsWhereItIsVerbose) {
  const Messages messages;
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, nothing, -1, true);
  ASSERT_EQ(messages.items.size(), 2U);
  EXPECT_EQ(messages.items[0].first, Severity::info);
  EXPECT_EQ(messages.items[0].second, "epoch 0: sparsity_level of 'a' = 0.8");
  EXPECT_EQ(messages.items[1].second, "epoch 0: sparsity_level of 'b' = 0.4");
}

// --- settings and saving ---------------------------------------------------------------------

TEST_F(DataScheduler, TakesAnotherEpochAndBase) {
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, nothing);
  scheduler->set_last_epoch(5);
  EXPECT_THROW(scheduler->set_last_epoch(-2), ValueError);
  EXPECT_EQ(scheduler->last_epoch(), 5);
  scheduler->set_base_param({{"a", 0.7}});
  sparsifier->step();
  scheduler->step();
  EXPECT_EQ(scheduler->last_epoch(), 6);
  EXPECT_EQ(scheduler->base_param(), (ParamMap{{"a", 0.7}, {"b", 0.4}}));
}

TEST_F(DataScheduler, ResumesWhereItWasSaved) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  sparsifier->step();
  scheduler->step();
  const auto saved = scheduler->save_state();
  const auto saved_sparsifier = sparsifier->save_state();
  EXPECT_EQ(saved.last_epoch, 1);
  EXPECT_EQ(saved.last_param, (ParamMap{{"a", 0.4}, {"b", 0.2}}));

  for (const bool sparsifier_first : {true, false}) {
    const auto other = std::make_shared<DataNormSparsifier>(spec(0.8, 1, 1));
    other->add_data("a", ArrayView(numbers, {10}));
    other->add_data("b", ArrayView(numbers, {10}));
    const auto resumed = make_scheduler<Halving>(other);
    if (sparsifier_first) other->load_state(saved_sparsifier);
    resumed->load_state(saved);
    if (!sparsifier_first) other->load_state(saved_sparsifier);
    EXPECT_EQ(GroupParams(*other).get("sparsity_level"), saved.last_param);
    EXPECT_EQ(resumed->last_epoch(), 1);
    EXPECT_EQ(resumed->base_param(), (ParamMap{{"a", 0.8}, {"b", 0.4}}));
    resumed->step();
    EXPECT_EQ(GroupParams(*other).get("sparsity_level"), (ParamMap{{"a", 0.2}, {"b", 0.1}}));
  }
}

TEST_F(DataScheduler, MayBeReadByItsOwnState) {
  struct Counting : BaseDataScheduler {
    explicit Counting(Sparsifier owner) : BaseDataScheduler(std::move(owner), "sparsity_level") {}
    ParamMap get_schedule_param() override { return {}; }
    ParamMap own_state() const override { return {{"seen", last_epoch()}}; }
    void set_own_state(const ParamMap&) override {}
  };
  const auto scheduler = make_scheduler<Counting>(sparsifier);
  scheduler->step();
  EXPECT_EQ(scheduler->save_state().own, (ParamMap{{"seen", 1}}));
}

TEST_F(DataScheduler, LoadingWritesTheLastValuesAndLeavesOutUnknownNames) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  auto state = scheduler->save_state();
  state.last_epoch = 4;
  state.last_param = {{"b", 0.05}, {"gone", 0.9}};
  scheduler->load_state(state);
  EXPECT_EQ(level("a"), 0.8);
  EXPECT_EQ(level("b"), 0.05);
  EXPECT_EQ(scheduler->last_epoch(), 4);
}

TEST_F(DataScheduler, KeepsTheBaseOfGroupsThatALoadedStateDoesNotKnow) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  sparsifier->step();
  scheduler->step();
  auto state = scheduler->save_state();
  state.base_param.erase("b");
  state.last_param.erase("b");
  state.base_param.set("gone", 0.9);

  const auto other = std::make_shared<DataNormSparsifier>(spec(0.8, 1, 1));
  other->add_data("a", ArrayView(numbers, {10}));
  other->add_data("b", ArrayView(numbers, {10}));
  const auto resumed = make_scheduler<Halving>(other);
  resumed->step();  // "b" has a scheduled value now, which is no base
  const auto before = resumed->save_state();
  resumed->load_state(state);
  EXPECT_EQ(resumed->base_param(), (ParamMap{{"a", 0.8}, {"gone", 0.9}, {"b", 0.8}}));
  EXPECT_EQ(*resumed->get_last_param().find("b"), *before.last_param.find("b"));
  resumed->step();
  EXPECT_EQ(GroupParams(*other).get("sparsity_level"), (ParamMap{{"a", 0.2}, {"b", 0.2}}));
}

TEST_F(DataScheduler, RefusesEveryDamagedStateAndChangesNothing) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  const auto own = scheduler->save_state();
  const auto before = sparsifier->save_state();
  const std::vector<std::function<void(SchedulerState&)>> damages{
      [](auto& s) { s.version = SchedulerState::current_version + 1; },
      [](auto& s) { s.version = 0; },
      [](auto& s) { s.schedule_param = "norm"; },
      [](auto& s) { s.last_epoch = -2; },
      [](auto& s) { s.last_param = {{"a", 0.1}, {"b", 1.5}}; },
      [](auto& s) { s.last_param = {{"a", 0.1}, {"b", "high"}}; },
      [](auto& s) { s.last_param = {{"a", std::numeric_limits<double>::quiet_NaN()}}; }};
  for (const auto& damage : damages) {
    auto state = own;
    state.last_epoch = 9;
    state.counts_renewals = true;
    damage(state);
    EXPECT_THROW(scheduler->load_state(state), Error);
    EXPECT_FALSE(scheduler->counts_renewals());
    EXPECT_EQ(scheduler->last_epoch(), own.last_epoch);
    EXPECT_EQ(scheduler->base_param(), own.base_param);
    EXPECT_EQ(scheduler->get_last_param(), own.last_param);
    EXPECT_EQ(sparsifier->save_state(), before);
  }
}

TEST_F(DataScheduler, SavesWhatItsStepsCount) {
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  EXPECT_FALSE(scheduler->counts_renewals());
  auto state = scheduler->save_state();
  EXPECT_FALSE(state.counts_renewals);
  scheduler->set_counts_renewals(true);
  EXPECT_TRUE(scheduler->save_state().counts_renewals);
  scheduler->load_state(state);
  EXPECT_FALSE(scheduler->counts_renewals());
  state.counts_renewals = true;
  scheduler->load_state(state);
  EXPECT_TRUE(scheduler->counts_renewals());
  scheduler->step();
  EXPECT_TRUE(scheduler->counts_renewals());
}

TEST_F(DataScheduler, CountsRenewalsWhereAStateOfTheFirstVersionDid) {
  SchedulerState old;
  old.version = 1;
  old.schedule_param = "sparsity_level";
  old.last_epoch = 3;
  old.base_param = {{"a", 0.8}, {"b", 0.4}};
  old.last_param = {{"a", 0.1}, {"b", 0.05}};
  const auto scheduler = make_scheduler<Halving>(sparsifier);
  scheduler->load_state(old);
  EXPECT_TRUE(scheduler->counts_renewals());
  EXPECT_EQ(level("a"), 0.1);
  EXPECT_EQ(scheduler->last_epoch(), 3);
  EXPECT_EQ(scheduler->save_state().version, SchedulerState::current_version);
}

/// As a binding makes one: empty at first.
struct Restorable : BaseDataScheduler {
  using BaseDataScheduler::restore;
  ParamMap get_schedule_param() override { return {{"a", 0.3}}; }

 private:
  void use_make_scheduler() const override {}
};

TEST_F(DataScheduler, RestoresACopyWithoutLookingAtItsSparsifier) {
  auto state = make_scheduler<Halving>(sparsifier, 4)->save_state();
  state.version = 1;
  state.last_param.set("a", 0.123);
  const auto before = sparsifier->save_state();
  Restorable copy;
  copy.restore(sparsifier, state, true);
  EXPECT_EQ(sparsifier->save_state(), before);
  EXPECT_EQ(copy.last_epoch(), 5);
  EXPECT_EQ(copy.schedule_param(), "sparsity_level");
  EXPECT_EQ(copy.get_last_param(), state.last_param);
  EXPECT_EQ(copy.base_param(), state.base_param);
  EXPECT_TRUE(copy.verbose());
  EXPECT_TRUE(copy.counts_renewals()) << "as version 1 did";
  sparsifier->step();
  copy.step();
  EXPECT_EQ(copy.last_epoch(), 6);
  EXPECT_EQ(level("a"), 0.3);
}

TEST_F(DataScheduler, RefusesToLoadFromInsideAnOverride) {
  const auto scripted =
      std::make_shared<Scripted>(Scripted::Update(), ParamMap{{"sparsity_level", 0.5}});
  scripted->add_data("a", ArrayView(numbers, {10}));
  const auto scheduler = make_scheduler<ScriptedScheduler>(scripted, nothing);
  const auto state = scheduler->save_state();
  scripted->update = [&](Scripted&, const std::string&, const ArrayView&) {
    EXPECT_THROW(scheduler->load_state(state), StateError);
  };
  scripted->step();
  scheduler->script = [&](ScriptedScheduler& self) {
    EXPECT_THROW(self.load_state(state), StateError);
    EXPECT_EQ(self.save_state().last_epoch, 1) << "reading is allowed";
    return ParamMap();
  };
  scheduler->step();
  EXPECT_EQ(scheduler->last_epoch(), 1);
}

TEST_F(DataScheduler, CanBeSteppedFromManyThreads) {
  const auto scheduler = make_scheduler<ScriptedScheduler>(sparsifier, [](ScriptedScheduler& self) {
    return ParamMap{{"a", 1.0 / static_cast<double>(self.last_epoch() + 1)}};
  });
  sparsifier->step();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        scheduler->step();
        sparsifier->step();
        scheduler->save_state();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(scheduler->last_epoch(), 400);
  EXPECT_EQ(level("a"), 1.0 / 401);
}

#if defined(__unix__)
/// Whether `work` ends within three seconds; it runs in a process of its own, as it may not.
template <class Work>
bool ends(const Work& work) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(3);
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// One thread steps the sparsifier, whose override reads the scheduler; another steps the scheduler.
TEST_F(DataScheduler, CanBeReadByAnOverrideWhileAnotherThreadStepsIt) {
  EXPECT_TRUE(ends([this] {
    const auto scripted =
        std::make_shared<Scripted>(Scripted::Update(), ParamMap{{"sparsity_level", 0.5}});
    scripted->add_data("a", ArrayView(numbers, {10}));
    const auto scheduler = make_scheduler<ScriptedScheduler>(scripted, nothing);
    std::promise<void> scheduling, updating;
    scheduler->script = [&](ScriptedScheduler&) {
      scheduling.set_value();
      updating.get_future().wait();
      return ParamMap{{"a", 0.2}};
    };
    scripted->update = [&](Scripted&, const std::string&, const ArrayView&) {
      updating.set_value();
      scheduler->last_epoch();
    };
    std::thread other([&] { scheduler->step(); });
    scheduling.get_future().wait();
    scripted->step();
    other.join();
  }));
}
#endif

}  // namespace
}  // namespace datasparse
