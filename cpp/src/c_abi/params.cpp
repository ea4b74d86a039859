#include "c_abi/params.hpp"

#include <cstddef>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "c_abi/status.hpp"

namespace datasparse::c_abi {
namespace {

ParamMap& writable(datasparse_params* params) {
  datasparse_params& target = required(params, "params");
  if (target.borrowed != nullptr) throw StateError("these params may only be read");
  return target.own;
}

void set(datasparse_params* params, const char* key, ParamValue&& value) {
  writable(params).set(text(key, "key"), std::move(value));
}

const ParamValue& get(const datasparse_params* params, const char* key) {
  return required(params, "params").map().at(text(key, "key"));
}

template <class T>
const T& get(const datasparse_params* params, const char* key, const char* kind) {
  const ParamValue& value = get(params, key);
  if (const T* held = value.get_if<T>()) return *held;
  if constexpr (std::is_same_v<T, ParamValue::Ints> || std::is_same_v<T, ParamValue::Floats>) {
    static const T none;  // an empty list is one of either kind
    const auto* integers = value.get_if<ParamValue::Ints>();
    const auto* floats = value.get_if<ParamValue::Floats>();
    if ((integers != nullptr && integers->empty()) || (floats != nullptr && floats->empty())) {
      return none;
    }
  }
  throw TypeError(label(key, "") + " must be " + kind + ", got " + to_string(value));
}

/// Sets a list of numbers, where all of `items` are of that kind.
template <class T>
bool set_numbers(ParamMap& values, const std::string& name, const std::vector<PlainData>& items) {
  std::vector<T> numbers;
  for (const PlainData& item : items) {
    const T* number = item.get_if<T>();
    if (number == nullptr) return false;
    numbers.push_back(*number);
  }
  values.set(name, std::move(numbers));
  return true;
}

/// False for a kind that no ParamValue has.
bool set_plain(ParamMap& values, const std::string& name, const PlainData& value) {
  return std::visit(
      [&](const auto& held) {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, PlainData::Tuple> ||
                      std::is_same_v<Held, PlainData::List>) {
          return set_numbers<std::int64_t>(values, name, held.items) ||
                 set_numbers<double>(values, name, held.items);
        } else if constexpr (std::is_constructible_v<ParamValue, Held>) {
          values.set(name, held);
          return true;
        } else {
          return false;
        }
      },
      value.variant());
}

/// Lists of either kind as tuples: unlike a config in a checkpoint, an attribute may be read by
/// Python.
PlainData to_plain(const ParamValue& value) {
  return std::visit(
      [](const auto& held) -> PlainData {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::monostate>) {
          return {};
        } else if constexpr (std::is_constructible_v<PlainData, Held>) {
          return PlainData(held);
        } else {
          return PlainData::Tuple{{held.begin(), held.end()}};
        }
      },
      value.variant());
}

}  // namespace

const ParamMap& map_or_none(const datasparse_params* params) noexcept {
  static const ParamMap none;
  return params == nullptr ? none : params->map();
}

Attributes to_attributes(const ParamMap& values) {
  Attributes attributes;
  for (const auto& [name, value] : values) attributes.emplace_back(name, to_plain(value));
  return attributes;
}

ParamMap to_params(const Attributes& attributes) {
  ParamMap values;
  for (const auto& [name, attribute] : attributes) {
    if (!set_plain(values, name, attribute)) {
      throw ValueError("attribute '" + name +
                       "' must be None, a bool, a number, a str, or numbers of one kind, got " +
                       attribute.kind());
    }
  }
  return values;
}

}  // namespace datasparse::c_abi

using namespace datasparse;
using namespace datasparse::c_abi;

datasparse_status datasparse_params_create(datasparse_params** params) {
  return hand_out(params, "params", [] { return ParamMap(); });
}

datasparse_status datasparse_params_copy(const datasparse_params* params,
                                         datasparse_params** copy) {
  return hand_out(copy, "copy", [&] { return required(params, "params").map(); });
}

void datasparse_params_release(datasparse_params* params) { delete params; }

