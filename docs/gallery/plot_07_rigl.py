"""
RigL: a mask that moves
=======================

A third of the inputs say something about the target, and the others are noise. The mask begins
where chance has put it. ``RigL`` drops the least weights, and grows those of the greatest gradient.
"""

import matplotlib.pyplot as plt
import numpy as np
from datasparse import DataScheduler
from datasparse.regrowth import RigL
from datasparse.schedules import Cosine

rng = np.random.default_rng(0)
truth = np.zeros((1, 60))
truth[0, :20] = rng.uniform(0.5, 1.5, 20) * rng.choice([-1, 1], 20)
inputs = rng.standard_normal((400, 60))
targets = inputs @ truth.T

weight = 0.1 * rng.standard_normal((1, 60))
sparsifier = RigL([("w", weight)], sparsity_level=2 / 3, seed=1)
scheduler = DataScheduler(sparsifier, "drop_fraction", Cosine(initial=0.4, final=0.0, end=24))
sparsifier.draw()
sparsifier.apply_mask()

masks, losses = [sparsifier.get_mask("w")[0].copy()], []
for _ in range(25):
    for _ in range(20):  # train what is active
        gradient = 2 * (inputs @ weight.T - targets).T @ inputs / len(inputs)
        weight -= 0.05 * gradient * sparsifier.get_mask("w")
    losses.append(float(np.mean((inputs @ weight.T - targets) ** 2)))
    sparsifier.set_gradients({"w": 2 * (inputs @ weight.T - targets).T @ inputs / len(inputs)})
    sparsifier.step()
    sparsifier.apply_mask()
    scheduler.step()
    masks.append(sparsifier.get_mask("w")[0].copy())

figure, (above, below) = plt.subplots(
    2, 1, figsize=(7.5, 4.6), layout="constrained", height_ratios=(3, 1), sharex=True
)
above.imshow(np.array(masks).T, cmap="Blues", vmax=1.3, aspect="auto", interpolation="nearest")
above.axhline(19.5, color="#c8553d", linewidth=1.2)
above.set(ylabel="input", title="Active weights: the inputs above the line have a say")
below.plot(range(1, 26), losses, marker=".")
below.set(xlabel="move of the mask", ylabel="loss", yscale="log")
below.grid(alpha=0.25)

# %%
# Twenty weights are active at any time.
print(f"Of the 20 inputs that have a say, {masks[0][:20].sum()} were active at first,")
print(f"and {masks[-1][:20].sum()} are in the end.")
