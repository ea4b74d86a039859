#include "datasparse/data_norm_sparsifier.hpp"

#include "datasparse/error.hpp"
#include "datasparse/group_params.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

TEST(DataNormSparsifier, MasksEveryGroupByItsOwnConfig) {
  Random random(600);
  for (const int threads : {1, 3}) {
    const Threads scope(threads);
    DataNormSparsifier sparsifier;
    std::vector<Tensor> tensors;
    std::vector<BlockSpec> specs;
    for (int i = 0; i < std::max(500 / slowdown, 100); ++i) {
      tensors.emplace_back(random.pick(all_dtypes),
                           Axes{random.between(0, 70), random.between(1, 70)});
      fill(tensors.back(), random_kind(random), random);
      specs.push_back(spec(random.unit(), random.between(1, 4), random.between(1, 4), {},
                           random.pick<Norm>({Norm::L1, Norm::L2, Norm::none})));
      if (random.one_in(2)) {
        specs.back().zeros_per_block =
            random.between(0, specs.back().block_height * specs.back().block_width);
      }
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      sparsifier.add_data(std::to_string(i), tensors[i].view(true), specs[i].to_config());
    }
    sparsifier.step();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(difference(bytes_of(sparsifier.get_mask(std::to_string(i))),
                           reference::mask(tensors[i].view(), rules_of(specs[i]))),
                "");
    }
  }
}

TEST(DataNormSparsifier, MasksManyGroupsOfMiddlingSizeWithTies) {
  Random random(602);
  const BlockSpec half = spec(0.5, 1, 1);
  std::vector<Tensor> tensors;
  std::vector<Bytes> expected;
  for (int i = 0; i < std::max(40 / slowdown, 12); ++i) {
    tensors.emplace_back(DType::float32, Axes{200, 100});
    fill(tensors.back(), i % 2 == 0 ? Values::equal : Values::few, random);
    expected.push_back(reference::mask(tensors.back().view(), rules_of(half)));
  }
  for (const int threads : {1, 2, 4}) {
    const Threads scope(threads);
    DataNormSparsifier sparsifier(half);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      sparsifier.add_data(std::to_string(i), tensors[i].view());
    }
    for (int step = 0; step < std::max(5 / slowdown, 2); ++step) {
      sparsifier.step();
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        ASSERT_EQ(difference(bytes_of(sparsifier.get_mask(std::to_string(i))), expected[i]), "")
            << "group " << i << ", " << threads << " threads";
      }
    }
  }
}

TEST(DataNormSparsifier, HasTheDefaultsOfBlockSpec) {
  EXPECT_EQ(DataNormSparsifier().defaults(),
            (ParamMap{{"sparsity_level", 0.5},
                      {"sparse_block_shape", ParamValue::Ints{1, 4}},
                      {"zeros_per_block", ParamValue()},
                      {"norm", "L1"}}));
  EXPECT_THROW(DataNormSparsifier(spec(1.5, 1, 4)), ValueError);
  EXPECT_THROW(DataNormSparsifier(spec(0.5, 1, 4, 5)), ValueError);
}

TEST(DataNormSparsifier, BlockThatASchedulerWritesTakesItsAutomaticZerosAlong) {
  float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  DataNormSparsifier sparsifier(spec(0.5, 1, 2));
  sparsifier.add_data("a", ArrayView(numbers, {2, 4}));
  GroupParams(sparsifier).set("sparse_block_shape", {{"a", ParamValue::Ints{-1, 2}}});
  EXPECT_EQ(sparsifier.config_value("a", "zeros_per_block"), ParamValue(4));
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_THROW(GroupParams(sparsifier).set("zeros_per_block", {{"a", 5}}), ValueError);
}

