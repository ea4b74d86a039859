#include "checkpoint/json.hpp"

#include <algorithm>
#include <cfenv>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "datasparse/error.hpp"

namespace datasparse {
namespace {

/// For the length of a scope: the C library reads numbers by the rounding mode of the thread.
class RoundsToNearest {
 public:
  RoundsToNearest() noexcept : mode_(std::fegetround()) { std::fesetround(FE_TONEAREST); }
  ~RoundsToNearest() { std::fesetround(mode_); }
  RoundsToNearest(const RoundsToNearest&) = delete;
  RoundsToNearest& operator=(const RoundsToNearest&) = delete;

 private:
  int mode_;
};

bool is_big_integer(std::string_view text) {
  if (text.rfind('-', 0) == 0) text.remove_prefix(1);
  return text.size() > 2 && text.rfind("0x", 0) == 0 &&
         text.find_first_not_of("0123456789abcdef", 2) == std::string_view::npos;
}

// What a checkpoint puts around an attribute: the state, its schedulers, one of them, its
// attributes.
constexpr int envelope = 4;
constexpr int max_depth = PlainData::max_depth + envelope;
// A level of plain data is at most three of JSON: {"$dict": [[key, value]]}.
constexpr std::size_t max_json_depth = 3 * std::size_t{max_depth} + 1;

// --- writing ----------------------------------------------------------------------------------

std::string to_hex(const std::string& bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char byte : bytes) {
    const auto value = static_cast<unsigned char>(byte);
    text += digits[value >> 4];
    text += digits[value & 15];
  }
  return text;
}

/// In quotes; none where the text is not UTF-8.
std::optional<std::string> quoted(const std::string& text) {
  const auto is_simple = [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; };
  if (std::all_of(text.begin(), text.end(), is_simple)) return '"' + text + '"';
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    return std::nullopt;
  }
}

/// Counts how deep one is in plain data.
class Deeper {
 public:
  explicit Deeper(int& depth) : depth_(depth) {
    if (depth == max_depth) {
      throw ValueError("plain data must be nested at most " + std::to_string(PlainData::max_depth) +
                       " deep to be saved");
    }
    ++depth_;
  }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;
  ~Deeper() { --depth_; }

 private:
  int& depth_;
};

/// Appends to a text.
class Writer {
 public:
  void write(const PlainData& value) {
    std::visit([this](const auto& held) { write_held(held); }, value.variant());
  }

  std::string text;

 private:
  void write_held(std::monostate) { text += "null"; }
  void write_held(bool value) { text += value ? "true" : "false"; }
  void write_held(std::int64_t value) { text += std::to_string(value); }

  void write_held(double value) {
    if (!std::isfinite(value)) {
      text += std::isnan(value) ? R"({"$float":"nan"})"
                                : (value > 0 ? R"({"$float":"inf"})" : R"({"$float":"-inf"})");
      return;
    }
    char digits[40];  // the shortest that read back as the same double
    const std::string_view number(
        digits, static_cast<std::size_t>(std::to_chars(digits, digits + sizeof(digits), value).ptr -
                                         digits));
    text += number;
    if (number.find_first_of(".e") == std::string_view::npos) text += ".0";
  }

  void write_held(const std::string& value) {
    if (const auto json = quoted(value)) {
      text += *json;
    } else {
      text += R"({"$str":")" + to_hex(value) + "\"}";
    }
  }

  void write_held(const PlainData::Bytes& bytes) {
    text += R"({"$bytes":")" + to_hex(bytes.value) + "\"}";
  }
  void write_held(const PlainData::BigInt& integer) {
    if (!is_big_integer(integer.hex)) {
      throw ValueError("a great integer must be written as 0x and digits, got '" + integer.hex +
                       "'");
    }
    text += R"({"$int":")" + integer.hex + "\"}";
  }

  void write_held(const PlainData::Tuple& tuple) {
    text += R"({"$tuple":)";
    write_items(tuple.items);
    text += '}';
  }
  void write_held(const PlainData::List& list) { write_items(list.items); }

  void write_items(const std::vector<PlainData>& items) {
    const Deeper deeper(depth_);
    text += '[';
    for (const auto& item : items) {
      if (&item != &items.front()) text += ',';
      write(item);
    }
    text += ']';
  }

  void write_held(const PlainData::Dict& dict) {
    const Deeper deeper(depth_);
    const bool tagged = !std::all_of(dict.items.begin(), dict.items.end(), [](const auto& item) {
      const auto* key = item.first.template get_if<std::string>();
      return key != nullptr && key->rfind('$', 0) != 0 && quoted(*key);
    });
    text += tagged ? R"({"$dict":[)" : "{";
    for (const auto& [key, value] : dict.items) {
      if (&key != &dict.items.front().first) text += ',';
      if (tagged) text += '[';
      write(key);
      text += tagged ? ',' : ':';
      write(value);
      if (tagged) text += ']';
    }
    text += tagged ? "]}" : "}";
  }

  int depth_ = 0;
};

// --- reading ----------------------------------------------------------------------------------

