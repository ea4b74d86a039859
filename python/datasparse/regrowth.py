"""Masks that move: some of what is active is dropped, and as much grows elsewhere.

`RigL` (Evci et al. 2020) grows by gradient, `SET` (Mocanu et al. 2018) by chance; a mask of
`Static` never moves. Their config key `drop_fraction` is one that a data scheduler varies:

    DataScheduler(sparsifier, "drop_fraction", Cosine(initial=0.3, final=0.0, end=1000))
"""

from ._core import SET, RegrowthSparsifier, RigL, Static

__all__ = ["SET", "RegrowthSparsifier", "RigL", "Static"]
