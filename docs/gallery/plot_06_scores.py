"""
Scores: by what weights are ranked
==================================

Magnitude keeps what is large. ``Taylor`` keeps what changes the loss if it is removed, ``Movement``
what grows in the training, and ``Wanda`` what meets large inputs. How much do they agree?
"""

import matplotlib.pyplot as plt
import torch
from datasparse.scores import Magnitude, Movement, Random, Taylor, Wanda
from datasparse.torch import attach, record_inputs
from torch import nn

scores = [Magnitude(), Taylor(), Movement(), Wanda(), Random()]
torch.manual_seed(0)
inputs = torch.randn(512, 32) * torch.linspace(0.2, 2.0, 32)
targets = inputs @ torch.randn(32, 8) * 0.3


def mask_by(score):
    """Half of the first layer's weights, by that score, after the same short training."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attachment = attach(model, score=score, sparsity_level=0.5, sparse_block_shape=(1, 1))
    for batch in range(60):
        rows = slice(32 * (batch % 16), 32 * (batch % 16) + 32)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs[rows]), targets[rows]).backward()
        if score.accumulates and score.reads_gradients:
            attachment.sparsifier.accumulate()
        optimizer.step()
    if isinstance(score, Wanda):
        with record_inputs(attachment), torch.no_grad():
            model(inputs)
    attachment.sparsifier.step()
    return attachment.sparsifier.get_mask("0.weight")


masks = [mask_by(score) for score in scores]
agreement = [[float((a & b).sum() / a.sum()) for b in masks] for a in masks]

names = [type(score).__name__ for score in scores]
figure, axes = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
axes.imshow(agreement, cmap="Blues", vmin=0.3, vmax=1.1)
axes.set_xticks(range(len(names)), names)
axes.set_yticks(range(len(names)), names)
for row, shares in enumerate(agreement):
    for column, share in enumerate(shares):
        axes.text(
            column,
            row,
            f"{share:.0%}",
            ha="center",
            va="center",
            color="white" if share > 0.85 else "black",
        )
axes.set_title("Of what one keeps, how much the other keeps too")

# %%
# By chance it would be a half, as the row of ``Random`` has it.
