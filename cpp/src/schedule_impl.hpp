/// What a schedule holds: shared by its sources.
#pragma once

#include "datasparse/schedule.hpp"

namespace datasparse {

struct Schedule::Held {
  Kind kind;
  int depth = 1, size = 1;
};

}  // namespace datasparse
