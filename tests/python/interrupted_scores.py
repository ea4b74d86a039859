"""A training that test_trainings_resumed.py kills between accumulate() and step().

    interrupted_scores.py FOLDER STEPS DEVICE KILLED...   kills itself at these steps, each once

Movement() and Wanda() side by side. Each step's sums are saved before the masks are made; the next
child goes on from there. It prints how often it was killed.
"""

import os
import signal

import datasparse
import numpy as np
import torch
from datasparse.scores import Movement, Wanda
from datasparse.torch import attach, record_inputs
from forked import train_in_children
from support import as_numpy, placed
from torch import nn


class Training:
    def __init__(self, folder, steps):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))
        self.weight = placed(np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32))
        self.movement = datasparse.DataNormSparsifier(
            {"w": self.weight}, sparsity_level=0.6, sparse_block_shape=(1, 2), score=Movement()
        )
        self.wanda = attach(
            self.model, score=Wanda(), sparsity_level=0.5, sparse_block_shape=(1, 1)
        )
        self.folder, self.steps, self.done = folder, steps, 0
        self.is_half_done = False
        if folder is not None and (folder / "latest").exists():
            self.load(folder / (folder / "latest").read_text())

    def save(self, at):
        """Everything, and then the name of it: whoever is killed leaves the one before."""
        folder = self.folder / at
        folder.mkdir(exist_ok=True)
        datasparse.save(folder / "movement", self.movement)
        datasparse.save(folder / "wanda", self.wanda.sparsifier)
        torch.save(self.model.state_dict(), folder / "model")
        np.savez(folder / "weight.npz", weight=as_numpy(self.weight), done=self.done)
        (self.folder / "new").write_text(at)
        (self.folder / "new").replace(self.folder / "latest")

    def load(self, folder):
        datasparse.load(folder / "movement", self.movement)
        datasparse.load(folder / "wanda", self.wanda.sparsifier)
        self.model.load_state_dict(torch.load(folder / "model"))
        with np.load(folder / "weight.npz") as saved:
            self.weight[...] = placed(saved["weight"])
            self.done = int(saved["done"])
        self.is_half_done = True

    def run(self, killed=()):
        while self.done < self.steps:
            rng = np.random.default_rng(100 + self.done)
            gradient = placed(rng.standard_normal((20, 30)).astype(np.float32))
            inputs = torch.from_numpy(rng.standard_normal((3, 12)).astype(np.float32))
            if not self.is_half_done:
                self.movement.set_gradients({"w": gradient})
                self.movement.accumulate()
                with record_inputs(self.wanda):
                    self.model(inputs)
                if self.folder is not None:
                    self.save(str(self.done))
                if self.done in killed:
                    os.kill(os.getpid(), signal.SIGKILL)
            self.is_half_done = False
            self.movement.step()
            self.movement.apply_mask()
            self.wanda.sparsifier.step()
            self.wanda.apply()
            self.weight -= 0.1 * gradient
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.add_(0.01)
            self.done += 1
        return self

    def result(self):
        """All bits of it."""
        states = self.movement.state_dict(), self.wanda.sparsifier.state_dict()
        weights = {name: tensor.tolist() for name, tensor in self.model.state_dict().items()}
        return repr((states, weights, self.weight.tolist()))


if __name__ == "__main__":
    train_in_children(Training)
