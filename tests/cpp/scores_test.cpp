// get_scores(): what is ranked in the place of the data.

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/device.hpp"
#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "datasparse/group_table.hpp"
#include "pretended_device.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

using Source = std::shared_ptr<DataSource>;

/// Scores, and how many of them are alive, and pinned.
class Counted final : public DataSource {
 public:
  struct Counts {
    int alive = 0, pinned = 0, most = 0;
  };

  Counted(const ArrayView& view, Counts& counts) : view_(view), counts_(counts) {
    counts_.most = std::max(counts_.most, ++counts_.alive);
  }
  ~Counted() override { --counts_.alive; }
  ArrayView pin() override {
    ++counts_.pinned;
    return view_;
  }
  void unpin() noexcept override { --counts_.pinned; }

 private:
  ArrayView view_;
  Counts& counts_;
};

/// Has scores, and says nothing else of itself.
class Untold : public DataNormSparsifier {
 public:
  using DataNormSparsifier::DataNormSparsifier;
  using DataNormSparsifier::run_as_update;

  std::shared_ptr<DataSource> get_scores(const std::string& name, const ArrayView& data,
                                         const ParamMap& config) override {
    asked.push_back(name);
    return scores(name, data, config);
  }

  std::function<Source(const std::string&, const ArrayView&, const ParamMap&)> scores;
  std::vector<std::string> asked;
};

/// Says that get_scores() is all that it overrides.
class Told : public Untold {
 public:
  using Untold::Untold;

 protected:
  ForeignHooks foreign_hooks() const override { return {false, false, own_scores}; }
};

template <class Sparsifier>
class Scores : public ::testing::Test {
 protected:
  Scores() : sparsifier(spec(0.5, 1, 1)) {
    sparsifier.add_data("a", ArrayView(a, {2, 3}));
    sparsifier.add_data("b", ArrayView(b, {4}));
    sparsifier.scores = [this](const std::string& name, const ArrayView&, const ParamMap&) {
      return name == "a" ? std::make_shared<Counted>(ArrayView(of_a, {2, 3}), counts) : nullptr;
    };
  }

  float a[6] = {1, 2, 3, 4, 5, 6}, b[4] = {1, 2, 3, 4};
  double of_a[6] = {6, -5, 4, 3, 2, 1};
  Counted::Counts counts;
  Sparsifier sparsifier;
};

using Kinds = ::testing::Types<Told, Untold>;
struct NamesOfKinds {
  template <class Kind>
  static std::string GetName(int) {
    return std::is_same_v<Kind, Told> ? "Told" : "Untold";
  }
};
TYPED_TEST_SUITE(Scores, Kinds, NamesOfKinds);