/// Called by the parser, which does not recurse, for each part of the text.
class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Reader(const std::string& what) : what_(what) {}

  PlainData result;

  bool null() override { return add({}); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(std::int64_t{value}); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      refuse(std::to_string(value));
    }
    return add(static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    // The parser makes this of an integer that is too long.
    if (text.find_first_of(".eE") == string_t::npos) refuse(text);
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override { return open(PlainData::Dict()); }
  bool key(string_t& name) override {
    auto* const dict = std::get_if<PlainData::Dict>(&open_.back().variant());
    dict->items.emplace_back(std::move(name), PlainData());
    return true;
  }
  bool end_object() override {
    require_different_keys(*open_.back().get_if<PlainData::Dict>());
    return close();
  }
  bool start_array(std::size_t) override { return open(PlainData::List()); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    throw ValueError(what_ + " must be JSON; byte " + std::to_string(position) + " is not");
  }

 private:
  [[noreturn]] void refuse(const std::string& number) const {
    throw ValueError(what_ + " holds a number beyond 64 bits, " + number);
  }

  bool add(PlainData value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (auto* list = std::get_if<PlainData::List>(&open_.back().variant())) {
      list->items.push_back(std::move(value));
    } else {
      std::get_if<PlainData::Dict>(&open_.back().variant())->items.back().second = std::move(value);
    }
    return true;
  }

  bool open(PlainData container) {
    if (open_.size() == max_json_depth) {
      throw ValueError(what_ + " must be nested at most " + std::to_string(max_json_depth) +
                       " deep");
    }
    open_.push_back(std::move(container));
    return true;
  }

  bool close() {
    PlainData whole = std::move(open_.back());
    open_.pop_back();
    return add(std::move(whole));
  }

  void require_different_keys(const PlainData::Dict& dict) const {
    std::vector<std::string_view> keys;
    keys.reserve(dict.items.size());
    for (const auto& item : dict.items) keys.push_back(*item.first.get_if<std::string>());
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) {
      throw ValueError(what_ + " holds '" + std::string(*twice) + "' twice");
    }
  }

  const std::string& what_;
  std::vector<PlainData> open_;
};

/// Turns the objects that stand for something else into what they stand for.
class Decoder {
 public:
  explicit Decoder(const std::string& what) : what_(what) {}

  PlainData operator()(PlainData json) {
    if (auto* list = std::get_if<PlainData::List>(&json.variant())) {
      return PlainData::List{to_items(std::move(*list))};
    }
    auto* const dict = std::get_if<PlainData::Dict>(&json.variant());
    if (dict == nullptr) return json;
    if (dict->items.size() == 1) {
      auto& [key, value] = dict->items.front();
      if (is_tag(key)) return tagged(*key.get_if<std::string>(), std::move(value));
    }
    const Deeper deeper(depth_);
    for (auto& [key, value] : dict->items) {
      if (is_tag(key)) refuse(*key.get_if<std::string>());
      value = (*this)(std::move(value));
    }
    return json;
  }

 private:
  static bool is_tag(const PlainData& key) { return key.get_if<std::string>()->rfind('$', 0) == 0; }

  [[noreturn]] void refuse(const std::string& tag) const {
    throw ValueError(what_ + " holds a malformed '" + tag + "'");
  }

  PlainData tagged(const std::string& tag, PlainData value) {
    if (auto* list = std::get_if<PlainData::List>(&value.variant())) {
      if (tag == "$tuple") return PlainData::Tuple{to_items(std::move(*list))};
      if (tag == "$dict") return to_dict(std::move(*list));
    } else if (const auto* text = value.get_if<std::string>()) {
      if (tag == "$float") return to_float(*text);
      if (tag == "$bytes") return PlainData::Bytes{from_hex(tag, *text)};
      if (tag == "$str") return from_hex(tag, *text);
      if (tag == "$int" && is_big_integer(*text)) return PlainData::BigInt{*text};
    }
    refuse(tag);
  }

  std::vector<PlainData> to_items(PlainData::List list) {
    const Deeper deeper(depth_);
    for (auto& item : list.items) item = (*this)(std::move(item));
    return std::move(list.items);
  }

  /// Keys are not compared here: what refers to them does, as Python's dict.
  PlainData to_dict(PlainData::List pairs) {
    const Deeper deeper(depth_);
    PlainData::Dict dict;
    for (auto& pair : pairs.items) {
      auto* const both = std::get_if<PlainData::List>(&pair.variant());
      if (both == nullptr || both->items.size() != 2) refuse("$dict");
      PlainData key = (*this)(std::move(both->items[0]));
      dict.items.emplace_back(std::move(key), (*this)(std::move(both->items[1])));
    }
    return dict;
  }

  double to_float(const std::string& text) const {
    if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
    if (text == "inf") return std::numeric_limits<double>::infinity();
    if (text == "-inf") return -std::numeric_limits<double>::infinity();
    refuse("$float");
  }

  std::string from_hex(const std::string& tag, const std::string& text) const {
    const auto digit = [&](char c) {
      if (c >= '0' && c <= '9') return c - '0';
      if (c >= 'a' && c <= 'f') return c - 'a' + 10;
      refuse(tag);
    };
    if (text.size() % 2 != 0) refuse(tag);
    std::string bytes;
    bytes.reserve(text.size() / 2);
    for (std::size_t i = 0; i < text.size(); i += 2) {
      bytes += static_cast<char>(digit(text[i]) * 16 + digit(text[i + 1]));
    }
    return bytes;
  }

  const std::string& what_;
  int depth_ = 0;
};

}  // namespace

bool is_utf8(const std::string& text) { return quoted(text).has_value(); }

std::string to_json(const PlainData& value) {
  Writer writer;
  writer.write(value);
  return std::move(writer.text);
}

PlainData parse_json(std::string_view text, const std::string& what) {
  // The library takes a NUL for the end of the text.
  const auto nul = text.find('\0');
  if (nul != std::string_view::npos) {
    throw ValueError(what + " must be JSON; byte " + std::to_string(nul + 1) + " is not");
  }
  const RoundsToNearest rounding;
  Reader reader(what);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  return std::move(reader.result);
}

PlainData from_json(std::string_view text, const std::string& what) {
  return Decoder(what)(parse_json(text, what));
}

}  // namespace datasparse
