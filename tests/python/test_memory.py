"""What a step takes besides data and masks, as the operating system counts it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELEMENTS = 1 << 23
DATA = 4 * ELEMENTS
# The rule is 2% of the data and 1 MiB, at any size; each thread's own buffers, half a megabyte, and
# what Python touches are told from that only at larger ones: python -m bench --only memory.
OWN = 2 << 20

pytestmark = [
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="peaks are measured by way of /proc"
    ),
    pytest.mark.usefixtures("measurable_memory"),
]


@pytest.fixture
def extra(monkeypatch):
    """Bytes that the first step on that input of the benchmark takes, in a process of its own."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.child import run_child

    def measure(name):
        arguments = [name, "float32", ELEMENTS, [1, 1], 0.5, None, 2]
        return run_child("bench.sections.memory", [json.dumps(arguments)])

    return measure


@pytest.mark.parametrize("name", ["Gaussian", "constant", "two-valued", "half NaN", "transposed"])
def test_a_step_on_natural_data_takes_little(extra, name):
    assert extra(name) <= 0.02 * DATA + OWN


@pytest.mark.parametrize("name", ["planted: large", "planted: tiny and large"])
def test_a_step_on_any_data_takes_a_tenth_at_most(extra, name):
    assert extra(name) <= 0.1 * DATA + OWN
