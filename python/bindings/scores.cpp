// Scores as recipes: what they sum up, and what they are given.

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <utility>

#include "datasparse/error.hpp"
#include "datasparse/group_arrays.hpp"
#include "datasparse/group_table.hpp"
#include "device_torch.hpp"
#include "gil.hpp"
#include "gradients.hpp"
#include "group_arrays.hpp"
#include "score_recipe.hpp"
#include "sparsifier_trampoline.hpp"

namespace py = pybind11;
using datasparse::BaseDataSparsifier;
using datasparse::GroupArrays;
using datasparse::ScoreTerm;
using datasparse::ValueError;

namespace {

using SelfSparsifier = Self<BaseDataSparsifier>;

constexpr std::array<std::pair<const char*, ScoreTerm>, 7> terms{
    {{"gradient", ScoreTerm::gradient},
     {"abs_gradient", ScoreTerm::abs_gradient},
     {"square_gradient", ScoreTerm::square_gradient},
     {"product", ScoreTerm::product},
     {"abs_product", ScoreTerm::abs_product},
     {"square_product", ScoreTerm::square_product},
     {"weighted_square", ScoreTerm::weighted_square}}};

ScoreTerm to_term(const std::string& name) {
  for (const auto& [known, term] : terms) {
    if (name == known) return term;
  }
  throw ValueError("no term of a score is called '" + name + "'");
}

const char* to_name(ScoreTerm of) {
  for (const auto& [known, term] : terms) {
    if (of == term) return known;
  }
  return "";
}

/// scale · term of each element, as a new array.
py::object score_terms(const std::string& term, const py::object& weight,
                       const py::object& gradient, double scale) {
  const auto kind = to_term(term);
  const auto weights = make_source(weight, "weight", nullptr);
  const auto gradients = make_source(gradient, "gradient", nullptr);
  const datasparse::Pin w(*weights), g(*gradients);
  if (&weights->device() != &gradients->device()) {
    throw datasparse::TypeError("gradient must be on the device of the weight, " +
                                weights->device().name() + ", got " + gradients->device().name());
  }
  if (w.view().shape() != g.view().shape()) {
    throw ValueError("gradient must have the shape of the weight, " + to_string(w.view().shape()) +
                     ", got " + to_string(g.view().shape()));
  }
  if (&weights->device() != &datasparse::cpu()) {
    const auto& device = dynamic_cast<TorchDevice&>(weights->device());
    return device.function("score_terms")(term, weights->array(), gradients->array(), scale);
  }
  datasparse::KeptArray result(datasparse::sums_type(w.view().dtype()), w.view().shape());
  without_gil([&] { add_score_terms(kind, scale, w.view(), g.view(), result); });
  return to_numpy(result);
}

/// The names of the groups whose masks a step renews.
std::vector<std::string> renewed(const SelfSparsifier& self) {
  return without_gil([&] {
    const datasparse::GroupTable table(*self);
    auto names = table.active(self->names());
    names.erase(std::remove_if(names.begin(), names.end(),
                               [&](const std::string& name) { return table.row(name).frozen; }),
                names.end());
    return names;
  });
}

/// StateError from inside an override.
void refuse_inside(const SelfSparsifier& self, const char* call) {
  if (!datasparse::GroupTable(*self).in_override()) return;
  throw datasparse::StateError(
      std::string(call) + " must not be called from inside an override of the same sparsifier");
}

/// What samples make of the sums of groups on devices of torch: computed first, and kept when those
/// of the CPU are added, since that fails before the first or not at all.
class DeviceSums {
 public:
  using ScoreSums = datasparse::ScoreSums;
  using Sample = ScoreSums::Sample;

