"""What a checkpoint may consist of, what of it is copied, and what is refused."""

import errno
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from datasparse.files.folder import Checkpoint
from datasparse.files.options import Options
from datasparse.files.place import copy_beside
from datasparse.files.prune import prune
from files_support import snapshot, write_checkpoint
from safetensors.torch import save_file

INDEX = "model.safetensors.index.json"


@pytest.fixture
def source(tmp_path):
    """A folder of two files, with what usually lies beside them."""
    files = {
        "model-1.safetensors": {"b": torch.randn(4, 6), "d": torch.randn(3)},
        "model-2.safetensors": {"a": torch.randn(8, 6), "c": torch.ones(2, 2, dtype=torch.int64)},
    }
    path = write_checkpoint(tmp_path / "s", files, {"format": "pt"})
    (path / "config.json").write_text("{}")
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    (path / "empty").mkdir()
    return path


def refusal(source, target=None, **options):
    """The message, if nothing has been written and the source is as it was."""
    before = snapshot(source.parent)
    with pytest.raises(ValueError, match=r"\w") as caught:
        prune(source, target or source.parent / "t", **options)
    assert snapshot(source.parent) == before
    return str(caught.value)


def rewrite_index(source, change):
    index = json.loads((source / INDEX).read_text())
    change(index["weight_map"])
    (source / INDEX).write_text(json.dumps(index))


def test_all_files_are_there_under_their_names(source, tmp_path):
    prune(source, tmp_path / "t")
    before, after = snapshot(source), snapshot(tmp_path / "t")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {
        "model-1.safetensors",
        "model-2.safetensors",
    }


def test_dense_weights_beside_are_not_copied_but_named(source, tmp_path):
    left = ["pytorch_model.bin", "old.pth", "model.gguf", "stray.safetensors"]
    left += ["pytorch_model.bin.index.json", "tokenizer/inner.onnx"]
    for name in left:
        (source / name).write_bytes(b"dense")
    (source / ".git").mkdir()
    (source / ".git" / "object").write_bytes(b"dense")
    (source / ".gitattributes").write_text("")
    done = prune(source, tmp_path / "t")
    assert sorted(done["not_copied"]) == sorted([*left, ".git"])
    for name in done["not_copied"]:
        assert not (tmp_path / "t" / name).exists()
    assert (tmp_path / "t" / ".gitattributes").exists()
    assert (tmp_path / "t" / "tokenizer" / "vocab.txt").exists()


def test_one_file_needs_no_index_and_any_index_will_do(tmp_path):
    save_file({"w": torch.randn(4, 4)}, tmp_path / "w.safetensors")
    one = tmp_path / "one"
    one.mkdir()
    (tmp_path / "w.safetensors").rename(one / "w.safetensors")
    prune(one, tmp_path / "t1")
    (one / "other.name.safetensors.index.json").write_text('{"weight_map": {"w": "w.safetensors"}}')
    prune(one, tmp_path / "t2")
    assert len(list((tmp_path / "t2").iterdir())) == 2


def test_an_error_of_copying_names_the_file_that_it_is_of(source, tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    with Checkpoint(source) as checkpoint:
        name = next(iter(checkpoint.beside.copied))
        (source / name).unlink()
        with pytest.raises(FileNotFoundError) as caught:
            copy_beside(checkpoint, target)
        assert caught.value.filename == str(source / name)

        def full(one, other):
            raise OSError(errno.ENOSPC, "full", str(one), None, str(other))

        monkeypatch.setattr("datasparse.files.place.shutil.copy", full)
        with pytest.raises(OSError, match="full") as caught:
            copy_beside(checkpoint, target)
        assert caught.value.filename == str(target / name)


def test_links_to_files_are_followed(source, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        if path.is_file():
            path.rename(blobs / str(number))
            path.symlink_to(Path("..", "blobs", str(number)))
    (tmp_path / "link").symlink_to("s")
    before = snapshot(tmp_path)
    prune(tmp_path / "link", tmp_path / "t")
    after = snapshot(tmp_path)
    assert not any(path.is_symlink() for path in (tmp_path / "t").rglob("*"))
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("target", ["nowhere", "tokenizer", "pipe"])
@pytest.mark.parametrize("name", ["model-1.safetensors", "config.json", INDEX])
def test_links_to_what_is_no_file_are_refused(name, target, source):
    os.mkfifo(source / "pipe")
    (source / name).unlink()
    (source / name).symlink_to(target)
    (source / "pipe").rename(source.parent / "pipe")
    if target == "pipe":
        (source / name).unlink()
        (source / name).symlink_to("../pipe")
    assert name in refusal(source)


def test_what_is_neither_file_nor_folder_is_refused(source):
    os.mkfifo(source / "pipe")
    assert f"{source / 'pipe'} must be a file" in refusal(source)
    (source / "pipe").unlink()
    (source / "pipe").symlink_to("tokenizer")
    assert f"{source / 'pipe'} must be a file, or a link to one" in refusal(source)


@pytest.mark.parametrize(
    "file",
    ["../model-1.safetensors", "/etc/passwd", "tokenizer/x.safetensors", "..", "", ".",
     "a\\b.safetensors", "config.json", "x\0.safetensors", 1, None, ["model-1.safetensors"]],
)  # fmt: skip
def test_an_index_that_points_elsewhere_is_refused(file, source):
    rewrite_index(source, lambda weight_map: weight_map.update(a=file))
    assert f"{INDEX}: the file of 'a' must be the name of a safetensors file" in refusal(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.update(a="model-3.safetensors"),
            "'a' lies in model-3.safetensors",
        ),
        (lambda weights: weights.update(a="model-1.safetensors"), "has 'a' in model-1.safetensors"),
        (lambda weights: weights.update(x="model-1.safetensors"), "'x' in model-1.safetensors, wh"),
        (lambda weights: weights.pop("a"), "the index has 'a' in no file, it lies in model-2"),
        (lambda weights: weights.clear(), "weight_map must map tensors to files"),
    ],
)
def test_an_index_that_disagrees_with_its_files_is_refused(change, message, source):
    rewrite_index(source, change)
    assert message in refusal(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not the JSON"),
        ("[]", "must be an object"),
        ("{}", "weight_map"),
        ('{"weight_map": []}', "weight_map"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' comes twice"),
        ('{"weight_map": {}, "weight_map": {}}', "'weight_map' comes twice"),
        ('{"a":' * 100_000, "not the JSON"),
    ],
)
def test_an_index_that_is_none_is_refused(text, message, source):
    (source / INDEX).write_text(text)
    assert message in refusal(source)


