/// Plain data as JSON and back, without loss. The only place that knows the JSON library.
///
/// None, bools, integers of 64 bits, finite floats, strings and lists are written as JSON has them,
/// floats with a point or an exponent, so that 1 and 1.0 stay apart. A dict is an object where its
/// keys are strings of which none begins with '$'. The rest is an object with one such key:
///
///     {"$tuple": [...]}                 {"$bytes": "00ff"}             hexadecimal
///     {"$float": "nan", "inf", "-inf"}  {"$int": "-0x1f"}              beyond 64 bits
///     {"$dict": [[key, value], ...]}    {"$str": "eda080"}             not UTF-8: its bytes
#pragma once

#include <string>
#include <string_view>

#include "datasparse/plain_data.hpp"

namespace datasparse {

bool is_utf8(const std::string& text);

/// ValueError where it is nested more than PlainData::max_depth deep, and the few levels of a
/// checkpoint around it.
std::string to_json(const PlainData& value);

/// The inverse. ValueError, beginning with `what`, for anything that to_json() does not write:
/// a name that comes twice, a number beyond 64 bits, deeper nesting. Memory: up to 100 times the
/// text, for nothing but short items.
PlainData from_json(std::string_view text, const std::string& what);

/// JSON as it is: objects are dicts, '$' means nothing.
PlainData parse_json(std::string_view text, const std::string& what);

}  // namespace datasparse