TYPED_TEST(Scores, AreRankedByTheirNormAndTheDataAreZeroed) {
  auto& own = this->sparsifier;
  own.step();
  EXPECT_EQ(bytes_of(own.get_mask("a")), (Bytes{1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(bytes_of(own.get_mask("b")), (Bytes{0, 0, 1, 1})) << "nullptr is the data";
  EXPECT_EQ(own.asked, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(this->counts.alive, 0);
  EXPECT_EQ(this->counts.pinned, 0);
  own.apply_mask();
  EXPECT_EQ(this->a[2], 3);
  EXPECT_EQ(this->a[5], 0);
  EXPECT_EQ(this->of_a[5], 1);
  EXPECT_EQ(GroupTable(own).figures()[0].zeros_in_data, 3);
}

TYPED_TEST(Scores, ComeWithDataAndConfigAsUpdateMaskGetsThem) {
  auto& own = this->sparsifier;
  own.update_config("a", {{"sparsity_level", 0.25}});
  bool called = false;
  own.scores = [&](const std::string& name, const ArrayView& data, const ParamMap& config) {
    if (name == "a") {
      called = true;
      EXPECT_EQ(data, ArrayView(this->a, {2, 3}));
      EXPECT_EQ(config, own.config("a")) << "the sparsifier can be read";
      EXPECT_EQ(config.at("zeros_per_block"), 1) << "with automatic values filled in";
      EXPECT_EQ(bytes_of(own.get_mask("a")), Bytes(6, 1));
    }
    return nullptr;
  };
  own.step();
  EXPECT_TRUE(called);
}

TYPED_TEST(Scores, AreNotAskedForWhereNoMaskIsRenewed) {
  auto& own = this->sparsifier;
  GroupOptions frozen;
  frozen.update = false;
  own.add_data("a", make_source(ArrayView(this->a, {2, 3})), {}, true, nullptr, frozen);
  own.squash_mask({"b"});
  own.step();
  own.set_enable_mask_update(false);
  own.step();
  EXPECT_TRUE(own.asked.empty());
}

TYPED_TEST(Scores, KeepLayoutsZerosThatStayAndMasksBefore) {
  auto& own = this->sparsifier;
  this->a[0] = 0;
  GroupOptions options;
  options.layout = Axes{1, 0};
  options.keep_zeros = true;
  own.add_data("a", make_source(ArrayView(this->a, {2, 3})),
               {{"sparse_block_shape", ParamValue::Ints{1, 2}},
                {"monotone", true},
                {"sparsity_level", 1.0 / 3}},
               true, nullptr, options);
  own.step();  // the columns score 6 + 3, 5 + 2, 4 + 1
  EXPECT_EQ(bytes_of(own.get_mask("a")), (Bytes{0, 1, 0, 1, 1, 0}));
  std::swap(this->of_a[0], this->of_a[2]);
  std::swap(this->of_a[3], this->of_a[5]);
  own.step();
  EXPECT_EQ(bytes_of(own.get_mask("a")), (Bytes{0, 1, 0, 1, 1, 0})) << "it stays pruned";
}

TYPED_TEST(Scores, OfAnotherShapeAreRefusedAndNothingHasChanged) {
  auto& own = this->sparsifier;
  own.scores = [this](const std::string& name, const ArrayView&, const ParamMap&) {
    const auto shape = name == "a" ? Axes{2, 3} : Axes{6};
    this->sparsifier.replace_state(name, {{"seen", true}});
    return std::make_shared<Counted>(ArrayView(this->of_a, shape), this->counts);
  };
  EXPECT_EQ(message_of<ValueError>([&] { own.step(); }),
            "scores of 'b' must have the shape of its data, (4,), got (6,)");
  EXPECT_EQ(bytes_of(own.get_mask("a")), Bytes(6, 1));
  EXPECT_EQ(own.state("a"), ParamMap());
  EXPECT_EQ(own.step_count(), 0);
  EXPECT_EQ(this->counts.alive, 0);
  EXPECT_EQ(this->counts.pinned, 0);
}

TYPED_TEST(Scores, MayReplaceStatesAndChangeNothingElse) {
  auto& own = this->sparsifier;
  std::string refused;
  const auto from_inside = [&](const std::function<void()>& call) {
    own.scores = [&](const std::string&, const ArrayView&, const ParamMap&) {
      call();
      return nullptr;
    };
    refused = message_of<StateError>([&] { own.step(); });
  };
  const std::string end = " must not be called from inside get_scores() of the same sparsifier";
  from_inside([&] { own.step(); });
  EXPECT_EQ(refused, "step()" + end);
  from_inside([&] { own.remove_data("b"); });
  EXPECT_EQ(refused, "remove_data()" + end);
  from_inside([&] { own.update_config("a", {{"sparsity_level", 0.1}}); });
  EXPECT_EQ(refused, "writing a config" + end);
  from_inside([&] { own.squash_mask(); });
  EXPECT_EQ(refused, "squash_mask()" + end);
  from_inside([&] { own.run_as_update([] {}); });
  EXPECT_EQ(refused, "update_mask()" + end);
  EXPECT_EQ(own.step_count(), 0);

  own.scores = [&](const std::string& name, const ArrayView&, const ParamMap&) {
    EXPECT_FALSE(GroupTable(own).in_update_mask());
    own.replace_state(name, {{"seen", true}});
    return nullptr;
  };
  own.step();
  EXPECT_EQ(own.state("a"), (ParamMap{{"seen", true}}));
}

using ToldScores = Scores<Told>;
using UntoldScores = Scores<Untold>;

TEST_F(ToldScores, ArePlannedAndAskedForBeforeAnyIsRanked) {
  EXPECT_EQ(GroupParams(sparsifier).count_zeros("sparsity_level", {{"a", 0.34}, {"b", 1.0}}).groups,
            (std::vector<ZeroCount>{{2, 2}, {4, 4}}));
  sparsifier.scores = [this](const std::string&, const ArrayView& data, const ParamMap&) -> Source {
    EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), Bytes(6, 1));
    return std::make_shared<Counted>(data, counts);
  };
  sparsifier.step();
  EXPECT_EQ(counts.most, 2);
}

TEST_F(ToldScores, ThatWriteToMasksAndThrowHaveChangedNone) {
  sparsifier.scores = [this](const std::string& name, const ArrayView&, const ParamMap&) -> Source {
    sparsifier.get_mask("b").data()[0] = 0;
    if (name == "b") throw std::runtime_error("no scores");
    return nullptr;
  };
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), Bytes(4, 1));
  sparsifier.get_mask("b").data()[0] = 0;  // as anybody may between two steps
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), (Bytes{0, 1, 1, 1}));
}

