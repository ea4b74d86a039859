/// Plain data of any depth: what a subclass saves of itself in a checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/error.hpp"

namespace datasparse {

/// None, a bool, an integer, a float, a string, bytes, or a tuple, list or dict of these: what
/// Python calls so. A ParamValue is less: no nesting, because configs are compared and checked.
class DATASPARSE_API PlainData {
 public:
  /// Any bytes.
  struct Bytes {
    std::string value;
  };
  /// An integer beyond 64 bits, as Python's hex() writes it: "-0x1f".
  struct BigInt {
    std::string hex;
  };
  /// What is saved and read back as a tuple.
  struct Tuple {
    std::vector<PlainData> items;
  };
  /// What is saved and read back as a list.
  struct List {
    std::vector<PlainData> items;
  };
  /// In order of insertion. Keys are all different; whoever fills one sees to that.
  struct Dict {
    std::vector<std::pair<PlainData, PlainData>> items;
  };
  using Variant = std::variant<std::monostate, bool, std::int64_t, double, std::string, Bytes,
                               BigInt, Tuple, List, Dict>;

  /// How deep tuples, lists and dicts may lie in one another to be saved.
  static constexpr int max_depth = 64;

  PlainData() = default;  ///< None
  PlainData(bool value) : value_(value) {}
  PlainData(int value) : value_(std::int64_t{value}) {}
  PlainData(std::int64_t value) : value_(value) {}
  PlainData(double value) : value_(value) {}
  PlainData(const char* value) : value_(std::string(value)) {}
  PlainData(std::string value) : value_(std::move(value)) {}
  template <class T>
  PlainData(T*) = delete;  // would be a bool
  PlainData(Bytes value) : value_(std::move(value)) {}
  PlainData(BigInt value) : value_(std::move(value)) {}
  PlainData(Tuple value) : value_(std::move(value)) {}
  PlainData(List value) : value_(std::move(value)) {}
  PlainData(Dict value) : value_(std::move(value)) {}

  /// As Python calls it: "None", "bool", "int", "float", "str", "bytes", "tuple", "list" or "dict".
  const char* kind() const noexcept;
  const Variant& variant() const noexcept { return value_; }
  Variant& variant() noexcept { return value_; }
  /// nullptr where it is something else.
  template <class T>
  const T* get_if() const noexcept {
    return std::get_if<T>(&value_);
  }

 private:
  Variant value_;
};

/// What a subclass has saved of itself, by name.
using Attributes = std::vector<std::pair<std::string, PlainData>>;

/// ValueError, naming the first one and `whose` they are, where there are any.
DATASPARSE_API void refuse_attributes(const Attributes& saved, const std::string& whose);

/// The attribute of that name; ValueError, naming it, where it is missing.
DATASPARSE_API const PlainData& attribute(const Attributes& saved, const std::string& name);
/// Its value as a T, one of PlainData's alternatives; ValueError, naming it, where it is another.
template <class T>
const T& attribute(const Attributes& saved, const std::string& name) {
  const PlainData& value = attribute(saved, name);
  if (const T* held = value.get_if<T>()) return *held;
  throw ValueError("attribute '" + name + "' must be " + PlainData(T()).kind() + ", got " +
                   value.kind());
}

}  // namespace datasparse
