/// Where the memory of a group's tensor is right now.
#pragma once

#include <memory>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/mask.hpp"

namespace datasparse {

/// A sparsifier keeps a source per group, not a pointer: owners move, resize and reload their
/// tensors between two steps. Between pin() and unpin() the memory stays where it is.
class DATASPARSE_API DataSource {
 public:
  DataSource() = default;
  DataSource(const DataSource&) = delete;
  DataSource& operator=(const DataSource&) = delete;
  virtual ~DataSource() = default;

  /// The memory as it is now. It stays valid until as many unpin() as pin(), pin_scores() and
  /// pin_to_zero() calls have been made. May throw; then nothing is pinned.
  virtual ArrayView pin() = 0;
  /// The same for what a step ranks: the data themselves, unless a source says otherwise. A weight
  /// that is a direction times a gain is ranked as it is used, and zeroed in its direction. The
  /// shape is that of the data.
  virtual ArrayView pin_scores() { return pin(); }
  /// The same for what is zeroed where that mask is 0: a source may refuse, by an exception that
  /// says why.
  virtual ArrayView pin_to_zero(const Mask&) { return pin(); }
  /// Ends one pin(), pin_scores() or pin_to_zero(): the owner may move the memory again after the
  /// last.
  virtual void unpin() noexcept = 0;

  /// Whose memory it is now: that of this process, unless a source says otherwise. While pinned,
  /// that of what was pinned last.
  virtual Device& device() noexcept { return cpu(); }

  /// Called, while pinned, after the memory was written to: an owner that counts versions counts
  /// here.
  virtual void mark_written() {}
};

/// A source for memory that stays where it is for as long as the group exists.
DATASPARSE_API std::shared_ptr<DataSource> make_source(const ArrayView& view);

/// Pins a source for the length of a scope.
class Pin {
 public:
  explicit Pin(DataSource& source) : source_(source), view_(source.pin()) {}
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  ~Pin() { source_.unpin(); }

  const ArrayView& view() const noexcept { return view_; }

 private:
  DataSource& source_;
  ArrayView view_;
};

}  // namespace datasparse
