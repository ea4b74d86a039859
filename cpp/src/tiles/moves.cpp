#include "tiles/moves.hpp"

#include <algorithm>
#include <atomic>

#include "base/bytes.hpp"
#include "base/parallel.hpp"
#include "select/limits.hpp"
#include "tiles/byte_sums.hpp"
#include "tiles/past_loops.hpp"

namespace datasparse {
namespace moving {
namespace {

template <std::int64_t width>
void gather(std::uint8_t* __restrict gathered, const std::uint8_t* __restrict states,
            std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) gathered[i] = states[i * width];
}

}  // namespace

void gather_states(std::uint8_t* gathered, const std::uint8_t* states, std::int64_t n,
                   std::int64_t width) noexcept {
  switch (width) {
    case 1: return gather<1>(gathered, states, n);
    case 2: return gather<2>(gathered, states, n);
    case 4: return gather<4>(gathered, states, n);
    case 8: return gather<8>(gathered, states, n);
    default:
      for (std::int64_t i = 0; i < n; ++i) gathered[i] = states[i * width];
  }
}

void replace_states(std::uint8_t* __restrict states, const std::uint8_t* __restrict by,
                    std::int64_t n) noexcept {
  constexpr auto others = static_cast<std::uint8_t>(~stays);
  for (std::int64_t i = 0; i < n; ++i) {
    states[i] = static_cast<std::uint8_t>((states[i] & stays) | (by[i] & others));
  }
}

void drop_within(std::uint8_t* __restrict states, const std::uint8_t* __restrict keep,
                 std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) {
    const unsigned drop = survives(states[i]) & (keep[i] ^ 1U);
    states[i] = static_cast<std::uint8_t>(states[i] | (drop * dropped));
  }
}

namespace {

/// Of marks: which survive.
template <int width>
bool exceed(const std::uint8_t* states, std::int64_t n, std::int64_t most) noexcept {
  return any_exceeds<width>(n, most, [states](std::int64_t i) {
    const std::uint64_t word = word_at(states + i);
    return word & ~(word >> 1) & ones_of_bytes;
  });
}

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
  const auto look = [&](std::int64_t b, std::int64_t n) {
    const std::uint8_t* const elements = row + b * width;
    unsigned active = flags.active[b], dead = flags.dead[b];
    for (std::int64_t i = 0; i < n; ++i) {
      const unsigned is_kept_zero = elements[i] / stays & 1U;
      active &= elements[i] | is_kept_zero;
      dead &= is_kept_zero;
    }
    flags.active[b] = static_cast<std::uint8_t>(active & 1U);
    flags.dead[b] = static_cast<std::uint8_t>(dead & 1U);
  };
  const std::int64_t full = columns / width;
  for (std::int64_t b = 0; b < full; ++b) look(b, width);
  if (columns > full * width) look(full, columns - full * width);
}

void look_at_row(const BlockFlags& flags, const std::uint8_t* row, std::int64_t columns,
                 std::int64_t width) noexcept {
  switch (width) {
    case 1: return look_at_row<1>(flags, row, columns, width);
    case 2: return look_at_row<2>(flags, row, columns, width);
    case 4: return look_at_row<4>(flags, row, columns, width);
    case 8: return look_at_row<8>(flags, row, columns, width);
    default: return look_at_row<0>(flags, row, columns, width);
  }
}

}  // namespace

bool exceed(const std::uint8_t* states, std::int64_t n, std::int64_t width,
            std::int64_t most) noexcept {
  std::int64_t done = 0;
  bool any = false;
  if (width == 2 || width == 4 || width == 8) {
    done = n / 8 * 8;
    any = width == 2   ? exceed<2>(states, done, most)
          : width == 4 ? exceed<4>(states, done, most)
                       : exceed<8>(states, done, most);
  }
  for (; done < n; done += width) {
    std::int64_t active = 0;
    for (std::int64_t i = done; i < done + width; ++i) active += survives(states[i]);
    any |= active > most;
  }
  return any;
}

}  // namespace moving

MoveCounts begin_elements(const Kernels& table, std::uint8_t* states,
                          const std::uint8_t* kept_zeros, std::int64_t n, bool draws) noexcept {
  MoveCounts counts;
  if (draws) {
    std::fill_n(states, n, moving::was_active);
  } else {
    unsigned all = 0;
    for (std::int64_t i = 0; i < n; ++i) all |= states[i];
    if (all > moving::was_active) {  // or else they are marks already
      for (std::int64_t i = 0; i < n; ++i) states[i] = states[i] != 0 ? moving::was_active : 0;
    }
  }
  if (kept_zeros != nullptr) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (kept_zeros[i] == 0) continue;
      states[i] = moving::stays | moving::dead;
      ++counts.dead;
    }
  }
  counts.active = n - table.count_zeros(states, n) - counts.dead;
  return counts;
}

