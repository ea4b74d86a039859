/// Config keys as fields of a struct. A table declares each of them once: its name, its kind, its
/// range; the default is the member's own. block_mask.cpp has one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "datasparse/error.hpp"
#include "datasparse/param.hpp"

namespace datasparse {

/// What there is to know of a config key beside its value.
struct FieldTraits {
  bool is_optional = false;  ///< a config may lack it, and does where it is the default
  bool is_integer = false;   ///< a DataScheduler must round to one
  /// Filled in for the data's shape where it is automatic, and so is what hangs on it: it is shown
  /// as it was written, and a change takes a look at the whole config.
  bool is_of_shape = false;
  bool is_alone = false;  ///< its value is right or wrong whatever the others are
};

/// One config key of a Spec.
template <class Spec>
struct Field {
  std::string_view key;
  /// Writes the member. TypeError or ValueError, naming key and group, for another kind of value.
  void (*set)(Spec& spec, const std::string& key, const ParamValue& value,
              const std::string& group);
  ParamValue (*get)(const Spec& spec, std::string_view key);
  /// ValueError unless the member is in its range.
  void (*check)(const Spec& spec, std::string_view key, const std::string& group);
  FieldTraits traits = {};
};

template <class Spec>
using Fields = std::vector<Field<Spec>>;

/// TypeError: a value of another kind.
[[noreturn]] DATASPARSE_API void refuse_kind(std::string_view key, const std::string& group,
                                             const char* rule, const ParamValue& value);
/// ValueError: a value out of its range.
[[noreturn]] DATASPARSE_API void refuse_value(std::string_view key, const std::string& group,
                                              const std::string& rule, const ParamValue& value);

template <class Member>
struct SpecOfMember;
template <class Spec, class Value>
struct SpecOfMember<Value Spec::*> {
  using type = Spec;
};
template <auto member>
using SpecOf = typename SpecOfMember<decltype(member)>::type;

/// A number in [0, 1].
template <auto member>
Field<SpecOf<member>> share_field(std::string_view key, FieldTraits traits = {}) {
  using Spec = SpecOf<member>;
  traits.is_alone = true;
  return {key,
          [](Spec& spec, const std::string& name, const ParamValue& value,
             const std::string& group) { spec.*member = value.as_number(name, group); },
          [](const Spec& spec, std::string_view) { return ParamValue(spec.*member); },
          [](const Spec& spec, std::string_view name, const std::string& group) {
            const double share = spec.*member;
            if (share >= 0 && share <= 1) return;  // so written, NaN is refused
            refuse_value(name, group, "be in [0, 1]", share);
          },
          traits};
}

/// An integer of at least 0; where the member is a std::optional, also None.
template <auto member>
Field<SpecOf<member>> count_field(std::string_view key, FieldTraits traits = {}) {
  using Spec = SpecOf<member>;
  using Value = std::remove_reference_t<decltype(std::declval<Spec&>().*member)>;
  constexpr bool may_be_none = !std::is_same_v<Value, std::int64_t>;
  traits.is_integer = true;
  return {
      key,
      [](Spec& spec, const std::string& name, const ParamValue& value, const std::string& group) {
        if (may_be_none && value.is_none()) {
          spec.*member = Value();
        } else {
          spec.*member = value.as_integer(name, group);
        }
      },
      [](const Spec& spec, std::string_view) {
        if constexpr (may_be_none) {
          return spec.*member ? ParamValue(*(spec.*member)) : ParamValue();
        } else {
          return ParamValue(spec.*member);
        }
      },
      [](const Spec& spec, std::string_view name, const std::string& group) {
        const std::optional<std::int64_t> count = spec.*member;
        if (count && *count < 0) refuse_value(name, group, "be at least 0", *count);
      },
      traits};
}

/// True or False.
template <auto member>
Field<SpecOf<member>> flag_field(std::string_view key, FieldTraits traits = {}) {
  using Spec = SpecOf<member>;
  traits.is_alone = true;
  return {
      key,
      [](Spec& spec, const std::string& name, const ParamValue& value, const std::string& group) {
        const auto* const flag = value.get_if<bool>();
        if (flag == nullptr) refuse_kind(name, group, "be True or False", value);
        spec.*member = *flag;
      },
      [](const Spec& spec, std::string_view) { return ParamValue(spec.*member); },
      [](const Spec&, std::string_view, const std::string&) {}, traits};
}

/// The field of that key, or nullptr.
template <class Spec>
const Field<Spec>* find_field(std::string_view key) {
  for (const auto& field : Spec::fields()) {
    if (key == field.key) return &field;
  }
  return nullptr;
}

/// The fields of a Base, as those of a Spec that derives from it. Whether one is right may hang on
/// what the Spec adds.
template <class Spec, class Base>
Fields<Spec> inherited_fields() {
  Fields<Spec> fields;
  for (const auto& field : Base::fields()) {
    fields.push_back(
        {field.key,
         [](Spec& spec, const std::string& key, const ParamValue& value, const std::string& group) {
           find_field<Base>(key)->set(spec, key, value, group);
         },
         [](const Spec& spec, std::string_view key) {
           return find_field<Base>(key)->get(spec, key);
         },
         [](const Spec& spec, std::string_view key, const std::string& group) {
           find_field<Base>(key)->check(spec, key, group);
         },
         field.traits});
    fields.back().traits.is_alone = false;
  }
  return fields;
}

/// ValueError unless every member is in its range.
template <class Spec>
void check_fields(const Spec& spec, const std::string& group) {
  for (const auto& field : Spec::fields()) field.check(spec, field.key, group);
}

/// The inverse of spec_of(): all keys but the optional ones that have their defaults.
template <class Spec>
ParamMap config_of(const Spec& spec) {
  static const Spec defaults;
  ParamMap config;
  for (const auto& field : Spec::fields()) {
    ParamValue value = field.get(spec, field.key);
    if (field.traits.is_optional && value == field.get(defaults, field.key)) continue;
    config.set(std::string(field.key), std::move(value));
  }
  return config;
}

/// What to make of the keys of a config that a Spec does not have.
enum class OtherKeys { refuse, ignore };

/// The spec that a config describes; members whose keys are absent keep their defaults. TypeError
/// or ValueError, naming `group`, for a value of the wrong kind or out of range.
template <class Spec>
Spec spec_of(const ParamMap& config, const std::string& group, OtherKeys others) {
  Spec spec;
  for (const auto& [key, value] : config) {
    if (const auto* const field = find_field<Spec>(key)) {
      field->set(spec, key, value, group);
    } else if (others == OtherKeys::refuse) {
      std::vector<std::string> known;
      for (const auto& one : Spec::fields()) known.emplace_back(one.key);
      require_known_keys(config, known, group);
    }
  }
  spec.check(group);
  return spec;
}

}  // namespace datasparse
