/// From a mask to the marks of a step of regrowth, and back: see choice.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/parallel.hpp"
#include "kernels/kernels.hpp"
#include "mask/kept_zeros.hpp"
#include "tiles/choice.hpp"
#include "tiles/grid.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {

/// The blocks of a mask.
struct MoveCounts {
  std::int64_t active = 0;
  std::int64_t dead = 0;  ///< of kept zeros alone
};

namespace moving {

/// What is known of some blocks side by side: 1, or 0 where not.
struct BlockFlags {
  std::uint8_t* active;
  std::uint8_t* dead;
};

/// Looks at one row of elements of blocks side by side. fixed: the width, or 0 for any.
template <std::int64_t fixed>
void look_at_row(const BlockFlags& flags, const std::uint8_t* row, std::int64_t columns,
                 std::int64_t any_width) noexcept {
  const std::int64_t width = fixed > 0 ? fixed : any_width;
  for (std::int64_t b = 0; b * width < columns; ++b) {
    const std::uint8_t* const elements = row + b * width;
    const std::int64_t n = std::min(width, columns - b * width);
    unsigned active = flags.active[b], dead = flags.dead[b];
    for (std::int64_t i = 0; i < n; ++i) {
      const unsigned is_kept_zero = elements[i] / stays & 1U;
      active &= elements[i] | is_kept_zero;
      dead &= is_kept_zero;
    }
    flags.active[b] = static_cast<std::uint8_t>(active & 1U);
    flags.dead[b] = static_cast<std::uint8_t>(dead & 1U);
  }
}

inline void look_at_row(const BlockFlags& flags, const std::uint8_t* row, std::int64_t columns,
                        std::int64_t width) noexcept {
  switch (width) {
    case 1: return look_at_row<1>(flags, row, columns, width);
    case 2: return look_at_row<2>(flags, row, columns, width);
    case 4: return look_at_row<4>(flags, row, columns, width);
    case 8: return look_at_row<8>(flags, row, columns, width);
    default: return look_at_row<0>(flags, row, columns, width);
  }
}

}  // namespace moving

/// Makes of n bytes, 1 where kept and `stays` where a zero is kept, the marks that a step of single
/// elements begins with. `draws`: of a mask that keeps all.
inline MoveCounts begin_elements(const Kernels& table, std::uint8_t* states, std::int64_t n,
                                 bool draws, bool any_kept_zeros) noexcept {
  MoveCounts counts;
  if (draws || any_kept_zeros) {
    for (std::int64_t i = 0; i < n; ++i) {
      const bool is_kept_zero = (states[i] & moving::stays) != 0;
      const auto own = static_cast<std::uint8_t>(draws ? moving::was_active : states[i]);
      states[i] = is_kept_zero ? std::uint8_t{moving::stays | moving::dead} : own;
      counts.dead += is_kept_zero ? 1 : 0;
      counts.active += states[i] & moving::was_active;
    }
  } else {
    counts.active = n - table.count_zeros(states, n);
  }
  return counts;
}

