#include "datasparse/param.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <utility>

#include "datasparse/error.hpp"

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

constexpr std::size_t linear_search_limit = 16;

}  // namespace

double ParamValue::as_number(const std::string& key, const std::string& group) const {
  if (const auto* number = get_if<double>()) return *number;
  if (const auto* integer = get_if<std::int64_t>()) return static_cast<double>(*integer);
  throw TypeError(label(key, group) + " must be a number, got " + to_string(*this) + " (" +
                  kind_of(*this) + ")");
}

std::int64_t ParamValue::as_integer(const std::string& key, const std::string& group) const {
  if (const auto* integer = get_if<std::int64_t>()) return *integer;
  const auto* number = get_if<double>();
  if (number == nullptr) {
    throw TypeError(label(key, group) + " must be an integer, got " + to_string(*this) + " (" +
                    kind_of(*this) + ")");
  }
  if (!(std::abs(*number) < 9.2e18) || *number != std::trunc(*number)) {
    throw ValueError(label(key, group) + " must be an integer, got " + to_string(*this));
  }
  return static_cast<std::int64_t>(*number);
}

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

bool holds_nan(const ParamValue& value) noexcept {
  if (const auto* number = value.get_if<double>()) return std::isnan(*number);
  if (const auto* numbers = value.get_if<ParamValue::Floats>()) {
    return std::any_of(numbers->begin(), numbers->end(), [](double x) { return std::isnan(x); });
  }
  return false;
}

ParamMap::ParamMap(std::initializer_list<Item> items) {
  for (const auto& item : items) set(item.first, item.second);
}

ParamMap& ParamMap::operator=(const ParamMap& other) {
  ParamMap copy(other);  // so that items and index change together, or not at all
  return *this = std::move(copy);
}

/// Where the key is, else size(). `slot` becomes its slot, or the free one where it belongs, if
/// there is a table.
std::size_t ParamMap::position(const std::string& key, std::size_t* slot) const {
  if (!slots_.empty()) {
    const std::size_t found = slot_of(key);
    if (slot != nullptr) *slot = found;
    return slots_[found] == 0 ? items_.size() : slots_[found] - 1;
  }
  const auto found = std::find_if(items_.begin(), items_.end(),
                                  [&key](const Item& item) { return item.first == key; });
  return static_cast<std::size_t>(found - items_.begin());
}

/// The slot that holds the key, or the free one where it belongs.
std::size_t ParamMap::slot_of(const std::string& key) const {
  const std::size_t last = slots_.size() - 1;  // all bits set: sizes are powers of two
  std::size_t slot = std::hash<std::string>()(key) & last;
  while (slots_[slot] != 0 && items_[slots_[slot] - 1].first != key) slot = (slot + 1) & last;
  return slot;
}

/// Makes the table large enough for `count` items, which leave at least half of it free. Throws
/// before anything has changed, and not at all for fewer items than before.
void ParamMap::rebuild_index(std::size_t count) {
  std::size_t slots = count > linear_search_limit ? 1 : 0;
  while (slots != 0 && slots < 2 * count) slots *= 2;
  slots_.assign(slots, 0);
  for (std::size_t i = 0; i < items_.size() && slots != 0; ++i) {
    slots_[slot_of(items_[i].first)] = static_cast<std::uint32_t>(i + 1);
  }
}

const ParamValue* ParamMap::find(const std::string& key) const {
  const auto i = position(key);
  return i == items_.size() ? nullptr : &items_[i].second;
}

ParamValue* ParamMap::find(const std::string& key) {
  return const_cast<ParamValue*>(std::as_const(*this).find(key));
}

std::vector<std::string> ParamMap::keys() const {
  std::vector<std::string> keys;
  keys.reserve(size());
  for (const auto& item : items_) keys.push_back(item.first);
  return keys;
}

const ParamValue& ParamMap::at(const std::string& key) const {
  if (const auto* value = find(key)) return *value;
  throw UnknownNameError("unknown key '" + key + "'" + did_you_mean(key, keys()));
}

void ParamMap::reserve(std::size_t count) {
  items_.reserve(count);
  if (count > linear_search_limit && slots_.size() < 2 * count) rebuild_index(count);
}

void ParamMap::set(std::string key, ParamValue value) {
  const std::size_t count = items_.size() + 1;
  if (count > linear_search_limit && slots_.size() < 2 * count) rebuild_index(count);
  std::size_t slot = 0;
  const std::size_t i = position(key, &slot);
  if (i < items_.size()) {
    items_[i].second = std::move(value);
    return;
  }
  items_.emplace_back(std::move(key), std::move(value));
  if (!slots_.empty()) slots_[slot] = static_cast<std::uint32_t>(count);
}

void ParamMap::rewrite(std::size_t index, const std::string& key, ParamValue value) {
  if (index < items_.size() && items_[index].first == key) {
    items_[index].second = std::move(value);
    return;
  }
  truncate(index);
  set(key, std::move(value));
}

void ParamMap::truncate(std::size_t count) {
  if (count >= items_.size()) return;
  items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(count), items_.end());
  rebuild_index(count);
}

void ParamMap::update(const ParamMap& other) {
  for (const auto& item : other) set(item.first, item.second);
}

bool ParamMap::erase(const std::string& key) {
  const auto i = position(key);
  if (i == items_.size()) return false;
  items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(i));
  rebuild_index(items_.size());
  return true;
}

bool operator==(const ParamMap& a, const ParamMap& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&b](const auto& item) {
           const auto* value = b.find(item.first);
           return value != nullptr && *value == item.second;
         });
}

std::string label(const std::string& key, const std::string& group) {
  return group.empty() ? key : key + " of '" + group + "'";
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& candidates) {
  const std::string* nearest = nullptr;
  std::size_t least = std::max<std::size_t>(name.size() / 2, 2) + 1;
  for (const auto& candidate : candidates) {
    const auto distance = edit_distance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = &candidate;
    }
  }
  if (nearest != nullptr) return "; did you mean '" + *nearest + "'?";
  // Nothing is near: a short list says more than silence.
  if (candidates.empty() || candidates.size() > 8) return "";
  std::string known = "; known: ";
  for (const auto& candidate : candidates) known += "'" + candidate + "', ";
  return known.substr(0, known.size() - 2);
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
