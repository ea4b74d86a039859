"""Sparse weights in PyTorch: attach a sparsifier to a model, and its zeros last.

    attachment = attach(model, sparsifier)
    attachment.follow(optimizer)

After that, every `optimizer.step()` is followed by new masks and by zeros where they prune,
whatever momentum and weight decay had in mind. Importing this package imports torch.
"""

from .attachment import Attachment, attach, detach
from .calibrate import calibrate
from .follow import Following
from .inputs import RecordedInputs, record_inputs
from .optimizer import mask_optimizer_state
from .parametrize import Masked
from .score_once import prune_at_init, score_once

__all__ = [
    "Attachment",
    "Following",
    "Masked",
    "RecordedInputs",
    "attach",
    "calibrate",
    "detach",
    "mask_optimizer_state",
    "prune_at_init",
    "record_inputs",
    "score_once",
]