  /// Takes those on devices out of the samples. ValueError and TypeError as of ScoreSums::add().
  DeviceSums(const SelfSparsifier& self, const ScoreRecipe::Fused& fused, double decay,
             std::vector<Sample>& samples)
      : self_(self) {
    const auto is_there = [&](const Sample& sample) {
      const auto data = without_gil([&] { return self->get_data(sample.name); });
      datasparse::Device& device = data->device();
      if (&device == &datasparse::cpu()) return false;
      Asked& asked = asked_of(dynamic_cast<TorchDevice&>(device));
      asked.names.append(sample.name);
      asked.weights.append(std::dynamic_pointer_cast<PySource>(data)->array_for_override());
      asked.gradients.append(
          std::dynamic_pointer_cast<PySource>(sample.gradient)->array_for_override());
      auto sums = array_of(sample, ScoreSums::sums);
      asked.before.append(sums ? to_tensor(*sums, device) : py::none());
      asked.places.push_back(kept_.size());
      kept_.push_back({sample.name, {}, datasparse::KeptArray(Type::int64, {})});
      if (sums) kept_.back().samples = count_of(sample);
      ++*reinterpret_cast<std::int64_t*>(kept_.back().samples.write());
      return true;
    };
    samples.erase(std::remove_if(samples.begin(), samples.end(), is_there), samples.end());
    for (const auto& [device, names, weights, gradients, before, places] : asked_) {
      const py::list sums = call_python(device->function("add_samples"),
                                        py::make_tuple(to_name(fused.term), fused.scale, decay,
                                                       names, weights, gradients, before));
      for (std::size_t i = 0; i < places.size(); ++i) kept_[places[i]].sums = kept_there(sums[i]);
    }
  }
  void keep() {
    without_gil([&] {
      GroupArrays arrays(*self_);
      for (auto& [name, sums, samples] : kept_) {
        arrays.set(name, ScoreSums::sums, std::move(sums));
        arrays.set(name, ScoreSums::samples, std::move(samples));
      }
    });
  }

 private:
  using Type = datasparse::KeptArray::Type;
  struct Kept {
    std::string name;
    datasparse::KeptArray sums, samples;
  };

  /// What one device is asked for; of shards, all ranks ask in the same order.
  struct Asked {
    TorchDevice* device = nullptr;
    py::list names, weights, gradients, before;
    std::vector<std::size_t> places;  // among what is kept
  };
  Asked& asked_of(TorchDevice& device) {
    for (auto& asked : asked_) {
      if (asked.device == &device) return asked;
    }
    asked_.emplace_back().device = &device;
    return asked_.back();
  }

  std::optional<datasparse::KeptArray> array_of(const Sample& sample, const char* key) const {
    return without_gil([&] { return GroupArrays(*self_).get(sample.name, key); });
  }

  /// How many samples there are in sums that are there. ValueError for an array that is no count.
  datasparse::KeptArray count_of(const Sample& sample) const {
    auto count = array_of(sample, ScoreSums::samples);
    if (count && count->type() == Type::int64 && count->byte_count() == sizeof(std::int64_t)) {
      return *std::move(count);
    }
    throw ValueError("samples of '" + sample.name +
                     "' must be the int64 that counts its sums: call reset_score() first");
  }

