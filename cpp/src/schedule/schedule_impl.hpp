/// What a schedule holds: shared by its sources.
#pragma once

#include <cmath>

#include "datasparse/schedule.hpp"

namespace datasparse {

constexpr double integer_max = 9007199254740992.0;  // 2^53: every integer up to it is a double

inline bool is_integer(double x) { return std::abs(x) <= integer_max && x == std::trunc(x); }

struct Schedule::Held {
  Kind kind;
  int depth = 1, size = 1;
  bool of_integers = false;  // kept, since steps ask
};

}  // namespace datasparse
