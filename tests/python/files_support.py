"""Made-up checkpoints, and what pruning them has to come to: by sparsifiers in memory."""

import json
from pathlib import Path

import datasparse
import numpy as np
import torch
from safetensors.torch import load_file, save_file

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8": torch.float8_e4m3fn,
}
FLOATS = ("F64", "F32", "F16", "BF16")


def tensor_of(rng, dtype, shape):
    """Numbers with many ties, zeros of both signs, and, now and then, NaN and infinity."""
    kind = rng.integers(4)
    values = np.round(rng.standard_normal(shape), 1) if kind else rng.standard_normal(shape)
    if kind == 1 and values.size:
        flat = values.reshape(-1)
        flat[rng.integers(flat.size, size=3)] = [np.nan, np.inf, -0.0]
    if dtype in ("I64", "U8", "BOOL"):
        values = np.abs(np.nan_to_num(values, posinf=3)).astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(values)).to(DTYPES[dtype])


def write_checkpoint(path, files, metadata=None):
    """A folder with an index, of {file: {name: tensor}}; or one file, where there is one name."""
    if path.suffix == ".safetensors":
        (tensors,) = files.values()
        save_file(tensors, path, metadata)
        return path
    path.mkdir()
    for file, tensors in files.items():
        save_file(tensors, path / file, metadata)
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def random_files(rng, number=None):
    """{file: {name: tensor}} of some files, dtypes and shapes."""
    files = {}
    for at in range(number or rng.integers(1, 4)):
        tensors = {}
        for one in range(rng.integers(1, 6)):
            axes = rng.choice([1, 2, 2, 2, 3, 4])
            shape = tuple(rng.integers(1, 12 if axes > 2 else 40, axes).tolist())
            dtype = str(rng.choice([*DTYPES, *FLOATS]))
            tensors[f"{rng.choice(['b', 'a', 'c'])}.{at}.{one}.weight"] = tensor_of(
                rng, dtype, shape
            )
        tensors[f"must.{at}.weight"] = tensor_of(rng, "F32", (5, 8))
        files[f"model-{at}.safetensors"] = tensors
    return files


def layout_seen(tensor, layout, transposed):
    """The order of a tensor's axes by the options of a pruning."""
    kernel = range(2, tensor.ndim)
    if transposed:
        return (1, *kernel, 0)
    return (0, *kernel, 1) if layout == "inputs" and tensor.ndim > 2 else None


def tensors_in(path):
    """All tensors of a file or folder, as the safetensors library reads them."""
    paths = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: tensor for one in paths for name, tensor in load_file(one).items()}


def is_taken(tensor):
    """Whether tensors like this one are pruned."""
    return tensor.ndim > 1 and tensor.dtype in {DTYPES[name] for name in FLOATS}


def header_of(path):
    content = path.read_bytes()
    return content[: 8 + int.from_bytes(content[:8], "little")]


def bits(tensor):
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


class RankedBy(datasparse.DataNormSparsifier):
    """A sparsifier that ranks by scores of a dict."""

    def __init__(self, scores, **config):
        super().__init__(norm=None, **config)
        self._scores = scores

    def get_scores(self, name, data, **config):
        return self._scores[name]


def masks_in_memory(tensors, taken, sparsifier, layouts=None, configs=None):
    """The masks of tensors, groups in the order of names."""
    for name in sorted(taken):
        layout = (layouts or {}).get(name)
        own = (configs or {}).get(name, {})
        sparsifier.add_data(name, tensors[name], layout=layout, **own)
    sparsifier.step()
    return {name: sparsifier.get_mask(name) for name in taken}


def require_pruned(source, target, masks):
    """Masked elements are +0, all else is the same: bytes, headers, files."""
    before, after = tensors_in(source), tensors_in(target)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = tensor.clone()
        if name in masks:
            expected[~masks[name]] = 0
        assert expected.dtype == after[name].dtype
        assert bits(expected) == bits(after[name]), name
    if source.is_dir():
        assert {one.name for one in source.iterdir()} == {one.name for one in target.iterdir()}
    for path in source.glob("*.safetensors") if source.is_dir() else [source]:
        there = target / path.name if source.is_dir() else target
        assert header_of(path) == header_of(there)


class Killed(BaseException):
    """What a test stops a run with where a kill would."""


def snapshot(path):
    """All that lies under a path, links as links: what must be there after an error as before."""
    path = Path(path)
    if path.is_symlink():
        return str(path.readlink())
    if path.is_dir():
        return {one.name: snapshot(one) for one in path.iterdir()}
    return path.read_bytes() if path.is_file() else None
