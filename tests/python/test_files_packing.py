"""What is packed where: folders, places that are taken, sources that are refused, the commands."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from datasparse import cli
from datasparse.files import load_packed, pack, packing, unpack
from packed_files import pruned, two_layouts


def a_folder(path):
    """A checkpoint of two files with its index, and what else lies there."""
    (path / "original").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        safetensors.numpy.save_file(
            {name: pruned(rng, (64, 64), 0.9)}, path / f"{name}.safetensors"
        )
    index = {"weight_map": {name: f"{name}.safetensors" for name in ("a", "b")}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text("{}")
    (path / "original" / "params.json").write_text("[]")
    (path / "link.txt").symlink_to("config.json")
    return path


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_folders_are_packed_file_by_file(tmp_path):
    dense = a_folder(tmp_path / "dense")
    told = []
    done = pack(dense, tmp_path / "packed", progress=lambda *step: told.append(step))
    assert (done.files, done.tensors, done.packed) == (2, 2, 2)
    assert [name for _, _, name in told] == ["a", "b"]
    assert [share for share, _, _ in told] == [64 * 64 * 4, 2 * 64 * 64 * 4]
    assert contents(tmp_path / "packed").keys() == contents(dense).keys()
    with load_packed(tmp_path / "packed") as loaded:
        assert sorted(loaded) == ["a", "b"]
    unpack(tmp_path / "packed", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(dense)
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "packed", "back"}


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    dense = a_folder(tmp_path / "dense")
    (dense / "c.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"c\.safetensors"):
        pack(dense, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_name_that_two_files_have_is_refused(tmp_path):
    dense = a_folder(tmp_path / "dense")
    (dense / "c.safetensors").write_bytes((dense / "a.safetensors").read_bytes())
    with pytest.raises(ValueError, match="'a' must be in one file"):
        load_packed(dense)


@pytest.mark.parametrize("convert", [pack, unpack])
def test_places_that_are_taken_are_refused(convert, tmp_path):
    dense = a_folder(tmp_path / "dense")
    for taken in ("target", "target.partial"):
        (tmp_path / taken).write_text("mine")
        with pytest.raises(ValueError, match=f"{taken} must not be there"):
            convert(dense / "a.safetensors", tmp_path / "target")
        assert (tmp_path / taken).read_text() == "mine"
        (tmp_path / taken).unlink()
    with pytest.raises(ValueError, match="must not be within"):
        convert(dense, dense / "target")
    with pytest.raises(ValueError, match="must not be there"):
        convert(dense, dense)
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_what_is_packed_is_not_packed_again(tmp_path):
    good, _ = two_layouts(tmp_path)
    with pytest.raises(ValueError, match="good is packed"):
        pack(good, tmp_path / "twice")
    safetensors.numpy.save_file({"datasparse.values:w": np.zeros(3)}, tmp_path / "named")
    with pytest.raises(ValueError, match=r"'datasparse.values:w' must not be a name"):
        pack(tmp_path / "named", tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_source_that_changes_while_it_is_packed_leaves_nothing(tmp_path, monkeypatch):
    values = pruned(np.random.default_rng(0), (400, 40), 2, 4)
    safetensors.numpy.save_file({"w": values}, tmp_path / "dense")
    write = packing.write_packed

    def changed(file, tensor, layout, target):
        with (tmp_path / "dense").open("r+b") as source:
            source.seek(-64, 2)
            source.write(b"\1" * 64)
        write(file, tensor, layout, target)

    monkeypatch.setattr(packing, "write_packed", changed)
    with pytest.raises(ValueError, match=r"dense: 'w' .*changed"):
        pack(tmp_path / "dense", tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("name", ["dense", "dense/a.safetensors"])
def test_a_target_that_is_made_meanwhile_stays(name, tmp_path):
    a_folder(tmp_path / "dense")
    target = tmp_path / "packed"
    with pytest.raises(ValueError, match="packed is there now"):
        pack(tmp_path / name, target, progress=lambda *_: target.write_text("mine"))
    assert target.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "packed"}


def test_values_that_change_while_they_are_packed_leave_nothing(tmp_path):
    """No zero comes or goes: what is there still fits what was counted."""
    dense = tmp_path / "dense"
    safetensors.numpy.save_file({"w": pruned(np.random.default_rng(0), (64, 64), 0.9)}, dense)

    def changed(*_):
        os.utime(dense, ns=(0, 0))

    with pytest.raises(ValueError, match="dense was changed while it was read"):
        pack(dense, tmp_path / "packed", progress=changed)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_the_commands_pack_and_unpack(tmp_path, capsys):
    two_layouts(tmp_path)
    dense, target, back = (str(tmp_path / name) for name in ("dense", "packed", "back"))
    assert cli.main(["pack", dense, target]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 file, 2 of 3 tensors packed: 4.5 kB for 8.7 kB dense, 0.5")
    assert cli.main(["unpack", target, back]) == 0
    assert capsys.readouterr().out == out
    assert (tmp_path / "back").read_bytes() == (tmp_path / "dense").read_bytes()
    assert cli.main(["pack", dense, target]) == 2
    assert "packed must not be there" in capsys.readouterr().err
    assert cli.main(["unpack", str(tmp_path / "none"), str(tmp_path / "x")]) == 1
    assert "none: No such file" in capsys.readouterr().err
