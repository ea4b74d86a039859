// Elements of two bytes to where bits are set, eight at a time. Included as generic.inl is, behind
// shuffled().

/// For the bits of a byte, which bytes of eight values the elements get; 0x80 and more: zeros.
struct Shuffles {
  alignas(16) std::uint8_t of[256][16] = {};
  constexpr Shuffles() noexcept {
    for (unsigned byte = 0; byte < 256; ++byte) {
      unsigned taken = 0;
      for (unsigned i = 0; i < 8; ++i) {
        const bool is_set = (byte >> i & 1U) != 0;
        for (unsigned b = 0; b < 2; ++b) {
          of[byte][2 * i + b] = static_cast<std::uint8_t>(is_set ? 2 * taken + b : 0x80);
        }
        if (is_set) ++taken;
      }
    }
  }
};
constexpr Shuffles shuffles;

TARGET std::int64_t expand(std::byte* data, const std::byte* values, const std::byte* end,
                           const std::uint8_t* bits, std::int64_t n) noexcept {
  std::int64_t done = 0;
  for (; n - done >= 8 && end - values >= 16; done += 8) {
    const std::uint8_t byte = bits[done / 8];
    shuffled(data + 2 * done, values, shuffles.of[byte]);
    values += 2 * __builtin_popcount(byte);
  }
  return done;
}
