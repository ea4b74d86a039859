"""What `import datasparse` does, and does not do."""

import importlib.metadata
from pathlib import Path

import datasparse
import pytest


def test_import_loads_nothing_heavy(run_python):
    heavy = {"matplotlib", "pandas", "scipy", "sklearn", "torch"}
    script = f"import sys, datasparse; print({heavy} & set(sys.modules))"
    assert run_python(script) == "set()\n"


def test_torch_is_not_imported_by_use_with_numpy(run_python):
    script = """
import sys
import numpy as np
import datasparse

class Still(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}

sparsifier = datasparse.DataNormSparsifier([("a", np.ones((4, 4)))])
scheduler = Still(sparsifier, "sparsity_level")
sparsifier.step()
scheduler.step()
sparsifier.apply_mask()
sparsifier.state_dict()
print("torch" in sys.modules)
"""
    assert run_python(script) == "False\n"


def test_import_prints_nothing_and_warns_of_nothing(run_python):
    assert run_python("import datasparse; print('fine')", "-W", "error") == "fine\n"


def test_import_before_and_after_torch_gives_the_same_masks(run_python):
    script = """
import {}
import {}
import numpy as np

data = np.random.default_rng(0).normal(size=(500, 400))
mask = datasparse.block_mask(data, sparsity_level=0.5, sparse_block_shape=(1, 4))
print(mask.sum(), hash(mask.tobytes()) == hash(
    datasparse.block_mask(
        torch.from_numpy(data), sparsity_level=0.5, sparse_block_shape=(1, 4)
    ).numpy().tobytes()
))
"""
    assert run_python(script.format("datasparse", "torch")) == "100000 True\n"
    assert run_python(script.format("torch", "datasparse")) == "100000 True\n"


def test_import_does_not_change_the_environment(run_python):
    script = """
import os
import numpy

before = dict(os.environ)
import datasparse

print(dict(os.environ) == before)
"""
    assert run_python(script) == "True\n"


def test_a_wheel_does_what_it_must_wherever_it_is_installed(run_file):
    """Subinterpreters are refused by a message, for one."""
    smoke = Path(__file__).parents[1] / "wheel" / "smoke.py"
    assert "all is well" in run_file(smoke)


def test_version_is_the_distributions():
    assert datasparse.__version__ == importlib.metadata.version("datasparse")


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi"])
def test_package_ships(name):
    folders = [*datasparse.__path__, Path(datasparse.__file__).parent]
    assert any((Path(folder) / name).is_file() for folder in folders)


@pytest.mark.parametrize(
    "name",
    [
        "BaseDataScheduler",
        "BaseDataSparsifier",
        "DataNormSparsifier",
        "UnknownNameError",
        "block_mask",
        "set_num_threads",
    ],
)
def test_public_name_is_exported(name):
    assert name in datasparse.__all__
    assert hasattr(datasparse, name)


def test_all_names_exist():
    assert all(hasattr(datasparse, name) for name in datasparse.__all__)


def test_classes_say_where_they_are_to_be_imported_from():
    for name in ("BaseDataScheduler", "BaseDataSparsifier", "DataNormSparsifier"):
        assert getattr(datasparse, name).__module__.split(".")[0] == "datasparse"
