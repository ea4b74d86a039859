/// Sparsifiers that Python may subclass.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "collector.hpp"
#include "copying.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/regrowth.hpp"
#include "gil.hpp"
#include "gradients.hpp"
#include "initialise.hpp"
#include "mask_object.hpp"
#include "override.hpp"
#include "params.hpp"
#include "regrowth.hpp"
#include "score_recipe.hpp"
#include "self.hpp"
#include "source.hpp"

/// The Python side of any sparsifier that was made in Python.
class PySparsifierSide : public SourceOwner {
 public:
  MaskObjects mask_objects;
  std::int64_t moves_seen = 0;  // GroupTable::moves() when the mask objects were last brought along
  Gradients gradients;
  /// What groups are ranked by; null for their norms, or an override.
  std::shared_ptr<const ScoreRecipe> recipe;

  /// Ranks by a score from now on; not by None. TypeError for what is no score, or where an
  /// override would be called in its place.
  void take(const pybind11::object& self, const pybind11::object& score);

 protected:
  PySparsifierSide() = default;
  ~PySparsifierSide() = default;
};

/// Names what a sparsifier lets subclasses call, for std::invoke().
struct ForSubclasses : datasparse::BaseDataSparsifier {
  using BaseDataSparsifier::check_defaults;
  using BaseDataSparsifier::restore;
  using BaseDataSparsifier::run_as_update;
};

/// Whether a class has a get_scores().
template <class T, class = void>
constexpr bool has_scores = false;
template <class T>
constexpr bool has_scores<T, std::void_t<decltype(&T::get_scores)>> = true;

