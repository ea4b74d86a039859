"""Sparse weights in PyTorch: attach a sparsifier to a model, and its zeros last.

    attachment = attach(model, sparsifier)
    attachment.follow(optimizer)

After that, every `optimizer.step()` is followed by new masks and by zeros where they prune,
whatever momentum and weight decay had in mind. Importing this package imports torch.
"""

from .attachment import Attachment, attach, detach
from .follow import Following
from .optimizer import mask_optimizer_state
from .parametrize import Masked

__all__ = ["Attachment", "Following", "Masked", "attach", "detach", "mask_optimizer_state"]
