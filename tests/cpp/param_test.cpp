#include "datasparse/param.hpp"

#include <limits>
#include <map>

#include "datasparse/error.hpp"
#include "support.hpp"

namespace datasparse {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(ParamValue, KnowsItsKind) {
  EXPECT_STREQ(kind_of(ParamValue()), "None");
  EXPECT_STREQ(kind_of(true), "bool");
  EXPECT_STREQ(kind_of(3), "int");
  EXPECT_STREQ(kind_of(0.5), "float");
  EXPECT_STREQ(kind_of(0.5F), "float");
  EXPECT_STREQ(kind_of("L1"), "str");
  EXPECT_STREQ(kind_of(ParamValue::Ints{1, 4}), "tuple");
  EXPECT_STREQ(kind_of(ParamValue::Floats{1, 4}), "tuple");
  EXPECT_TRUE(ParamValue().is_none());
  EXPECT_FALSE(ParamValue(0).is_none());
  EXPECT_NE(ParamValue("text").get_if<std::string>(), nullptr) << "a literal is not a bool";
}

TEST(ParamValue, IsEqualInKindAndValue) {
  EXPECT_EQ(ParamValue(1), ParamValue(std::int64_t{1}));
  EXPECT_NE(ParamValue(1), ParamValue(1.0));
  EXPECT_NE(ParamValue(1), ParamValue(true));
  EXPECT_NE(ParamValue(), ParamValue(0));
  EXPECT_NE(ParamValue(ParamValue::Ints{1}), ParamValue(ParamValue::Floats{1}));
  EXPECT_NE(ParamValue(nan), ParamValue(nan));
  EXPECT_EQ(ParamValue("a"), ParamValue(std::string("a")));
}

TEST(ParamValue, IsANumberWhereItIsAnIntegerOrAFloat) {
  EXPECT_EQ(ParamValue(3).as_number("x"), 3.0);
  EXPECT_EQ(ParamValue(0.25).as_number("x"), 0.25);
  EXPECT_THROW(ParamValue(true).as_number("x"), TypeError);
  EXPECT_THROW(ParamValue().as_number("x"), TypeError);
  EXPECT_EQ(message_of<TypeError>([] { ParamValue("0.5").as_number("level", "emb"); }),
            "level of 'emb' must be a number, got '0.5' (str)");
}

TEST(ParamValue, IsAnIntegerWhereNothingIsLost) {
  EXPECT_EQ(ParamValue(-7).as_integer("x"), -7);
  EXPECT_EQ(ParamValue(2.0).as_integer("x"), 2);
  EXPECT_EQ(ParamValue(-0.0).as_integer("x"), 0);
  EXPECT_EQ(ParamValue(0x1p62).as_integer("x"), std::int64_t{1} << 62);
  EXPECT_THROW(ParamValue(1.5).as_integer("x"), ValueError);
  EXPECT_THROW(ParamValue(nan).as_integer("x"), ValueError);
  EXPECT_THROW(ParamValue(infinity).as_integer("x"), ValueError);
  EXPECT_THROW(ParamValue(0x1p63).as_integer("x"), ValueError);
  EXPECT_THROW(ParamValue(-1e300).as_integer("x"), ValueError);
  EXPECT_THROW(ParamValue("2").as_integer("x"), TypeError);
  EXPECT_THROW(ParamValue(true).as_integer("x"), TypeError);
  EXPECT_THROW(ParamValue(ParamValue::Ints{2}).as_integer("x"), TypeError);
}

TEST(ParamValue, ReadsAsPythonWritesIt) {
  EXPECT_EQ(to_string(ParamValue()), "None");
  EXPECT_EQ(to_string(ParamValue(true)), "True");
  EXPECT_EQ(to_string(ParamValue(false)), "False");
  EXPECT_EQ(to_string(ParamValue(3)), "3");
  EXPECT_EQ(to_string(ParamValue("L1")), "'L1'");
  EXPECT_EQ(to_string(ParamValue(ParamValue::Ints{1, 4})), "(1, 4)");
  EXPECT_EQ(to_string(ParamValue(ParamValue::Ints{})), "()");
  EXPECT_EQ(to_string(ParamValue(ParamValue::Floats{0.5})), "(0.5,)");
  EXPECT_EQ(to_string(ParamValue(std::numeric_limits<std::int64_t>::min())),
            "-9223372036854775808");
}

TEST(ParamValue, FloatsAreTheShortestTextThatReadsBack) {
  const std::map<std::string, double> expected{
      {"0.5", 0.5},
      {"0.1", 0.1},
      {"1.0", 1.0},
      {"-0.0", -0.0},
      {"1.2", 1.2},
      {"0.30000000000000004", 0.1 + 0.2},
      {"0.0001", 1e-4},
      {"1e-05", 1e-5},
      {"1e+16", 1e16},
      {"1.5e+300", 1.5e300},
      {"5e-324", 5e-324},
      {"2.2250738585072014e-308", std::numeric_limits<double>::min()},
      {"1.7976931348623157e+308", std::numeric_limits<double>::max()},
      {"nan", nan},
      {"inf", infinity},
      {"-inf", -infinity},
  };
  for (const auto& [text, value] : expected) EXPECT_EQ(to_string(ParamValue(value)), text);
}

TEST(ParamValue, FloatsFrom10To1e16AreWrittenOutAsPythonDoes) {
  EXPECT_EQ(to_string(ParamValue(10.0)), "10.0");
  EXPECT_EQ(to_string(ParamValue(-20.0)), "-20.0");
  EXPECT_EQ(to_string(ParamValue(12.0)), "12.0");
  EXPECT_EQ(to_string(ParamValue(100000.0)), "100000.0");
  EXPECT_EQ(to_string(ParamValue(1234567890.0)), "1234567890.0");
  EXPECT_EQ(to_string(ParamValue(1e15)), "1000000000000000.0");
}

TEST(ParamValue, HoldsNaNAlsoWithinATuple) {
  EXPECT_TRUE(holds_nan(nan));
  EXPECT_TRUE(holds_nan(ParamValue::Floats{0.0, nan}));
  EXPECT_FALSE(holds_nan(infinity));
  EXPECT_FALSE(holds_nan("nan"));
  EXPECT_FALSE(holds_nan(ParamValue()));
}

std::vector<std::string> keys_of(const ParamMap& map) {
  std::vector<std::string> keys;
  for (const auto& item : map) keys.push_back(item.first);
  return keys;
}

TEST(ParamMap, KeepsTheOrderOfInsertion) {
  ParamMap map{{"b", 1}, {"a", 2}};
  map.set("c", 3);
  map.set("b", 4);
  EXPECT_EQ(keys_of(map), (std::vector<std::string>{"b", "a", "c"}));
  EXPECT_EQ(map.at("b"), ParamValue(4));
  EXPECT_EQ(map.size(), 3U);
}

TEST(ParamMap, IsEqualInAnyOrder) {
  EXPECT_EQ((ParamMap{{"a", 1}, {"b", 2}}), (ParamMap{{"b", 2}, {"a", 1}}));
  EXPECT_NE((ParamMap{{"a", 1}}), (ParamMap{{"a", 1.0}}));
  EXPECT_NE((ParamMap{{"a", 1}}), (ParamMap{{"b", 1}}));
  EXPECT_NE((ParamMap{{"a", 1}}), (ParamMap{{"a", 1}, {"b", 1}}));
}

TEST(ParamMap, UpdatesInPlaceAndAppends) {
  ParamMap map{{"a", 1}, {"b", 2}};
  map.update({{"c", 3}, {"a", 4}});
  EXPECT_EQ(keys_of(map), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(map.at("a"), ParamValue(4));
  map.update(map);
  EXPECT_EQ(map.size(), 3U);
}

TEST(ParamMap, NamesTheNearestKeyWhereOneIsMissing) {
  const ParamMap map{{"sparsity_level", 0.5}, {"norm", "L1"}};
  EXPECT_EQ(map.find("sparsity"), nullptr);
  EXPECT_EQ(message_of<UnknownNameError>([&] { map.at("sparsity_levle"); }),
            "unknown key 'sparsity_levle'; did you mean 'sparsity_level'?");
}

TEST(ParamMap, BehavesAsAPlainListThroughItsHashedSizes) {
  // 16 keys are searched one by one, 17 are hashed: go to and fro across the border.
  Random random(3);
  ParamMap map;
  std::vector<std::pair<std::string, std::int64_t>> expected;
  const auto place_of = [&expected](const std::string& key) {
    return std::find_if(expected.begin(), expected.end(),
                        [&key](const auto& item) { return item.first == key; });
  };
  for (int i = 0; i < 20000; ++i) {
    const bool growing = i / 500 % 2 == 0;
    const std::string key = "key" + std::to_string(random.below(40));
    const auto place = place_of(key);
    if (random.below(10) < (growing ? 7 : 3)) {
      map.set(key, i);
      if (place == expected.end()) {
        expected.emplace_back(key, i);
      } else {
        place->second = i;
      }
    } else {
      ASSERT_EQ(map.erase(key), place != expected.end());
      if (place != expected.end()) expected.erase(place);
    }
    if (random.one_in(50)) map = ParamMap(map);
    if (random.one_in(50)) map.reserve(static_cast<std::size_t>(random.below(60)));
    ASSERT_EQ(map.size(), expected.size());
    const std::string probe = "key" + std::to_string(random.below(40));
    const auto* found = map.find(probe);
    ASSERT_EQ(found != nullptr, place_of(probe) != expected.end());
    if (found != nullptr) {
      ASSERT_EQ(*found, ParamValue(place_of(probe)->second));
    }
  }
  std::size_t i = 0;
  for (const auto& [key, value] : map) {
    EXPECT_EQ(key, expected[i].first);
    EXPECT_EQ(value, ParamValue(expected[i++].second));
  }
}

TEST(ParamMap, FindsEveryKeyAfterErasingAroundTheBorder) {
  for (int size = 14; size <= 20; ++size) {
    for (int erased = 0; erased < size; ++erased) {
      ParamMap map;
      for (int i = 0; i < size; ++i) map.set(std::to_string(i), i);
      ASSERT_TRUE(map.erase(std::to_string(erased)));
      ASSERT_FALSE(map.erase(std::to_string(erased)));
      for (int i = 0; i < size; ++i) {
        const auto* found = map.find(std::to_string(i));
        ASSERT_EQ(found == nullptr, i == erased);
        if (found != nullptr) {
          ASSERT_EQ(*found, ParamValue(i));
        }
      }
      map.set(std::to_string(erased), -1);
      ASSERT_EQ(map.at(std::to_string(erased)), ParamValue(-1));
      ASSERT_EQ((map.end() - 1)->first, std::to_string(erased));
    }
  }
}

TEST(ParamMap, IsRewrittenFromItsBeginning) {
  ParamMap map;
  for (const int count : {3, 40, 40, 39, 8, 9, 0, 20}) {
    for (const int renamed : {count, 0, count / 2}) {  // the first that has another key than before
      ParamMap expected;
      for (int i = 0; i < count; ++i) {
        const std::string key = (i < renamed ? "a" : "b") + std::to_string(i);
        map.rewrite(static_cast<std::size_t>(i), key, i * renamed);
        expected.set(key, i * renamed);
      }
      map.truncate(static_cast<std::size_t>(count));
      EXPECT_EQ(map.keys(), expected.keys());
      EXPECT_EQ(map, expected);
      EXPECT_FALSE(map.contains("a40"));
    }
  }
}

TEST(ParamMap, FindsAValueToBeChangedInPlace) {
  ParamMap map{{"a", 1}};
  *map.find("a") = 2;
  EXPECT_EQ(map.at("a"), ParamValue(2));
  EXPECT_EQ(map.find("b"), nullptr);
}

TEST(ParamMap, CanBeMovedAndUsedAgain) {
  ParamMap map;
  for (int i = 0; i < 30; ++i) map.set(std::to_string(i), i);
  ParamMap other = std::move(map);
  map = ParamMap();
  for (int i = 0; i < 30; ++i) map.set("again" + std::to_string(i), i);
  EXPECT_EQ(other.at("29"), ParamValue(29));
  EXPECT_FALSE(map.contains("29"));
  EXPECT_EQ(map.at("again29"), ParamValue(29));
}

TEST(Label, NamesTheGroupWhereThereIsOne) {
  EXPECT_EQ(label("sparsity_level", "emb"), "sparsity_level of 'emb'");
  EXPECT_EQ(label("sparsity_level", ""), "sparsity_level");
}

TEST(DidYouMean, NamesTheNearest) {
  EXPECT_EQ(did_you_mean("emd", {"layer.weight", "emb", "embedding"}), "; did you mean 'emb'?");
  EXPECT_EQ(did_you_mean("weight", {"weights", "weight_"}), "; did you mean 'weights'?")
      << "the first of the nearest";
}

TEST(DidYouMean, ProposesOnlyWhatIsNear) {
  const std::string nothing = "; known: 'seed', 'norm', 'pool', 'min_kept'";
  const auto says = [](const std::string& name) {
    return did_you_mean(name, {"seed", "norm", "pool", "min_kept"});
  };
  for (const char* const far : {"", "n", "foo", "score", "mode", "kept", "min_level"}) {
    EXPECT_EQ(says(far), nothing) << far;
  }
  EXPECT_EQ(says("nor"), "; did you mean 'norm'?");
  EXPECT_EQ(says("pol"), "; did you mean 'pool'?");
  EXPECT_EQ(says("min_keep"), "; did you mean 'min_kept'?");
}

TEST(DidYouMean, SaysNothingWhereManyAreFar) {
  std::vector<std::string> far;
  for (int i = 0; i < 13; ++i) far.push_back("something else entirely " + std::to_string(i));
  EXPECT_EQ(did_you_mean("emb", far), "");
  EXPECT_EQ(did_you_mean("emb", {}), "");
}

TEST(DidYouMean, ListsAFewThatAreFar) {
  EXPECT_EQ(did_you_mean("emb", {"first layer", "second layer"}),
            "; known: 'first layer', 'second layer'");
}

std::string refusal_of(const ParamMap& config, const std::string& group) {
  try {
    require_known_keys(config, {"threshold", "window"}, group);
  } catch (const TypeError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(RequireKnownKeys, AcceptsAnyOfThem) {
  EXPECT_EQ(refusal_of({}, ""), "accepted");
  EXPECT_EQ(refusal_of({{"window", 3}, {"threshold", 0.5}}, "emb"), "accepted");
}

TEST(RequireKnownKeys, NamesTheFirstOtherAndTheNearest) {
  const ParamMap config{{"window", 3}, {"treshold", 0.5}, {"other", 1}};
  EXPECT_EQ(refusal_of(config, "emb"),
            "unknown config key 'treshold' of 'emb'; did you mean 'threshold'?");
  EXPECT_EQ(refusal_of(config, ""), "unknown config key 'treshold'; did you mean 'threshold'?");
}

TEST(ParamMap, KeysAreInOrderOfInsertion) {
  const ParamMap map{{"z", 1}, {"a", 2}, {"z", 3}};
  EXPECT_EQ(map.keys(), (std::vector<std::string>{"z", "a"}));
}

}  // namespace
}  // namespace datasparse
