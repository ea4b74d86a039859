#include "shard_selection.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "datasparse/error.hpp"
#include "params.hpp"
#include "self.hpp"

namespace py = pybind11;
using datasparse::ShardHint;
using datasparse::ShardSearch;
using datasparse::ShardSelection;

namespace {

using HintTuple = std::tuple<std::uint64_t, std::int64_t, std::int64_t, double, double>;

ShardHint to_hint(py::handle given) {
  const auto [key, position, pruned, keys_per_block, error] = given.cast<HintTuple>();
  return {key, position, pruned, keys_per_block, error};
}

std::vector<ShardHint> to_hints(const py::object& given) {
  std::vector<ShardHint> hints;
  if (given.is_none()) return hints;
  for (const auto hint : given) hints.push_back(to_hint(hint));
  return hints;
}

py::tuple to_python(const std::vector<ShardHint>& hints) {
  py::tuple all(hints.size());
  for (std::size_t i = 0; i < hints.size(); ++i) {
    const ShardHint& hint = hints[i];
    all[i] = py::make_tuple(hint.key, hint.position, hint.pruned, hint.keys_per_block, hint.error);
  }
  return all;
}

ShardSearch to_search(const py::dict& given) {
  ShardSearch search;
  search.groups = given["groups"].cast<std::vector<std::size_t>>();
  for (const auto& [blocks, weight, least, most] :
       given["members"]
           .cast<
               std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>>>()) {
    search.plan.members.push_back({blocks, weight, least, most});
  }
  search.plan.budget = given["budget"].cast<std::int64_t>();
  if (given.contains("past")) search.past = given["past"].cast<std::vector<std::int64_t>>();
  if (given.contains("finer")) search.is_finer = given["finer"].cast<std::vector<bool>>();
  search.is_wide = given["wide"].cast<bool>();
  search.has_sign = given["has_sign"].cast<bool>();
  search.key_step = given["key_step"].cast<int>();
  search.hints = to_hints(given["hint"]);
  return search;
}

/// Groups, positions of their first blocks, keys and positions of the places.
py::tuple to_python(const ShardSelection::Question& question) {
  const auto count = static_cast<py::ssize_t>(question.places.size());
  py::array_t<std::uint64_t> keys(count);
  py::array_t<std::int64_t> positions(count);
  for (py::ssize_t i = 0; i < count; ++i) {
    keys.mutable_at(i) = question.places[static_cast<std::size_t>(i)].key;
    positions.mutable_at(i) = question.places[static_cast<std::size_t>(i)].position;
  }
  return py::make_tuple(py::tuple(py::cast(*question.groups)), py::tuple(py::cast(*question.first)),
                        keys, positions);
}

py::tuple to_python(const datasparse::ShardOrder& order) {
  return py::make_tuple(order.is_returning, order.by_own_keys);
}

void require_index(std::size_t index, std::size_t count, const char* what) {
  if (index < count) return;
  throw py::index_error(std::string(what) + " must be less than " + std::to_string(count) +
                        ", got " + std::to_string(index));
}

void require_length(const Numbers& array, std::size_t length, const char* what) {
  if (array.ndim() == 1 && static_cast<std::size_t>(array.size()) == length) return;
  throw datasparse::ValueError(std::string(what) + " must be an array of " +
                               std::to_string(length) + " entries, got one of " +
                               std::to_string(array.size()));
}

void add(const ShardSelection& self, std::size_t question, std::size_t member,
         const Numbers& counts, Numbers numbers) {
  require_index(question, self.questions().size(), "question");
  const auto& asked = self.questions()[question];
  require_index(member, asked.groups->size(), "member");
  require_length(counts, asked.places.size() + 1, "counts");
  require_length(numbers, self.size(), "numbers");
  self.add(asked, member, counts.data(), numbers.mutable_data());
}

}  // namespace

std::vector<ShardSearch> to_searches(const py::iterable& given) {
  std::vector<ShardSearch> all;
  for (const auto search : given)
    all.push_back(to_search(to_dict(search, "a search is a " + class_name(search))));
  return all;
}

void register_shard_selection(py::module_& module) {
  py::class_<ShardSelection>(
      module, "ShardSelection",
      R"(The places at which some searches stop in tensors of which nobody sees more than a part.

It asks how many blocks come before some places, and is told the sums of what all have counted who have
parts. It decides by these sums alone, so all who are told the same decide alike.)")
      .def(py::init([](const py::iterable& searches, std::int64_t most) {
             return std::make_unique<ShardSelection>(to_searches(searches), most);
           }),
           py::arg("searches"), py::arg("most") = 8192)
      .def_property_readonly("done", &ShardSelection::done, "Whether all searches have stopped.")
      .def_property_readonly("size", &ShardSelection::size,
                             "How many numbers the answers to all questions are.")
      .def_property_readonly("rounds", &ShardSelection::rounds, "How many sums it was told.")
      .def_property_readonly(
          "questions",
          [](const ShardSelection& self) {
            py::list all;
            for (const auto& question : self.questions()) all.append(to_python(question));
            return all;
          },
          R"(What is asked now: a (groups, first, keys, positions) for each search that goes on.

groups: those that are counted, in the order of the search.
first: the position of the first block of each.
keys, positions: arrays of uint64 and of int64, the places, ascending. A block comes before a place if its
    key is less, or equal and its position, first + its index in the tensor, is less.)")
      .def_property_readonly(
          "orders",
          [](const ShardSelection& self) {
            py::list all;
            for (const auto& question : self.questions()) all.append(to_python(question.order));
            return all;
          },
          R"(In which order the places of each question are: an (is_returning, by_own_keys).

is_returning: only blocks that the mask before has pruned come before a place; else all of them come first.
by_own_keys: those of the one group, not the keys that all groups of a search have in common.)")
      .def("add", &add, py::arg("question"), py::arg("member"), py::arg("counts"),
           py::arg("numbers").noconvert(),
           R"(Add what a part of a group has counted to numbers, an array of int64 and length size.

question: an index into questions; member: one into its groups.
counts: how many blocks of the part come before each place, and last how many it has.)")
      .def(
          "expect",
          [](ShardSelection& self, std::size_t search, const py::tuple& hint) {
            self.expect(search, to_hint(hint));
          },
          py::arg("search"), py::arg("hint"),
          R"(Begin a search anew by a hint, one of the tuples that hint() returns. All who take part must do the same.

StateError after the first tell().)")
      .def(
          "tell",
          [](ShardSelection& self, const Numbers& sums) {
            require_length(sums, self.size(), "sums");
            self.tell({sums.data(), sums.data() + sums.size()});
          },
          py::arg("sums"),
          R"(Take the sums over all parts, and ask the next questions.

ValueError where they do not add up to the tensors, and then nothing has changed.)")
      .def(
          "stop",
          [](const ShardSelection& self, std::size_t group) {
            const auto place = self.stop(group);
            return py::make_tuple(place.key, place.position);
          },
          py::arg("group"),
          R"(Once done: the (key, position) before which the blocks of a group are pruned.

position is the index of a block in the whole tensor.)")
      .def(
          "order",
          [](const ShardSelection& self, std::size_t group) {
            return to_python(self.order(group));
          },
          py::arg("group"), "Once done: the order in which stop(group) is a place, as in orders.")
      .def(
          "hint",
          [](const ShardSelection& self, std::size_t search) {
            return to_python(self.hints(search));
          },
          py::arg("search"),
          R"(Once done: what the next search of the same groups begins with, tuples of plain numbers.

It is a wish: one that misleads costs rounds. All who take part must have the same.)");
}
