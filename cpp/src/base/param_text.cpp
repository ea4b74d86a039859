// How config values are written, and keys named in messages. No step runs any of this.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <type_traits>

#include "datasparse/error.hpp"
#include "datasparse/field.hpp"
#include "datasparse/param.hpp"

namespace datasparse {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

/// The shortest text that reads back as the same double, laid out as Python's repr does it.
std::string to_string(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];  // d.ddddddddddddddddde+ddd
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string scientific(buffer, end);
  const auto e = scientific.find('e');
  const int exponent = std::stoi(scientific.substr(e + 1));
  if (exponent < -4 || exponent >= 16) return scientific;

  const std::string sign = std::signbit(value) ? "-" : "";
  std::string digits = scientific.substr(sign.size(), e - sign.size());
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto point = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= point) return sign + digits + std::string(point - digits.size(), '0') + ".0";
  return sign + digits.substr(0, point) + "." + digits.substr(point);
}

template <class T>
std::string tuple_to_string(const std::vector<T>& values) {
  std::string text = "(";
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) text += ", ";
    if constexpr (std::is_same_v<T, double>) {
      text += to_string(values[i]);
    } else {
      text += std::to_string(values[i]);
    }
  }
  return text + (values.size() == 1 ? ",)" : ")");
}

/// Levenshtein distance.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const auto substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string to_string(const ParamValue& value) {
  return std::visit(Overloaded{
                        [](std::monostate) { return std::string("None"); },
                        [](bool flag) { return std::string(flag ? "True" : "False"); },
                        [](std::int64_t integer) { return std::to_string(integer); },
                        [](double number) { return to_string(number); },
                        [](const std::string& text) { return "'" + text + "'"; },
                        [](const auto& values) { return tuple_to_string(values); },
                    },
                    value.variant());
}

const char* kind_of(const ParamValue& value) noexcept {
  static constexpr const char* kinds[] = {"None", "bool", "int", "float", "str", "tuple", "tuple"};
  return kinds[value.variant().index()];
}

std::string label(const std::string& key, const std::string& group) {
  return group.empty() ? key : key + " of '" + group + "'";
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& candidates) {
  const std::string* nearest = nullptr;
  // A slip of the pen: one letter in three, and never all there is.
  std::size_t least = (name.size() < 2 ? 0 : std::max<std::size_t>(name.size() / 3, 1)) + 1;
  for (const auto& candidate : candidates) {
    const auto distance = edit_distance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = &candidate;
    }
  }
  if (nearest != nullptr) return "; did you mean '" + *nearest + "'?";
  // Nothing is near: a short list says more than silence.
  if (candidates.empty() || candidates.size() > 12) return "";
  std::string known = "; known: ";
  for (const auto& candidate : candidates) known += "'" + candidate + "', ";
  return known.substr(0, known.size() - 2);
}

void refuse_kind(std::string_view key, const std::string& group, const char* rule,
                 const ParamValue& value) {
  throw TypeError(label(std::string(key), group) + " must " + rule + ", got " + to_string(value) +
                  " (" + kind_of(value) + ")");
}

void refuse_value(std::string_view key, const std::string& group, const std::string& rule,
                  const ParamValue& value) {
  throw ValueError(label(std::string(key), group) + " must " + rule + ", got " + to_string(value));
}

void require_known_keys(const ParamMap& config, const std::vector<std::string>& known,
                        const std::string& group) {
  for (const auto& item : config) {
    const std::string& key = item.first;
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    throw TypeError(label("unknown config key '" + key + "'", group) + did_you_mean(key, known));
  }
}

}  // namespace datasparse