TEST(DataNormSparsifier, HasOptionalKeysOnlyWhereTheyAreGiven) {
  float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  DataNormSparsifier sparsifier(spec(1, 1, 1));
  sparsifier.add_data("plain", ArrayView(numbers, {8}));
  sparsifier.add_data("given", ArrayView(numbers, {8}), {{"min_kept", 3.0}, {"monotone", false}});
  EXPECT_EQ(sparsifier.config("plain").size(), 4U);
  EXPECT_EQ(sparsifier.config_value("given", "min_kept"), ParamValue(3)) << "as an integer";
  EXPECT_EQ(sparsifier.config_value("given", "monotone"), ParamValue(false));
  sparsifier.step();
  EXPECT_EQ(sparsifier.get_mask("plain").zeros(), 8);
  EXPECT_EQ(bytes_of(sparsifier.get_mask("given")), (Bytes{0, 0, 0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(GroupParams(sparsifier).count_zeros("sparsity_level", {{"given", 1.0}}).groups,
            (std::vector<ZeroCount>{{5, 5}}));
  GroupParams(sparsifier).set("min_kept", {{"given", 2}});
  sparsifier.update_mask("given", ArrayView(numbers, {8}), sparsifier.config("given"));
  EXPECT_EQ(sparsifier.get_mask("given").zeros(), 6);
  GroupParams(sparsifier).erase("given", "min_kept");
  sparsifier.step();
  EXPECT_EQ(sparsifier.get_mask("given").zeros(), 8);
  EXPECT_EQ(message_of<ValueError>([&] { sparsifier.update_config("plain", {{"min_kept", -2}}); }),
            "min_kept of 'plain' must be at least 0, got -2");
  EXPECT_THROW(GroupParams(sparsifier).erase("given", "norm"), ValueError);

  BlockSpec defaults = spec(0.5, 1, 1);
  defaults.min_kept = 8;
  EXPECT_EQ(DataNormSparsifier(defaults).defaults().at("min_kept"), ParamValue(8));
}

TEST(DataNormSparsifier, ShowsAutomaticZerosAsTheEffectiveInteger) {
  float numbers[12] = {};
  DataNormSparsifier sparsifier;
  sparsifier.add_data("a", ArrayView(numbers, {3, 4}));
  EXPECT_EQ(sparsifier.config_value("a", "zeros_per_block"), ParamValue(4));
  sparsifier.update_config("a", {{"sparse_block_shape", ParamValue::Ints{-1, 2}}});
  EXPECT_EQ(sparsifier.config_value("a", "zeros_per_block"), ParamValue(6));
  EXPECT_EQ(sparsifier.config_value("a", "sparse_block_shape"), ParamValue(ParamValue::Ints{-1, 2}))
      << "lengths read as written";
  EXPECT_TRUE(sparsifier.save_state().groups[0].config.at("zeros_per_block").is_none())
      << "and stay automatic inside";
}

TEST(DataNormSparsifier, AutomaticZerosFollowDataOfAnotherShape) {
  float numbers[12] = {};
  DataNormSparsifier sparsifier(spec(0.5, -1, 1));
  sparsifier.add_data("a", ArrayView(numbers, {3, 4}));
  sparsifier.add_data("a", make_source(ArrayView(numbers, {6, 2})), {}, false);
  EXPECT_EQ(sparsifier.config_value("a", "zeros_per_block"), ParamValue(6));
}

TEST(DataNormSparsifier, TakesWholeFloatsAndRefusesOthers) {
  float numbers[4] = {};
  DataNormSparsifier sparsifier;
  sparsifier.add_data("a", ArrayView(numbers, {4}),
                      {{"zeros_per_block", 2.0}, {"sparsity_level", 1}});
  EXPECT_EQ(sparsifier.config_value("a", "zeros_per_block"), ParamValue(2));
  EXPECT_EQ(sparsifier.config_value("a", "sparsity_level"), ParamValue(1.0));
  const auto message =
      message_of<ValueError>([&] { sparsifier.update_config("a", {{"zeros_per_block", 1.5}}); });
  EXPECT_TRUE(contains(message, "zeros_per_block of 'a'") && contains(message, "1.5")) << message;
}

TEST(DataNormSparsifier, RefusesWrongConfigsWhenTheyArrive) {
  float numbers[4] = {};
  DataNormSparsifier sparsifier;
  sparsifier.add_data("emb", ArrayView(numbers, {4}));
  const auto before = sparsifier.save_state();
  EXPECT_EQ(
      message_of<ValueError>([&] { sparsifier.update_config("emb", {{"sparsity_level", 1.2}}); }),
      "sparsity_level of 'emb' must be in [0, 1], got 1.2");
  EXPECT_THROW(sparsifier.update_config("emb", {{"sparsity_levle", 0.2}}), TypeError);
  EXPECT_THROW(sparsifier.update_config("emb", {{"norm", "L0"}}), ValueError);
  EXPECT_THROW(GroupParams(sparsifier).erase("emb", "norm"), ValueError);
  EXPECT_THROW(GroupParams(sparsifier).set("sparsity_level", {{"emb", -0.5}}), ValueError);
  EXPECT_THROW(sparsifier.replace_defaults({{"sparsity_level", 0.5}}), ValueError);
  EXPECT_THROW(sparsifier.add_data("other", ArrayView(numbers, {4}), {{"zeros_per_block", 5}}),
               ValueError);
  EXPECT_EQ(sparsifier.save_state(), before);
}

TEST(DataNormSparsifier, ChecksAConfigAsAUnit) {
  float numbers[16] = {};
  DataNormSparsifier sparsifier;
  sparsifier.add_data("a", ArrayView(numbers, {16}));
  const ParamMap together{{"zeros_per_block", 8}, {"sparse_block_shape", ParamValue::Ints{1, 8}}};
  EXPECT_THROW(sparsifier.update_config("a", {{"zeros_per_block", 8}}), ValueError);
  sparsifier.update_config("a", together);
  EXPECT_EQ(sparsifier.config_value("a", "zeros_per_block"), ParamValue(8));
}

TEST(DataNormSparsifier, StepsOverEmptyAndScalarData) {
  float number = 1;
  DataNormSparsifier sparsifier(spec(1, 1, 1));
  sparsifier.add_data("empty", ArrayView(static_cast<float*>(nullptr), {0, 3}));
  sparsifier.add_data("scalar", ArrayView(&number, Axes{}));
  sparsifier.step();
  EXPECT_EQ(sparsifier.get_mask("scalar").zeros(), 1);
  sparsifier.apply_mask();
  EXPECT_EQ(number, 0);
  sparsifier.squash_mask();
  DataNormSparsifier other;
  other.load_state(sparsifier.save_state());
  EXPECT_EQ(other.save_state(), sparsifier.save_state());
}

TEST(DataNormSparsifier, MasksGroupsThatShareTheirMemory) {
  float numbers[4] = {1, 2, 3, 4};
  DataNormSparsifier sparsifier(spec(0.5, 1, 1));
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  sparsifier.add_data("b", ArrayView(numbers, {2, 2}), {{"sparsity_level", 0.25}});
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 0, 1, 1}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), (Bytes{0, 1, 1, 1}));
}

