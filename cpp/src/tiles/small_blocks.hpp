/// Small blocks of any shape, as the kernels for N:M take them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "select/limits.hpp"

namespace datasparse {

/// How many blocks of that size are taken at a time where some of their elements go: as many as
/// keys stay in the nearest cache.
constexpr std::int64_t blocks_together(std::int64_t size) noexcept {
  return std::max<std::int64_t>(1, chunk_blocks_max / size);
}

/// Whole blocks side by side. The kernels take blocks whose elements follow each other, a power of
/// two of them: what a block lacks is filled up behind its own.
struct SmallBlocks {
  std::int64_t height, width;  // of a block
  std::int64_t count;

  static constexpr std::int64_t max_size = 16;
  /// As many elements as blocks_together() have at the most when they are filled up.
  static constexpr std::int64_t room = std::max<std::int64_t>(2 * chunk_blocks_max, max_size);

  std::int64_t size() const noexcept { return height * width; }
  /// Whether there are kernels for blocks of this size.
  bool fit() const noexcept { return size() > 1 && size() <= max_size; }
  std::int64_t filled_size() const noexcept {
    std::int64_t filled = 2;
    while (filled < size()) filled *= 2;
    return filled;
  }
  std::int64_t elements() const noexcept { return count * filled_size(); }
  /// Whether they lie as the kernels want them already.
  bool are_in_place() const noexcept { return height == 1 && width == filled_size(); }

  /// Copies them, block by block; `in` has rows that lie `pitch` elements apart.
  template <class T>
  void gather(T* out, const T* in, std::int64_t pitch, T filler) const noexcept {
    const std::int64_t filled = filled_size();
    for (std::int64_t b = 0; b < count; ++b, out += filled, in += width) {
      for (std::int64_t r = 0; r < height; ++r) {
        for (std::int64_t c = 0; c < width; ++c) out[r * width + c] = in[r * pitch + c];
      }
      std::fill(out + size(), out + filled, filler);
    }
  }
  /// Copies them back.
  template <class T>
  void scatter(T* out, std::int64_t pitch, const T* in) const noexcept {
    const std::int64_t filled = filled_size();
    for (std::int64_t b = 0; b < count; ++b, in += filled, out += width) {
      for (std::int64_t r = 0; r < height; ++r) {
        for (std::int64_t c = 0; c < width; ++c) out[r * pitch + c] = in[r * width + c];
      }
    }
  }
};

}  // namespace datasparse
