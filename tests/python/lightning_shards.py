"""Lightning's strategy for fully_shard(), on two ranks: a training that is resumed has the masks of
one that was not interrupted. Lightning starts the second rank by this file, too."""

import sys
import warnings

import lightning.pytorch as pl
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.lightning import DataSparsity
from datasparse.schedules import Linear
from datasparse.torch import attach
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    def configure_model(self):
        if not isinstance(self.net[0].weight, DTensor):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, _):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(epochs, resumed_from=None, saved_as=None):
    """Returns the masks, whole."""
    module = Module()
    sparsifier = DataNormSparsifier(sparsity_level=0.8, sparse_block_shape=(1, 1), pool="all")
    attachment = attach(module.net, sparsifier)
    schedule = Linear(initial=0.1, final=0.8, end=6)
    callback = DataSparsity(attachment, DataScheduler(sparsifier, "sparsity_level", schedule))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        max_epochs=epochs,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(inputs, 8)
    trainer.fit(module, loader, ckpt_path=resumed_from)
    if saved_as is not None:
        trainer.save_checkpoint(saved_as)
    assert isinstance(module.net[0].weight, DTensor)
    return {name: sparsifier.get_mask(name).full_tensor() for name in attachment.names}


def main(folder):
    warnings.simplefilter("ignore")
    unbroken = train(3)
    train(2, saved_as=f"{folder}/checkpoint")
    resumed = train(3, resumed_from=f"{folder}/checkpoint")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert sum(int((~mask).sum()) for mask in resumed.values()) == round(0.8 * 640)
    print("the same masks", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
