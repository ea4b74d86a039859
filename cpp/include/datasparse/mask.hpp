/// A group's mask.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "datasparse/array_view.hpp"

namespace datasparse {

/// One byte per element in C order, 1 keeps and 0 prunes. A handle: copies share the bytes, which
/// live until the last handle is gone, the sparsifier's own included.
class Mask {
 public:
  Mask() = default;
  /// All ones. Aligned to 64 bytes.
  explicit Mask(const Axes& shape);

  const Axes& shape() const noexcept { return shape_; }
  std::int64_t size() const noexcept { return size_; }
  std::uint8_t* data() const noexcept { return bytes_.get(); }
  std::int64_t zeros() const noexcept;

  /// Eight elements to a byte, the first in the lowest bit; the last byte is filled up with zeros.
  /// A byte that is not 0 keeps. Takes the time of reading the mask; large ones use several
  /// threads.
  std::vector<std::uint8_t> pack() const;
  /// The inverse of pack(), from (size() + 7) / 8 bytes.
  void unpack(const std::uint8_t* bits) noexcept;

 private:
  Axes shape_;
  std::int64_t size_ = 0;
  std::shared_ptr<std::uint8_t> bytes_;
};

}  // namespace datasparse
