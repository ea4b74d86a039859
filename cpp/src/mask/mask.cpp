#include "datasparse/mask.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/buffer.hpp"
#include "base/parallel.hpp"
#include "datasparse/apply_mask.hpp"
#include "datasparse/device.hpp"
#include "kernels/kernels.hpp"
#include "mask/mask_bits.hpp"
#include "select/cut_hint.hpp"
#include "select/limits.hpp"

namespace datasparse {
namespace {

constexpr std::align_val_t cache_line{64};
constexpr std::align_val_t large_page{std::size_t{2} << 20};
constexpr std::size_t large = std::size_t{8} << 20;  // bytes from which on large pages pay

/// Calls work(first, n) for pieces of [0, size), which begin at multiples of 8, on several threads
/// where that pays.
template <class Work>
void for_each_chunk(std::int64_t size, const Work& work) noexcept {
  constexpr std::int64_t chunk = std::int64_t{1} << 18;
  const int threads = size < parallel_from ? 1 : available_threads();
  parallel_for((size + chunk - 1) / chunk, threads,
               [&](std::int64_t i, int) { work(i * chunk, std::min(chunk, size - i * chunk)); });
}

}  // namespace

std::uint8_t* allocate_bytes(std::size_t count) {
  if (count < large) return static_cast<std::uint8_t*>(::operator new(count, cache_line));
  auto* const bytes = static_cast<std::uint8_t*>(::operator new(count, large_page));
  wish_for_huge_pages(bytes, count);
  return bytes;
}

void free_bytes(std::uint8_t* bytes, std::size_t count) noexcept {
  ::operator delete(bytes, count < large ? cache_line : large_page);
}

Mask::Mask(const Axes& shape)
    : shape_((require_possible(shape, "shape of a mask"), shape)), size_(element_count(shape)) {
  kernels();  // throws here if ever, not where masks must not
  const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(size_, 1));
  bytes_.reset(allocate_bytes(bytes), [bytes](std::uint8_t* memory) { free_bytes(memory, bytes); });
  std::memset(bytes_.get(), 1, bytes);
  if (size_ >= hinted_min) hint_ = std::make_shared<CutHint>();
}

Mask::Mask(const Axes& shape, Device& device, std::shared_ptr<DeviceMask> there)
    : shape_(shape), size_(element_count(shape)), device_(&device), there_(std::move(there)) {
  if (size_ >= hinted_min) hint_ = std::make_shared<CutHint>();  // for a device that lends its jobs
}

std::int64_t Mask::zeros() const {
  return there_ == nullptr ? count_zeros(data(), size_) : on(cpu()).zeros();
}

void unpack_bits(std::uint8_t* mask, const std::uint8_t* bits, std::int64_t size) noexcept {
  const auto unpack = kernels().unpack;
  const Store store = size >= past_cache_from ? Store::past_cache : Store::ordinary;
  for_each_chunk(size, [unpack, store, mask, bits](std::int64_t first, std::int64_t n) {
    unpack(mask + first, bits + first / 8, n, store);
  });
}

void pack_bits(std::uint8_t* bits, const std::uint8_t* mask, std::int64_t n) noexcept {
  const auto pack = kernels().pack;
  for_each_chunk(n, [pack, bits, mask](std::int64_t first, std::int64_t count) {
    pack(bits + first / 8, mask + first, count);
  });
}

PackedBits Mask::pack() const { return std::move(device_->pack({*this}).front()); }

void Mask::unpack(const std::uint8_t* bits) {
  device_->put({{*this, device_->unpack(shape_, bits)}});
}

Mask Mask::on(Device& device) const {
  if (&device == device_) return *this;
  Mask moved = device.make_mask(shape_);
  moved.unpack(pack().data());
  return moved;
}

}  // namespace datasparse
