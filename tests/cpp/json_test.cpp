#include "checkpoint/json.hpp"

#include <cfenv>
#include <cmath>
#include <limits>

#include "support.hpp"

namespace datasparse {
namespace {

using Bytes = PlainData::Bytes;
using BigInt = PlainData::BigInt;
using Tuple = PlainData::Tuple;
using List = PlainData::List;
using Dict = PlainData::Dict;

constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(Json, IsReadableWhereItCanBe) {
  EXPECT_EQ(to_json({}), "null");
  EXPECT_EQ(to_json(true), "true");
  EXPECT_EQ(to_json(-3), "-3");
  EXPECT_EQ(to_json("a \"b\"\n"), R"("a \"b\"\n")");
  EXPECT_EQ(to_json(List{{1, 2.5, "x"}}), R"([1,2.5,"x"])");
  EXPECT_EQ(to_json(Dict{{{"b", 1}, {"a", List{}}}}), R"({"b":1,"a":[]})") << "in its order";
}

TEST(Json, KeepsIntegersAndFloatsApart) {
  EXPECT_EQ(to_json(1), "1");
  EXPECT_EQ(to_json(1.0), "1.0");
  EXPECT_EQ(to_json(-0.0), "-0.0");
  EXPECT_NE(to_json(1e15).find_first_of(".e"), std::string::npos);
  for (const double number : {1.0, -0.0, 1e15, 1e16, 1e22, 123456789.0, 0.1, 5e-324,
                              1.7976931348623157e308, 2.2250738585072014e-308, 1.0 / 3}) {
    const PlainData value = from_json(to_json(number), "it");
    ASSERT_NE(value.get_if<double>(), nullptr) << to_json(number);
    EXPECT_EQ(*value.get_if<double>(), number);
    EXPECT_EQ(std::signbit(*value.get_if<double>()), std::signbit(number));
  }
  for (const std::int64_t integer :
       {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min(),
        std::numeric_limits<std::int64_t>::max()}) {
    const PlainData value = from_json(to_json(integer), "it");
    ASSERT_NE(value.get_if<std::int64_t>(), nullptr);
    EXPECT_EQ(*value.get_if<std::int64_t>(), integer);
  }
}

TEST(Json, KeepsEveryDouble) {
  Random random(900);
  for (int i = 0; i < 20000; ++i) {
    double number = 0;
    const std::uint64_t bits = random.bits();
    std::memcpy(&number, &bits, sizeof(number));
    if (!std::isfinite(number)) continue;
    const PlainData value = from_json(to_json(number), "it");
    ASSERT_NE(value.get_if<double>(), nullptr);
    ASSERT_EQ(*value.get_if<double>(), number);
  }
}

TEST(Json, TagsWhatJsonHasNot) {
  EXPECT_EQ(to_json(infinity), R"({"$float":"inf"})");
  EXPECT_EQ(to_json(-infinity), R"({"$float":"-inf"})");
  EXPECT_EQ(to_json(std::nan("")), R"({"$float":"nan"})");
  EXPECT_EQ(to_json(Bytes{std::string("\0\xFF", 2)}), R"({"$bytes":"00ff"})");
  EXPECT_EQ(to_json(BigInt{"-0x1f"}), R"({"$int":"-0x1f"})");
  EXPECT_EQ(to_json(Tuple{{1}}), R"({"$tuple":[1]})");
  EXPECT_EQ(to_json("\xED\xA0\x80"), R"({"$str":"eda080"})") << "half of a surrogate pair";
  EXPECT_EQ(to_json(Dict{{{1, 2}}}), R"({"$dict":[[1,2]]})");
  EXPECT_EQ(to_json(Dict{{{"$x", 2}}}), R"({"$dict":[["$x",2]]})");
  EXPECT_EQ(to_json(Dict{{{"\xFF", 2}}}), R"({"$dict":[[{"$str":"ff"},2]]})");
}

TEST(Json, ReadsBackWhatItWrote) {
  const PlainData everything =
      List{{PlainData(),
            true,
            false,
            0,
            -7,
            2.5,
            infinity,
            std::nan(""),
            "",
            "\u00e9\U0001F600",
            std::string("\0a", 2),
            "\xFF",
            Bytes{""},
            Bytes{"abc"},
            BigInt{"0x8000000000000000"},
            Tuple{},
            List{},
            Dict{},
            Tuple{{List{{Tuple{{1}}}}}},
            Dict{{{"a", Dict{{{"b", 1}}}}}},
            Dict{{{Tuple{{1, "x"}}, PlainData()}, {"$tuple", 1}, {true, Bytes{"\n"}}}}}};
  const std::string text = to_json(everything);
  EXPECT_EQ(to_json(from_json(text, "it")), text);
}

PlainData nested(int depth) {
  PlainData value = 1;
  for (int i = 0; i < depth; ++i) {
    switch (i % 3) {
      case 0: value = Dict{{{1, std::move(value)}}}; break;
      case 1: value = Tuple{{std::move(value)}}; break;
      default: value = List{{std::move(value)}}; break;
    }
  }
  return value;
}

TEST(Json, NestsAsDeepAsItSays) {
  constexpr int deepest = PlainData::max_depth + 4;  // what a checkpoint puts around it
  const std::string text = to_json(nested(deepest));
  EXPECT_EQ(to_json(from_json(text, "it")), text);
  const char* const message = "plain data must be nested at most 64 deep to be saved";
  EXPECT_EQ(message_of<ValueError>([] { to_json(nested(deepest + 1)); }), message);
  EXPECT_EQ(message_of<ValueError>([&] { from_json("[" + text + "]", "it"); }), message);
}

TEST(Json, OfBottomlessTextIsRefusedBeforeItFillsMemory) {
  for (const char* const part : {"[", "{\"a\":"}) {
    std::string text;
    for (int i = 0; i < 1'000'000; ++i) text += part;
    EXPECT_EQ(message_of<ValueError>([&] { from_json(text, "it"); }),
              "it must be nested at most 205 deep");
  }
}

TEST(Json, IsReadAsItWasWrittenInEveryRoundingMode) {
  const int before = std::fegetround();
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    std::fesetround(mode);
    const PlainData read = from_json("0.3", "it");
    EXPECT_EQ(std::fegetround(), mode);
    std::fesetround(before);
    EXPECT_EQ(*read.get_if<double>(), 0.3);
  }
}

TEST(Json, WritesNoGreatIntegerThatItWouldNotRead) {
  EXPECT_EQ(to_json(PlainData::BigInt{"-0x12ab"}), "{\"$int\":\"-0x12ab\"}");
  for (const char* const hex : {"123", "0x", "0xAB", "0x1\"},\"y\":{\"$int\":\"0x2"}) {
    EXPECT_NE(message_of<ValueError>([&] {
                to_json(PlainData::BigInt{hex});
              }).find("a great integer must be written as 0x and digits"),
              std::string::npos);
  }
}

TEST(Json, RefusesWhatItDoesNotWrite) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "it must be JSON; byte 1 is not"},
      {"[1,", "it must be JSON; byte 4 is not"},
      {"1 2", "it must be JSON; byte 3 is not"},
      {std::string("1\0", 2), "it must be JSON; byte 2 is not"},
      {std::string("[1]\0\0x", 6), "it must be JSON; byte 4 is not"},
      {"NaN", "it must be JSON; byte 1 is not"},
      {"1e999", "it must be JSON; byte 5 is not"},
      {"\"\xFF\"", "it must be JSON; byte 2 is not"},
      {R"("\ud800")", "it must be JSON; byte 8 is not"},
      {"9223372036854775808", "it holds a number beyond 64 bits, 9223372036854775808"},
      {"18446744073709551616", "it holds a number beyond 64 bits, 18446744073709551616"},
      {"-9223372036854775809", "it holds a number beyond 64 bits, -9223372036854775809"},
      {R"({"a":1,"b":2,"a":3})", "it holds 'a' twice"},
      {R"([{"x":{"":1,"":1}}])", "it holds '' twice"},
      {R"({"$what":1})", "it holds a malformed '$what'"},
      {R"({"$tuple":1})", "it holds a malformed '$tuple'"},
      {R"({"$tuple":[],"more":1})", "it holds a malformed '$tuple'"},
      {R"({"more":1,"$tuple":[]})", "it holds a malformed '$tuple'"},
      {R"({"$float":"1"})", "it holds a malformed '$float'"},
      {R"({"$bytes":"0"})", "it holds a malformed '$bytes'"},
      {R"({"$bytes":"0G"})", "it holds a malformed '$bytes'"},
      {R"({"$bytes":"FF"})", "it holds a malformed '$bytes'"},
      {R"({"$int":"12"})", "it holds a malformed '$int'"},
      {R"({"$int":"0x"})", "it holds a malformed '$int'"},
      {R"({"$int":"--0x1"})", "it holds a malformed '$int'"},
      {R"({"$dict":[[1]]})", "it holds a malformed '$dict'"},
      {R"({"$dict":[1]})", "it holds a malformed '$dict'"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_EQ(message_of<ValueError>([&, &json = text] { from_json(json, "it"); }), message)
        << text;
  }
}

TEST(Json, AsItIsGivesTheDollarNoMeaning) {
  EXPECT_NE(parse_json(R"({"$tuple":[1]})", "it").get_if<Dict>(), nullptr);
  EXPECT_NE(from_json(R"({"$tuple":[1]})", "it").get_if<Tuple>(), nullptr);
}

TEST(Json, KnowsUtf8) {
  for (const char* const text : {"", "a", "\u00e9", "\U0001F600"}) EXPECT_TRUE(is_utf8(text));
  for (const char* const text : {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xE2\x82"}) {
    EXPECT_FALSE(is_utf8(text)) << text;
  }
}

}  // namespace
}  // namespace datasparse
