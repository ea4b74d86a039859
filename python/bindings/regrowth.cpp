#include "datasparse/regrowth.hpp"

#include "initialise.hpp"
#include "regrowth.hpp"
#include "sparsifier_trampoline.hpp"

namespace py = pybind11;
using datasparse::Growth;
using datasparse::RegrowthSparsifier;
using datasparse::RegrowthSpec;

namespace {

constexpr const char* get_scores_doc =
    R"(The scores by which a step drops, in the place of a group's data: override this.

As get_scores() of DataNormSparsifier. Returns data unless overridden.)";

constexpr const char* update_mask_doc =
    R"(RuntimeError: masks that move do so in step(), all together.

Override get_scores() or get_gradients(), which step() ranks by.)";

constexpr const char* check_config_doc =
    "TypeError for a key that is no config key, TypeError or ValueError for a wrong value.";

template <class T>
void register_one(py::module_& module, const char* name, const char* doc) {
  py::class_<T, RegrowthSparsifier, PySparsifier<T>, py::smart_holder> cls(
      module, name, doc, collected<datasparse::BaseDataSparsifier, SparsifierAccess>());
  def_sparsifier<T>(cls, get_scores_doc, update_mask_doc, check_config_doc);
  def_init_of_spec<T, RegrowthSpec>(cls);
}

}  // namespace

std::shared_ptr<datasparse::DataSource> gradients_from_python(datasparse::BaseDataSparsifier& self,
                                                              const std::string& name,
                                                              const datasparse::ArrayView&,
                                                              const datasparse::ParamMap& config) {
  const AcquiredGil gil;
  const py::object object = py::cast(static_cast<RegrowthSparsifier*>(&self));
  const auto source = std::dynamic_pointer_cast<PySource>(self.get_data(name));
  const auto override = override_of(object, "get_gradients");
  if (!override) return side_of(Self<RegrowthSparsifier>(object)).gradients.of(self, name);
  const py::object gradient = noting(datasparse::label("in get_gradients()", name), [&] {
    return source->call(override, py::make_tuple(name, source->array_for_override()),
                        to_python(config));
  });
  const std::string what = datasparse::label("gradient", name);
  if (gradient.is_none()) {
    throw datasparse::ValueError(
        what + " must be an array of its data's shape, got None from get_gradients() of " +
        class_name(object) +
        ": return one, or super().get_gradients(name, data), which is what was handed in, or the "
        "parameter's .grad");
  }
  return make_source(gradient, what, nullptr);
}

