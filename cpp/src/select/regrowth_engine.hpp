/// Moves masks, many at once: regrowth.hpp says what is chosen.
#pragma once

#include <vector>

#include "datasparse/regrowth.hpp"
#include "kernels/kernels.hpp"

namespace datasparse {

/// compute_masks() of such jobs, by one table of kernels. Any gives the same masks.
void move_masks(const std::vector<JobOf<RegrowthSpec>>& jobs, const Kernels& table);

}  // namespace datasparse
