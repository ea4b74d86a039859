/// Data sources over Python's arrays: NumPy, torch, and anything with `__dlpack__`.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <unordered_set>

#include "datasparse/data_source.hpp"
#include "datasparse/mask.hpp"

class PySource;

/// The sources of one sparsifier, so that the garbage collector can see through it. Guarded by the
/// interpreter's lock.
class SourceOwner {
 public:
  const std::unordered_set<PySource*>& sources() const noexcept { return sources_; }

  /// PySource::adopt_mask() for all of them.
  void adopt_masks() const;

 protected:
  SourceOwner() = default;
  ~SourceOwner();

 private:
  friend class PySource;
  std::unordered_set<PySource*> sources_;
};

/// The tensor of one group, and the mask object that the user sees. All calls need the
/// interpreter's lock; the pointers that make_source() returns take it when the last one goes.
class PySource : public datasparse::DataSource, public std::enable_shared_from_this<PySource> {
 public:
  PySource(const PySource&) = delete;
  PySource& operator=(const PySource&) = delete;
  ~PySource() override;

  /// What add_data() was given.
  const pybind11::object& object() const noexcept { return data_; }
  /// What get_data() returns: the user's array or tensor.
  virtual pybind11::object array() const { return data_; }
  /// What an override of update_mask() gets.
  virtual pybind11::object array_for_override() const { return array(); }
  /// A copy of the array, of its kind, with zeros where the mask is 0.
  virtual pybind11::object masked_copy(const datasparse::Mask& mask) const = 0;

  /// TypeError for an array that pin() would refuse, where it takes more than pin() to see it.
  virtual void check() const {}

  /// One object over the mask's memory, made when first asked for.
  pybind11::object mask_object(const datasparse::Mask& mask);
  /// Where the user has pointed a torch mask elsewhere (`mask.data = ...`): copies what is there
  /// into the mask and points the tensor back. ValueError for another number of elements.
  virtual void adopt_mask() {}
  /// Points it back without looking at what is there.
  virtual void restore_mask_object() {}

  /// Calls `override` under whatever context the array's library wants.
  virtual pybind11::object call(const pybind11::object& override, const pybind11::tuple& args,
                                const pybind11::dict& kwargs) const;

  int traverse(visitproc visit, void* arg) const;
  void clear();

 protected:
  PySource(pybind11::object data, std::string name, SourceOwner* owner);

  virtual pybind11::object make_mask_object(const datasparse::Mask& mask) const;

  pybind11::object data_;
  std::string what_;  // "data of 'emb'", for messages
  datasparse::Mask mask_;
  pybind11::object mask_object_;

 private:
  friend class SourceOwner;
  SourceOwner* owner_;
};

/// The source for an object; TypeError that says what is supported for one that is none. `name` is
/// for messages and may be empty.
std::shared_ptr<PySource> make_source(pybind11::object data, const std::string& name,
                                      SourceOwner* owner);
/// The same without a look at the object, which may be half restored from a copy or a pickle.
std::shared_ptr<PySource> make_unchecked_source(pybind11::object data, const std::string& name,
                                                SourceOwner* owner);

/// A NumPy bool array over the mask's memory, which it keeps alive.
pybind11::array numpy_mask(const datasparse::Mask& mask);
