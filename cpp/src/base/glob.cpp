#include "datasparse/glob.hpp"

#include <cstddef>

namespace datasparse {
namespace {

/// The length in bytes of the UTF-8 character at a place, or of what there is of it; 1 for a stray
/// byte.
std::size_t length_at(const std::string& text, std::size_t place) {
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  const auto lead = static_cast<unsigned char>(text[place]);
  const std::size_t most = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  std::size_t end = place + 1;
  while (end < text.size() && end < place + most && continues(text[end])) ++end;
  return end - place;
}

std::string character_at(const std::string& text, std::size_t place) {
  return text.substr(place, length_at(text, place));
}

/// Where the bracket that opens at a place is closed, or npos. A `]` right behind the `[` or `[!`
/// is one of the characters.
std::size_t closing(const std::string& pattern, std::size_t place) {
  std::size_t from = place + 1;
  if (from < pattern.size() && pattern[from] == '!') ++from;
  return pattern.find(']', from + 1);
}

/// Whether a character is among those in the bracket (open, close). UTF-8 orders as its code points
/// do.
bool is_among(const std::string& character, const std::string& pattern, std::size_t open,
              std::size_t close) {
  std::size_t place = open + 1;
  const bool negated = pattern[place] == '!';
  if (negated) ++place;
  bool found = false;
  while (place < close) {
    const std::string low = character_at(pattern, place);
    place += low.size();
    if (place + 1 < close && pattern[place] == '-') {
      const std::string high = character_at(pattern, place + 1);
      place += 1 + high.size();
      found |= low <= character && character <= high;
    } else {
      found |= low == character;
    }
  }
  return found != negated;
}

}  // namespace

bool matches(const std::string& pattern, const std::string& name) {
  std::size_t p = 0, n = 0;
  // The last star, and how much of the name it has taken: it takes one more where the rest fails.
  std::size_t star = std::string::npos, taken = 0;
  while (n < name.size()) {
    const std::string character = character_at(name, n);
    std::size_t next = std::string::npos;  // where the pattern goes on if it matches here
    if (p < pattern.size()) {
      const std::size_t close = pattern[p] == '[' ? closing(pattern, p) : std::string::npos;
      if (pattern[p] == '*') {
        star = ++p;
        taken = n;
        continue;
      }
      if (close != std::string::npos) {
        if (is_among(character, pattern, p, close)) next = close + 1;
      } else if (pattern[p] == '?' || character_at(pattern, p) == character) {
        next = p + length_at(pattern, p);
      }
    }
    if (next != std::string::npos) {
      p = next;
      n += character.size();
    } else if (star != std::string::npos) {
      taken += length_at(name, taken);
      n = taken;
      p = star;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace datasparse
