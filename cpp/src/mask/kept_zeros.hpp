/// Elements that stay zero whatever the rule says: a bit for each, packed like Mask::pack().
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/bytes.hpp"
#include "base/parallel.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

namespace kept {

constexpr std::int64_t piece = 4096;  // elements

/// Calls work(begin, n, kept) for pieces of n elements, with a byte for each: 1 where it stays
/// zero. `bits` may be nullptr, for nowhere.
template <class Work>
void for_each_piece(const Kernels& table, const std::uint8_t* bits, std::int64_t size, int threads,
                    const Work& work) noexcept {
  constexpr std::int64_t together = 16;
  constexpr std::int64_t large = piece * together;
  parallel_for((size + large - 1) / large, threads, [&](std::int64_t i, int) {
    std::uint8_t bytes[piece] = {};
    const std::int64_t end = std::min(size, (i + 1) * large);
    for (std::int64_t begin = i * large; begin < end; begin += piece) {
      const std::int64_t n = std::min(piece, end - begin);
      if (bits != nullptr) table.unpack(bytes, bits + begin / 8, n, Store::ordinary);
      work(begin, n, static_cast<const std::uint8_t*>(bytes));
    }
  });
}

}  // namespace kept

/// Writes 0 wherever a mask must be 0.
inline void zero_kept(const Kernels& table, std::uint8_t* mask, const std::uint8_t* bits,
                      std::int64_t size, int threads) noexcept {
  kept::for_each_piece(table, bits, size, threads,
                       [mask](std::int64_t begin, std::int64_t n, const auto* kept) {
                         and_not_bytes(mask + begin, kept, n);
                       });
}

/// free[i] = 0 where the rule has pruned an element of the mask, else 1; `free` may be the mask.
/// Returns whether there is any. `bits` may be nullptr.
inline bool mark_free(const Kernels& table, std::uint8_t* free, const std::uint8_t* mask,
                      const std::uint8_t* bits, std::int64_t size, int threads) noexcept {
  std::atomic<bool> any{false};
  kept::for_each_piece(table, bits, size, threads,
                       [&](std::int64_t begin, std::int64_t n, const auto* kept) {
                         std::uint8_t* const to = free + begin;
                         if (free != mask) std::copy_n(mask + begin, n, to);
                         if (bits != nullptr) or_bytes(to, kept, n);
                         if (normalise_bytes(to, n)) any.store(true, std::memory_order_relaxed);
                       });
  return any;
}

}  // namespace datasparse
