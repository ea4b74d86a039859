/// Gradients of groups: those that were handed in, or those that torch keeps.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <unordered_map>

#include "datasparse/data_sparsifier.hpp"
#include "source.hpp"

/// What set_gradients() has handed in, until a step or accumulate() has used it. All calls need the
/// interpreter's lock.
class Gradients {
 public:
  /// Takes these, by name, in the place of all others; all or none. UnknownNameError, TypeError and
  /// ValueError for names, kinds and shapes that are not those of the groups.
  void set(const datasparse::BaseDataSparsifier& sparsifier, const pybind11::object& by_name,
           SourceOwner* owner);
  /// That of a group: handed in, else kept by torch. ValueError, which says what to do, where there
  /// is none. It is not pinned yet, and its values are not looked at.
  std::shared_ptr<PySource> of(const datasparse::BaseDataSparsifier& sparsifier,
                               const std::string& name) const;
  /// Forgets what was handed in.
  void clear();

 private:
  std::unordered_map<std::string, std::shared_ptr<PySource>> given_;
};
