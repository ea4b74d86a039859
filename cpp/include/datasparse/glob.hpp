/// Names matched by patterns, as a shell does it.
#pragma once

#include <string>

#include "datasparse/api.h"

namespace datasparse {

/// Whether all of `name` matches: `*` stands for any characters, also none, `?` for one, `[ab]` and
/// `[a-c]` for one of these, `[!ab]` for one that is none of these. A bracket that is never closed
/// stands for itself. What Python's fnmatch.fnmatchcase() says, in UTF-8. O(name × pattern).
DATASPARSE_API bool matches(const std::string& pattern, const std::string& name);

}  // namespace datasparse
