/// The loops over marks: see choice.hpp. All in one source, which is compiled for speed.
#pragma once

#include <cstdint>

#include "kernels/kernels.hpp"
#include "tiles/choice.hpp"
#include "tiles/grid.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {

namespace moving {

/// keys[i] = that of the block or element `first` + i by chance. Of 32 bits: what is drawn is drawn
/// by the engine of such keys.
template <class Key>
void draw_keys(const Kernels& table, Key* keys, std::uint64_t stream, std::int64_t first,
               std::int64_t n) noexcept {
  if constexpr (sizeof(Key) == sizeof(std::uint32_t)) table.draw(keys, stream, first, n);
}

/// The states of n blocks side by side, a byte each.
void gather_states(std::uint8_t* gathered, const std::uint8_t* states, std::int64_t n,
                   std::int64_t width) noexcept;

/// Replaces n states, but for what says that an element stays zero.
void replace_states(std::uint8_t* states, const std::uint8_t* by, std::int64_t n) noexcept;

/// Drops those of n elements that survive where `keep` is 0, and nothing else.
void drop_within(std::uint8_t* states, const std::uint8_t* keep, std::int64_t n) noexcept;
/// Whether any of the blocks of `width` elements side by side, n in all, has more than `most` that
/// survive.
bool exceed(const std::uint8_t* states, std::int64_t n, std::int64_t width,
            std::int64_t most) noexcept;

}  // namespace moving

/// The blocks of a mask.
struct MoveCounts {
  std::int64_t active = 0;
  std::int64_t dead = 0;  ///< of kept zeros alone
};

/// Makes the marks that a step of single elements begins with, in the place of n bytes of a mask.
/// `kept_zeros` tells by n bytes which zeros are kept, and is nullptr for none. `draws`: as of a
/// mask that keeps all.
MoveCounts begin_elements(const Kernels& table, std::uint8_t* states,
                          const std::uint8_t* kept_zeros, std::int64_t n, bool draws) noexcept;
/// The same where blocks are larger, of a whole matrix whose bytes follow each other; or, where
/// zeros are kept, from what begin_elements() has made of it.
MoveCounts begin_blocks(const Kernels& table, const Grid& grid, std::uint8_t* states, bool draws,
                        bool any_kept_zeros, int threads) noexcept;

/// Makes a mask of the marks. Writes +0 over what is new in `weights`, a matrix whose elements have
/// the same order, or nullptr for none. Sets in `ever`, unless that is nullptr, the bits of what is
/// active now and, unless the step `draws`, of what was active before.
void finish_moves(const Kernels& table, std::uint8_t* states, const Matrix* weights,
                  std::uint8_t* ever, std::int64_t size, bool draws, int threads) noexcept;

/// Sets the bits of `ever` for what a mask of `size` bytes keeps.
void add_to_ever(const Kernels& table, std::uint8_t* ever, const std::uint8_t* mask,
                 std::int64_t size, int threads) noexcept;

}  // namespace datasparse
