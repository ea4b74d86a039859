"""Times candidates beside each other, so that whatever slows one slows all."""

import gc
import random
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# A call during which the system gave a processor to somebody else says nothing of the candidate: on
# a busy machine it lasts a time slice longer, 8 ms say. It is made as often as this, at the most.
ATTEMPTS = 5


@dataclass
class Candidate:
    """Something to time.

    `prepare` and `check` are called before and after each timed call, with its number, and are not
    timed. `run` does the work `inside` times: a loop of its own that keeps a call's overhead out.
    """

    name: str
    run: Callable[[int], object]
    prepare: Callable[[int], object] = lambda call: None
    check: Callable[[int], str | None] | None = None
    inside: int = 1
    at_most: int | None = None  # rounds, for what is slow
    check_once: bool = False  # after the first round only


@dataclass
class Times:
    """Seconds, in rounds."""

    rounds: list[list[float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    checked: bool = False
    disturbed: int = 0  # calls that were never left alone

    @property
    def median(self) -> float:
        return statistics.median(time for round_ in self.rounds for time in round_)

    @property
    def spread(self) -> float:
        """From the fastest round to the slowest, over the median."""
        medians = [statistics.median(round_) for round_ in self.rounds]
        return (max(medians) - min(medians)) / self.median

    @property
    def right(self) -> bool | None:
        return not self.faults if self.checked else None


def time_all(
    candidates: list[Candidate], rounds: int, calls: int = 1, seed: int = 0
) -> dict[str, Times]:
    """Times every candidate `calls` times in every round, in a different order each time.

    Answers are checked after the first round and after the last.
    """
    order = random.Random(seed)
    times = {candidate.name: Times() for candidate in candidates}
    for candidate in candidates:  # once to warm up
        candidate.prepare(0)
        candidate.run(0)
    gc.disable()
    try:
        for round_ in range(rounds):
            for candidate in order.sample(candidates, len(candidates)):
                last = min(rounds, candidate.at_most or rounds) - 1
                if round_ > last:
                    continue
                timed = times[candidate.name]
                timed.rounds.append([])
                for call in range(round_ * calls, (round_ + 1) * calls):
                    seconds, alone = _time_call(candidate, call)
                    timed.rounds[-1].append(seconds)
                    timed.disturbed += not alone
                due = round_ == 0 or (round_ == last and not candidate.check_once)
                if candidate.check is not None and due:
                    timed.checked = True
                    fault = candidate.check(call)
                    if fault is not None:
                        timed.faults.append(fault)
    finally:
        gc.enable()
    return times


def _time_call(candidate: Candidate, call: int) -> tuple[float, bool]:
    """Seconds, and whether no other process took a processor away meanwhile."""
    least = float("inf")
    for _ in range(1 if candidate.at_most else ATTEMPTS):
        candidate.prepare(call)
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        begin = time.perf_counter_ns()
        candidate.run(call)
        seconds = (time.perf_counter_ns() - begin) / 1e9 / candidate.inside
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == preempted:
            return seconds, True
        least = min(least, seconds)
    return least, False