// --- subclasses ------------------------------------------------------------------------------

/// Calls the base, then keeps the first element of every group.
class KeepsTheFirst : public DataNormSparsifier {
 public:
  KeepsTheFirst() : DataNormSparsifier(spec(0.5, 1, 1)) {}
  void update_mask(const std::string& name, const ArrayView& data,
                   const ParamMap& config) override {
    DataNormSparsifier::update_mask(name, data, config);
    get_mask(name).data()[0] = 1;
  }
};

TEST(Subclass, MayCallTheBaseAndThenEditTheMask) {
  float numbers[4] = {1, 2, 3, 4};
  KeepsTheFirst sparsifier;
  for (const char* name : {"a", "b"}) sparsifier.add_data(name, ArrayView(numbers, {4}));
  sparsifier.step();
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(bytes_of(sparsifier.get_mask(name)), (Bytes{1, 0, 1, 1}));
  }
}

class Overriding : public DataNormSparsifier {
 public:
  using Update = std::function<void(Overriding&, const std::string&, const ArrayView&, ParamMap)>;
  explicit Overriding(Update script)
      : DataNormSparsifier(spec(0.5, 1, 1)), update(std::move(script)) {}
  void update_mask(const std::string& name, const ArrayView& data,
                   const ParamMap& config) override {
    update(*this, name, data, config);
  }
  void base(const std::string& name, const ArrayView& data, const ParamMap& config) {
    DataNormSparsifier::update_mask(name, data, config);
  }
  using DataNormSparsifier::run_as_update;

  Update update;
};