MoveCounts begin_blocks(const Kernels& table, const Grid& grid, std::uint8_t* states, bool draws,
                        bool any_kept_zeros, int threads) noexcept {
  std::atomic<std::int64_t> all_active{0}, all_dead{0};
  const std::int64_t columns = grid.matrix.columns();
  parallel_for(grid.tiles(), threads, [&](std::int64_t tile, int) {
    std::int64_t count_active = 0, count_dead = 0;
    const auto begin_band = [&](const Grid::Part& band) {
      const Grid::Rectangle elements = grid.elements(band);
      std::uint8_t active[chunk_blocks_max], dead[chunk_blocks_max];
      std::fill_n(active, band.width, std::uint8_t{1});
      std::fill_n(dead, band.width, static_cast<std::uint8_t>(any_kept_zeros ? 1 : 0));
      const auto row = [&](std::int64_t r) {
        return states + (elements.row + r) * columns + elements.column;
      };
      std::int64_t ones = 0;
      for (std::int64_t r = 0; r < elements.rows; ++r) {
        if (any_kept_zeros) {
          moving::look_at_row({active, dead}, row(r), elements.columns, grid.width);
        } else {
          ones += begin_elements(table, row(r), nullptr, elements.columns, draws).active;
          and_row(active, row(r), elements.columns, grid.width);
        }
      }
      if (!any_kept_zeros && !draws) {
        const std::int64_t own = band.width - table.count_zeros(active, band.width);
        const std::int64_t missing = band.width * grid.width - elements.columns;  // in the last
        const std::int64_t size = own * grid.width - (active[band.width - 1] != 0 ? missing : 0);
        if (ones == size * elements.rows) {  // all of a block are alike: they are right
          count_active += own;
          return;
        }
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
    };
    Grid::for_each_chunk(grid.tile(tile), [&](const Grid::Part& chunk) {
      Grid::for_each_band(chunk, [&](const Grid::Part& band, std::int64_t) { begin_band(band); });
    });
    all_active.fetch_add(count_active);
    all_dead.fetch_add(count_dead);
  });
  return {all_active, all_dead};
}

namespace {

constexpr std::int64_t piece = 4096;  // elements; a multiple of 8

/// Writes +0 over the elements [begin, begin + n) of a matrix where `keep` is 0.
void zero_elements(const Kernels& table, const Matrix& matrix, const std::uint8_t* keep,
                   std::int64_t begin, std::int64_t n) noexcept {
  const auto zero = table.zero_masked[static_cast<int>(matrix.dtype())];
  const std::int64_t columns = matrix.columns();
  for (std::int64_t done = 0; done < n;) {
    const std::int64_t row = (begin + done) / columns, column = (begin + done) % columns;
    const std::int64_t some = std::min(n - done, columns - column);
    const std::uint8_t* const here = keep + done;
    matrix.for_each_run(row, column, some,
                        [&](std::byte* run, std::ptrdiff_t stride, std::int64_t count,
                            std::int64_t offset) { zero(run, stride, here + offset, count); });
    done += some;
  }
}

}  // namespace

void finish_moves(const Kernels& table, std::uint8_t* states, const Matrix* weights,
                  std::uint8_t* ever, std::int64_t size, bool draws, int threads) noexcept {
  constexpr std::int64_t large = 16 * piece;
  parallel_for(Grid::divide_up(size, large), threads, [&](std::int64_t i, int) {
    std::uint8_t old[piece], active[piece], bits[piece / 8];
    const std::int64_t last = std::min(size, (i + 1) * large);
    for (std::int64_t begin = i * large; begin < last; begin += piece) {
      const std::int64_t n = std::min(piece, last - begin);
      const bool any_new = table.unmark(states + begin, old, active, n, !draws);
      if (ever != nullptr) {
        table.pack(bits, active, n);
        or_bytes(ever + begin / 8, bits, (n + 7) / 8);
      }
      if (any_new && weights != nullptr) zero_elements(table, *weights, old, begin, n);
    }
  });
}

void add_to_ever(const Kernels& table, std::uint8_t* ever, const std::uint8_t* mask,
                 std::int64_t size, int threads) noexcept {
  parallel_for(Grid::divide_up(size, piece), threads, [&](std::int64_t i, int) {
    std::uint8_t bits[piece / 8];
    const std::int64_t n = std::min(piece, size - i * piece);
    table.pack(bits, mask + i * piece, n);
    or_bytes(ever + i * piece / 8, bits, (n + 7) / 8);
  });
}

}  // namespace datasparse
