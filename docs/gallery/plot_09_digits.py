"""
Digits, with fewer and fewer weights
====================================

The same network is trained on scikit-learn's handwritten digits at several levels. The level rises
along a cubic over the first half of the training.
"""

import matplotlib.pyplot as plt
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Polynomial
from datasparse.torch import attach
from sklearn.datasets import load_digits
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
order = torch.randperm(len(labels))
tests, train = order[:599], order[599:]


def train_at(level, steps=300):
    """The share of test images that are recognised, and the first layer's weights."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sparsifier = DataNormSparsifier(sparsity_level=level, sparse_block_shape=(1, 1))
    scheduler = DataScheduler(sparsifier, "sparsity_level", Polynomial(end=steps // 2))
    attach(model, sparsifier, distribution="erk").follow(optimizer, scheduler=scheduler)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (64,))]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    right = model(images[tests]).argmax(1) == labels[tests]
    return float(right.float().mean()), model[0].weight.detach()


levels = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99]
results = [train_at(level) for level in levels]
accuracies = [accuracy for accuracy, _ in results]
for level, accuracy in zip(levels, accuracies, strict=True):
    print(f"{level:4.0%} zeros: {accuracy:.1%} recognised")

figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
axes.plot(range(len(levels)), accuracies, marker="o")
axes.set_xticks(range(len(levels)), [f"{level:.0%}" for level in levels])
axes.set(xlabel="share of zeros", ylabel="test accuracy")
axes.grid(alpha=0.25)

# %%
# What the first layer looks at: for each pixel, how many of its 128 weights are left at 95%. The
# margins of an image, which are always empty, have lost theirs.
figure, axes = plt.subplots(figsize=(3.6, 3), layout="constrained")
left = (results[levels.index(0.95)][1] != 0).sum(0).reshape(8, 8)
picture = axes.imshow(left, cmap="Blues")
axes.set(xticks=[], yticks=[], title="weights left, by pixel")
figure.colorbar(picture)
