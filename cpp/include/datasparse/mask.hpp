/// A group's mask.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"

namespace datasparse {

/// Memory for bytes that are written before they are read: not cleared, aligned to 64 bytes, and
/// where there are megabytes of it, in large pages if the system has them. Touching 125 MB for the
/// first time took 65 ms without, longer than packing a billion elements into it.
DATASPARSE_API std::uint8_t* allocate_bytes(std::size_t count);
/// Takes back what allocate_bytes(count) gave, or null.
DATASPARSE_API void free_bytes(std::uint8_t* bytes, std::size_t count) noexcept;

/// allocate_bytes() for a vector: resize(n) and the constructor vector(n) leave bytes as they are.
template <class Byte>
struct BytesAllocator {
  static_assert(sizeof(Byte) == 1);
  using value_type = Byte;

  BytesAllocator() = default;
  template <class Other>
  BytesAllocator(const BytesAllocator<Other>&) noexcept {}

  Byte* allocate(std::size_t count) { return allocate_bytes(count); }
  void deallocate(Byte* bytes, std::size_t count) noexcept { free_bytes(bytes, count); }

  void construct(Byte* place) noexcept { ::new (static_cast<void*>(place)) Byte; }
  template <class Value>
  void construct(Byte* place, Value&& value) noexcept {
    ::new (static_cast<void*>(place)) Byte(std::forward<Value>(value));
  }

  friend bool operator==(const BytesAllocator&, const BytesAllocator&) noexcept { return true; }
  friend bool operator!=(const BytesAllocator&, const BytesAllocator&) noexcept { return false; }
};

/// What Mask::pack() returns: a vector like any other, but see allocate_bytes().
using PackedBits = std::vector<std::uint8_t, BytesAllocator<std::uint8_t>>;

/// The bytes that n elements are packed to.
constexpr std::size_t packed_size(std::int64_t n) noexcept {
  return static_cast<std::size_t>((n + 7) / 8);
}
/// Eight elements to a byte, the first in the lowest bit; the last byte is filled up with zeros. A
/// byte that is not 0 keeps. Takes the time of reading the mask; large ones use several threads.
DATASPARSE_API void pack_bits(std::uint8_t* bits, const std::uint8_t* mask,
                              std::int64_t n) noexcept;
/// Prunes the elements whose bit is set, of n, packed as Mask::pack() packs.
DATASPARSE_API void prune_bits(std::uint8_t* mask, const std::uint8_t* bits,
                               std::int64_t n) noexcept;

/// Moves values to the elements whose bits are set, in order, and makes all others zero. `data` has
/// n elements of 1, 2, 4 or 8 bytes, the last of which are the values, as many as bits are set.
/// Bits behind the n-th must not be set. Allocates nothing; reads and writes the data once.
DATASPARSE_API void expand_bits(std::byte* data, const std::uint8_t* bits, std::int64_t n,
                                std::size_t item) noexcept;

/// How many bits of so many bytes are set.
DATASPARSE_API std::int64_t count_bits(const std::uint8_t* bits, std::size_t bytes) noexcept;

struct CutHint;
class Device;
/// The memory of this process.
DATASPARSE_API Device& cpu() noexcept;

/// A mask in the memory of a device, or what one is to become: only the device knows what it is.
class DATASPARSE_API DeviceMask {
 public:
  virtual ~DeviceMask();
};

/// One byte per element in C order, 1 keeps and 0 prunes; or memory of a device. A handle: copies
/// share the memory, which lives until the last handle is gone, the sparsifier's own included.
///
/// A sparsifier's mask lies where the data of its group are. When these move, the sparsifier makes
/// a new one, and handles of the old one are no longer its mask.
class DATASPARSE_API Mask {
 public:
  Mask() = default;
  /// All ones. Aligned to 64 bytes.
  explicit Mask(const Axes& shape);
  /// For Device::make_mask(): a device's.
  Mask(const Axes& shape, Device& device, std::shared_ptr<DeviceMask> there);

  const Axes& shape() const noexcept { return shape_; }
  std::int64_t size() const noexcept { return size_; }
  Device& device() const noexcept { return *device_; }
  /// size() bytes, in C order; valid while any handle of this mask is. nullptr where the mask is in
  /// the memory of a device.
  std::uint8_t* data() const noexcept { return bytes_.get(); }
  /// Its memory on a device; nullptr for the CPU.
  DeviceMask* there() const noexcept { return there_.get(); }
  /// Whether there is one. None has the default constructor.
  explicit operator bool() const noexcept { return bytes_ != nullptr || there_ != nullptr; }
  /// Whether both are handles of one mask.
  bool is(const Mask& other) const noexcept {
    return bytes_ == other.bytes_ && there_ == other.there_ && shape_ == other.shape_;
  }

  /// How many elements are pruned. Reads the whole mask; from a device, as pack() does.
  std::int64_t zeros() const;
  /// For the library's own use: what makes the next computation of this mask quicker. nullptr for
  /// small ones.
  CutHint* hint() const noexcept { return hint_.get(); }

  /// As pack_bits() packs. From a device, it waits for one copy of so many bytes.
  PackedBits pack() const;
  /// The inverse of pack(), from packed_size(size()) bytes. Throws on a device alone, and has
  /// changed nothing then.
  void unpack(const std::uint8_t* bits);
  /// The same mask in the memory of another device; itself where it is there.
  Mask on(Device& device) const;

 private:
  Axes shape_;
  std::int64_t size_ = 0;
  Device* device_ = &cpu();
  std::shared_ptr<std::uint8_t> bytes_;
  std::shared_ptr<DeviceMask> there_;
  std::shared_ptr<CutHint> hint_;
};

}  // namespace datasparse