TEST_F(UntoldScores, AreNotPlanned) {
  EXPECT_TRUE(GroupParams(sparsifier).count_zeros("sparsity_level", {{"a", 0.34}}).groups.empty());
}

TEST_F(UntoldScores, AreTheDataOfAnUpdateMaskBesideThem) {
  struct Both final : Untold {
    using Untold::Untold;
    void update_mask(const std::string& name, const ArrayView& data,
                     const ParamMap& config) override {
      EXPECT_TRUE(GroupTable(*this).in_update_mask());
      Untold::update_mask(name, data, config);
      get_mask(name).data()[0] = 0;
    }
  };
  Both both(spec(0.5, 1, 1));
  both.scores = sparsifier.scores;
  both.add_data("a", ArrayView(a, {2, 3}));
  both.step();
  EXPECT_EQ(bytes_of(both.get_mask("a")), (Bytes{0, 1, 1, 0, 0, 0}));
}

TEST_F(ToldScores, AreRankedWhereTheDataLie) {
  PretendedDevice device;
  sparsifier.scores = [&](const std::string& name, const ArrayView&, const ParamMap&) -> Source {
    const std::vector<float> copy(of_a, of_a + 6);
    return name == "a" ? std::make_shared<Placed>(device.store(copy, {2, 3}), device) : nullptr;
  };
  EXPECT_THROW(sparsifier.step(), TypeError) << "its data are on the CPU";
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), Bytes(4, 1));
  sparsifier.add_data(
      "a", std::make_shared<Placed>(device.store(std::vector<float>(6), {2, 3}), device));
  sparsifier.step();
  DataNormSparsifier plain(spec(0.5, 1, 1));
  plain.add_data("a", ArrayView(of_a, {2, 3}));
  plain.step();
  EXPECT_EQ(sparsifier.get_mask("a").pack(), plain.get_mask("a").pack());
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), (Bytes{0, 0, 1, 1}));
}

/// Groups "small" and "last", and between them two whose scores fill the bound together. Their
/// elements are all the same one.
class ManyScores : public ::testing::Test {
 protected:
  static constexpr std::int64_t elements = (std::int64_t{1} << 15) + 1;  // of float64

  ManyScores() : sparsifier(spec(0.5, 1, 1)) {
    const ArrayView large(&one, DType::float64, {elements}, {0}, true);
    sparsifier.add_data("small", ArrayView(values, {4}));
    sparsifier.add_data("large 1", large, {{"sparsity_level", 0.0}});
    sparsifier.add_data("large 2", large, {{"sparsity_level", 0.0}});
    sparsifier.add_data("last", ArrayView(values, {4}));
    sparsifier.scores = [this](const std::string& name, const ArrayView& data,
                               const ParamMap&) -> Source {
      alive.emplace_back(name, counts.alive);
      if (name == failing) throw std::runtime_error("no scores");
      sparsifier.replace_state(name, {{"seen", true}});
      return std::make_shared<Counted>(data, counts);
    };
  }

