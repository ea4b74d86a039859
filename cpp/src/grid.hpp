/// How a matrix falls into blocks, and the blocks into tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "matrix.hpp"

namespace datasparse {

constexpr std::int64_t tile_blocks_max = 4096;
constexpr std::int64_t tile_elements = 65536;  // so that a tile of wide blocks stays in the cache

/// The grid of blocks over a matrix that is at least one block in size, and its tiles.
struct Grid {
  Matrix matrix;
  std::int64_t height, width;    // of a block
  std::int64_t bands, per_band;  // rows of blocks, and blocks in each
  std::int64_t per_tile;

  Grid(const Matrix& m, std::int64_t block_height, std::int64_t block_width) noexcept
      : matrix(m), height(block_height), width(block_width) {
    const auto divide_up = [](std::int64_t a, std::int64_t b) {
      return a / b + (a % b != 0 ? 1 : 0);
    };
    bands = divide_up(m.rows(), height);
    per_band = divide_up(m.columns(), width);
    const auto by_elements = tile_elements / (height * width);
    per_tile = std::clamp<std::int64_t>(by_elements, 1, tile_blocks_max);
  }

  std::int64_t blocks() const noexcept { return bands * per_band; }
  std::int64_t tiles() const noexcept { return (blocks() + per_tile - 1) / per_tile; }
  std::int64_t tile_begin(std::int64_t tile) const noexcept { return tile * per_tile; }
  std::int64_t tile_size(std::int64_t tile) const noexcept {
    return std::min(per_tile, blocks() - tile_begin(tile));
  }

  /// Blocks of one band that lie side by side.
  struct Strip {
    std::int64_t row, rows;        // elements
    std::int64_t column, columns;  // elements
    std::int64_t first, blocks;    // first counts from `begin`
  };

  /// Calls visit(Strip) for the strips that make up blocks [begin, begin + n), in order.
  template <class Visit>
  void for_each_strip(std::int64_t begin, std::int64_t n, const Visit& visit) const {
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t band = (begin + done) / per_band;
      const std::int64_t block = (begin + done) % per_band;
      const std::int64_t count = std::min(n - done, per_band - block);
      const std::int64_t row = band * height;
      const std::int64_t column = block * width;
      visit(Strip{row, std::min(height, matrix.rows() - row), column,
                  std::min(count * width, matrix.columns() - column), done, count});
      done += count;
    }
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