  const SelfSparsifier& self_;
  std::vector<Kept> kept_;
  std::vector<Asked> asked_;
};

void accumulate(const SelfSparsifier& self) {
  auto& side = side_of(self);
  refuse_inside(self, "accumulate()");
  const auto recipe = side.recipe;
  if (recipe == nullptr || !recipe->accumulates) return;
  if (!without_gil([&] { return self->enable_mask_update(); })) return;
  std::vector<datasparse::ScoreSums::Sample> samples;
  for (const auto& name : renewed(self)) {
    auto gradient = side.gradients.of(*self, name);
    if (!recipe->fused) {
      const auto data = without_gil([&] { return self->get_data(name); });
      const auto source = std::dynamic_pointer_cast<PySource>(data);
      const py::object sample = source->call(
          recipe->object.attr("sample"),
          py::make_tuple(source->array_for_override(), gradient->array_for_override()), py::dict());
      gradient = source_of_result(sample, datasparse::label("sample", name));
    }
    samples.push_back({name, std::move(gradient)});
  }
  const auto fused = recipe->fused.value_or(ScoreRecipe::Fused{ScoreTerm::gradient, 1.0});
  DeviceSums there(self, fused, recipe->decay, samples);
  without_gil(
      [&] { datasparse::ScoreSums(*self).add(fused.term, fused.scale, samples, recipe->decay); });
  there.keep();
  side.gradients.clear();
}

py::object get_gradient(const SelfSparsifier& self, const Name& name) {
  const auto gradient = side_of(self).gradients.of(*self, name);
  const auto row = without_gil([&] { return datasparse::GroupTable(*self).row(name); });
  const datasparse::Pin pin(*gradient);
  const std::string what = datasparse::label("gradient", name);
  if (pin.view().shape() != row.mask.shape()) {
    throw ValueError(what + " must have the shape of its data, " + to_string(row.mask.shape()) +
                     ", got " + to_string(pin.view().shape()));
  }
  // Nobody shall wait for a device because of a check.
  const bool is_here = &gradient->device() == &datasparse::cpu();
  if (is_here && !without_gil([&] { return datasparse::is_finite(pin.view()); })) {
    throw ValueError(what + " must be finite, got infinite values or NaN; leave such a step out");
  }
  return gradient->array_for_override();
}

/// What is listed, and what the core keeps for it whether it is listed or not.
std::vector<std::string> arrays_of(const ScoreRecipe& recipe) {
  using datasparse::ScoreSums;
  auto keys = recipe.arrays;
  keys.emplace_back(scores_made_ahead);
  if (!recipe.accumulates) return keys;
  for (const char* const key : {ScoreSums::sums, ScoreSums::samples}) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.emplace_back(key);
  }
  return keys;
}

void reset_score(const SelfSparsifier& self) {
  const auto recipe = side_of(self).recipe;
  if (recipe == nullptr) return;
  without_gil([&] { GroupArrays(*self).erase_all(arrays_of(*recipe)); });
}

std::int64_t score_bytes(const SelfSparsifier& self) {
  const auto recipe = side_of(self).recipe;
  if (recipe == nullptr) return 0;
  return without_gil([&] { return GroupArrays(*self).bytes(arrays_of(*recipe)); });
}

}  // namespace

std::shared_ptr<const ScoreRecipe> ScoreRecipe::of(const py::object& score) {
  const py::module_ scores = py::module_::import("datasparse.scores");
  const auto name = scores.attr("_as_text")(score).cast<std::string>();
  const py::object sum = score.attr("_fused")();
  std::optional<Fused> fused;
  if (!sum.is_none()) {
    const auto [term, scale] = sum.cast<std::pair<std::string, double>>();
    fused = Fused{to_term(term), scale};
  }
  const bool accumulates = py::cast<bool>(score.attr("accumulates"));
  const double decay =
      accumulates ? py::getattr(score, "decay", py::float_(1.0)).cast<double>() : 1.0;
  auto* const made = new ScoreRecipe{score,
                                     name,
                                     py::cast<bool>(score.attr("signed")),
                                     py::cast<bool>(score.attr("reads_gradients")),
                                     accumulates,
                                     score.attr("arrays").cast<std::vector<std::string>>(),
                                     fused,
                                     decay};
  return {made, [](const ScoreRecipe* last) { let_go([last] { delete last; }); }};
}

void PySparsifierSide::take(const py::object& self, const py::object& score) {
  if (score.is_none()) return;
  auto made = ScoreRecipe::of(score);
  for (const char* const method : {"get_scores", "update_mask"}) {
    if (!override_of(self, method)) continue;
    throw datasparse::TypeError(class_name(self) +
                                " must not be given a score, since it overrides " + method +
                                "(), got " + made->name + ": leave the one or the other out");
  }
  recipe = std::move(made);
}

