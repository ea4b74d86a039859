#include "gradients.hpp"

#include <utility>

#include "datasparse/error.hpp"
#include "datasparse/group_table.hpp"
#include "gil.hpp"
#include "params.hpp"

namespace py = pybind11;
using datasparse::BaseDataSparsifier;
using datasparse::ValueError;

void Gradients::set(const BaseDataSparsifier& sparsifier, const py::object& by_name,
                    SourceOwner* owner) {
  decltype(given_) given;
  for (const auto& [key, gradient] : to_dict(by_name, "gradients")) {
    const auto name = to_text(key);
    const auto row = without_gil([&] { return datasparse::GroupTable(sparsifier).row(name); });
    const std::string what = datasparse::label("gradient", name);
    if (row.source == nullptr) throw ValueError(what + " is of no use: the group was squashed");
    auto source = make_source(py::reinterpret_borrow<py::object>(gradient), what, owner);
    const auto shape = datasparse::Pin(*source).view().shape();
    if (shape != row.mask.shape()) {
      throw ValueError(what + " must have the shape of its data, " + to_string(row.mask.shape()) +
                       ", got " + to_string(shape));
    }
    given.emplace(name, std::move(source));
  }
  given_.swap(given);
}

std::shared_ptr<PySource> Gradients::of(const BaseDataSparsifier& sparsifier,
                                        const std::string& name) const {
  const auto found = given_.find(name);
  if (found != given_.end()) return found->second;
  const auto data = without_gil([&] { return sparsifier.get_data(name); });
  const auto source = std::dynamic_pointer_cast<PySource>(data);
  const std::string what = datasparse::label("gradient", name);
  const py::object gradient = source->gradient();
  if (gradient.is_none()) throw ValueError(what + " is missing: " + source->gradient_advice());
  return make_source(gradient, what, nullptr);
}

void Gradients::clear() {
  const auto gone = std::move(given_);  // what they release may come back here
  given_.clear();
}
