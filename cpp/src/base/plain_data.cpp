#include "datasparse/plain_data.hpp"

#include <algorithm>

namespace datasparse {

const char* PlainData::kind() const noexcept {
  static constexpr const char* kinds[] = {"None",  "bool", "int",   "float", "str",
                                          "bytes", "int",  "tuple", "list",  "dict"};
  return kinds[value_.index()];
}

void refuse_attributes(const Attributes& saved, const std::string& whose) {
  if (saved.empty()) return;
  throw ValueError("attributes of " + whose + " must be none, since its class has none, got '" +
                   saved.front().first + "'");
}

const PlainData& attribute(const Attributes& saved, const std::string& name) {
  const auto found = std::find_if(saved.begin(), saved.end(),
                                  [&name](const auto& item) { return item.first == name; });
  if (found == saved.end()) throw ValueError("attribute '" + name + "' is missing");
  return found->second;
}

}  // namespace datasparse
