#include "datasparse/plain_data.hpp"

#include "support.hpp"

namespace datasparse {
namespace {

TEST(PlainData, IsWhatItWasMadeOf) {
  EXPECT_NE(PlainData().get_if<std::monostate>(), nullptr);
  EXPECT_NE(PlainData(true).get_if<bool>(), nullptr);
  EXPECT_NE(PlainData(1).get_if<std::int64_t>(), nullptr);
  EXPECT_NE(PlainData(1.0).get_if<double>(), nullptr);
  EXPECT_NE(PlainData("text").get_if<std::string>(), nullptr);
  static_assert(!std::is_constructible_v<PlainData, int*>, "would be a bool");
}

TEST(PlainData, IsCalledAsPythonCallsIt) {
  const std::vector<std::pair<PlainData, std::string>> cases{
      {{}, "None"},
      {true, "bool"},
      {1, "int"},
      {1.0, "float"},
      {"", "str"},
      {PlainData::Bytes{}, "bytes"},
      {PlainData::BigInt{"0x0"}, "int"},
      {PlainData::Tuple{}, "tuple"},
      {PlainData::List{}, "list"},
      {PlainData::Dict{}, "dict"},
  };
  for (const auto& [value, kind] : cases) EXPECT_EQ(value.kind(), kind);
}

TEST(PlainData, IsFoundByName) {
  const Attributes saved{{"speed", 0.5}, {"name", "ramp"}};
  EXPECT_EQ(attribute<double>(saved, "speed"), 0.5);
  EXPECT_EQ(attribute<std::string>(saved, "name"), "ramp");
  EXPECT_EQ(message_of<ValueError>([&] { attribute(saved, "mood"); }),
            "attribute 'mood' is missing");
  EXPECT_EQ(message_of<ValueError>([&] { attribute<std::int64_t>(saved, "speed"); }),
            "attribute 'speed' must be int, got float");
}

TEST(PlainData, OfAClassWithoutAttributesIsRefused) {
  refuse_attributes({}, "the scheduler");
  EXPECT_EQ(message_of<ValueError>([] { refuse_attributes({{"a", 1}}, "the scheduler"); }),
            "attributes of the scheduler must be none, since its class has none, got 'a'");
}

}  // namespace
}  // namespace datasparse
