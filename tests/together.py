"""Commands and trainings by several processes on this machine, as a launcher starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = str(Path(__file__).parent)


def start(count, folder, *arguments):
    """`python ARGUMENTS` in `count` processes that know of each other; returns all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "PYTHONPATH": TESTS,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes, seconds=300):
    """(exit status, output, errors) of each."""
    try:
        found = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, found, strict=True)]
