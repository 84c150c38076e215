"""Where a sweep's runs are carried out: here, one behind the other, or by way of submitit.

submitit is imported when it is asked for: it is an optional extra.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lvc.files import atomic_write
from prune.progress import console
from prune.sweeps.member import MemberRun, Outcome
from vcodecs import UserError

Machines = Literal["here", "local", "slurm"]
"""`here`: one run behind the other. `local`: submitit's processes on this machine, all at once.
`slurm`: jobs of a cluster."""

POLL = 2.0  # seconds
MINUTES = 24 * 60
"""Time limit of a submitted run, unless another is given; what is not done by then is queued anew.
submitit's own is five minutes."""
JOBS = "jobs.json"
UNDER_WAY = {"PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"}


def one_after_another(runs: Mapping[str, MemberRun]) -> Iterator[tuple[str, Outcome]]:
    """The end of each run by its name."""
    for number, (name, run) in enumerate(runs.items(), 1):
        console.print(f"run {number} of {len(runs)}: {name}")
        yield name, run()


def submitted(
    runs: Mapping[str, MemberRun], folder: Path, machines: Machines, parameters: Mapping[str, Any]
) -> Iterator[tuple[str, Outcome]]:
    """The same of runs on other machines, in the order in which they end.

    `folder`: where submitit keeps what it sends. `parameters`: as submitit names them, such as
    timeout_min, gpus_per_node, slurm_partition, slurm_array_parallelism. Stopped while jobs of a
    cluster are at work, the same call waits for them again.
    """
    jobs = _known_jobs(folder, machines, runs)
    left = {name: run for name, run in runs.items() if name not in jobs}
    jobs |= _submit(left, folder, machines, parameters)
    if machines == "slurm":
        ids = {name: job.job_id for name, job in jobs.items()}
        atomic_write(folder / JOBS, json.dumps(ids, indent=1) + "\n")
    try:
        while jobs:
            for name in [name for name, job in jobs.items() if job.done()]:
                yield name, _outcome(jobs.pop(name))
            time.sleep(POLL)
    except KeyboardInterrupt:
        if machines == "local":
            for job in jobs.values():
                job.cancel()
        raise


def _submit(
    runs: Mapping[str, MemberRun], folder: Path, machines: Machines, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    submitit = _submitit()
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=machines)
        executor.update_parameters(**{"timeout_min": MINUTES, "name": "leanvc", **parameters})
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"submitit ({machines}): {' '.join(str(error).split())}") from error
    if not runs:
        return {}
    with executor.batch():
        jobs = [executor.submit(run) for run in runs.values()]
    return dict(zip(runs, jobs, strict=True))


def _known_jobs(folder: Path, machines: Machines, runs: Mapping[str, MemberRun]) -> dict[str, Any]:
    """Jobs that an earlier start of this sweep has queued, and that are not over."""
    if machines != "slurm" or not (folder / JOBS).exists():
        return {}
    submitit = _submitit()
    ids = json.loads((folder / JOBS).read_text(encoding="utf-8"))
    jobs = {name: submitit.SlurmJob(folder, ids[name]) for name in runs if name in ids}
    return {name: job for name, job in jobs.items() if job.state.split()[0] in UNDER_WAY}


def _outcome(job: Any) -> Outcome:
    """What a job returned; for one that came to no end, the last that is known of it."""
    try:
        return job.result()
    except Exception as error:  # whatever ended the job, pickled there and raised here
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Outcome(1, lines[-1] if lines else type(error).__name__)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(
            "a sweep over machines needs submitit: pip install 'leanvc[sweep]'"
        ) from None
    return submitit
