"""`datasparse prune`: a checkpoint in files is pruned as a stream, and arrives whole or not at all.

The work is done in TARGET.partial, from which a run that was killed goes on; then one rename.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .._core import __version__
from .counting import count_pools
from .folder import Checkpoint
from .journal import NAME, Journal
from .maskfile import mask_header
from .options import Options
from .place import (
    copy_beside,
    flush_folder,
    place,
    refuse_places,
    rename,
    require_space,
    write_whole,
)
from .plan import Plan, make_plan
from .safetensors import flush, write_at
from .scores import opened
from .stream import Progress, Stream

StrPath = str | os.PathLike[str]


def silent(done: int, total: int, name: str) -> None:
    """The progress of a run that nobody watches."""


def plan_prune(
    source: StrPath,
    options: Options | None = None,
    *,
    masks: bool = False,
    read: bool = False,
    progress: Progress = silent,
) -> str:
    """What `prune()` would do, as a text: the table of a dry run. Reads headers only.

    masks: whether they are written too. read: read the tensors in pools, too, as often as `prune()`
    would before it writes, and say how many zeros each of them gets. progress: is told of that.
    Errors: those of `prune()`, but for target and places.
    """
    with ExitStack() as stack:
        plan = planned(stack, source, options or Options(), with_masks=masks)
        if read and plan.pools:
            plan = plan.with_cuts(cuts_of(plan, plan.bytes_counted, progress))
        return str(plan)


def prune(
    source: StrPath,
    target: StrPath,
    options: Options | None = None,
    *,
    report: StrPath | None = None,
    masks: StrPath | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Prune a checkpoint into a new one, and return what was done: docs/shell.md has the keys.

    source: a safetensors file, or a folder with one, or with several and an index.
    target: a path that is not there; a file where the source is one, a folder where it is one.
    report: a file that gets what is returned, as JSON. masks: a file that gets the masks, which
        `datasparse.load()` takes. Both replace what is there.
    progress: called in another thread, with the bytes that are written, those that will be, and a
        tensor's name or "".

    Masked elements become +0; all other bytes stay, and so do metadata and the order of tensors.
    The masks are those of `DataNormSparsifier` in memory, groups sorted by name.

    ValueError, naming file and tensor, for a source that is damaged or not fit, options that cannot
    be, a target that is there, and a TARGET.partial of other work; OSError, naming the file, where
    the system says so. Nothing is under the target's name then, and `source` is never written to.
    After an OSError or a kill, the same call goes on from TARGET.partial, to the same bytes.

    Cost: one pass over the source, and with a pool mostly two before it. Masks take the threads of
    `set_num_threads()`; three more read, write and flush. Memory: that of the greatest tensor, a
    byte for each of its elements, and 512 MiB; of a pool 1% of its tensors; `plan_prune()` tells.
    """
    options = options or Options()
    target = Path(target)
    with ExitStack() as stack:
        plan = planned(stack, source, options, with_masks=masks is not None)
        partial = target.with_name(target.name + ".partial")
        outputs = [Path(path) for path in (report, masks) if path is not None]
        read = [path for file in plan.scores.files for path in file.paths]
        read += [Path(options.recipe)] if options.recipe is not None else []
        refuse_places(plan.checkpoint, read, target, partial, outputs)
        is_done = os.path.lexists(target)  # by a run that was killed before it had cleaned up?
        if is_done and (not (partial / NAME).exists() or holds_files(partial / "files")):
            raise ValueError(f"{target} is there already: remove it, or name another target")
        places = {"target": str(target.absolute()), "masks": masks and str(Path(masks).absolute())}
        journal = stack.enter_context(Journal(partial, identity_of(plan, places)))
        if is_done and not journal.finished:
            raise ValueError(f"{target} is there already, and {partial} is not finished: remove it")
        unfinished = None if masks is None else Path(f"{masks}.partial")
        if not journal.finished:
            fill(plan, partial / "files", journal, unfinished, progress)
            journal.finish()
        result = report_of(plan, journal, target)
        if report is not None:
            write_whole(Path(report), json.dumps(result, indent=1).encode() + b"\n")
        if masks is not None and unfinished is not None and unfinished.exists():
            rename(unfinished, Path(masks))
        if not is_done:
            place(plan.checkpoint, partial / "files", target)
        shutil.rmtree(partial)
        return result


def with_cuts(plan: Plan, journal: Journal, progress: Progress) -> Plan:
    """The plan with what its pools prune: as the journal knows it, or counted, and then noted."""
    if journal.cuts is None:
        journal.cut(cuts_of(plan, plan.bytes_counted + plan.bytes_written, progress))
    cuts = journal.cuts or {}
    if any(name not in cuts for pool in plan.pools for name in pool.names):
        raise ValueError(f"{journal.path} is damaged: remove {journal.folder}")
    return plan.with_cuts(cuts)


