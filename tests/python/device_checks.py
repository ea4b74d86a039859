"""What must hold on any device, each a function of it: a check for scripts/test-gpu, and a test.

They need torch and the library alone, and ask what a user sees. Each holds against the CPU, whose
masks are those of `block_mask()`.
"""

import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import datasparse
import torch
from datasparse.torch import attach, detach
from datasparse.torch.device.operations.arithmetic import require_exact
from device_cases import describe, random_cases
from devices import Device
from torch import nn

Check = Callable[[Device], None]
CHECKS: list[Check] = []


class CannotBeAsked(Exception):  # noqa: N818 (it is no error)
    """Why a check is left out there."""


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def random_cases_are_those_of_the_cpu(
    compute, number: int, seed: int = 25, waits_first: bool = False, with_pools: bool = True
) -> Check:
    """A check of what a route computes, without a sparsifier; also on the CPU, by that route. One
    that `waits_first` copies tables to the device for jobs that it has not seen."""

    def check(device: Device) -> None:
        def there(tensor: torch.Tensor | None) -> torch.Tensor | None:
            """Of the same strides."""
            if tensor is None:
                return None
            made = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device.at()
            )
            return made.copy_(tensor)

        for dtype in (torch.float32, torch.float64):
            require_exact(device.at(), dtype)  # once it reads values
        for jobs, pools, expected in random_cases(seed, number, with_pools):
            moved = [
                replace(
                    job,
                    scores=there(job.scores),
                    mask=there(job.mask),
                    kept_zeros=there(job.kept_zeros),
                )
                for job in jobs
            ]
            if waits_first:
                compute(moved, pools)
            with device.never_waits():
                masks = compute(moved, pools)
            for mask, right in zip(masks, expected, strict=True):
                assert torch.equal(mask.cpu(), right), describe(jobs, pools)

    return check


TWO_OF_FOUR = {"sparse_block_shape": (1, 4), "zeros_per_block": 2, "sparsity_level": 1.0}
# Shape, dtype and config of groups of every kind.
GROUPS = [
    ((64, 48), torch.float32, {"sparse_block_shape": (1, 1)}),
    ((64, 48), torch.float32, {"sparse_block_shape": (1, 1), "sparsity_level": 0.9}),
    ((40, 30), torch.bfloat16, {"sparse_block_shape": (1, 1)}),
    ((40, 30), torch.float16, {"sparse_block_shape": (1, 4), "norm": "L2"}),
    ((33, 21), torch.float64, {"sparse_block_shape": (4, 4)}),
    ((16, 8, 3, 3), torch.float32, {"sparse_block_shape": (1, 4)}),
    ((20, 32), torch.float32, TWO_OF_FOUR),
    ((130,), torch.float32, {"sparse_block_shape": (1, 8)}),
    ((48, 20), torch.float32, {"sparse_block_shape": (1, 1), "pool": "p"}),
    ((24, 20), torch.float32, {"sparse_block_shape": (1, 1), "pool": "p"}),
]  # fmt: skip