  double one = 1;
  float values[4] = {1, 2, 3, 4};
  Counted::Counts counts;
  std::string failing;
  std::vector<std::pair<std::string, int>> alive;  // when they were asked for
  Told sparsifier;
};

using Alive = std::vector<std::pair<std::string, int>>;

TEST_F(ManyScores, AreDroppedBeforeMoreAreAskedFor) {
  sparsifier.step();
  EXPECT_EQ(alive, (Alive{{"small", 0}, {"large 1", 1}, {"large 2", 0}, {"last", 1}}));
  EXPECT_EQ(counts.alive, 0);
  EXPECT_EQ(counts.pinned, 0);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("small")), (Bytes{0, 0, 1, 1}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("last")), (Bytes{0, 0, 1, 1}));
}

TEST_F(ManyScores, OfAPoolAreThereTogether) {
  for (const char* const name : {"small", "large 1", "large 2"}) {
    sparsifier.update_config(name, {{"pool", "all"}, {"sparsity_level", 0.0}});
  }
  sparsifier.update_config("last", {{"pool", "others"}});
  sparsifier.add_data("more", ArrayView(values, {4}), {{"pool", "all"}, {"sparsity_level", 0.0}});
  sparsifier.step();
  EXPECT_EQ(alive, (Alive{{"small", 0}, {"large 1", 1}, {"large 2", 2}, {"more", 3}, {"last", 0}}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("small")), Bytes(4, 1));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("last")), (Bytes{0, 0, 1, 1}));
}

TEST_F(ManyScores, BringBackAllMasksWhereTheLastOnesFail) {
  failing = "last";
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  EXPECT_EQ(alive.size(), 4U);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("small")), Bytes(4, 1));
  EXPECT_EQ(sparsifier.state("small"), ParamMap());
  EXPECT_EQ(sparsifier.step_count(), 0);
  EXPECT_EQ(counts.alive, 0);
  failing = "";
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("small")), (Bytes{0, 0, 1, 1}));
}

TEST_F(ManyScores, BringBackThoseOfAPool) {
  for (const char* const name : {"small", "large 1"}) {
    sparsifier.update_config(name, {{"pool", "all"}, {"sparsity_level", 0.5}});
  }
  sparsifier.step();
  const Bytes before = bytes_of(sparsifier.get_mask("large 1"));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("small")), (Bytes{0, 1, 1, 1}));
  for (const char* const name : {"small", "large 1"}) {
    sparsifier.update_config(name, {{"sparsity_level", 1.0}});
  }
  failing = "last";
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("small")), (Bytes{0, 1, 1, 1}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("large 1")), before);
}

TEST_F(ManyScores, BringBackThoseThatWereSavedSinceOneWasRead) {
  failing = "last";
  const auto get = sparsifier.scores;
  sparsifier.scores = [&](const std::string& name, const ArrayView& data,
                          const ParamMap& config) -> Source {
    if (name == "large 1") std::fill_n(sparsifier.get_mask("large 1").data(), elements, 0);
    return get(name, data, config);
  };
  EXPECT_THROW(sparsifier.step(), std::runtime_error);
  for (const char* const name : {"small", "large 1", "large 2", "last"}) {
    EXPECT_EQ(sparsifier.get_mask(name).zeros(), 0) << name;
  }
}

TEST(ScoresInAPool, ShareItsThreshold) {
  Told sparsifier(spec(0.5, 1, 1));
  float a[4] = {9, 9, 9, 9}, b[4] = {1, 1, 1, 1};
  const std::vector<float> of_a{1, 2, 3, 4};
  const std::vector<double> of_b{2.5, 5, 6, 7};
  sparsifier.scores = [&](const std::string& name, const ArrayView&, const ParamMap&) -> Source {
    if (name == "a") return make_source(ArrayView(of_a.data(), {4}));
    return make_source(ArrayView(of_b.data(), {4}));
  };
  sparsifier.add_data("a", ArrayView(a, {4}), {{"pool", "all"}});
  sparsifier.add_data("b", ArrayView(b, {4}), {{"pool", "all"}});
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 0, 0, 1}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), (Bytes{0, 1, 1, 1}));
}

}  // namespace
}  // namespace datasparse
