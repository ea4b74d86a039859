/// Arrays and specs of the caller's, as the C++ classes have them.
#pragma once

#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "datasparse/datasparse.h"

namespace datasparse::c_abi {

/// ValueError for what is no array. `name` is the argument's.
ArrayView to_view(const datasparse_array* array, const char* name);
/// Shape and strides are the view's.
datasparse_array to_array(const ArrayView& view) noexcept;
/// Not yet checked.
BlockSpec to_spec(const datasparse_block_spec* spec, const char* name);

/// ValueError unless a mask of the caller's has a byte for each element.
void require_mask_size(std::size_t mask_size, std::int64_t elements);

}  // namespace datasparse::c_abi
