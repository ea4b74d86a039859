"""What `datasparse demo` claims, measured again from the weights it leaves behind."""

from itertools import pairwise

import numpy as np
import pytest
from datasparse import DataNormSparsifier, demo


@pytest.fixture(
    scope="module",
    params=[0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2))],
    ids=lambda seed: f"seed{seed}",
)
def result(request):
    return demo.run_demo(request.param, quiet=True)


def zeros(network):
    return sum(int((layer.weight == 0).sum()) for layer in network)


def size(network):
    return sum(layer.weight.size for layer in network)


def accuracy(network, digits):
    signal = digits.test_images.astype(np.float64)
    for layer in network[:-1]:
        signal = np.maximum(signal @ layer.weight + layer.bias, 0)
    logits = signal @ network[-1].weight + network[-1].bias
    return (logits.argmax(axis=1) == digits.test_labels).mean()


def test_nine_weights_in_ten_are_zero(result):
    assert zeros(result.sparse) >= 0.9 * size(result.sparse)
    assert all((layer.weight == 0).mean() >= 0.9 for layer in result.sparse)
    assert zeros(result.dense) == 0


def test_sparse_accuracy_is_within_a_point_of_dense(result):
    sparse = accuracy(result.sparse, result.digits)
    dense = accuracy(result.dense, result.digits)
    assert abs(sparse - dense) <= 0.01
    assert dense >= 0.97  # a weak baseline would make the comparison easy


def test_last_record_is_that_of_the_final_weights(result):
    last = result.history[-1]
    assert last.sparsity == zeros(result.sparse) / size(result.sparse)
    # Products in float64 may tell one near tie among the 599 images otherwise.
    one_image = 1.5 / len(result.digits.test_labels)
    assert last.sparse.accuracy == pytest.approx(
        accuracy(result.sparse, result.digits), abs=one_image
    )
    assert last.dense.accuracy == pytest.approx(
        accuracy(result.dense, result.digits), abs=one_image
    )


def test_level_rises_from_zero_and_the_zeros_follow(result):
    levels = [record.level for record in result.history]
    assert levels[0] == 0.0
    assert levels[-1] == 0.9
    assert all(now <= following for now, following in pairwise(levels))
    # Each of the three matrices prunes a whole number of weights: half a weight off at most.
    counted = [record.sparsity for record in result.history]
    np.testing.assert_allclose(counted, levels, atol=1.5 / size(result.sparse), rtol=0)


def test_epochs_are_numbered_from_one(result):
    assert [record.epoch for record in result.history] == list(range(1, demo.EPOCHS + 1))


def test_no_test_image_is_trained_on(result):
    digits = result.digits
    images = np.concatenate([digits.train_images, digits.test_images])
    assert len(images) == len(np.unique(images, axis=0)) == 1797
    assert len(digits.test_labels) == 599


def test_pruned_weights_are_zero_after_every_step(monkeypatch):
    experiment = demo.Experiment(seed=0, epochs=3)
    train_batch = experiment.train_batch
    seen = []

    def checked(images, labels):
        train_batch(images, labels)
        for layer in experiment.sparse:
            pruned = ~experiment.sparsifier.get_mask(layer.name)
            assert not layer.weight[pruned].any()
            assert not layer.weight_velocity[pruned].any()
            seen.append(int(pruned.sum()))

    monkeypatch.setattr(experiment, "train_batch", checked)
    records = [experiment.run_epoch() for _ in range(3)]
    assert len(seen) == 3 * 37 * 3  # epochs, batches and layers
    assert seen[0] == 0
    assert sum(seen[-3:]) / size(experiment.sparse) == records[-1].sparsity == 0.9


def test_sparsity_of_each_epoch_is_counted():
    experiment = demo.Experiment(seed=1, epochs=4)
    for _ in range(4):
        record = experiment.run_epoch()
        pruned = sum(
            int((~experiment.sparsifier.get_mask(layer.name)).sum()) for layer in experiment.sparse
        )
        assert record.sparsity == zeros(experiment.sparse) / size(experiment.sparse)
        assert zeros(experiment.sparse) == pruned


def test_sparsity_believes_the_weights_not_the_schedule():
    network = demo.random_network(np.random.default_rng(0))
    network[0].weight[:32] = 0
    assert demo.sparsity(network) == 16_000 / 134_000


def test_twins_start_equal_and_share_no_memory():
    experiment = demo.Experiment(seed=0, epochs=2)
    for sparse, dense in zip(experiment.sparse, experiment.dense, strict=True):
        np.testing.assert_array_equal(sparse.weight, dense.weight)
        assert not np.shares_memory(sparse.weight, dense.weight)


def test_same_seed_same_weights():
    first, second = (demo.run_demo(seed=3, epochs=2, quiet=True) for _ in range(2))
    assert first.history == second.history
    for one, other in zip(first.sparse, second.sparse, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)


def test_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    network = demo.random_network(rng)
    for layer in network:
        for field in ("weight", "bias", "weight_velocity", "bias_velocity"):
            setattr(layer, field, getattr(layer, field).astype(np.float64))
    images, labels = rng.random((8, 64)), rng.integers(10, size=8)

    def loss():
        return -demo.log_softmax(demo.forward(network, images)[-1])[np.arange(8), labels].mean()

    demo.descend(network, images, labels, learning_rate=0.0)  # the first velocity is the gradient
    for layer in network:
        for values, gradient in (
            (layer.weight, layer.weight_velocity),
            (layer.bias, layer.bias_velocity),
        ):
            place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
            before, step = values[place], 1e-5
            values[place] = before + step
            above = loss()
            values[place] = before - step
            below = loss()
            values[place] = before
            assert (above - below) / (2 * step) == pytest.approx(gradient[place], rel=1e-4)


def test_cubic_scheduler_raises_each_group_to_its_own_level():
    sparsifier = DataNormSparsifier(sparsity_level=0.8, sparse_block_shape=(1, 1))
    sparsifier.add_data("a", np.ones((2, 5), np.float32))
    sparsifier.add_data("b", np.ones((2, 5), np.float32), sparsity_level=0.4)
    scheduler = demo.CubicScheduler(sparsifier, ramp_epochs=2)
    levels = []
    for _ in range(4):
        sparsifier.step()
        levels.append([sparsifier.data_groups[name]["sparsity_level"] for name in "ab"])
        scheduler.step()
    np.testing.assert_allclose(levels, [[0, 0], [0.7, 0.35], [0.8, 0.4], [0.8, 0.4]])


def test_plot_is_a_png(tmp_path):
    png = tmp_path / "curves.png"
    demo.save_plot(demo.run_demo(seed=0, epochs=2, quiet=True), png)
    written = png.read_bytes()
    assert written.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(written) > 10_000


def test_quiet_prints_nothing_and_otherwise_a_row_per_epoch(capfd):
    result = demo.run_demo(seed=0, epochs=2, quiet=True)
    assert capfd.readouterr() == ("", "")
    demo.print_report(result)
    printed = capfd.readouterr().out
    for record in result.history:
        assert f"{record.sparse.accuracy:.2%}" in printed
        assert f"{record.dense.loss:.4f}" in printed
    assert printed.splitlines()[-1] == demo.summary(result)
    assert "90.0% of 134,000 weights are zero" in demo.summary(result)
