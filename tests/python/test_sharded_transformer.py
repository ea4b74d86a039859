"""A transformer in shards has the masks of its gathered weights, at every step."""

import pytest
import sharded_transformer
from ranks_harness import Ranks

full = pytest.mark.full


@pytest.mark.parametrize(
    ("size", "kind", "depth", "steps"),
    [
        (2, "fsdp", 2, 6),
        pytest.param(2, "fsdp", 20, 50, marks=full),
        pytest.param(4, "fsdp_tp", 20, 50, marks=full),
    ],
)
def test_masks_at_every_step(size, kind, depth, steps, tmp_path):
    ranks = Ranks(size, tmp_path)
    try:
        losses = ranks.run(sharded_transformer.train, kind, depth, steps)
    finally:
        ranks.close()
    if steps >= 50:
        assert all(sum(own[-5:]) < 0.9 * sum(own[:5]) for own in losses)