TEST(Subclass, SeesTheMasksOfTheGroupsBefore) {
  float numbers[4] = {1, 2, 3, 4};
  Overriding sparsifier(
      [](Overriding& self, const std::string& name, const ArrayView& data, ParamMap config) {
        self.base(name, data, config);
        if (name == "b") {
          EXPECT_EQ(bytes_of(self.get_mask("a")), (Bytes{0, 0, 1, 1}));
        }
      });
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  sparsifier.add_data("b", ArrayView(numbers, {4}));
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), (Bytes{0, 0, 1, 1}));
}

TEST(Subclass, ThatThrowsAfterTheBaseLeavesEveryMask) {
  float numbers[4] = {1, 2, 3, 4};
  bool fails = false, reads = false;
  Overriding sparsifier(
      [&](Overriding& self, const std::string& name, const ArrayView& data, ParamMap config) {
        self.base(name, data, config);
        if (reads) self.get_mask(name);
        if (fails && name == "b") throw std::runtime_error("no");
      });
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  sparsifier.add_data("b", ArrayView(numbers, {4}));
  sparsifier.step();
  std::reverse(std::begin(numbers), std::end(numbers));
  fails = true;
  for (const bool read : {false, true}) {
    reads = read;
    const auto before = sparsifier.save_state();
    EXPECT_THROW(sparsifier.step(), std::runtime_error);
    EXPECT_EQ(sparsifier.save_state(), before);
  }
  fails = false;
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{1, 1, 0, 0}))
      << "nothing put off is left over";
}

TEST(Subclass, MayScoreOtherDataThanTheGroupsOwn) {
  float weights[4] = {1, 2, 3, 4}, scores[4] = {4, 3, 2, 1};
  Overriding sparsifier(
      [&](Overriding& self, const std::string& name, const ArrayView& data, ParamMap config) {
        self.base(name, data, config);
        self.base(name, ArrayView(scores, {4}), config);  // the later call counts
      });
  sparsifier.add_data("a", ArrayView(weights, {4}));
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{1, 1, 0, 0}));
}

TEST(Subclass, MayGoBackToTheGroupsOwnDataAfterOthers) {
  float weights[4] = {1, 2, 3, 4}, scores[4] = {4, 3, 2, 1};
  Overriding sparsifier(
      [&](Overriding& self, const std::string& name, const ArrayView& data, ParamMap config) {
        self.base(name, ArrayView(scores, {4}), config);
        self.base(name, data, config);
      });
  sparsifier.add_data("a", ArrayView(weights, {4}));
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 0, 1, 1}));
}

TEST(Subclass, RefusesScoresOfAnotherShape) {
  float numbers[4] = {1, 2, 3, 4};
  Overriding sparsifier(
      [&](Overriding& self, const std::string& name, const ArrayView&, ParamMap config) {
        self.base(name, ArrayView(numbers, {2, 2}), config);
      });
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  const auto message = message_of<ValueError>([&] { sparsifier.step(); });
  EXPECT_TRUE(contains(message, "'a'") && contains(message, "(2, 2)")) << message;
}

TEST(Subclass, MayChangeTheConfigForOneCall) {
  float numbers[4] = {1, 2, 3, 4};
  Overriding sparsifier(
      [&](Overriding& self, const std::string& name, const ArrayView& data, ParamMap config) {
        config.set("sparsity_level", 0.75);
        self.base(name, data, config);
      });
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  sparsifier.step();
  EXPECT_EQ(sparsifier.get_mask("a").zeros(), 3);
  EXPECT_EQ(sparsifier.config_value("a", "sparsity_level"), ParamValue(0.5));
}

TEST(Subclass, ThatCallsTheBaseTwiceGetsTheLaterMask) {
  Random random(601);
  const Threads scope(2);
  Overriding sparsifier(
      [&](Overriding& self, const std::string& name, const ArrayView& data, ParamMap config) {
        config.set("sparsity_level", 1.0);
        config.set("zeros_per_block", 3);
        config.set("sparse_block_shape", ParamValue::Ints{1, 4});
        self.base(name, data, config);
        config.set("sparsity_level", 0.0);
        self.base(name, data, config);
      });
  std::vector<Tensor> tensors;
  for (std::int64_t i = 0; i < 2 * parallel_from / 4096; ++i) {
    tensors.emplace_back(DType::float32, Axes{4096});
    fill(tensors.back(), Values::numbers, random);
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    sparsifier.add_data(std::to_string(i), tensors[i].view());
  }
  std::int64_t zeros = 0;
  for (int step = 0; step < 10; ++step) {
    sparsifier.step();
    for (const auto& name : sparsifier.names()) zeros += sparsifier.get_mask(name).zeros();
  }
  EXPECT_EQ(zeros, 0);
}

