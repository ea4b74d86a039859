"""What `inspect()` counts, against a reference that looks at one element after another."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from datasparse import cli
from datasparse.files import inspect, inspection, load_packed, pack
from datasparse.files.level_plot import plot_levels
from torch.ao.pruning import WeightNormSparsifier

DTYPES = [
    *(bool, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64),
    *(np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]


def reference_patterns(rows):
    """N by M: rows are lists of whether an element is zero."""
    found = {}
    for size in range(2, 17):
        if rows and rows[0] and len(rows[0]) % size == 0:
            groups = [row[at : at + size] for row in rows for at in range(0, len(row), size)]
            fewest = min(sum(group) for group in groups)
            if fewest:
                found[size] = fewest
    return found


def reference_blocks(rows, height, width):
    """How many blocks there are, and how many are wholly zero."""
    if not rows or not rows[0]:
        return 0, 0
    found = [
        all(zero for row in rows[y : y + height] for zero in row[x : x + width])
        for y in range(0, len(rows), height)
        for x in range(0, len(rows[0]), width)
    ]
    return len(found), sum(found)


def matrices(array):
    """Rows along the last axis, rows of the matrix, and both along inputs."""
    shape = array.shape if array.ndim > 1 else (1, array.size)
    zero = np.array([value == 0 for value in array.reshape(-1).tolist()], bool).reshape(shape)
    last = zero.reshape(-1, shape[-1]).tolist() if array.size else []
    matrix = zero.reshape(shape[0], -1).tolist() if array.size else []
    if array.ndim < 3:
        return last, matrix, last, matrix
    along = [
        [
            [bool(zero[(o, i, *place)]) for i in range(shape[1])]
            for place in itertools.product(*map(range, shape[2:]))
        ]
        for o in range(shape[0])
    ]
    inputs = [row for rows in along for row in rows] if array.size else []
    rows = [[zero for row in rows for zero in row] for rows in along] if array.size else []
    return last, matrix, inputs, rows


def check(path, array, block):
    found = inspect(path, block).tensors[0]
    last, matrix, inputs, inputs_matrix = matrices(array)
    zeros = sum(map(sum, last))
    assert (found.elements, found.zeros) == (array.size, zeros)
    assert found.level == (zeros / array.size if array.size else 0)
    assert found.bytes_dense == array.nbytes
    height, width = block
    views = [(found.along_last, last, matrix)]
    if array.ndim > 1:
        views.append((found.along_inputs, inputs, inputs_matrix))
        columns = [array[:, at].reshape(-1).tolist() for at in range(array.shape[1])]
        assert found.zero_rows == sum(bool(row) and all(row) for row in matrix)
        assert found.zero_columns == sum(bool(c) and all(v == 0 for v in c) for c in columns)
        assert (found.rows, found.columns) == array.shape[:2]
    else:
        assert found.along_inputs is None
        assert found.rows is found.zero_rows is found.columns is found.zero_columns is None
    for view, rows, whole in views:
        assert view.patterns == reference_patterns(rows)
        shape = (
            len(whole) if height == -1 else height,
            (len(whole[0]) if whole else 1) if width == -1 else width,
        )
        assert (view.blocks, view.zero_blocks) == reference_blocks(whole, *shape)


def random_array(rng):
    """An array with zeros by some rule, -0 and NaN among them where the dtype has these."""
    lengths = [1, 2, 3, 4, 6, 8, 12, 15, 16, 24, 30, 32, 48]
    shape = tuple(int(rng.choice(lengths)) for _ in range(rng.integers(0, 3)))
    if rng.random() < 0.3:
        shape = tuple(int(rng.choice([1, 2, 3, 4, 8, 16])) for _ in range(rng.integers(3, 5)))
    if rng.random() < 0.05:
        shape = (*shape, 0)
    dtype = np.dtype(DTYPES[rng.integers(len(DTYPES))])
    array = rng.integers(1, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    flat = array.reshape(-1)
    how = rng.integers(0, 5)
    if how == 1:
        flat[rng.random(flat.size) < rng.choice([0.2, 0.5, 0.9, 1.0])] = 0
    elif how in (2, 3) and array.size:  # N:M along one of the axes
        axis = int(rng.integers(array.ndim)) if array.ndim else 0
        rows = np.moveaxis(array if array.ndim else flat, axis, -1)
        size = int(rng.choice([2, 3, 4, 5, 8, 16]))
        whole = rows.shape[-1] // size * size
        order = rng.permuted(
            np.broadcast_to(np.arange(size), (*rows.shape[:-1], whole // size, size)), axis=-1
        )
        part = rows[..., :whole]
        part[(order < rng.integers(1, size)).reshape(part.shape)] = 0
    elif how == 4 and array.ndim > 1:
        array[rng.random(array.shape[0]) < 0.5] = 0
        array[:, rng.random(array.shape[1]) < 0.5] = 0
    if dtype.kind in "fcV":
        flat[rng.random(flat.size) < 0.05] *= dtype.type(0) * dtype.type(-1)
        flat[rng.random(flat.size) < 0.02] = np.nan
    return array


def check_random(seeds, folder, monkeypatch):
    path = folder / "random.safetensors"
    for seed in seeds:
        rng = np.random.default_rng(seed)
        array = random_array(rng)
        safetensors.numpy.save_file({"w": np.ascontiguousarray(array).reshape(array.shape)}, path)
        monkeypatch.setattr(inspection, "STEP", int(rng.choice([1, 7, 100, 1 << 18])))
        block = rng.choice([1, 2, 3, 4, 7, 100, -1], 2)
        check(path, array, (int(block[0]), int(block[1])))


def test_random_patterns_are_counted_as_by_hand(tmp_path, monkeypatch):
    check_random(range(250), tmp_path, monkeypatch)


@pytest.mark.full
def test_a_thousand_random_patterns_are_counted_as_by_hand(tmp_path, monkeypatch):
    check_random(range(250, 1250), tmp_path, monkeypatch)


def test_2_of_4_by_torch_is_recognised(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 8, bias=False))
    sparsifier = WeightNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
    )
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "1.weight"}])
    sparsifier.step()
    sparsifier.squash_mask()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    found = {tensor.name: tensor for tensor in inspect(tmp_path)}
    for name in ("0.weight", "1.weight"):
        assert found[name].along_inputs.patterns == {4: 2, 8: 4, 16: 8}
        assert found[name].along_inputs.strongest == (2, 4)
        assert found[name].level == 0.5
    assert found["0.bias"].along_last.patterns == {}
    assert inspect(tmp_path).total.patterns_inputs == {"2:4": 2, "4:8": 2, "8:16": 2}


def test_groups_of_a_convolution_run_along_its_inputs(tmp_path):
    weight = torch.ones(8, 16, 3, 3)
    weight[:, ::4] = weight[:, 1::4] = 0
    safetensors.torch.save_file({"conv": weight.bfloat16()}, tmp_path / "conv.safetensors")
    found = inspect(tmp_path / "conv.safetensors").tensors[0]
    assert found.along_inputs.patterns == {4: 2, 8: 4, 16: 8}
    assert found.along_last.patterns == {}


def test_zeros_of_either_sign_count_and_only_those_without_bits_are_packed(tmp_path):
    values = np.zeros((64, 64), np.float32)
    values[:, ::2] = -0.0
    safetensors.numpy.save_file({"w": values}, tmp_path / "w.safetensors")
    found = inspect(tmp_path / "w.safetensors").tensors[0]
    assert found.zeros == values.size
    pack(tmp_path / "w.safetensors", tmp_path / "packed")
    # One of two is there: by codes of one bit for each pair, half of what a bit each would take.
    assert found.bytes_packed == values.size // 2 * 4 + values.size // 16


def test_a_power_of_two_is_never_zero(tmp_path):
    # The format has no such dtype in NumPy, and torch none with a zero.
    data = torch.zeros(64, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    safetensors.torch.save_file({"scales": data}, tmp_path / "s.safetensors")
    assert inspect(tmp_path / "s.safetensors").tensors[0].zeros == 0


def test_elements_of_four_bits_are_listed_and_not_counted(tmp_path):
    data = torch.zeros(8, 64, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    weight = torch.zeros(4, 4)
    safetensors.torch.save_file({"small": data, "w": weight}, tmp_path / "s.safetensors")
    found = inspect(tmp_path / "s.safetensors")
    small = {tensor.name: tensor for tensor in found}["small"]
    assert (small.dtype, small.shape, small.bytes_dense) == ("F4", (8, 128), 512)
    assert small.zeros is small.level is small.along_last is None
    assert (found.total.elements, found.total.counted, found.total.level) == (1040, 16, 1.0)


def test_packed_files_are_seen_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "bits": np.where(rng.random((40, 96)) < 0.9, 0, rng.random((40, 96))).astype(np.float16),
        "2:4": np.tile(np.float16([0, 1, 0, 2]), (40, 24)),
        "dense": np.ones((40, 96), np.float16),
    }
    safetensors.numpy.save_file(weights, tmp_path / "dense.safetensors")
    pack(tmp_path / "dense.safetensors", tmp_path / "packed.safetensors")
    dense, packed = (inspect(tmp_path / f"{name}.safetensors") for name in ("dense", "packed"))
    assert dense.total == packed.total
    assert str(dense) == str(packed)


def test_several_files_and_folders(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        safetensors.numpy.save_file({name: np.zeros(3)}, tmp_path / name / "model.safetensors")
    found = inspect([tmp_path / "b", tmp_path / "a" / "model.safetensors"])
    assert [tensor.name for tensor in found] == ["b", "a"]
    assert found.total.zeros == 6
    with pytest.raises(FileNotFoundError, match="safetensors"):
        inspect(tmp_path)


@pytest.mark.parametrize("block", [(0, 1), (1,), (1, 2, 3), (-2, 1), (1.0, 4), (True, 1)])
def test_blocks_that_are_none_are_refused(block, tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="block must be"):
        inspect(tmp_path / "w.safetensors", block)


def test_the_command_prints_a_table_and_writes_json_and_a_plot(tmp_path, capsys):
    weights = {
        f"layers.{n}.weight": np.tile(np.float32([[1, 0, 2, 0]]), (8, 16)) for n in range(11)
    }
    weights["layers.10.weight"][:4] = 0
    safetensors.numpy.save_file(weights, tmp_path / "w.safetensors")
    arguments = ["inspect", str(tmp_path / "w.safetensors"), "--block", "4xall"]
    outputs = ["--json", str(tmp_path / "w.json"), "--png", str(tmp_path / "w.png")]
    assert cli.main([*arguments, *outputs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "tensor"
    assert lines[0].endswith("4xall blocks")
    last = next(line for line in lines if line.startswith("layers.10.weight"))
    assert last.split()[1:] == [
        *("8x64", "F32", "75.00%", "384", "1:2", "4", "32", "2.0", "kB", "576", "B", "50.00%")
    ]
    assert lines[-2].startswith("total")
    found = json.loads((tmp_path / "w.json").read_text())
    assert found["total"]["zeros"] == 10 * 256 + 384
    assert found["total"]["zero_blocks"] == 1
    assert found["tensors"][0]["along_inputs"]["patterns"]["4"] == 2
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_plot_has_a_bar_for_each_matrix_in_the_order_of_layers(tmp_path):
    weights = {f"layers.{n}.weight": np.eye(n + 2) for n in range(11)}
    weights["layers.0.bias"] = np.zeros(3)
    safetensors.numpy.save_file(weights, tmp_path / "w.safetensors")
    axes = plot_levels(inspect(tmp_path / "w.safetensors")).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"layers.{n}.weight" for n in range(11)
    ]
    levels = [bar.get_width() for bar in axes.patches]
    assert levels == pytest.approx([1 - 1 / (n + 2) for n in range(11)])


@pytest.mark.parametrize("option", ["--json", "--png"])
def test_the_command_overwrites_no_checkpoint(option, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.safetensors", "b.safetensors", "plain"):
        safetensors.numpy.save_file({"w": np.ones((4, 4), np.float32)}, name)
    before = Path("plain").read_bytes()
    Path("link").symlink_to("a.safetensors")
    Path("model.safetensors.index.json").write_bytes(before)
    for target in ("a.safetensors", "plain", "link", "model.safetensors.index.json"):
        assert cli.main(["inspect", "b.safetensors", "plain", option, target]) == 2
        assert "must not be a checkpoint" in capsys.readouterr().err
        assert Path(target).read_bytes() == before


def test_a_folder_must_have_the_files_of_its_index(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    safetensors.numpy.save_file({"a": np.ones((8, 8), np.float32)}, folder / "1.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for read in (inspect, load_packed, lambda path: pack(path, tmp_path / "packed")):
        with pytest.raises(ValueError, match=r"'b' lies in 2.safetensors, which is not there"):
            read(folder)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "w.safetensors").write_bytes(b"no such thing")
    assert cli.main(["inspect", str(tmp_path / "w.safetensors")]) == 2
    assert "w.safetensors" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path / "none.safetensors")]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "folder/pytorch_model.bin"])
def test_a_pickle_is_refused_with_what_to_do_and_without_torch(name, is_zip, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save({"w": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=is_zip)
    named = path.parent if "/" in name else path
    program = (
        "import sys; from datasparse.cli import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", program, "inspect", str(named)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"datasparse inspect: {path} is a pickle, and no safetensors file: convert it by "
        f'safetensors.torch.save_file(torch.load("{path}", weights_only=True), '
        '"model.safetensors")\n'
    )


def test_bytes_packed_are_those_of_the_packed_file(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        f"{dtype}.{level}": np.where(rng.random((30, 160)) < level, 0, 1).astype(dtype)
        for dtype in ("float16", "float64", "int8")
        for level in (0.05, 0.4, 0.9, 1.0)
    }
    safetensors.numpy.save_file(weights, tmp_path / "w")
    pack(tmp_path / "w", tmp_path / "packed")
    length = int.from_bytes((tmp_path / "packed").read_bytes()[:8], "little")
    size = (tmp_path / "packed").stat().st_size - 8 - length
    assert inspect(tmp_path / "w").total.bytes_packed == size
    assert math.isclose(inspect(tmp_path / "w").total.level, 0.5875, abs_tol=0.01)
