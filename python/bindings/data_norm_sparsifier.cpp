#include "datasparse/data_norm_sparsifier.hpp"

#include "initialise.hpp"
#include "sparsifier_trampoline.hpp"

namespace py = pybind11;
using datasparse::DataNormSparsifier;

void register_data_norm_sparsifier(py::module_& module) {
  py::class_<DataNormSparsifier, datasparse::BaseDataSparsifier, PySparsifier<DataNormSparsifier>,
             py::smart_holder>
      cls(module, "DataNormSparsifier",
          R"(Prunes the blocks of least norm; block_mask() tells the exact rule.

data_list: (name, data) pairs, or a mapping, to add at once.
sparsity_level: share of the blocks that are pruned, in [0, 1].
sparse_block_shape: (height, width) of a block, each at least 1, or -1 for the whole axis.
zeros_per_block: elements zeroed in a pruned block, at most its size; None means all of them.
norm: "L1", "L2", or None, which ranks values as they are, sign included: the lowest are pruned.
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

  def_init_of_spec<DataNormSparsifier, datasparse::BlockSpec>(cls);
}
