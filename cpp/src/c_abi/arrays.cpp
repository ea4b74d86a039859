#include "c_abi/arrays.hpp"

#include <string>

#include "c_abi/status.hpp"
#include "datasparse/apply_mask.hpp"

namespace datasparse::c_abi {

static_assert(DATASPARSE_FLOAT16 == static_cast<int>(DType::float16) &&
              DATASPARSE_BFLOAT16 == static_cast<int>(DType::bfloat16) &&
              DATASPARSE_FLOAT32 == static_cast<int>(DType::float32) &&
              DATASPARSE_FLOAT64 == static_cast<int>(DType::float64));
static_assert(DATASPARSE_L1 == static_cast<int>(Norm::L1) &&
              DATASPARSE_L2 == static_cast<int>(Norm::L2) &&
              DATASPARSE_NO_NORM == static_cast<int>(Norm::none));

ArrayView to_view(const datasparse_array* array, const char* name) {
  const datasparse_array& given = versioned(array, name);
  const auto refuse = [&](const char* field, const char* rule, std::int64_t value) {
    throw ValueError(std::string(name) + "->" + field + " must be " + rule + ", got " +
                     std::to_string(value));
  };
  if (given.dtype < DATASPARSE_FLOAT16 || given.dtype > DATASPARSE_FLOAT64) {
    refuse("dtype", "DATASPARSE_FLOAT16, BFLOAT16, FLOAT32 or FLOAT64", given.dtype);
  }
  if (given.ndim < 0 || given.ndim > Axes::max_size) refuse("ndim", "0 to 32", given.ndim);

  const auto axes = [&](const int64_t* values) {
    Axes result;
    for (int32_t axis = 0; axis < given.ndim; ++axis) result.push_back(values[axis]);
    return result;
  };
  const auto dtype = static_cast<DType>(given.dtype);
  const auto ndim = static_cast<std::size_t>(given.ndim);
  const Axes shape = axes(items(given.shape, ndim, (std::string(name) + "->shape").c_str()));
  if (given.strides == nullptr) return {given.data, dtype, shape, given.read_only != 0};
  return {given.data, dtype, shape, axes(given.strides), given.read_only != 0};
}

datasparse_array to_array(const ArrayView& view) noexcept {
  return {DATASPARSE_ABI_VERSION,
          static_cast<int32_t>(view.dtype()),
          view.shape().size(),
          view.read_only() ? 1 : 0,
          view.data(),
          view.shape().begin(),
          view.strides().begin()};
}

BlockSpec to_spec(const datasparse_block_spec* spec, const char* name) {
  const datasparse_block_spec& given = versioned(spec, name);
  if (given.norm < DATASPARSE_L1 || given.norm > DATASPARSE_NO_NORM) {
    throw ValueError(std::string(name) +
                     "->norm must be DATASPARSE_L1, DATASPARSE_L2 or DATASPARSE_NO_NORM, got " +
                     std::to_string(given.norm));
  }
  BlockSpec result;
  result.sparsity_level = given.sparsity_level;
  result.block_height = given.block_height;
  result.block_width = given.block_width;
  if (given.zeros_per_block != DATASPARSE_WHOLE_BLOCK) {
    result.zeros_per_block = given.zeros_per_block;
  }
  result.norm = static_cast<Norm>(given.norm);
  return result;
}

void require_mask_size(std::size_t mask_size, std::int64_t elements) {
  if (mask_size == static_cast<std::size_t>(elements)) return;
  throw ValueError("mask_size must be " + std::to_string(elements) + ", a byte per element, got " +
                   std::to_string(mask_size));
}

}  // namespace datasparse::c_abi

using namespace datasparse;
using namespace datasparse::c_abi;

datasparse_status datasparse_block_mask(const datasparse_array* data,
                                        const datasparse_block_spec* spec, uint8_t* mask,
                                        size_t mask_size) {
  return guarded([&] {
    const ArrayView view = to_view(data, "data");
    const BlockSpec what = to_spec(spec, "spec");
    require_mask_size(mask_size, view.size());
    items(mask, mask_size, "mask");
    block_mask(view, what, mask);
  });
}

datasparse_status datasparse_apply_mask(const datasparse_array* data, const uint8_t* mask,
                                        size_t mask_size) {
  return guarded([&] {
    const ArrayView view = to_view(data, "data");
    require_mask_size(mask_size, view.size());
    apply_mask(view, items(mask, mask_size, "mask"));
  });
}
