"""Distributions: one level for a whole model, as a level for each of its layers.

A distribution is a pure function of shapes, `distribution(shapes, level) -> {name: level}`. What it
returns are base values: `attach(..., distribution="erk")` gives them to the weights of a model, and
a schedule goes to each of them.
"""

from ._core import erk, uniform

__all__ = ["erk", "uniform"]
