"""step() on 1, 2, 4 ... threads, each beside the bound on as many."""

from collections.abc import Iterator
from dataclasses import replace

from bench.cases import TWO_OF_FOUR, Case
from bench.inputs import natural
from bench.options import Options, use_threads
from bench.report import Row
from bench.step import NO_GOALS, measure_step

TITLE = "Threads"
CASES = [Case((1, 1), 0.5), Case((1, 4), 0.5), Case((4, 4), 0.5), TWO_OF_FOUR]


def run(options: Options) -> Iterator[Row]:
    input_ = natural(min(1 << 26, options.largest))
    counts = [1 << i for i in range(options.threads.bit_length())]
    for threads in dict.fromkeys([*counts, options.threads]):
        use_threads(threads)
        for case in CASES[:1] if options.quick else CASES:
            alone = replace(options, threads=threads)
            copy = case is CASES[0]  # once for an input
            yield from measure_step("threads", input_, case, alone, NO_GOALS, with_copy=copy)
    use_threads(options.threads)
