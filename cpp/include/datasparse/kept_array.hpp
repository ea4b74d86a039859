/// Arrays that a sparsifier keeps beside a group's mask: sums of a score, bits of a method.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/mask.hpp"

namespace datasparse {

/// The elements of an array in the memory of a device.
class DATASPARSE_API RemoteArray {
 public:
  virtual ~RemoteArray();
  /// Copies all of them, in C order; waits for the device. May throw.
  virtual void read(std::uint8_t* bytes) const = 0;
};

/// An array in C order that owns its memory. Copying one copies no element: the memory is shared
/// until one of the copies is written to. So a state that was saved, a view that somebody holds,
/// and what a failed step brings back stay as they were.
class DATASPARSE_API KeptArray {
 public:
  /// Elements are saved as they lie in memory, little-endian.
  enum class Type : std::uint8_t { uint8, int64, float32, float64 };

  /// No element, of shape (0,).
  KeptArray() = default;
  /// Zeros. ValueError from require_possible().
  KeptArray(Type type, const Axes& shape);
  /// `bytes` are the elements. ValueError where they are not as many as the shape takes.
  KeptArray(Type type, const Axes& shape, PackedBits bytes);
  /// Elements on a device. ValueError from require_possible().
  KeptArray(Type type, const Axes& shape, std::shared_ptr<const RemoteArray> remote);

  Type type() const noexcept { return type_; }
  const Axes& shape() const noexcept { return shape_; }
  /// How many bytes the elements take, shared or not.
  std::size_t byte_count() const noexcept;
  /// The elements, aligned to 64 bytes; valid until this object is written to or gone. From a
  /// device they are read once, when somebody asks, which may throw.
  const std::uint8_t* data() const;
  /// The same to be written to, and no more on a device. Copies the elements first, where another
  /// KeptArray shares them.
  std::uint8_t* write();
  /// Where the elements are on a device; nullptr where they are not.
  const RemoteArray* remote() const noexcept { return remote_.get(); }

  /// The same type, shape and bytes.
  friend DATASPARSE_API bool operator==(const KeptArray& a, const KeptArray& b);
  friend bool operator!=(const KeptArray& a, const KeptArray& b) { return !(a == b); }

 private:
  Type type_ = Type::uint8;
  Axes shape_{0};
  mutable std::shared_ptr<PackedBits> bytes_;  // of a remote one, once they were read
  std::shared_ptr<const RemoteArray> remote_;
};

/// "uint8", "int64", "float32" or "float64".
DATASPARSE_API const char* name_of(KeptArray::Type type) noexcept;
/// Bytes per element: 1, 8, 4, 8.
DATASPARSE_API std::size_t item_size(KeptArray::Type type) noexcept;
/// The inverse of name_of(). ValueError, beginning with `what`, for any other name.
DATASPARSE_API KeptArray::Type kept_type(const std::string& name, const std::string& what);

/// Those of one group, by key.
using KeptArrays = std::map<std::string, KeptArray>;

/// ValueError unless the key of an array is made of letters, digits and '_'. `what` begins the
/// message.
DATASPARSE_API void require_array_key(const std::string& key, const std::string& what);

}  // namespace datasparse
