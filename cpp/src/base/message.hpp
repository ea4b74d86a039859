/// How the library says something: through the handler of runtime.hpp.
#pragma once

#include <string>

#include "datasparse/runtime.hpp"

namespace datasparse {

/// Throws what the handler throws.
void send_message(Severity severity, const std::string& text);

}  // namespace datasparse
