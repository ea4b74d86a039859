#include "datasparse/glob.hpp"

#include <gtest/gtest.h>

namespace datasparse {
namespace {

TEST(Glob, MatchesAsAShellDoes) {
  for (const auto& [pattern, name] :
       std::vector<std::pair<std::string, std::string>>{{"*", ""},
                                                        {"*", "fc.weight"},
                                                        {"fc*", "fc"},
                                                        {"*.weight", "a.b.weight"},
                                                        {"a*b*c", "aXbXbXc"},
                                                        {"?", "x"},
                                                        {"?", "\u00e9"},
                                                        {"fc[12]", "fc2"},
                                                        {"fc[0-9]", "fc7"},
                                                        {"fc[!0-9]", "fcx"},
                                                        {"[]]", "]"},
                                                        {"[!]]", "x"},
                                                        {"[a-]", "-"},
                                                        {"[\u00e0-\u00ef]", "\u00e9"},
                                                        {"a[", "a["},
                                                        {"[!", "[!"},
                                                        {"[]", "[]"},
                                                        {"**", "abc"},
                                                        {"a.b", "a.b"},
                                                        {"w*", "w\x80"},
                                                        {"w?", "w\x80"},
                                                        {"\u00e9*", "\u00e9\x80"},
                                                        {"", ""}}) {
    EXPECT_TRUE(matches(pattern, name)) << pattern << " " << name;
  }
}

TEST(Glob, MatchesNothingElse) {
  for (const auto& [pattern, name] :
       std::vector<std::pair<std::string, std::string>>{{"", "a"},
                                                        {"?", ""},
                                                        {"?", "ab"},
                                                        {"fc", "fc1"},
                                                        {"fc1", "fc"},
                                                        {"*.weight", "weight"},
                                                        {"fc[12]", "fc3"},
                                                        {"fc[!12]", "fc1"},
                                                        {"[c-a]", "b"},
                                                        {"[!]]", "]"},
                                                        {"a.b", "axb"},
                                                        {"FC*", "fc1"},
                                                        {"a*b", "acbc"},
                                                        {"[\u00e0]", "\u00e9"}}) {
    EXPECT_FALSE(matches(pattern, name)) << pattern << " " << name;
  }
}

TEST(Glob, TakesLittleTimeForManyStars) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "a*";
  EXPECT_FALSE(matches(pattern + "b", std::string(5000, 'a')));
}

}  // namespace
}  // namespace datasparse
