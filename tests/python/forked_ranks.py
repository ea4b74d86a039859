"""Begins a program's main() on several ranks, with the environment that torchrun gives them.

    forked_ranks.py PORT RANKS PROGRAM ARGUMENTS...

What the program imports, one process imports for all.
"""

import os
import runpy
import sys

import torch._dynamo  # noqa: F401  else each rank would, for its shards
from forked import start


def run(main, rank, ranks, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    main()


if __name__ == "__main__":
    _, port, ranks, *sys.argv = sys.argv
    main = runpy.run_path(sys.argv[0])["main"]
    children = [start(lambda rank=rank: run(main, rank, ranks, port)) for rank in range(int(ranks))]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(statuses))
