/// How a matrix falls into blocks, and the blocks into tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "select/limits.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {

/// The grid of blocks over a matrix that is at least one block in size, and its tiles: the parts
/// that threads take at a time, and for which they count.
struct Grid {
  Matrix matrix;
  std::int64_t height, width;           // of a block
  std::int64_t bands, per_band;         // rows of blocks, and blocks in each
  std::int64_t across;                  // tiles side by side
  std::int64_t tile_bands, tile_width;  // of a tile, in blocks; less at the edges

  Grid(const Matrix& m, std::int64_t block_height, std::int64_t block_width) noexcept
      : matrix(m),
        height(block_height),
        width(block_width),
        bands(divide_up(m.rows(), height)),
        per_band(divide_up(m.columns(), width)) {
    // Elements that do not follow each other are packed first, those of some rows at a time.
    constexpr std::int64_t parts = 4;  // what is packed is read again, and so is small
    const std::int64_t elements = m.is_unit()         ? tile_elements
                                  : m.is_transposed() ? tile_elements / stacked()
                                                      : tile_elements / parts;
    const std::int64_t wanted =
        std::clamp(elements / height / width, m.is_unit() ? tile_blocks_min : 1, tile_blocks_max);
    if (per_band <= wanted) {
      tile_bands = wanted / per_band;
      tile_width = per_band;
    } else {
      constexpr std::int64_t cache_line = 64;  // of mask bytes, where blocks are single elements
      tile_bands = 1;
      tile_width = divide_up(per_band, divide_up(per_band, wanted));
      const std::int64_t whole_lines = divide_up(tile_width, cache_line) * cache_line;
      if (whole_lines <= wanted) tile_width = whole_lines;
    }
    across = divide_up(per_band, tile_width);
  }

  std::int64_t blocks() const noexcept { return bands * per_band; }
  std::int64_t tiles() const noexcept { return divide_up(bands, tile_bands) * across; }

  static constexpr std::int64_t stacked_max = 64;
  /// Tiles above each other whose elements are packed together, so that a cache line of a
  /// transposed matrix is used up at once.
  std::int64_t stacked() const noexcept {
    if (!matrix.is_transposed()) return 1;
    // Few where they are far apart, so that a tile may be wide enough to hold what lies between.
    const std::int64_t rows = matrix.is_interleaved() ? 8 : stacked_max;
    return std::max<std::int64_t>(1, rows / height);
  }

  /// How many elements are packed together at the most; 0 where none are: they lie right as they
  /// are, or a block is too large.
  std::int64_t packed_elements() const noexcept {
    if (matrix.is_unit()) return 0;
    const std::int64_t tile = tile_bands * height * tile_width * width;
    return tile * stacked() <= tile_elements ? tile * stacked() : 0;
  }

  /// Whether blocks of one row fill whole rows, so that those of a tile are one run where its rows
  /// follow each other without a gap.
  bool has_runs_of_rows() const noexcept {
    return height == 1 && tile_width == per_band && per_band * width == matrix.columns();
  }

  /// From one packed row to the next: never a multiple of a page, at which rows would push each
  /// other out of the nearest cache, unless they are packed one after the other and read as one
  /// run.
  std::ptrdiff_t packed_pitch(std::int64_t columns) const noexcept {
    constexpr std::ptrdiff_t cache_line = 64;
    const std::ptrdiff_t bytes = columns * matrix.item_size();
    if (has_runs_of_rows() && !matrix.is_transposed()) return bytes;
    return (bytes / cache_line + 1) / 2 * 2 * cache_line + cache_line;  // an odd number of them
  }
  std::ptrdiff_t packed_bytes() const noexcept {
    if (packed_elements() == 0) return 0;
    return tile_bands * height * stacked() * packed_pitch(tile_width * width);
  }

  /// A part of one band, or a number of whole bands: either way, blocks that follow each other in
  /// row-major order. One that is wider than a band stands for rows without a gap between them.
  struct Part {
    std::int64_t band, bands;
    std::int64_t block, width;  // of each band

    std::int64_t size() const noexcept { return bands * width; }  // in blocks
  };
  std::int64_t begin(const Part& part) const noexcept { return part.band * per_band + part.block; }

  Part tile(std::int64_t index) const noexcept {
    const std::int64_t band = index / across * tile_bands;
    const std::int64_t block = index % across * tile_width;
    return {band, std::min(tile_bands, bands - band), block,
            std::min(tile_width, per_band - block)};
  }

  /// Blocks [begin, begin + n) of a band, or fewer where the band ends.
  Part run(std::int64_t begin, std::int64_t n) const noexcept {
    const std::int64_t block = begin % per_band;
    return {begin / per_band, 1, block, std::min(n, per_band - block)};
  }

  /// The same in elements.
  struct Rectangle {
    std::int64_t row, rows;
    std::int64_t column, columns;
  };
  Rectangle elements(const Part& part) const noexcept {
    const std::int64_t row = part.band * height;
    const std::int64_t column = part.block * width;
    const std::int64_t columns = part.width * width;
    return {row, std::min(part.bands * height, matrix.rows() - row), column,
            part.width > per_band ? columns : std::min(columns, matrix.columns() - column)};
  }

  /// Calls visit(part) for parts of at most chunk_blocks_max blocks that make up a part, in order:
  /// few enough for what is made of them to stay in the nearest cache.
  template <class Visit>
  static void for_each_chunk(const Part& part, const Visit& visit) {
    if (part.width <= chunk_blocks_max) {
      const std::int64_t some = chunk_blocks_max / part.width;
      for (std::int64_t done = 0; done < part.bands; done += some) {
        visit(Part{part.band + done, std::min(some, part.bands - done), part.block, part.width});
      }
      return;
    }
    for (std::int64_t band = 0; band < part.bands; ++band) {
      for (std::int64_t done = 0; done < part.width; done += chunk_blocks_max) {
        visit(Part{part.band + band, 1, part.block + done,
                   std::min(chunk_blocks_max, part.width - done)});
      }
    }
  }

  /// Calls visit(part, first) for each band of a part; `first` counts its blocks before the band.
  template <class Visit>
  static void for_each_band(const Part& part, const Visit& visit) {
    for (std::int64_t band = 0; band < part.bands; ++band) {
      visit(Part{part.band + band, 1, part.block, part.width}, band * part.width);
    }
  }

  static std::int64_t divide_up(std::int64_t a, std::int64_t b) noexcept {
    return a / b + (a % b != 0 ? 1 : 0);
  }
};

/// Where a mask is written: `pitch` bytes from one row to the next.
struct MaskWindow {
  std::uint8_t* bytes;
  std::int64_t pitch;

  std::uint8_t* at(std::int64_t row, std::int64_t column) const noexcept {
    return bytes + row * pitch + column;
  }
  void fill(std::int64_t rows, std::int64_t columns, std::uint8_t value) const noexcept {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::memset(at(r, 0), value, static_cast<std::size_t>(columns));
    }
  }
};

}  // namespace datasparse
