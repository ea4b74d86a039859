#include <pybind11/numpy.h>

#include <string>

#include "datasparse/error.hpp"
#include "datasparse/mask.hpp"
#include "gil.hpp"

namespace py = pybind11;

namespace {

using Bytes = py::array_t<std::uint8_t, py::array::c_style>;

std::int64_t count_set(const Bytes& bits) {
  const std::uint8_t* const begin = bits.data();
  const auto size = static_cast<std::size_t>(bits.size());
  return without_gil([&] { return datasparse::count_bits(begin, size); });
}

void expand(py::array data, const Bytes& bits) {
  const std::int64_t n = data.size();
  const auto item = static_cast<std::size_t>(data.itemsize());
  const bool is_plain = (data.flags() & py::array::c_style) != 0 && data.writeable();
  if (!is_plain || (item != 1 && item != 2 && item != 4 && item != 8)) {
    throw datasparse::ValueError(
        "data must be writable, in C order, and of elements of 1, 2, 4 or 8 bytes, got " +
        std::string(py::repr(data)));
  }
  if (bits.size() != (n + 7) / 8) {
    throw datasparse::ValueError("bits must be " + std::to_string((n + 7) / 8) +
                                 " bytes, one bit for each element, got " +
                                 std::to_string(bits.size()));
  }
  if (n % 8 != 0 && bits.data()[bits.size() - 1] >> (n % 8) != 0) {
    throw datasparse::ValueError("bits must not be set beyond the end, " + std::to_string(n));
  }
  auto* const begin = static_cast<std::byte*>(data.mutable_data());
  const std::uint8_t* const set = bits.data();
  without_gil([&] { datasparse::expand_bits(begin, set, n, item); });
}

}  // namespace

void register_packed(py::module_& module) {
  module.def("_count_bits", &count_set, py::arg("bits").noconvert(),
             "Return how many bits of an array of uint8 are set.");
  module.def("_expand", &expand, py::arg("data"), py::arg("bits").noconvert(),
             R"(Move the last elements of an array to where bits are set, and make all others zero.

data: writable, in C order, of elements of 1, 2, 4 or 8 bytes; its last ones are the values, as many as bits are set.
bits: uint8, one bit for each element, lowest first, those beyond the end not set.

ValueError for anything else. Cost: O(n), in place, without the GIL.)");
}