TEST(Subclass, UpdatesAtOnceOutsideAStep) {
  float numbers[4] = {1, 2, 3, 4};
  Overriding sparsifier(
      [](Overriding& self, const std::string& name, const ArrayView& data, ParamMap config) {
        EXPECT_THROW(self.step(), StateError);
        self.base(name, data, config);
      });
  sparsifier.add_data("a", ArrayView(numbers, {4}));
  sparsifier.run_as_update(
      [&] { sparsifier.update_mask("a", ArrayView(numbers, {4}), sparsifier.config("a")); });
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{0, 0, 1, 1}));
  EXPECT_EQ(sparsifier.step_count(), 0);
  EXPECT_NO_THROW(sparsifier.remove_data("a")) << "the lock is free again";
}

/// Has a key of its own: how many elements, from the first on, are never pruned.
class Protecting : public DataNormSparsifier {
 public:
  explicit Protecting(const ParamMap& own = {}) : DataNormSparsifier(BlockSpec(), own) {}
  void check_config(const std::string& name, const ParamMap& config) const override {
    ParamMap rest = config;
    if (const auto* rows = config.find("protected")) {
      if (rows->as_integer("protected", name) < 0) {
        throw ValueError(label("protected", name) + " must not be negative");
      }
      rest.erase("protected");
    }
    DataNormSparsifier::check_config(name, rest);
  }
  void update_mask(const std::string& name, const ArrayView& data,
                   const ParamMap& config) override {
    DataNormSparsifier::update_mask(name, data, config);
    if (const auto* n = config.find("protected")) {
      std::fill_n(get_mask(name).data(), n->as_integer("protected"), std::uint8_t{1});
    }
  }
};

TEST(Subclass, MayHaveConfigKeysOfItsOwn) {
  float numbers[4] = {1, 2, 3, 4};
  Protecting sparsifier;
  const ParamMap own{{"protected", 1}, {"sparse_block_shape", ParamValue::Ints{1, 1}}};
  sparsifier.add_data("a", ArrayView(numbers, {4}), own);
  sparsifier.add_data("b", ArrayView(numbers, {4}), {{"sparsity_level", 1.0}});
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{1, 0, 1, 1}));
  EXPECT_EQ(bytes_of(sparsifier.get_mask("b")), Bytes(4, 0));
  EXPECT_EQ(sparsifier.config_value("a", "protected"), ParamValue(1));
  EXPECT_THROW(sparsifier.update_config("a", {{"protected", -1}}), ValueError);
  EXPECT_THROW(sparsifier.update_config("a", {{"protekted", 1}}), TypeError);
  GroupParams(sparsifier).erase("a", "protected");
  EXPECT_EQ(sparsifier.config("a").find("protected"), nullptr);

  Protecting other;
  sparsifier.update_config("b", {{"protected", 2}});
  other.load_state(sparsifier.save_state());
  other.add_data("b", ArrayView(numbers, {4}));
  EXPECT_EQ(other.config_value("b", "protected"), ParamValue(2));
}

TEST(Subclass, MayHaveDefaultsOfItsOwn) {
  struct WithDefaults : Protecting {
    explicit WithDefaults(int rows) : Protecting({{"protected", rows}}) { check_defaults(); }
  };
  float numbers[4] = {1, 2, 3, 4};
  WithDefaults sparsifier(2);
  EXPECT_EQ(sparsifier.defaults().at("protected"), ParamValue(2));
  sparsifier.add_data("a", ArrayView(numbers, {4}), {{"sparsity_level", 1.0}});
  sparsifier.step();
  EXPECT_EQ(bytes_of(sparsifier.get_mask("a")), (Bytes{1, 1, 0, 0}));
  EXPECT_THROW(WithDefaults(-1), ValueError) << "check_defaults() calls the override";
}

}  // namespace
}  // namespace datasparse
