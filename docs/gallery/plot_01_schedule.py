"""
A cubic schedule and its levels
===============================

Pruning is cheap while weights are redundant, and dear towards the end. So the level rises fast at
first, and slowly towards the end: a cubic curve (Zhu and Gupta, 2017).
"""

import matplotlib.pyplot as plt
import numpy as np
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Cosine, Linear, Polynomial

steps = np.arange(121)
schedules = {
    "Polynomial(end=100)": Polynomial(end=100),
    "Polynomial(end=100, every=20)": Polynomial(end=100, every=20),
    "Linear(end=100)": Linear(end=100),
    "Cosine(end=100)": Cosine(end=100),
}

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, schedule in schedules.items():
    levels = [schedule(int(step), 0.9) for step in steps]
    axes.step(steps, levels, where="post", label=name)
axes.set(xlabel="step", ylabel="sparsity_level", title="From 0 to 0.9")
axes.legend(frameon=False)
axes.grid(alpha=0.25)

# %%
# A schedule is a function of the step and of the *base*, the level that the weight had when its
# scheduler was made. A plan says what a scheduler will do to each weight, before any training.
sparsifier = DataNormSparsifier({"fc1": np.ones((64, 256)), "fc2": np.ones((256, 10))})
scheduler = DataScheduler(sparsifier, "sparsity_level", Polynomial(final=0.9, end=8))
print(scheduler.plan(10))