template <class Base>
class PySparsifier : public WithPythonAttributes<Base>,
                     public PySparsifierSide,
                     public pybind11::trampoline_self_life_support {
 public:
  template <class... Arguments>
  explicit PySparsifier(Arguments&&... arguments)
      : WithPythonAttributes<Base>(std::forward<Arguments>(arguments)...) {
    this->access_data_by([](const std::function<void()>& work) {
      const AcquiredGil gil;
      work();
    });
  }

  /// Whether update_mask() is the class's own, and not the one that computes what its rule would.
  static constexpr bool updates_in_turn() {
    return !datasparse::is_of_spec_sparsifier<decltype(&Base::update_mask)>;
  }

  static constexpr bool is_abstract = std::is_same_v<Base, datasparse::BaseDataSparsifier>;

  void update_mask(const std::string& name, const datasparse::ArrayView& data,
                   const datasparse::ParamMap& config) override {
    const AcquiredGil gil;
    const auto override = override_of("update_mask");
    const pybind11::object self = pybind11::cast(static_cast<const Base*>(this));
    if (!override) {
      if constexpr (!is_abstract) return Base::update_mask(name, data, config);
      must_override(self, "update_mask()");
    }
    const auto source = std::dynamic_pointer_cast<PySource>(this->get_data(name));
    try {
      const auto result = noting(datasparse::label("in update_mask()", name), [&] {
        return source->call(override, pybind11::make_tuple(name, source->array_for_override()),
                            to_python(config));
      });
      if (!result.is_none()) {
        throw datasparse::TypeError(class_name(self) + ".update_mask() returned " +
                                    class_name(result) +
                                    ", expected None: change get_mask(name) in place");
      }
    } catch (...) {
      mask_objects.restore(name);
      throw;
    }
    mask_objects.adopt(name);
  }

  void check_config(const std::string& name, const datasparse::ParamMap& config) const override {
    if (recipe != nullptr && recipe->is_signed) require_no_norm(name, config);
    if (foreign_.check_config) {
      const AcquiredGil gil;
      if (const auto override = override_of("check_config")) {
        call_python(override, pybind11::make_tuple(name, to_python(config)));
        return;
      }
    }
    Base::check_config(name, config);
  }

  bool is_integer_param(const std::string& key) const override {
    const AcquiredGil gil;
    const auto override = override_of("is_integer_param");
    if (!override) return Base::is_integer_param(key);
    const pybind11::object result = call_python(override, pybind11::make_tuple(key));
    if (PyBool_Check(result.ptr())) return result.ptr() == Py_True;
    throw datasparse::TypeError(class_name(pybind11::cast(static_cast<const Base*>(this))) +
                                ".is_integer_param() returned " + class_name(result) +
                                ", expected bool");
  }

 protected:
  datasparse::BaseDataSparsifier::ForeignHooks foreign_hooks() const override {
    const AcquiredGil gil;
    foreign_.update_mask = updates_in_turn() || override_of("update_mask");
    foreign_.check_config = (recipe != nullptr && recipe->is_signed) || override_of("check_config");
    foreign_.get_scores = get_scores_hook();
    if constexpr (std::is_base_of_v<datasparse::RegrowthSparsifier, Base>) {
      foreign_.growth = this->growth();
      foreign_.get_gradients = gradients_from_python;
    }
    return foreign_;
  }
  std::string score_name() const override { return recipe == nullptr ? "" : recipe->name; }

 private:
  pybind11::function override_of(const char* method) const {
    return ::override_of(pybind11::cast(static_cast<const Base*>(this)), method);
  }

  /// ForeignHooks::get_scores. An update_mask() of Python's gets the user's own array.
  datasparse::BaseDataSparsifier::GetScores get_scores_hook() const {
    if constexpr (has_scores<Base>) {
      if (foreign_.update_mask) return nullptr;
      if (recipe != nullptr) return scores_from_recipe;
      if (override_of("get_scores")) return scores_from_python;
      if constexpr (!datasparse::is_of_spec_sparsifier<decltype(&Base::get_scores)>) {
        return Base::own_scores;
      }
    }
    return nullptr;
  }

  /// What an override of get_scores() returns; nullptr where it is the data.
  static std::shared_ptr<datasparse::DataSource> scores_from_python(
      datasparse::BaseDataSparsifier& self, const std::string& name, const datasparse::ArrayView&,
      const datasparse::ParamMap& config) {
    const AcquiredGil gil;
    const auto override = static_cast<PySparsifier&>(self).override_of("get_scores");
    const auto source = std::dynamic_pointer_cast<PySource>(self.get_data(name));
    const pybind11::object data = source->array_for_override();
    const pybind11::object scores = noting(datasparse::label("in get_scores()", name), [&] {
      return source->call(override, pybind11::make_tuple(name, data), to_python(config));
    });
    if (scores.is(data)) return nullptr;
    return source_of_result(scores, datasparse::label("scores", name));
  }

  /// What the score makes of the group; nullptr where it is the data.
  static std::shared_ptr<datasparse::DataSource> scores_from_recipe(
      datasparse::BaseDataSparsifier& self, const std::string& name, const datasparse::ArrayView&,
      const datasparse::ParamMap&) {
    const AcquiredGil gil;
    const auto source = std::dynamic_pointer_cast<PySource>(self.get_data(name));
    const pybind11::object data = source->array_for_override();
    const auto& score = static_cast<PySparsifier&>(self).recipe->object;
    const pybind11::object scores = source->call(
        score.attr("_answer"), pybind11::make_tuple(pybind11::cast(&self), name, data), {});
    if (scores.is(data)) return nullptr;
    return source_of_result(scores, datasparse::label("scores", name));
  }

  /// Of a score that has a sign, a norm would prune what is nearest to 0.
  void require_no_norm(const std::string& name, const datasparse::ParamMap& config) const {
    const auto* const norm = config.find("norm");
    if (norm == nullptr || norm->is_none()) return;
    throw datasparse::ValueError(datasparse::label("norm", name) + " must be None with " +
                                 recipe->name + ", whose sign counts: the lowest go; got " +
                                 to_string(*norm));
  }

  // Written, and read, under the sparsifier's lock.
  mutable datasparse::BaseDataSparsifier::ForeignHooks foreign_;
};