datasparse_status datasparse_params_set_none(datasparse_params* params, const char* key) {
  return guarded([&] { set(params, key, ParamValue()); });
}
datasparse_status datasparse_params_set_bool(datasparse_params* params, const char* key,
                                             int32_t value) {
  return guarded([&] { set(params, key, value != 0); });
}
datasparse_status datasparse_params_set_int(datasparse_params* params, const char* key,
                                            int64_t value) {
  return guarded([&] { set(params, key, std::int64_t{value}); });
}
datasparse_status datasparse_params_set_float(datasparse_params* params, const char* key,
                                              double value) {
  return guarded([&] { set(params, key, value); });
}
datasparse_status datasparse_params_set_string(datasparse_params* params, const char* key,
                                               const char* value) {
  return guarded([&] { set(params, key, text(value, "value")); });
}
datasparse_status datasparse_params_set_ints(datasparse_params* params, const char* key,
                                             const int64_t* values, size_t count) {
  return guarded([&] {
    const auto* first = items(values, count, "values");
    set(params, key, ParamValue::Ints(first, first + count));
  });
}
datasparse_status datasparse_params_set_floats(datasparse_params* params, const char* key,
                                               const double* values, size_t count) {
  return guarded([&] {
    const auto* first = items(values, count, "values");
    set(params, key, ParamValue::Floats(first, first + count));
  });
}

datasparse_status datasparse_params_erase(datasparse_params* params, const char* key) {
  return guarded([&] {
    ParamMap& map = writable(params);
    map.at(text(key, "key"));
    map.erase(key);
  });
}

datasparse_status datasparse_params_size(const datasparse_params* params, size_t* size) {
  return guarded([&] { required(size, "size") = required(params, "params").map().size(); });
}

datasparse_status datasparse_params_key(const datasparse_params* params, size_t index,
                                        const char** key) {
  return guarded([&] {
    const ParamMap& map = required(params, "params").map();
    require_index(index, map.size());
    required(key, "key") = (map.begin() + static_cast<std::ptrdiff_t>(index))->first.c_str();
  });
}

datasparse_status datasparse_params_kind(const datasparse_params* params, const char* key,
                                         int32_t* kind) {
  // In the order of the variant.
  static_assert(std::is_same_v<std::variant_alternative_t<DATASPARSE_NONE, ParamValue::Variant>,
                               std::monostate>);
  static_assert(std::is_same_v<std::variant_alternative_t<DATASPARSE_FLOATS, ParamValue::Variant>,
                               ParamValue::Floats>);
  return guarded(
      [&] { required(kind, "kind") = static_cast<int32_t>(get(params, key).variant().index()); });
}

datasparse_status datasparse_params_get_bool(const datasparse_params* params, const char* key,
                                             int32_t* value) {
  return guarded([&] { required(value, "value") = get<bool>(params, key, "a bool") ? 1 : 0; });
}
datasparse_status datasparse_params_get_int(const datasparse_params* params, const char* key,
                                            int64_t* value) {
  return guarded([&] { required(value, "value") = get(params, key).as_integer(key); });
}
datasparse_status datasparse_params_get_float(const datasparse_params* params, const char* key,
                                              double* value) {
  return guarded([&] { required(value, "value") = get(params, key).as_number(key); });
}
datasparse_status datasparse_params_get_string(const datasparse_params* params, const char* key,
                                               const char** value) {
  return guarded(
      [&] { required(value, "value") = get<std::string>(params, key, "a str").c_str(); });
}
datasparse_status datasparse_params_get_ints(const datasparse_params* params, const char* key,
                                             const int64_t** values, size_t* count) {
  return guarded([&] {
    const auto& held = get<ParamValue::Ints>(params, key, "integers");
    output(held, values, "values", count, "count");
  });
}
datasparse_status datasparse_params_get_floats(const datasparse_params* params, const char* key,
                                               const double** values, size_t* count) {
  return guarded([&] {
    const auto& held = get<ParamValue::Floats>(params, key, "floats");
    output(held, values, "values", count, "count");
  });
}
