"""What a launcher (`accelerate launch`, `torchrun`, SLURM with either) has told this process."""

import os


def launched() -> int:
    """How many processes work on this run together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def launched_rank() -> int:
    """This process's number among them; the first, 0, writes and tells."""
    return int(os.environ.get("RANK") or 0)
