#include "datasparse/mask.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "datasparse/apply_mask.hpp"

namespace datasparse {
namespace {

constexpr std::align_val_t cache_line{64};

}  // namespace

Mask::Mask(const Axes& shape) : shape_(shape), size_(element_count(shape)) {
  const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(size_, 1));
  bytes_.reset(static_cast<std::uint8_t*>(::operator new(bytes, cache_line)),
               [](std::uint8_t* memory) { ::operator delete(memory, cache_line); });
  std::memset(bytes_.get(), 1, bytes);
}

std::int64_t Mask::zeros() const noexcept { return count_zeros(data(), size_); }

std::vector<std::uint8_t> Mask::pack() const {
  std::vector<std::uint8_t> bits(static_cast<std::size_t>((size_ + 7) / 8), 0);
  for (std::int64_t i = 0; i < size_; ++i) {
    const unsigned bit = data()[i] != 0 ? 1U : 0U;
    bits[static_cast<std::size_t>(i / 8)] |= static_cast<std::uint8_t>(bit << (i % 8));
  }
  return bits;
}

void Mask::unpack(const std::uint8_t* bits) noexcept {
  for (std::int64_t i = 0; i < size_; ++i) {
    data()[i] = static_cast<std::uint8_t>((bits[i / 8] >> (i % 8)) & 1U);
  }
}

}  // namespace datasparse
