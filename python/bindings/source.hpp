/// Data sources over Python's arrays: NumPy, torch, and anything with `__dlpack__`.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <unordered_set>

#include "datasparse/data_source.hpp"
#include "datasparse/error.hpp"
#include "datasparse/mask.hpp"

class PySource;
struct Torch;

/// The sources of one sparsifier, so that the garbage collector can see through it. Guarded by the
/// interpreter's lock.
class SourceOwner {
 public:
  const std::unordered_set<PySource*>& sources() const noexcept { return sources_; }

 protected:
  SourceOwner() = default;
  ~SourceOwner();

 private:
  friend class PySource;
  std::unordered_set<PySource*> sources_;
};

/// The tensor of one group. All calls need the interpreter's lock; the pointers that make_source()
/// returns take it when the last one goes.
class PySource : public datasparse::DataSource {
 public:
  PySource(pybind11::object data, std::string what, SourceOwner* owner);
  PySource(const PySource&) = delete;
  PySource& operator=(const PySource&) = delete;
  ~PySource() override;

  /// What add_data() was given.
  const pybind11::object& object() const noexcept { return data_; }
  /// What get_data() returns: the user's array or tensor.
  virtual pybind11::object array() const { return data_; }
  /// What an override of update_mask() gets.
  virtual pybind11::object array_for_override() const { return array(); }
  /// What its library keeps as the array's gradient, or None. ValueError where that is the gradient
  /// of something else.
  virtual pybind11::object gradient() const { return pybind11::none(); }
  /// What to do where there is no gradient.
  virtual std::string gradient_advice() const { return "hand it in by set_gradients()"; }
  /// A copy of the array, of its kind, with zeros where the mask is 0.
  pybind11::object masked_copy(const datasparse::Mask& mask) const;
  /// The library of the masks that go with it: torch, or NumPy for null.
  virtual const Torch* torch() const noexcept { return nullptr; }

  /// TypeError for an array that pin() would refuse, where it takes more than pin() to see it.
  virtual void check() const {}

  /// Calls `override` under whatever context the array's library wants.
  virtual pybind11::object call(const pybind11::object& override, const pybind11::tuple& args,
                                const pybind11::dict& kwargs) const;

  int traverse(visitproc visit, void* arg) const;
  void clear();

 protected:
  /// A copy of the array that may be written to.
  virtual pybind11::object copy() const = 0;

  /// object(); StateError where the collector has taken it.
  const pybind11::object& data() const {
    if (!data_) throw datasparse::StateError(what_ + " are gone");
    return data_;
  }

  const std::string what_;  // for messages

 private:
  friend class SourceOwner;
  pybind11::object data_;
  SourceOwner* owner_;
};

/// The source for an object; TypeError that says what is supported for one that is none. `what` is
/// what messages call it: "data of 'emb'".
std::shared_ptr<PySource> make_source(const pybind11::object& data, const std::string& what,
                                      SourceOwner* owner);
/// The same without a look at the object, which may be half restored from a copy or a pickle.
std::shared_ptr<PySource> make_unchecked_source(const pybind11::object& data,
                                                const std::string& what, SourceOwner* owner);
/// The source for what an override returned: what NumPy made a scalar of is an array again.
std::shared_ptr<PySource> source_of_result(const pybind11::object& result, const std::string& what);

/// The kinds of sources, each in a file of its own. A new one for an object of its kind, else null.
PySource* new_numpy_source(const pybind11::object& data, const std::string& what,
                           SourceOwner* owner);
PySource* new_torch_source(const pybind11::object& data, const std::string& what,
                           SourceOwner* owner);
/// Asked last: TypeError for what stands for arrays and has no memory.
PySource* new_dlpack_source(const pybind11::object& data, const std::string& what,
                            SourceOwner* owner);
