/// The one list of what is saved of a sparsifier and of a scheduler, whatever it is kept in: the
/// JSON of a checkpoint, dicts of Python. Who adds an entry raises `current_version`, and says here
/// what a state of the versions before stands for.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "datasparse/data_scheduler.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/error.hpp"

namespace datasparse {

constexpr std::int64_t state_version = SparsifierState::current_version;  // 1 is read, too
static_assert(SchedulerState::current_version == state_version, "a checkpoint has one for both");

/// ValueError for a version of a state that is not read.
inline void require_version(std::int64_t version) {
  if (version >= 1 && version <= state_version) return;
  throw ValueError("version of the state must be 1 to " + std::to_string(state_version) + ", got " +
                   std::to_string(version));
}

/// Calls archive(key, field) for every entry beside the groups, and archive.optional(key, field)
/// for one that is None where the field is empty, and archive.if_any(key, field) for one that is
/// left out then. `archive.version` is that of the state.
template <class Archive, class State>
void each_sparsifier_entry(Archive& archive, State& state) {
  archive("step_count", state.step_count);
  archive("enable_mask_update", state.enable_mask_update);
  archive("defaults", state.defaults);
  archive.if_any("score", state.score);
}

/// The same for a group, beside its name. Those of version 1 have no layout, no kept zeros, and are
/// not frozen.
template <class Archive, class Group>
void each_group_entry(Archive& archive, Group& group) {
  archive("shape", group.shape);
  archive("mask", group.mask_bits);
  archive("squashed", group.squashed);
  archive("config", group.config);
  archive("state", group.state);
  if (archive.version == 1) return;
  archive.optional("layout", group.layout);
  archive.optional("kept_zeros", group.kept_zeros);
  archive("update", group.updates);
  archive.if_any("arrays", group.arrays);
}

/// The same for a scheduler. Those of version 1 count renewals.
template <class Archive, class State>
void each_scheduler_entry(Archive& archive, State& state) {
  archive("schedule_param", state.schedule_param);
  archive("last_epoch", state.last_epoch);
  archive("base_param", state.base_param);
  archive("last_param", state.last_param);
  archive("own", state.own);
  if constexpr (!std::is_const_v<State>) state.counts_renewals = true;
  if (archive.version > 1) archive("counts_renewals", state.counts_renewals);
}

/// A dict that was saved: the archive that reads. An entry that is missing, or of another type, is
/// a ValueError that names it.
///
/// `Form` tells what dicts and values are. Its `Value` is a pointer, or alike. is_dict(value) and
/// is_none(value) say which it is. find(dict, key) is null where there is no such entry.
/// kind(value) is what messages call the type. get(value, field, path) is false where the field is
/// of another one. keys(dict, path) are the dict's.
template <class Form>
class StateDict {
 public:
  using Value = typename Form::Value;
  using Integers = std::vector<std::int64_t>;

  /// `where` is what messages call the dict.
  StateDict(const Value& dict, const std::string& where, std::int64_t of_version = state_version)
      : version(of_version), dict_(dict), where_(where) {
    if (!Form::is_dict(dict)) refuse(where, "a dict", dict);
  }

  std::int64_t version;

  std::string path(const std::string& key) const { return where_ + "['" + key + "']"; }
  bool has(const std::string& key) const { return static_cast<bool>(Form::find(dict_, key)); }
  bool is_none(const std::string& key) const { return Form::is_none(at(key)); }
  Value at(const std::string& key) const {
    Value value = Form::find(dict_, key);
    if (!value) throw ValueError(where_ + " has no entry '" + key + "'");
    return value;
  }

  template <class T>
  T get(const std::string& key) const {
    T field{};
    const Value value = at(key);
    if (!Form::get(value, field, path(key))) refuse(path(key), type_of(field), value);
    return field;
  }

  template <class T>
  void operator()(const std::string& key, T& field) const {
    field = get<T>(key);
  }
  void operator()(const std::string& key, Axes& axes) const {
    const auto lengths = get<Integers>(key);
    if (lengths.size() > Axes::max_size) {
      throw ValueError(path(key) + " must have at most " + std::to_string(Axes::max_size) +
                       " axes, got " + std::to_string(lengths.size()));
    }
    axes = Axes(lengths);
  }
  template <class T>
  void optional(const std::string& key, T& field) const {
    if (!is_none(key)) (*this)(key, field);
  }
  void if_any(const std::string& key, std::string& text) const {
    if (has(key)) text = get<std::string>(key);
  }
  void if_any(const std::string& key, KeptArrays& arrays) const {
    read_arrays(
        key, arrays,
        [](const StateDict& entry, const std::string&, KeptArray::Type type, const Axes& shape) {
          auto bytes = entry.template get<PackedBits>("bytes");
          const auto expected = static_cast<std::size_t>(element_count(shape)) * item_size(type);
          if (bytes.size() == expected) return KeptArray(type, shape, std::move(bytes));
          throw ValueError(entry.path("bytes") + " must have " + std::to_string(expected) +
                           " bytes for shape " + to_string(shape) + ", got " +
                           std::to_string(bytes.size()));
        });
  }
  void optional(const std::string& key, PackedBits& bits) const {
    if (is_none(key)) return;
    bits = get<PackedBits>(key);
    if (bits.empty()) throw ValueError(path(key) + " must be None or some bytes, got b''");
  }

 protected:
  /// Fills `arrays` from an entry, if it is there: a dict for each, of dtype, shape and whatever
  /// read(dict, key, type, shape) makes the array from.
  template <class Read>
  void read_arrays(const std::string& key, KeptArrays& arrays, const Read& read) const {
    if (!has(key)) return;
    const StateDict dict(at(key), path(key), version);
    for (const auto& name : Form::keys(at(key), path(key))) {
      require_array_key(name, path(key));
      const StateDict entry(dict.at(name), dict.path(name), version);
      Axes shape;
      entry("shape", shape);
      require_possible(shape, entry.path("shape"));
      const auto type = kept_type(entry.template get<std::string>("dtype"), entry.path("dtype"));
      if (!arrays.emplace(name, read(entry, name, type, shape)).second) {
        throw ValueError(dict.path(name) + " is there twice");
      }
    }
    if (arrays.empty()) throw ValueError(path(key) + " must not be empty");
  }

 private:
  [[noreturn]] static void refuse(const std::string& where, const char* type, const Value& value) {
    throw ValueError(where + " must be " + type + ", got " + Form::kind(value));
  }

  static const char* type_of(bool) { return "a bool"; }
  static const char* type_of(std::int64_t) { return "an int"; }
  static const char* type_of(const std::string&) { return "a str"; }
  static const char* type_of(const Integers&) { return "integers"; }
  static const char* type_of(const ParamMap&) { return "a dict"; }
  static const char* type_of(const Attributes&) { return "a dict"; }
  static const char* type_of(const PackedBits&) { return "bytes"; }

  Value dict_;
  std::string where_;
};

}  // namespace datasparse
