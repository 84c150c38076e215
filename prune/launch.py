"""The words of a launcher (`accelerate launch`, `torchrun`, SLURM with either) to this process."""

import os


def launched() -> int:
    """The number of processes that work on this run together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def launched_rank() -> int:
    """This process's number among them; the first, 0, writes and tells."""
    return int(os.environ.get("RANK") or 0)
