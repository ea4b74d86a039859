/// Distributions: one level for a whole model, as a level for each of its layers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "datasparse/api.h"
#include "datasparse/array_view.hpp"
#include "datasparse/param.hpp"

namespace datasparse::distributions {

/// Layers by name, in their order.
using Shapes = std::vector<std::pair<std::string, Axes>>;

// Each function returns the level of every layer, in the order of `shapes`: values for
// GroupParams::set(), from which any schedule may begin or to which it may go.
//
// The zeros of all layers together are level × elements in double, rounded half to even, as those
// of one tensor would be. A layer's part of them is a fraction. It is rounded down, and what is
// left goes to the largest remainders, ties in the order of `shapes`. The level of a layer is its
// zeros by its elements, so that blocks of (1, 1) have these zeros exactly. Larger blocks have the
// same levels, and the sum as exactly as whole blocks allow. A layer without elements has level 0;
// one without axes is a vector of one element. The bits are the same on every machine.
//
// Errors: ValueError for a level outside [0, 1], a name that comes twice, a negative length, and
// for more than 2^51 elements together. Cost: O(layers × rounds), rounds being few; layers × log
// for the remainders.

/// Every layer has the same level, but for rounding.
DATASPARSE_API ParamMap uniform(const Shapes& shapes, double level);

/// ERK, the Erdős-Rényi-Kernel distribution (Evci et al., "Rigging the Lottery", 2020): the density
/// of a layer, 1 - its level, is in proportion to (sum of its lengths / their product)^power, so
/// that large layers are pruned most. Where that gives a layer more than all of its elements, it is
/// dense, and the others share the rest; in as many rounds as it takes.
///
/// @param power  0 or above; 0 is uniform, 1 is the paper's.
/// @param dense  layers at level 0, for which the others make up: names, or patterns for matches().
///               A pattern that is a layer's very name stands for that one alone.
/// Errors: ValueError for a power that is negative or no finite number, and where the other layers
/// have fewer elements than are to be zeros: it names the possible range of level.
/// UnknownNameError for an entry of `dense` that matches no layer.
DATASPARSE_API ParamMap erk(const Shapes& shapes, double level, double power = 1,
                            const std::vector<std::string>& dense = {});

}  // namespace datasparse::distributions