void register_regrowth(py::module_& module) {
  const py::object own_name = module.attr("__name__");
  module.attr("__name__") = "datasparse.regrowth";
  py::class_<RegrowthSparsifier, datasparse::BaseDataSparsifier, py::smart_holder>(
      module, "RegrowthSparsifier",
      R"(The base of RigL, SET and Static, whose masks move; docs/regrowth.md tells the exact rule.

The first step of a group draws its mask from the seed, unless add_data() was given one; every later one
drops some of what is active, and grows as much elsewhere.)")
      .def(
          "draw",
          [](const Self<RegrowthSparsifier>& self) {
            side_of(self).mask_objects.adopt();
            moving_masks(*self, [&] { self->draw(); });
          },
          R"(Draw now all masks that the next step would draw. The others stay; step() moves all then.)")
      .def(
          "is_drawn",
          [](const Self<RegrowthSparsifier>& self, const Name& name) {
            return without_gil([&] { return self->is_drawn(name); });
          },
          py::arg("name"),
          "Whether a group has a mask, drawn, given or loaded, so that the next step moves it.")
      .def(
          "ever_active",
          [](const Self<RegrowthSparsifier>& self, const Name& name) {
            return without_gil([&] { return self->ever_active(name); });
          },
          py::arg("name"),
          R"(How many of a group's elements were active at some time: over their number, the ITOP rate.

Liu et al. 2021, "Do We Actually Need Dense Over-Parameterization?". 0 before the first mask.)")
      .def_property_readonly(
          "reads_gradients",
          [](const Self<RegrowthSparsifier>& self) {
            return self->growth() == Growth::by_gradient;
          },
          "Whether step() looks at gradients, and so has to come before the optimizer's update.")
      .def(
          "get_gradients",
          [](const Self<RegrowthSparsifier>& self, const Name& name, const py::object&,
             const py::kwargs&) {
            return side_of(self).gradients.of(*self, name)->array_for_override();
          },
          py::arg("name"), py::arg("data"),
          R"(The gradient that one group grows by: override this to take it from elsewhere.

step() calls it for each group with the user's array and the group's config as keywords, as get_scores().
Returns what set_gradients() was given, else the parameter's .grad; where there is none, and for an override
that returns None, step() raises a ValueError that says what to do.)");
  register_one<datasparse::RigL>(
      module, "RigL",
      R"(Drops the active blocks of least norm, and grows those of greatest gradient (Evci et al. 2020).

data_list: (name, data) pairs, or a mapping, to add at once.
sparsity_level: share of the blocks that are pruned, in [0, 1]; with N:M, 1.
drop_fraction: share of the active blocks that a step drops, in [0, 1]. It drops floor(drop_fraction *
    active), and grows until sparsity_level holds; what was dropped may grow again, and keeps its values.
seed: an integer, at least 0, of what is drawn.
sparse_block_shape, zeros_per_block, norm, min_kept, pool, normalize: as in DataNormSparsifier, by blocks
    of single elements unless told otherwise. min_kept not in a pool. N:M is sparsity_level=1 with
    zeros_per_block less than the block: elements are dropped over the tensor, and grow within blocks.
monotone, min_level, max_level: not with masks that move: ValueError.

These are the config keys. The first step of a group draws its mask from seed and name, unless add_data()
was given one; any later one moves it. What grows and was not active before becomes 0 in your own memory;
no other value changes, and apply_mask() zeroes what was dropped. What grew is
`sparsifier.get_mask(name) & ~mask_before`. ValueError for a gradient that is missing, and for data that
cannot be written to; nothing has changed then.

>>> import numpy as np
>>> weight = np.array([4.0, -1.0, 3.0, 0.5])
>>> gradient = np.array([0.1, 0.2, 0.3, -0.9])
>>> sparsifier = RigL(sparsity_level=0.5, drop_fraction=0.5)
>>> _ = sparsifier.add_data("w", weight, mask=np.array([True, True, False, False]))
>>> sparsifier.set_gradients({"w": gradient})
>>> sparsifier.step()
>>> sparsifier.get_mask("w")
array([ True, False, False,  True])
>>> weight
array([ 4., -1.,  3.,  0.]))");
  register_one<datasparse::SET>(
      module, "SET",
      R"(Drops the active blocks of least norm, and grows others by chance (Mocanu et al. 2018).

The config keys are those of RigL. What grows is drawn from seed, the group's name and the number of the
step: the same on every machine, and after a state was loaded. No gradient is needed.

>>> import numpy as np
>>> sparsifier = SET([("w", np.arange(1.0, 9.0))], sparsity_level=0.75, drop_fraction=0.5, seed=1)
>>> sparsifier.step()
>>> int(sparsifier.get_mask("w").sum())
2
>>> sparsifier.step()
>>> int(sparsifier.get_mask("w").sum())
2)");
  register_one<datasparse::Static>(
      module, "Static",
      R"(A random mask that never moves: what methods that move masks are compared with.

The config keys are those of RigL; drop_fraction means nothing. A given mask stays as it is.

>>> import numpy as np
>>> sparsifier = Static([("w", np.arange(8.0))], sparsity_level=0.5)
>>> sparsifier.step()
>>> int(sparsifier.get_mask("w").sum())
4)");
  module.attr("__name__") = own_name;
}