def cuts_of(plan: Plan, total: int, progress: Progress) -> dict[str, int]:
    """What the plan's pools prune. Progress is of the first look: others read what they need."""
    once = plan.bytes_counted
    return count_pools(plan, lambda done, name: progress(min(done, once), total, name))


def planned(stack: ExitStack, source: StrPath, options: Options, with_masks: bool) -> Plan:
    """The plan, with all files open until the stack is closed."""
    checkpoint = stack.enter_context(Checkpoint(source))
    scores = stack.enter_context(opened(options.scores))
    norms = stack.enter_context(opened(options.input_norms))
    return make_plan(checkpoint, options, scores, norms, with_masks)


def identity_of(plan: Plan, places: dict[str, Any]) -> dict[str, Any]:
    """All that decides what is written, and where, as plain data."""
    sources = {}
    for checkpoint in (plan.checkpoint, *plan.scores.files):
        for file in checkpoint.files.values():
            header = hashlib.sha256(file.header.text).hexdigest()
            sources[str(file.path.absolute())] = {**of_status(file.status), "header": header}
    copied = {name: of_status(status) for name, status in plan.checkpoint.beside.copied.items()}
    options = dataclasses.asdict(plan.options)
    return {"version": __version__, **places, "options": options, "recipe": plan.rules.recipe,
            "sources": sources, "copied": copied}  # fmt: skip


def of_status(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def fill(
    plan: Plan, folder: Path, journal: Journal, masks: Path | None, progress: Progress
) -> None:
    """Write all files into a folder, and wait until they are on the disk."""
    folder.mkdir(exist_ok=True)
    refuse_lost(plan, folder, journal, masks)
    copy_beside(plan.checkpoint, folder)
    needed = plan.bytes_written - bytes_there(plan, folder)
    if masks is not None:
        beside = masks.absolute().parent
        of_masks = mask_header(plan).file_size - (masks.stat().st_size if masks.exists() else 0)
        if beside.stat().st_dev == folder.stat().st_dev:
            needed += of_masks
        else:
            require_space(beside, of_masks)
    require_space(folder, needed)
    if plan.pools:
        plan = with_cuts(plan, journal, progress)
    Stream(plan, folder, journal, masks, progress).run()
    if masks is not None:
        checksums = {name: record["xxh64"] for name, record in journal.records.items()}
        with masks.open("r+b") as header:
            write_at(header.fileno(), masks, 0, mask_header(plan, checksums).text)
            flush(header.fileno(), masks)
    flush_folder(folder)


def refuse_lost(plan: Plan, folder: Path, journal: Journal, masks: Path | None) -> None:
    """ValueError where files do not hold what the journal says; others begin anew."""
    for name in plan.checkpoint.files:
        path, end = folder / name, journal.written.get(name, 0)
        if end == 0:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.stat().st_size < end:
            raise ValueError(f"{path} has lost bytes that were written: remove {journal.folder}")
    if masks is not None and journal.records and not masks.exists():
        raise ValueError(f"{masks} is gone, and work goes on: remove {journal.folder}")
    if masks is not None and not journal.records:
        masks.unlink(missing_ok=True)


def holds_files(folder: Path) -> bool:
    """Whether there is something in a folder. A file that got its name leaves an empty one."""
    return folder.exists() and any(folder.iterdir())


def bytes_there(plan: Plan, folder: Path) -> int:
    """What an earlier run has taken of the disk, noted in the journal or not."""
    paths = [folder / name for name in plan.checkpoint.files]
    return sum(path.stat().st_size for path in paths if path.exists())


def report_of(plan: Plan, journal: Journal, target: Path) -> dict[str, Any]:
    """What was done, as plain data. Zeros are those of the bytes that were written."""
    tensors = {}
    for name, task in plan.tasks.items():
        tensor, zeros = task.tensor, journal.records[name]["zeros"]
        tensors[name] = {
            "file": task.file,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "layout": task.layout and list(task.layout),
            "config": dict(task.config),
            "elements": tensor.elements,
            "zeros": zeros,
            "sparsity": zeros / tensor.elements,
        }
    elements = sum(entry["elements"] for entry in tensors.values())
    zeros = sum(entry["zeros"] for entry in tensors.values())
    return {
        "datasparse": __version__,
        "source": str(plan.checkpoint.path),
        "target": str(target),
        "options": dataclasses.asdict(plan.options),
        "total": {
            "tensors": len(tensors),
            "elements": elements,
            "zeros": zeros,
            "sparsity": zeros / elements,
            "bytes": plan.bytes_written,
        },
        "tensors": tensors,
        "partial": plan.partial,
        "left": dict(plan.left),
        "files": list(plan.checkpoint.files),
        "copied": list(plan.checkpoint.beside.copied),
        "not_copied": list(plan.checkpoint.beside.left),
    }
