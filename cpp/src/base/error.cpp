#include "datasparse/error.hpp"

namespace datasparse {
namespace {

std::string without_nul(std::string text) {
  for (auto at = text.find('\0'); at != std::string::npos; at = text.find('\0', at)) {
    text.replace(at, 1, "\\0");
  }
  return text;
}

}  // namespace

Error::Error(const std::string& what) : std::runtime_error(without_nul(what)) {}

}  // namespace datasparse
