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
pool: a name: groups with the same one share one threshold, and lose together what their levels come to;
    None, a group by itself. docs/pools.md tells the exact rule.
min_level, max_level: the least and the greatest share of its blocks that a group in a pool loses.
normalize: "l2" divides scores by the L2 norm of all of the group's before a pool compares them; or None.
score: of datasparse.scores, what groups are ranked by in the place of their data; no config key. One with a
    sign, such as Movement(), needs norm=None, which is the default then.

All but the last are the config keys, as config_keys lists them; add_data() and data_groups set them per
group. A config has those from monotone on only where they were given and are not the defaults here. A
subclass with keys of its own overrides check_config(), checks them, and passes the others on; it may give
their defaults as further keywords here.

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
      R"(The scores that one group is ranked by in the place of its data: override this.

step() calls it for each group with the user's array (torch: detached, under no_grad) and the group's
config as keywords, and then ranks all groups together by the norm of what it returns: an array of data's
shape, of any kind, dtype and strides that add_data() takes. It may be read-only or a view, and is held
until the end of the step at the most, so nothing may write to it until then: not the scores of the next
group, say. All else goes on being about the data: what is zeroed, zeros that stay, report(). plan() counts
as ever.

From inside, the sparsifier may be read: get_data(name) has the parameter with its .grad, get_mask(name) the
mask before. state[name] may be written. If it raises, all masks and states are as before. TypeError or
ValueError for what is no array of data's shape. Of more than 512 KiB of scores, groups that share no pool
are ranked in several batches. Where update_mask() is overridden too, step() calls that one alone. Returns
data unless overridden.

>>> import numpy as np
>>> class Saliency(DataNormSparsifier):
...     def get_scores(self, name, data, **config):
...         return np.abs(data * gradients[name])
>>> gradients = {"w": np.array([0.1, -0.9, 0.5, 0.2])}
>>> weight = np.array([4.0, -1.0, 3.0, 0.5])
>>> sparsifier = Saliency([("w", weight)], sparsity_level=0.5, sparse_block_shape=(1, 1))
>>> sparsifier.step()
>>> sparsifier.get_mask("w")
array([False,  True,  True, False]))",
      R"(Compute the mask of one group from data of its shape: the group's own, or any scores.

An override may call this first and then edit get_mask(name). Config keys that are left out are the
group's.)",
      "TypeError for a key that is no config key, TypeError or ValueError for a wrong value.");

  def_init_of_spec<DataNormSparsifier, datasparse::BlockSpec>(cls, true);
}
