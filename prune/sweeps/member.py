"""One run of a sweep, in a process of its own: a crash or too little memory ends that run alone."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from lvc.files import atomic_write
from prune.recipe.schema import Recipe
from prune.report.schema import REPORT_NAME, Report, load_report
from prune.sweeps.grid import Member
from vcodecs import UserError

OUTCOME = "outcome.json"
OUTPUT = "output.txt"
"""What the last start of a run has told, in its folder."""
INTERRUPTED = {128 + signal.SIGINT, 128 + signal.SIGTERM}
"""Exit statuses of a run that saved what it had."""


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its exit status, the last line that it told, its seconds."""

    status: int
    line: str = ""
    seconds: float = 0.0

    @property
    def state(self) -> str:
        if self.status == 0:
            return "done"
        return "interrupted" if self.status in INTERRUPTED else "failed"


def finished(member: Member) -> Report | None:
    """The report of a member that is done, and by the very recipe that it has now.

    Settings that came into recipes since count as their defaults.
    """
    report = report_of(member)
    if report is None:
        return None
    try:
        theirs = Recipe.model_validate(report.recipe)
    except ValidationError:
        return None
    dumps = [recipe.model_dump(mode="json") for recipe in (theirs, member.recipe)]
    return report if dumps[0] == dumps[1] else None


def report_of(member: Member) -> Report | None:
    if not (member.folder / REPORT_NAME).exists():
        return None
    try:
        return load_report(member.folder / REPORT_NAME)
    except UserError:
        return None  # of another version, or damaged: the run writes it anew


def last_outcome(member: Member) -> Outcome | None:
    """The end of the last start of a member, where one has ended."""
    try:
        return Outcome(**json.loads((member.folder / OUTCOME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass
class MemberRun:
    """Runs `command`, which is `python -m prune.run`, and notes how it ended.

    Can be sent to another machine. `tell`: pass on what the run tells; else it goes to a file in
    its folder alone.
    """

    recipe: str
    overrides: tuple[str, ...]
    folder: str
    tell: bool = False
    command: tuple[str, ...] = (sys.executable, "-m", "prune.run")
    process: Any = field(default=None, compare=False)

    def __call__(self) -> Outcome:
        """The run's end. A signal that comes meanwhile is the run's, and raised behind its end."""
        folder, begun = Path(self.folder), time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / OUTPUT, "w", encoding="utf-8") as log:
            line, asked = self._run(log)
        status = self.process.returncode
        if status < 0:
            memory = ", most likely for its memory" if status == -signal.SIGKILL else ""
            line = f"killed by signal {-status}{memory}"
        outcome = Outcome(
            status if status >= 0 else 128 - status,
            line or f"ended with status {status} without a word",
            round(time.monotonic() - begun, 1),
        )
        atomic_write(folder / OUTCOME, json.dumps(asdict(outcome)) + "\n")
        if asked is not None:
            raise asked
        return outcome

    def _run(self, log: TextIO) -> tuple[str, KeyboardInterrupt | None]:
        """Its last line on standard error, and the signal that came."""
        last, asked = "", None
        self.process = subprocess.Popen(
            [*self.command, self.recipe, *self.overrides],
            stdout=None if self.tell else log,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Out of the terminal's reach: a second Ctrl-C would end it before it has saved.
            process_group=0,
        )
        while self.process.poll() is None:
            try:
                for line in self.process.stderr:
                    last = line.strip() or last
                    print(line, end="", file=sys.stderr if self.tell else log, flush=True)
                self.process.wait()
            except KeyboardInterrupt as end:
                asked = end
                self.process.send_signal(getattr(end, "number", signal.SIGINT))
        return last, asked

    def stop(self, seconds: float = 600.0) -> None:
        """Let the run save and end, as SIGTERM has it do."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def checkpoint(self) -> Any:
        """Called by submitit when a machine is taken back: saved, and queued again."""
        import submitit

        self.stop()
        return submitit.helpers.DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"process": None}
