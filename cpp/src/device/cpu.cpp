#include <algorithm>

#include "base/parallel.hpp"
#include "datasparse/apply_mask.hpp"
#include "datasparse/device.hpp"
#include "kernels/kernels.hpp"
#include "mask/mask_bits.hpp"
#include "select/mask_engine.hpp"
#include "tiles/matrix.hpp"

namespace datasparse {
namespace {

constexpr std::int64_t chunk = 65536;  // elements that a thread takes at a time

int threads_for(std::int64_t elements) noexcept {
  return elements < parallel_from ? 1 : available_threads();
}

void zero_masked(const Kernels& table, const ArrayView& data, const std::uint8_t* mask) noexcept {
  if (data.size() == 0) return;
  const Matrix matrix(data);
  const auto write = table.zero_masked[static_cast<int>(data.dtype())];
  const std::int64_t columns = matrix.columns();
  // Long rows are cut, short ones taken together.
  const std::int64_t width = std::min(columns, chunk);
  const std::int64_t across = (columns + width - 1) / width;
  const std::int64_t height = std::max<std::int64_t>(1, chunk / width);
  const std::int64_t down = (matrix.rows() + height - 1) / height;
  parallel_for(across * down, threads_for(data.size()), [&](std::int64_t i, int) {
    const std::int64_t column = i % across * width;
    const std::int64_t n = std::min(width, columns - column);
    const std::int64_t first = i / across * height;
    for (std::int64_t r = first; r < std::min(first + height, matrix.rows()); ++r) {
      const std::uint8_t* const row = mask + r * columns + column;
      matrix.for_each_run(r, column, n,
                          [&](std::byte* run, std::ptrdiff_t stride, std::int64_t count,
                              std::int64_t offset) { write(run, stride, row + offset, count); });
    }
  });
}

class Cpu final : public Device {
 public:
  void compute(const std::vector<MaskJob>& jobs) override { compute_masks(jobs); }
  void zero(const ArrayView& data, const std::uint8_t* mask) override {
    zero_masked(kernels(), data, mask);
  }
  PackedBits zeros_in(const ArrayView& data) override { return datasparse::zeros_in(data); }
  std::int64_t count_pruned_zeros(const ArrayView& data, const std::uint8_t* mask) override {
    return datasparse::count_pruned_zeros(data, mask);
  }
};

}  // namespace

Device& cpu() noexcept {
  static Cpu device;
  return device;
}

void apply_mask(const ArrayView& data, const std::uint8_t* mask) {
  require_writable(data, "apply_mask");
  zero_masked(kernels(), data, mask);
}

std::int64_t count_zeros(const std::uint8_t* mask, std::int64_t n) {
  return kernels().count_zeros(mask, n);
}

}  // namespace datasparse