def test_a_tensor_in_two_files_is_refused(source):
    save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, source / "model-1.safetensors")
    assert "the index has 'a' in model-2.safetensors, it lies in model-1" in refusal(source)


def test_a_damaged_file_is_named_with_its_tensor(source):
    path = source / "model-2.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert str(path) in (message := refusal(source))
    assert "'a'" in message or "'c'" in message
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
              "c": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}  # fmt: skip
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
    assert f"{path}: 'c' must begin where 'a' ends" in refusal(source)


def test_several_files_or_indices_need_a_choice(source):
    (source / "b.safetensors.index.json").write_text("{}")
    assert "must have one *.safetensors.index.json" in refusal(source)
    for path in source.glob("*.json"):
        path.unlink()
    assert "has 2 safetensors files and no *.safetensors.index.json" in refusal(source)
    for path in source.glob("*.safetensors"):
        path.unlink()
    assert "must have a safetensors file, got none" in refusal(source)


@pytest.mark.parametrize("name", ["model.bin", "model.pth", "model.pt", "model.ckpt"])
def test_a_pickle_is_refused_with_the_call_that_converts_it(name, tmp_path):
    path = tmp_path / name
    torch.save({"w": torch.ones(2, 2)}, path)
    message = refusal(path)
    assert "is a pickle" in message
    call = message[message.index("safetensors.torch.save_file") :]
    call = call.replace('"model.safetensors"', repr(str(tmp_path / "model.safetensors")))
    import safetensors.torch

    eval(call, {"safetensors": safetensors, "torch": torch})
    prune(tmp_path / "model.safetensors", tmp_path / "t.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / name)
    assert "is a pickle" in refusal(folder)


def test_a_tensor_whose_name_is_a_path_stays_a_name(tmp_path):
    tensors = {"../../x": torch.randn(4, 4), "/abs": torch.randn(4, 4)}
    save_file(tensors, tmp_path / "s.safetensors")
    prune(tmp_path / "s.safetensors", tmp_path / "t.safetensors", masks=tmp_path / "masks")
    assert {path.name for path in tmp_path.iterdir()} == {"s.safetensors", "t.safetensors", "masks"}


def test_source_and_target_must_not_touch(source, tmp_path):
    assert "must be neither the source" in refusal(source, source)
    assert "must be neither the source" in refusal(source, source / "inner")
    assert "must be neither the source" in refusal(source / "model-1.safetensors", source)
    (tmp_path / "link").symlink_to("s")
    assert "must be neither the source" in refusal(source, tmp_path / "link")
    assert "is there already" in refusal(source, tmp_path) or "hold" in refusal(source, tmp_path)
    (tmp_path / "t").mkdir()
    assert "is there already" in refusal(source, tmp_path / "t")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "is there already" in refusal(source, tmp_path / "dangling")
    assert "there is no folder" in refusal(source, tmp_path / "no" / "t")


@pytest.mark.parametrize("option", ["report", "masks"])
def test_nothing_is_written_into_source_or_target(option, source, tmp_path):
    places = (source / "x", source / "model-1.safetensors", tmp_path / "t", tmp_path / "t/x")
    for place in (*places, tmp_path / "t.partial", tmp_path / "t.partial/x"):
        message = refusal(source, **{option: place})
        assert "neither the source nor the target" in message
    assert "in a folder that is there" in refusal(source, **{option: tmp_path / "no" / "x"})
    one = source / "model-1.safetensors"
    assert "neither" in refusal(one, tmp_path / "t", **{option: one})


@pytest.mark.parametrize("option", ["report", "masks"])
@pytest.mark.parametrize("kind", ["scores", "input_norms", "recipe"])
def test_nothing_is_written_into_what_is_read_beside_the_source(kind, option, source, tmp_path):
    read = tmp_path / "read"
    sizes = {"a": (8, 6), "b": (4, 6)}
    if kind == "recipe":
        read.write_text("version = 1\n[defaults]\nsparsity_level = 0.5\n")
    elif kind == "scores":
        save_file({name: torch.ones(shape) for name, shape in sizes.items()}, read)
    else:
        save_file({name: torch.ones(shape[1]) for name, shape in sizes.items()}, read)
    level = {} if kind == "recipe" else {"sparsity_level": 0.5}
    options = Options(**level, **{kind: str(read)})
    (tmp_path / "link").symlink_to("read")
    for place in (read, tmp_path / "link"):
        message = refusal(source, options=options, **{option: place})
        assert "must be no file that is read" in message
    prune(source, tmp_path / "t", options, **{option: tmp_path / "new"})


def test_report_and_masks_are_two_files(source, tmp_path):
    assert "must be two files" in refusal(source, report=tmp_path / "x", masks=tmp_path / "x")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        prune(tmp_path / "absent", tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_tensors_are_sorted_by_name_over_all_files(source):
    with Checkpoint(source) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b", "c", "d"]
        assert checkpoint.reader("a").path.name == "model-2.safetensors"