def data_of(seed: int) -> list[torch.Tensor]:
    """In CPU memory, with ties and NaN here and there."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for shape, dtype, _ in GROUPS:
        data = torch.randn(shape, generator=generator)
        data[torch.rand(shape, generator=generator) < 0.1] = 0.5
        data[torch.rand(shape, generator=generator) < 0.02] = torch.nan
        result.append(data.to(dtype))
    return result


def sparsifier_of(some: list[torch.Tensor]) -> datasparse.DataNormSparsifier:
    sparsifier = datasparse.DataNormSparsifier(sparsity_level=0.5)
    for number, (data, (_, _, config)) in enumerate(zip(some, GROUPS, strict=True)):
        sparsifier.add_data(str(number), data, **config)
    return sparsifier


def masks_of(sparsifier: datasparse.BaseDataSparsifier) -> list[torch.Tensor]:
    return [sparsifier.get_mask(name).cpu() for name in sparsifier.data_groups]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one.cpu(), other.cpu()), f"tensor {number} differs from the CPU's"


@check
def masks_are_those_of_the_cpu(device: Device) -> None:
    here, there = data_of(1), [device.put(data) for data in data_of(1)]
    ours, theirs = sparsifier_of(here), sparsifier_of(there)
    for _ in range(2):
        for sparsifier in (ours, theirs):
            sparsifier.step()
            sparsifier.apply_mask()
        for data in (*here, *there):
            data.mul_(1.5)
    assert_same(masks_of(theirs), masks_of(ours))
    assert_same([data.nan_to_num() for data in there], [data.nan_to_num() for data in here])
    for name, data in zip(theirs.data_groups, there, strict=True):
        assert theirs.get_mask(name).device == data.device


@check
def a_step_waits_for_nothing(device: Device) -> None:
    there = [device.put(data) for data in data_of(2)]
    sparsifier = sparsifier_of(there)
    sparsifier.step()  # tables of what the groups are like are made and copied once
    with device.never_waits():
        sparsifier.step()
        sparsifier.apply_mask()


@check
def masks_move_as_on_the_cpu(device: Device) -> None:
    for kind in (datasparse.regrowth.RigL, datasparse.regrowth.SET):
        here, there = data_of(9), [device.put(data) for data in data_of(9)]
        ours, theirs = kind(sparsity_level=0.5), kind(sparsity_level=0.5)
        for number, (_, _, config) in enumerate(GROUPS):
            ours.add_data(str(number), here[number], **config)
            theirs.add_data(str(number), there[number], **config)
        for seed in range(4):
            gradients = data_of(20 + seed)
            moved = [device.put(gradient) for gradient in gradients]
            ours.set_gradients({str(i): gradient for i, gradient in enumerate(gradients)})
            theirs.set_gradients({str(i): gradient for i, gradient in enumerate(moved)})
            ours.step()
            with device.never_waits() if seed > 1 else nullcontext():
                theirs.step()
            assert_same(masks_of(theirs), masks_of(ours))
        assert_same([data.nan_to_num() for data in there], [data.nan_to_num() for data in here])
        for name in ours.data_groups:
            assert theirs.ever_active(name) == ours.ever_active(name)


@check
def a_model_is_trained_and_masked(device: Device) -> None:
    for mode in ("in_place", "parametrize"):
        torch.manual_seed(3)
        model = device.put(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)))
        sparsifier = datasparse.DataNormSparsifier(sparsity_level=0.75, sparse_block_shape=(1, 4))
        attachment = attach(model, sparsifier, mode=mode)
        optimizer = torch.optim.AdamW(model.parameters())
        attachment.follow(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            model(device.put(torch.randn(16, 32))).square().mean().backward()
            optimizer.step()
        for name in attachment.names:
            kept = sparsifier.get_mask(name).float().mean().item()
            assert kept == 0.25, f"{kept} of {name} is kept in mode {mode}"
        detach(model)
        zeros = int((model[0].weight == 0).sum())
        assert zeros == 0.75 * model[0].weight.numel(), f"{zeros} zeros in mode {mode}"


@check
def a_model_moves_there_and_back(device: Device) -> None:
    def make(places: list[torch.device]) -> list[torch.Tensor]:
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 8))
        sparsifier = datasparse.DataNormSparsifier(
            sparsity_level=0.5, sparse_block_shape=(1, 4), monotone=True
        )
        attach(model, sparsifier)
        for number, place in enumerate(places):
            model.to(place)
            with torch.no_grad():
                for weight in model.parameters():
                    noise = torch.randn(
                        weight.shape, generator=torch.Generator().manual_seed(number)
                    )
                    weight.add_(noise.to(place))
            sparsifier.step()
            sparsifier.apply_mask()
            for name in sparsifier.data_groups:
                assert sparsifier.get_mask(name).device.type == torch.device(place).type
        return [*masks_of(sparsifier), *(weight.detach().cpu() for weight in model.parameters())]

    cpu = torch.device("cpu")
    places = [cpu, device.at(), device.other, device.at(), cpu]
    assert_same(make(places), make([cpu] * len(places)))


@check
def a_checkpoint_is_that_of_the_cpu(device: Device) -> None:
    here, there = data_of(5), [device.put(data) for data in data_of(5)]
    ours, theirs = sparsifier_of(here), sparsifier_of(there)
    for sparsifier in (ours, theirs):
        sparsifier.step()
    saved = theirs.state_dict()
    assert saved == ours.state_dict()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    loaded = torch.load(file)
    for fresh in (sparsifier_of(data_of(6)), sparsifier_of([device.put(d) for d in data_of(6)])):
        fresh.load_state_dict(loaded)
        assert_same(masks_of(fresh), masks_of(ours))


@check
def out_of_memory_leaves_masks_as_they_were(device: Device) -> None:
    if not hasattr(device, "with_room_for"):
        raise CannotBeAsked(f"the memory of {device.name} cannot be limited")
    rows = 1 << (13 if device.name == "cuda" else 5)  # more than its allocator may have left over
    data = device.put(torch.randn(rows, 1 << 12))
    sparsifier = datasparse.DataNormSparsifier([("w", data)], 0.5, sparse_block_shape=(1, 1))
    sparsifier.step()
    before = sparsifier.get_mask("w").clone()
    data.neg_().add_(1)
    failed = False
    with device.with_room_for(1 << 10):
        try:
            sparsifier.step()
        except (MemoryError, torch.OutOfMemoryError):
            failed = True
    assert failed, "a step took no memory at all"
    assert torch.equal(sparsifier.get_mask("w"), before)
    assert sparsifier.step_count == 1
    sparsifier.step()
    assert_same(masks_of(sparsifier), [mask_on_cpu(data)])


def mask_on_cpu(data: torch.Tensor) -> torch.Tensor:
    return datasparse.block_mask(data.cpu(), sparsity_level=0.5, sparse_block_shape=(1, 1))


@check
def denormals_count_where_the_process_flushes_them(device: Device) -> None:
    bits = torch.arange(1, 4097, dtype=torch.int32).flip(0).view(64, 64)
    there = device.put(bits).view(torch.float32)
    configs = [{"sparse_block_shape": (1, 1)}, {"sparse_block_shape": (1, 4)}]
    for config in configs:
        expected = datasparse.block_mask(bits.view(torch.float32), sparsity_level=0.5, **config)
        sparsifier = datasparse.DataNormSparsifier([("w", there)], 0.5, **config)
        torch.set_flush_denormal(True)
        try:
            sparsifier.step()
        finally:
            torch.set_flush_denormal(False)
        assert_same(masks_of(sparsifier), [expected])


@check
def deterministic_mode_refuses_nothing(device: Device) -> None:
    expected = sparsifier_of(data_of(7))
    expected.step()
    sparsifier = sparsifier_of([device.put(data) for data in data_of(7)])
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        sparsifier.step()
        sparsifier.apply_mask()
    finally:
        torch.use_deterministic_algorithms(before)
    assert_same(masks_of(sparsifier), masks_of(expected))


@check
def work_goes_to_the_stream_of_the_caller(device: Device) -> None:
    if device.name != "cuda":
        raise CannotBeAsked(f"{device.name} has no streams")
    data = device.put(torch.randn(1 << 12, 1 << 12))
    sparsifier = datasparse.DataNormSparsifier([("w", data)], 0.5, sparse_block_shape=(1, 1))
    sparsifier.step()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # what is on another stream would overtake this
        data.neg_().add_(1)
        sparsifier.step()
        sparsifier.apply_mask()
        mask, masked = sparsifier.get_mask("w").cpu(), data.cpu()
    assert_same([mask], [mask_on_cpu(masked)])
    assert int((masked == 0).sum()) >= data.numel() // 2


@check
def more_elements_than_an_int_counts(device: Device) -> None:
    if device.name != "cuda" or torch.cuda.get_device_properties(0).total_memory < 60 << 30:
        raise CannotBeAsked("2^31 elements and what the operations need take 60 GiB of a GPU")
    elements = (1 << 31) + (1 << 20)
    data = torch.empty(elements // 4096, 4096, dtype=torch.bfloat16, device=device.at())
    data.normal_(generator=torch.Generator(device.at()).manual_seed(8))
    sparsifier = datasparse.DataNormSparsifier([("w", data)], 0.5, sparse_block_shape=(1, 1))
    sparsifier.step()
    assert_same([sparsifier.get_mask("w")], [mask_on_cpu(data)])
