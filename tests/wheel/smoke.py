"""What a wheel must do wherever it is installed, with NumPy alone: python tests/wheel/smoke.py

Fails unless masks are right, an override in Python is called, a training goes on from its
checkpoint, a child can step after a fork, and a subinterpreter is refused. Prints what it ran on.
"""

import multiprocessing
import platform
import sys
import tempfile
from pathlib import Path

import datasparse
import numpy as np

DATA = np.random.default_rng(0).standard_normal((900, 800), dtype=np.float32)


def mask_at(level):
    """The elements of least magnitude are pruned."""
    mask = np.ones(DATA.size, bool)
    mask[np.argsort(np.abs(DATA).ravel(), kind="stable")[: round(level * DATA.size)]] = False
    return mask.reshape(DATA.shape)


class Rising(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return dict.fromkeys(self.base_param, 0.25 * self.last_epoch)


def make():
    sparsifier = datasparse.DataNormSparsifier([("w", DATA)], sparse_block_shape=(1, 1))
    return sparsifier, Rising(sparsifier, "sparsity_level")


def check_training():
    sparsifier, scheduler = make()
    for step in range(3):
        sparsifier.step()
        assert (sparsifier.get_mask("w") == mask_at(0.25 * step)).all()
        scheduler.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.safetensors"
        datasparse.save(path, sparsifier, scheduler)
        sparsifier, scheduler = make()
        datasparse.load(path, sparsifier, scheduler)
    assert scheduler.last_epoch == 3
    sparsifier.step()
    assert (sparsifier.get_mask("w") == mask_at(0.75)).all()


def check_fork():
    def child(queue):
        sparsifier, _ = make()
        sparsifier.step()
        queue.put(int(sparsifier.get_mask("w").sum()))

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join(60)
    assert process.exitcode == 0, "a step fails or hangs in the child of a fork"
    assert queue.get() == int(mask_at(0.0).sum())


def errors_in_subinterpreters():
    """What `import datasparse` says in both kinds of subinterpreters."""
    code = "import datasparse"
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters

        for kind in ("legacy", "isolated"):
            yield interpreters.run_string(interpreters.create(kind), code)
        return
    import _xxsubinterpreters as interpreters

    for isolated in (False, True):
        try:
            yield interpreters.run_string(interpreters.create(isolated=isolated), code)
        except interpreters.RunFailedError as error:
            yield error


def check_subinterpreters():
    for error in errors_in_subinterpreters():
        assert error is not None, "datasparse was imported into a subinterpreter"
        text = str(getattr(error, "formatted", error))
        assert "ImportError" in text, text
        assert "subinterpreter" in text, text


if __name__ == "__main__":
    check_training()
    check_fork()
    check_subinterpreters()
    check_training()
    print(
        f"datasparse {datasparse.__version__}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}: all is well on {datasparse.get_num_threads()} threads"
    )
