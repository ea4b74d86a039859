#include "datasparse/param.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "datasparse/error.hpp"
#include "datasparse/field.hpp"

namespace datasparse {
namespace {

constexpr std::size_t linear_search_limit = 16;

}  // namespace

double ParamValue::as_number(const std::string& key, const std::string& group) const {
  if (const auto* number = get_if<double>()) return *number;
  if (const auto* integer = get_if<std::int64_t>()) return static_cast<double>(*integer);
  refuse_kind(key, group, "be a number", *this);
}

std::int64_t ParamValue::as_integer(const std::string& key, const std::string& group) const {
  if (const auto* integer = get_if<std::int64_t>()) return *integer;
  const auto* number = get_if<double>();
  if (number == nullptr) refuse_kind(key, group, "be an integer", *this);
  if (!(std::abs(*number) < 9.2e18) || *number != std::trunc(*number)) {
    refuse_value(key, group, "be an integer", *this);
  }
  return static_cast<std::int64_t>(*number);
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

}  // namespace datasparse
