/// Config values: plain data, so that they can be compared, copied, printed and saved.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "datasparse/api.h"

namespace datasparse {

/// None, a bool, an integer, a float, a string, or a list of integers or of floats.
class DATASPARSE_API ParamValue {
 public:
  using Ints = std::vector<std::int64_t>;
  using Floats = std::vector<double>;
  using Variant =
      std::variant<std::monostate, bool, std::int64_t, double, std::string, Ints, Floats>;

  ParamValue() = default;  ///< None
  ParamValue(std::monostate) {}
  ParamValue(bool value) : value_(value) {}
  ParamValue(int value) : value_(std::int64_t{value}) {}
  ParamValue(std::int64_t value) : value_(value) {}
  ParamValue(double value) : value_(value) {}
  ParamValue(const char* value) : value_(std::string(value)) {}
  ParamValue(std::string value) : value_(std::move(value)) {}
  template <class T>
  ParamValue(T*) = delete;  // would be a bool
  ParamValue(Ints values) : value_(std::move(values)) {}
  ParamValue(Floats values) : value_(std::move(values)) {}
  ParamValue(const ParamValue& other) : value_(copy_of(other.value_)) {}
  ParamValue(ParamValue&&) noexcept = default;
  ParamValue& operator=(const ParamValue& other) {
    value_ = copy_of(other.value_);
    return *this;
  }
  ParamValue& operator=(ParamValue&&) noexcept = default;
  ~ParamValue() = default;

  const Variant& variant() const noexcept { return value_; }
  bool is_none() const noexcept { return std::holds_alternative<std::monostate>(value_); }
  template <class T>
  const T* get_if() const noexcept {
    return std::get_if<T>(&value_);
  }

  /// The value as a double where it is an integer or a float (a bool is neither), else TypeError.
  /// The message begins with label(key, group).
  double as_number(const std::string& key, const std::string& group = "") const;
  /// The value as an integer; 2.0 is one, 1.5 is a ValueError, "2" a TypeError.
  std::int64_t as_integer(const std::string& key, const std::string& group = "") const;

  /// Equal in kind and value; NaN equals nothing.
  friend bool operator==(const ParamValue& a, const ParamValue& b) { return a.value_ == b.value_; }
  friend bool operator!=(const ParamValue& a, const ParamValue& b) { return !(a == b); }

 private:
  /// A variant of libstdc++ copies itself wrongly: where a string or a vector finds no memory, it
  /// destroys one that was never made.
  static Variant copy_of(const Variant& variant) {
    const auto copy = [](const auto& held) {
      return Variant(std::in_place_type<std::decay_t<decltype(held)>>, held);
    };
    return std::visit(copy, variant);
  }

  Variant value_;
};

/// As Python would write it: None, True, 3, 0.5, 'L1', (1, 4).
DATASPARSE_API std::string to_string(const ParamValue& value);
/// "None", "bool", "int", "float", "str" or "tuple": as Python calls it.
DATASPARSE_API const char* kind_of(const ParamValue& value) noexcept;
/// Whether the value is, or holds, a NaN.
DATASPARSE_API bool holds_nan(const ParamValue& value) noexcept;

/// String to ParamValue in order of insertion, as a Python dict. Used for a group's config (a
/// handful of keys) and for a scheduler's values (one per group, up to many thousands): lookups are
/// linear in the first case and hashed in the second.
class DATASPARSE_API ParamMap {
 public:
  using Item = std::pair<std::string, ParamValue>;

  ParamMap() = default;
  ParamMap(std::initializer_list<Item> items);
  ParamMap(const ParamMap& other) = default;
  ParamMap(ParamMap&& other) = default;
  ParamMap& operator=(const ParamMap& other);
  ParamMap& operator=(ParamMap&& other) = default;
  ~ParamMap() = default;

  std::size_t size() const noexcept { return items_.size(); }
  bool empty() const noexcept { return items_.empty(); }
  std::vector<Item>::const_iterator begin() const noexcept { return items_.begin(); }
  std::vector<Item>::const_iterator end() const noexcept { return items_.end(); }

  /// nullptr where the key is absent.
  const ParamValue* find(const std::string& key) const;
  ParamValue* find(const std::string& key);
  bool contains(const std::string& key) const { return find(key) != nullptr; }
  std::vector<std::string> keys() const;
  /// UnknownNameError, with the nearest known key, where it is absent.
  const ParamValue& at(const std::string& key) const;

  /// Makes room for that many items in all.
  void reserve(std::size_t count);
  /// Inserts at the end, or overwrites in place.
  void set(std::string key, ParamValue value);
  /// set() for every item of `other`, in its order.
  void update(const ParamMap& other);
  /// Sets item `index`, at most size(), of a map that is written anew from its beginning: without a
  /// look-up where it has that key already. Else it and all behind it are dropped first.
  void rewrite(std::size_t index, const std::string& key, ParamValue value);
  /// Drops all but the first `count` items.
  void truncate(std::size_t count);
  /// Whether there was such a key.
  bool erase(const std::string& key);

  /// The order does not count.
  friend DATASPARSE_API bool operator==(const ParamMap& a, const ParamMap& b);
  friend bool operator!=(const ParamMap& a, const ParamMap& b) { return !(a == b); }

 private:
  std::size_t position(const std::string& key, std::size_t* slot = nullptr) const;
  std::size_t slot_of(const std::string& key) const;
  void rebuild_index(std::size_t count);

  std::vector<Item> items_;
  // A hash table of positions in items_, counted from 1; 0 is a free slot. Empty while the items
  // are few: then they are searched one after another.
  std::vector<std::uint32_t> slots_;
};

/// "sparsity_level of 'emb'": how every message names a config value. `group` is empty for
/// defaults.
DATASPARSE_API std::string label(const std::string& key, const std::string& group);

/// "; did you mean 'emb'?" with the nearest candidate by edit distance; where none is near, with at
/// most one letter in three wrong, a list of them if it is short, else "".
DATASPARSE_API std::string did_you_mean(const std::string& name,
                                        const std::vector<std::string>& candidates);

/// TypeError, with the nearest known key, for the first key of `config` that is not in `known`: for
/// a check_config() that accepts no others. `group` is empty for defaults.
DATASPARSE_API void require_known_keys(const ParamMap& config,
                                       const std::vector<std::string>& known,
                                       const std::string& group);

}  // namespace datasparse