void refuse_score(const py::object& self, const py::dict& given) {
  if (!given.contains("score")) return;
  const py::object score = given["score"];
  const py::object base = py::module_::import("datasparse.scores").attr("Score");
  const bool is_class = PyType_Check(score.ptr()) != 0 && py::hasattr(score, "get_scores");
  if (!py::isinstance(score, base) && !is_class) return;  // of a key of one's own
  const auto text =
      py::str(is_class ? score.attr("__name__") : py::repr(score)).cast<std::string>();
  const std::string made = is_class ? text + "()" : text;
  throw datasparse::TypeError(class_name(self) + "() takes no score, got " + text +
                              ": a step drops by what get_scores(self, name, data, **config) "
                              "returns; override that in a subclass, and return " +
                              made + ".get_scores(self, name, data)");
}

void register_scores(py::module_& module) {
  module.def("_score_terms", &score_terms, py::arg("term"), py::arg("weight"), py::arg("gradient"),
             py::arg("scale") = 1.0);
  const auto read = [](auto value_of) {
    return [value_of](const SelfSparsifier& self) { return value_of(side_of(self).recipe.get()); };
  };
  const py::object base = module.attr("BaseDataSparsifier");
  auto cls = py::reinterpret_borrow<py::class_<BaseDataSparsifier>>(base);
  cls.def(
         "accumulate", &accumulate,
         R"(Add the gradients that are there to what the score keeps: once a step, before the update.

By hand: after backward(), before optimizer.step(), with gradients that a GradScaler has unscaled.
Attachment.follow() calls it. Nothing happens where there is no score, one that keeps nothing, or where
enable_mask_update is False; frozen and squashed groups are left out.

ValueError, naming the group, where a gradient is missing, is not finite, or has another shape than the data:
nothing is added then. What set_gradients() has handed in is used up.)")
      .def("reset_score", &reset_score,
           R"(Forget what the score has accumulated, or was given for the next step.

That is the arrays under the keys that the score lists in `arrays`, and the sums of one that accumulates. What
set_array() keeps under other keys stays.)")
      .def_property_readonly("score", read([](const ScoreRecipe* recipe) {
                               return recipe == nullptr ? py::object(py::none()) : recipe->object;
                             }),
                             "What groups are ranked by in the place of their norms: of "
                             "datasparse.scores, or None.")
      .def_property_readonly("score_bytes", &score_bytes,
                             "How many bytes the score keeps, in all groups: of what "
                             "reset_score() forgets.")
      .def_property_readonly("reads_gradients", read([](const ScoreRecipe* recipe) {
                               return recipe != nullptr && recipe->reads_gradients;
                             }),
                             "Whether step() looks at gradients, and so has to come before the "
                             "optimizer's update.")
      .def(
          "set_gradients",
          [](const SelfSparsifier& self, const py::object& gradients) {
            auto& side = side_of(self);
            refuse_inside(self, "set_gradients()");
            side.gradients.set(*self, gradients, &side);
          },
          py::arg("gradients"),
          R"(Hand in gradients, for data that keep none: a mapping of names to arrays.

Each is of a kind that add_data() takes, and of its data's shape. They beat a parameter's .grad, are held
until a step() or accumulate() has used them, and take the place of those that were handed in before. They are
neither saved nor copied.

ValueError, TypeError and UnknownNameError name what does not fit; nothing has changed then.

>>> import numpy as np
>>> from datasparse.scores import Gradient
>>> sparsifier = DataNormSparsifier([("w", np.ones(4))], sparse_block_shape=(1, 1), score=Gradient())
>>> sparsifier.set_gradients({"w": np.array([0.1, -0.4, 0.2, 0.3])})
>>> sparsifier.step()
>>> sparsifier.get_mask("w")
array([False,  True, False,  True]))")
      .def(
          "get_gradient", &get_gradient, py::arg("name"),
          R"(The gradient of a group: what set_gradients() handed in, else the .grad of its parameter.

ValueError where there is none, or it is not finite; it says what to do. One pass over the gradient. A
gradient on a device is not read, and need not be finite.)");
}