/// How the collector sees a sparsifier: through to the arrays and masks.
struct SparsifierAccess {
  static int traverse(datasparse::BaseDataSparsifier& sparsifier, visitproc visit, void* arg) {
    const auto* const side = dynamic_cast<PySparsifierSide*>(&sparsifier);
    if (side == nullptr) return 0;
    if (const int stop = side->mask_objects.traverse(visit, arg)) return stop;
    for (const auto* source : side->sources()) {
      if (const int stop = source->traverse(visit, arg)) return stop;
    }
    return 0;
  }
  static void clear(datasparse::BaseDataSparsifier& sparsifier) {
    auto* const side = dynamic_cast<PySparsifierSide*>(&sparsifier);
    if (side == nullptr) return;
    // What one source releases may remove another: work on a copy.
    const auto sources = side->sources();
    for (auto* source : sources) {
      if (side->sources().count(source) != 0) source->clear();
    }
    side->mask_objects.clear();
  }
};

/// The Python side of a sparsifier; TypeError for one that C++ has made.
template <class T>
PySparsifierSide& side_of(const Self<T>& self) {
  auto* const side = dynamic_cast<PySparsifierSide*>(&*self);
  if (side == nullptr) throw datasparse::TypeError("this sparsifier was not made in Python");
  return *side;
}

/// Has the mask objects that users hold show masks that have followed their data to other devices.
/// After whatever may have moved some. With the interpreter's lock.
void follow_moves(const datasparse::BaseDataSparsifier& sparsifier);
/// Calls `work`, which may bring masks to other devices, without the interpreter's lock. What users
/// have pointed their mask objects to must have been adopted.
template <class Work>
void moving_masks(const datasparse::BaseDataSparsifier& sparsifier, const Work& work) {
  try {
    without_gil(work);
  } catch (...) {
    follow_moves(sparsifier);
    throw;
  }
  follow_moves(sparsifier);
}
/// A group's source, null where it was squashed, and its mask; both of the same moment, so that a
/// mask object made from them stays right while another thread replaces the group. Where the data
/// have moved, the mask is brought along.
std::pair<std::shared_ptr<PySource>, datasparse::Mask> source_and_mask(
    const datasparse::BaseDataSparsifier& sparsifier, const std::string& name);

/// Binds the making of an empty T, which copies and pickles fill. Before any other py::init.
template <class T, class Class>
void def_construct_empty(Class& cls) {
  cls.def(pybind11::init([] { return new PySparsifier<T>(); }));
  const pybind11::object construct = cls.attr("__init__");
  cls.def("_construct_empty", [construct](const pybind11::object& self) { construct(self); });
}

/// Binds what every T with a rule of its own has beside its __init__: get_scores(), update_mask()
/// and check_config(), which overrides in Python reach by super().
template <class T, class Class>
void def_sparsifier(Class& cls, const char* get_scores_doc, const char* update_mask_doc,
                    const char* check_config_doc) {
  def_construct_empty<T>(cls);
  cls.def(
      "get_scores",
      [](const Self<T>& self, const Name& name, const pybind11::object& data,
         const pybind11::kwargs&) -> pybind11::object {
        const auto recipe = side_of(self).recipe;
        if (recipe == nullptr) return data;
        return recipe->object.attr("_answer")(self.handle(), static_cast<std::string>(name), data);
      },
      pybind11::arg("name"), pybind11::arg("data"), get_scores_doc);
  cls.def(
      "update_mask",
      [](const Self<T>& self, const Name& name, const pybind11::object& data,
         const pybind11::kwargs& config) {
        const auto source = make_source(data, datasparse::label("data", name), nullptr);
        const datasparse::Pin pin(*source);
        const datasparse::ParamMap given = to_param_map(config, name);
        side_of(self);
        const datasparse::Mask mask = source_and_mask(*self, name).second;
        if (&mask.device() != &source->device()) {
          throw datasparse::TypeError(datasparse::label("data", name) +
                                      " must be on the device of the group, " +
                                      mask.device().name() + ", got " + source->device().name());
        }
        without_gil([&] {
          std::invoke(&ForSubclasses::run_as_update, *self, [&] {
            datasparse::ParamMap complete = self->config(name);
            complete.update(given);
            self->T::update_mask(name, pin.view(), complete);
          });
        });
      },
      pybind11::arg("name"), pybind11::arg("data"), update_mask_doc);
  cls.def(
      "check_config",
      [](const Self<T>& self, const Name& name, const pybind11::object& config) {
        self->T::check_config(name, to_param_map(config, name));
      },
      pybind11::arg("name"), pybind11::arg("config"), check_config_doc);
  cls.def(
      "is_integer_param",
      [](const Self<T>& self, const std::string& key) { return self->T::is_integer_param(key); },
      pybind11::arg("key"),
      R"(Whether a config key takes integers only, so that a DataScheduler must round to one.

An override that declares keys of its own passes the others on.)");
}

