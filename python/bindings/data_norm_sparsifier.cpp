#include "datasparse/data_norm_sparsifier.hpp"

#include "initialise.hpp"
#include "register.hpp"
#include "sparsifier_trampoline.hpp"

namespace py = pybind11;
using datasparse::BlockSpec;
using datasparse::DataNormSparsifier;

void register_data_norm_sparsifier(py::module_& module) {
  using Trampoline = PySparsifier<DataNormSparsifier>;
  py::class_<DataNormSparsifier, datasparse::BaseDataSparsifier, Trampoline, py::smart_holder> cls(
      module, "DataNormSparsifier",
      R"(Prunes the blocks of least norm; block_mask() tells the exact rule.

data_list: (name, data) pairs, or a mapping, to add at once.
sparsity_level: share of the blocks that are pruned, in [0, 1].
sparse_block_shape: (height, width) of a block, each at least 1, or -1 for the whole axis.
zeros_per_block: elements zeroed in a pruned block, at most its size; None means all of them.
norm: "L1" or "L2".
monotone: True ranks what is pruned already below everything else: it stays pruned while the level
    rises, and when the level falls, the highest of it come back. As many are pruned as ever.
min_kept: blocks of each group that are kept whatever the level, at least 0; so no small layer dies.

These six are the config keys; add_data() and data_groups set them per group. A config has the last two
only where they were given and are not the defaults here. A subclass with keys of its own overrides
check_config(), checks them, and passes the others on; it may give their defaults as further keywords
here.

>>> import numpy as np
>>> weight = np.array([4.0, -1.0, 3.0, 0.5])
>>> sparsifier = DataNormSparsifier([("w", weight)], sparsity_level=0.5, sparse_block_shape=(1, 1))
>>> sparsifier.step()
>>> sparsifier.get_mask("w")
array([ True, False,  True, False])
>>> sparsifier.apply_mask()
>>> weight
array([4., 0., 3., 0.]))",
      collected<datasparse::BaseDataSparsifier, SparsifierAccess>());

  def_sparsifier<DataNormSparsifier>(
      cls,
      R"(Compute the mask of one group from data of its shape: the group's own, or any scores.

An override may call this first and then edit get_mask(name). Config keys that are left out are the
group's.)",
      "TypeError for a key that is not one of the six, TypeError or ValueError for a wrong "
      "value.");

  cls.def(py::init([](const py::dict& block, const py::dict& own) {
    return new Trampoline(BlockSpec::from_config(to_param_map(block, "")), to_param_map(own, ""));
  }));
  const py::object construct = cls.attr("__init__");
  def_plainly(
      cls, "__init__",
      [construct](const py::object& self, const py::object& data_list,
                  const py::object& sparsity_level, const py::object& sparse_block_shape,
                  const py::object& zeros_per_block, const py::object& norm,
                  const py::object& monotone, const py::object& min_kept, const py::kwargs& own) {
        refuse_second_init(self);
        py::dict block;
        block["sparsity_level"] = sparsity_level;
        block["sparse_block_shape"] = sparse_block_shape;
        block["zeros_per_block"] = zeros_per_block;
        block["norm"] = norm;
        block["monotone"] = monotone;
        block["min_kept"] = min_kept;
        construct(self, block, own);
        finish_init(self, data_list);
      },
      py::arg("data_list") = py::none(), py::arg("sparsity_level") = 0.5,
      py::arg("sparse_block_shape") = py::make_tuple(1, 4), py::arg("zeros_per_block") = py::none(),
      py::arg("norm") = "L1", py::arg("monotone") = false, py::arg("min_kept") = 0);
}