/// The same where blocks are larger, of a whole matrix whose bytes follow each other.
inline MoveCounts begin_blocks(const Grid& grid, std::uint8_t* states, bool draws,
                               int threads) noexcept {
  std::atomic<std::int64_t> all_active{0}, all_dead{0};
  const std::int64_t columns = grid.matrix.columns();
  parallel_for(grid.tiles(), threads, [&](std::int64_t tile, int) {
    std::int64_t count_active = 0, count_dead = 0;
    Grid::for_each_chunk(grid.tile(tile), [&](const Grid::Part& chunk) {
      Grid::for_each_band(chunk, [&](const Grid::Part& band, std::int64_t) {
        const Grid::Rectangle elements = grid.elements(band);
        std::uint8_t active[chunk_blocks_max], dead[chunk_blocks_max];
        std::fill_n(active, band.width, std::uint8_t{1});
        std::fill_n(dead, band.width, std::uint8_t{1});
        const auto row = [&](std::int64_t r) {
          return states + (elements.row + r) * columns + elements.column;
        };
        for (std::int64_t r = 0; r < elements.rows; ++r) {
          moving::look_at_row({active, dead}, row(r), elements.columns, grid.width);
        }
        for (std::int64_t b = 0; b < band.width; ++b) {
          const bool is_active = dead[b] == 0 && (draws || active[b] != 0);
          count_active += is_active ? 1 : 0;
          count_dead += dead[b];
          active[b] = static_cast<std::uint8_t>((is_active ? moving::was_active : 0) |
                                                (dead[b] != 0 ? moving::dead : 0));
        }
        for (std::int64_t r = 0; r < elements.rows; ++r) {
          std::uint8_t* const states_of_row = row(r);
          for (std::int64_t b = 0; b < band.width; ++b) {
            const std::int64_t end = std::min((b + 1) * grid.width, elements.columns);
            for (std::int64_t c = b * grid.width; c < end; ++c) {
              states_of_row[c] =
                  static_cast<std::uint8_t>((states_of_row[c] & moving::stays) | active[b]);
            }
          }
        }
      });
    });
    all_active.fetch_add(count_active);
    all_dead.fetch_add(count_dead);
  });
  return {all_active, all_dead};
}

/// Makes a mask of the marks, and writes +0 where it is new in `weights`, a matrix whose elements
/// have the same order; not where a mask was drawn. Sets the bits of what is and was active in
/// `ever`, unless that is nullptr.
inline void finish_moves(const Kernels& table, std::uint8_t* states, const Matrix* weights,
                         std::uint8_t* ever, std::int64_t size, bool draws, int threads) noexcept {
  constexpr std::int64_t piece = 4096, together = 16;
  constexpr std::int64_t large = piece * together;
  parallel_for(Grid::divide_up(size, large), threads, [&](std::int64_t i, int) {
    std::uint8_t old[piece], active[piece], bits[piece / 8];
    const std::int64_t last = std::min(size, (i + 1) * large);
    for (std::int64_t begin = i * large; begin < last; begin += piece) {
      const std::int64_t n = std::min(piece, last - begin);
      std::uint8_t* const here = states + begin;
      std::uint8_t any_new = 0;
      for (std::int64_t j = 0; j < n; ++j) {
        const std::uint8_t state = here[j];
        const std::uint8_t is_new = moving::is_new(state);
        any_new |= is_new;
        old[j] = is_new ^ 1U;
        here[j] = moving::kept(state);
        active[j] = static_cast<std::uint8_t>(here[j] | (draws ? 0 : state & moving::was_active));
      }
      if (ever != nullptr) {
        table.pack(bits, active, n);
        std::uint8_t* const to = ever + begin / 8;
        for (std::int64_t j = 0; j < (n + 7) / 8; ++j) to[j] |= bits[j];
      }
      if (any_new == 0 || weights == nullptr) continue;
      const auto zero = table.zero_masked[static_cast<int>(weights->dtype())];
      const std::int64_t columns = weights->columns();
      for (std::int64_t done = 0; done < n;) {
        const std::int64_t row = (begin + done) / columns, column = (begin + done) % columns;
        const std::int64_t some = std::min(n - done, columns - column);
        weights->for_each_run(
            row, column, some,
            [&](std::byte* run, std::ptrdiff_t stride, std::int64_t count, std::int64_t offset) {
              zero(run, stride, old + done + offset, count);
            });
        done += some;
      }
    }
  });
}

/// Sets the bits of `ever` for what a mask of n bytes keeps.
inline void add_to_ever(const Kernels& table, std::uint8_t* ever, const std::uint8_t* mask,
                        std::int64_t size, int threads) noexcept {
  constexpr std::int64_t piece = 4096;
  parallel_for(Grid::divide_up(size, piece), threads, [&](std::int64_t i, int) {
    std::uint8_t bits[piece / 8];
    const std::int64_t n = std::min(piece, size - i * piece);
    table.pack(bits, mask + i * piece, n);
    for (std::int64_t j = 0; j < (n + 7) / 8; ++j) ever[i * piece / 8 + j] |= bits[j];
  });
}

}  // namespace datasparse