/// What every sparsifier's __init__ does once its overrides can be reached.
void finish_init(const pybind11::object& self, const pybind11::object& data_list);

/// TypeError where the keywords of a sparsifier that takes no score have one; it says what to do.
void refuse_score(const pybind11::object& self, const pybind11::dict& given);

/// Binds __init__(data_list=None, *fields of the Spec, **own keys) of a SpecSparsifier, and the
/// tuple `config_keys` of its fields. With `takes_score` it has the keyword `score`, too.
template <class T, class Spec, class Class>
void def_init_of_spec(Class& cls, bool takes_score = false) {
  namespace py = pybind11;
  py::list keys;
  for (const auto& field : Spec::fields()) keys.append(std::string(field.key));
  cls.attr("config_keys") = py::tuple(keys);
  cls.def(py::init([](const py::dict& spec, const py::dict& own) {
    return new PySparsifier<T>(
        datasparse::spec_of<Spec>(to_param_map(spec, ""), "", datasparse::OtherKeys::refuse),
        to_param_map(own, ""));
  }));
  const py::object construct = cls.attr("__init__");
  def_plainly(cls, "__init__",
              [construct, takes_score](const py::object& self, const py::args& args,
                                       const py::kwargs& given) {
                refuse_second_init(self);
                const py::dict own = given.attr("copy")();
                if (!takes_score) refuse_score(self, own);
                const py::object score = takes_score
                                             ? py::object(own.attr("pop")("score", py::none()))
                                             : py::object(py::none());
                std::size_t place = 0;
                const auto take = [&](std::string_view key) -> py::object {
                  const py::str name(key.data(), key.size());
                  if (place >= args.size()) return own.attr("pop")(name, py::ellipsis());
                  if (!own.contains(name)) return args[place++];
                  throw datasparse::TypeError(class_name(self) + "() got two values for " +
                                              std::string(key));
                };
                const py::object data_list = take("data_list");
                py::dict spec;
                for (const auto& field : Spec::fields()) {
                  const py::object value = take(field.key);
                  if (!value.is(py::ellipsis())) spec[py::str(std::string(field.key))] = value;
                }
                if (place < args.size()) {
                  throw datasparse::TypeError(
                      class_name(self) + "() takes at most " + std::to_string(place) +
                      " positional arguments, got " + std::to_string(args.size()));
                }
                const bool is_signed = !score.is_none() && ScoreRecipe::of(score)->is_signed;
                if (is_signed && !spec.contains("norm")) spec["norm"] = py::none();
                construct(self, spec, own);
                side_of(Self<T>(self)).take(self, score);
                finish_init(self, data_list.is(py::ellipsis()) ? py::none() : data_list);
              });
}

/// Calls `load`, which loads the state, without the interpreter's lock; mask objects that the user
/// holds go on showing the masks, also of groups that it squashes.
void around_load(pybind11::handle self, const datasparse::SparsifierState& state,
                 const std::function<void()>& load);
