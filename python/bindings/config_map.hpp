/// Live mappings over what a sparsifier holds: sparsifier.data_groups, .defaults and .state.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/data_sparsifier.hpp"

/// Which ParamMap of a sparsifier.
enum class Shows { config, defaults, state };

/// One config, read and written through to the sparsifier, which checks it as a whole.
class ConfigMap {
 public:
  /// `core` is the one in `sparsifier`, which keeps it alive.
  /// `place` is where the group stood among the others: a guess, which saves a look-up.
  ConfigMap(pybind11::object sparsifier, datasparse::BaseDataSparsifier& core, Shows shows,
            std::string name, std::size_t place = 0)
      : sparsifier_(std::move(sparsifier)),
        core_(&core),
        shows_(shows),
        name_(std::move(name)),
        place_(place) {}

  pybind11::dict to_dict() const;
  pybind11::object get(const std::string& key) const;
  void update(const pybind11::dict& changes);
  void erase(const std::string& key);

  pybind11::object& sparsifier() noexcept { return sparsifier_; }

 private:
  datasparse::BaseDataSparsifier& core() const;

  pybind11::object sparsifier_;
  datasparse::BaseDataSparsifier* core_;
  Shows shows_;
  std::string name_;  // of the group; empty for defaults
  std::size_t place_;
};

/// Makes a pair of a name and its ConfigMap at a time, of the groups that were there when it was
/// made. To make and destroy all at once took twice as long as reading a value of each.
class GroupItemsIterator {
 public:
  GroupItemsIterator(pybind11::object sparsifier, datasparse::BaseDataSparsifier& core, Shows shows,
                     std::vector<std::string> names)
      : sparsifier_(std::move(sparsifier)), core_(&core), shows_(shows), names_(std::move(names)) {}

  /// None behind the last one.
  std::optional<pybind11::tuple> next();

  pybind11::object& sparsifier() noexcept { return sparsifier_; }

 private:
  pybind11::object sparsifier_;
  datasparse::BaseDataSparsifier* core_;  // the one in sparsifier_
  Shows shows_;
  std::vector<std::string> names_;
  std::size_t place_ = 0;
};

/// The ConfigMaps of all groups, by name.
class GroupMap {
 public:
  GroupMap(pybind11::object sparsifier, Shows shows)
      : sparsifier_(std::move(sparsifier)), shows_(shows) {}

  ConfigMap get(const std::string& name) const;
  /// All of them or none.
  void replace(const pybind11::dict& groups);
  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;
  /// Name to dict.
  pybind11::dict to_dicts() const;
  GroupItemsIterator iterate_items() const;

  pybind11::object& sparsifier() noexcept { return sparsifier_; }

 private:
  pybind11::object sparsifier_;
  Shows shows_;
};
