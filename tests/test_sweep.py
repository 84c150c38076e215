"""Sweeps: a run for every combination of settings, and one report over all."""

import copy
import json
import os
import signal
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_compare import REPORT
from whole_runs import RECIPE

import prune
from prune.cli import main
from prune.interruption import raised_signals
from prune.report.schema import load_report
from prune.sweep import FAILED, command
from prune.sweeps.grid import _name, axes_of, expand
from prune.sweeps.machines import submitted
from prune.sweeps.member import MemberRun, Outcome, last_outcome
from vcodecs import UserError

BUDGETS = "prune.budget=0.5,0.35"
SEEDS = "seed=0,1"

# Stands for `python -m prune.run` where it matters how runs end and not what they do: of a run
# whose report was prepared it leaves that, any other fails.
STAND_IN = """\
import pathlib, shutil, sys
folder = pathlib.Path(sys.argv[-1].removeprefix("output="))
with open("started.txt", "a") as file:
    file.write(folder.name + "\\n")
prepared = pathlib.Path("prepared", folder.name + ".json")
if not prepared.exists():
    print("warning something else", file=sys.stderr)
    sys.exit("error no clips, no codec")
print("so many steps")
folder.mkdir(parents=True, exist_ok=True)
shutil.copy(prepared, folder / "report.json")
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return "small.yaml"


@pytest.fixture
def stand_in(recipe, tmp_path, monkeypatch):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "prepared").mkdir()
    run = (sys.executable, str(tmp_path / "stand_in.py"))
    monkeypatch.setattr("prune.sweep.MemberRun", lambda *a, **k: MemberRun(*a, **k, command=run))
    return recipe


def prepare(member, kept=0.5, lost=0.3):
    """Let the stand-in for this run leave a report."""
    report = copy.deepcopy(REPORT)
    report["recipe"] = json.loads(member.recipe.model_dump_json(by_alias=True))
    report["macs"]["decoder"]["reduction"] = 1 - kept
    report["quality"][0]["bd_psnr_db"] = -lost
    with open(f"prepared/{member.name}.json", "w") as file:
        json.dump(report, file)


def started():
    with open("started.txt") as file:
        return file.read().split()


def sweep_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prune.sweep", *arguments])
    with pytest.raises(SystemExit) as end:
        main(command)
    return end.value.code


# ---------------------------------------------------------------------- the members


def test_members_are_the_product_each_in_a_readable_folder_below_the_recipes_output(recipe):
    plan = expand(recipe, [BUDGETS, SEEDS, "data.batch=2"])
    assert [str(member.folder) for member in plan.members] == [
        "out/budget=0.5_seed=0",
        "out/budget=0.5_seed=1",
        "out/budget=0.35_seed=0",
        "out/budget=0.35_seed=1",
    ]
    last = plan.members[-1].recipe
    assert (last.prune.budget, last.seed, last.data.batch) == (0.35, 1, 2)
    assert plan.varied == ("prune.budget", "seed")


def test_commas_within_brackets_and_quotes_part_no_values(recipe):
    plan = expand(
        recipe, ["prune.budget={latency: 0.4, runtime: onnxruntime},0.5", 'output="a, b"']
    )
    timed, plain = (member.recipe.prune.budget for member in plan.members)
    assert timed.latency == 0.4 and plain == 0.5
    assert str(plan.folder) == "a, b"


@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=5, unique=True))
def test_names_of_different_values_differ_and_are_names_of_files(values):
    names = {_name({"data.train": value, "seed": "0"}) for value in values}
    assert len(names) == len(values)
    for name in names:
        assert "/" not in name and not name.startswith(".") and name.isascii() and len(name) < 100


def test_values_from_python_are_those_of_the_command_line(recipe):
    given = {"prune.budget": [0.5, {"latency": 0.4}], "seed": range(2), "data.train": "procedural"}
    texts = axes_of(given)
    assert texts == ["prune.budget=0.5,{latency: 0.4}", "seed=0,1", "data.train=procedural"]
    assert len(expand(recipe, texts).members) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["prune.budget=0.5"], "needs a setting with several values"),
        ([SEEDS, "seed=2"], "setting seed: given twice"),
        (["output=a,b"], "one folder for the whole sweep"),
        (["prune.budget"], "write it as dotted.key=value,value"),
        (["prune.budgets=0.5,0.4"], "did you mean budget?"),
        (["prune.budget=0.5,1.5"], "override 'prune.budget=1.5': prune.budget"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_before_anything_starts(recipe, settings, said):
    with pytest.raises(UserError) as error:
        expand(recipe, settings)
    assert said in str(error.value)


# ---------------------------------------------------------------------- runs and their ends


def test_failed_runs_are_listed_with_their_last_line_and_the_others_go_on(
    stand_in, monkeypatch, capfd
):
    first, second, third, fourth = expand(stand_in, [BUDGETS, SEEDS]).members
    for member in (first, third, fourth):
        prepare(member)
    assert sweep_command(monkeypatch, stand_in, BUDGETS, SEEDS) == FAILED
    assert started() == [member.name for member in (first, second, third, fourth)]
    said = capfd.readouterr().err.splitlines()
    assert f"failed {second.name}: error no clips, no codec" in said
    assert said[-1] == "error 1 of 4 runs have no result"
    page = (first.folder.parent / "sweep.md").read_text()
    assert "3 of 4 runs done" in page
    assert f"| {second.name} | failed | error no clips, no codec |" in page


def test_started_again_only_what_is_not_done_runs(stand_in):
    plan = expand(stand_in, [BUDGETS, SEEDS])
    for member in plan.members[1:]:
        prepare(member)
    sweep = {"prune.budget": [0.5, 0.35], "seed": [0, 1]}
    ends = prune.sweep(stand_in, sweep)
    assert [end.state for end in ends.values()] == ["failed", "done", "done", "done"]
    prepare(plan.members[0])
    ends = prune.sweep(stand_in, sweep)
    assert all(end.state == "done" for end in ends.values())
    assert started()[4:] == [plan.members[0].name]
    # Another recipe of the same name is another run.
    prune.sweep(stand_in, sweep | {"data.batch": 3})
    assert len(started()) == 9


def test_a_setting_that_recipes_did_not_have_yet_makes_no_run_another_one(stand_in):
    (first, _) = expand(stand_in, [SEEDS]).members
    prepare(first)
    path = f"prepared/{first.name}.json"
    with open(path) as file:
        report = json.load(file)
    del report["recipe"]["train"]["tensorboard"], report["recipe"]["distill"]["momentum"]
    with open(path, "w") as file:
        json.dump(report, file)
    for _ in range(2):
        prune.sweep(stand_in, {"seed": [0, 1]})
    assert started().count(first.name) == 1


def test_a_run_that_is_killed_is_a_failed_one_that_says_so(tmp_path):
    script = "import os; os.kill(os.getpid(), 9)"
    outcome = MemberRun("x", (), str(tmp_path / "run"), command=(sys.executable, "-c", script))()
    assert outcome.state == "failed"
    assert outcome.line == "killed by signal 9, most likely for its memory"


SAVES = """\
import signal, sys, time
def save(number, frame):
    print("stopped saved", file=sys.stderr)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""


def test_a_signal_to_the_sweep_lets_the_run_save_before_both_end(recipe, tmp_path):
    folder = tmp_path / "run"
    run = MemberRun("x", (), str(folder), command=(sys.executable, "-c", SAVES))

    def stop():
        while not (folder / "output.txt").exists() or "ready" not in log():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    def log():
        return (folder / "output.txt").read_text()

    threading.Thread(target=stop, daemon=True).start()
    with raised_signals(), pytest.raises(KeyboardInterrupt):
        run()
    assert log().splitlines() == ["ready", "stopped saved"]
    found = Outcome(**json.loads((folder / "outcome.json").read_text()))
    assert (found.status, found.state, found.line) == (143, "interrupted", "stopped saved")


def test_runs_on_machines_end_as_those_here_do(stand_in, monkeypatch):
    pytest.importorskip("submitit")
    plan = expand(stand_in, [BUDGETS, SEEDS])
    for member in plan.members[1:]:
        prepare(member)
    monkeypatch.setattr("prune.sweeps.machines.POLL", 0.05)
    values = {"prune.budget": [0.5, 0.35], "seed": [0, 1]}
    ends = prune.sweep(stand_in, values, "local", {"timeout_min": 5})
    assert [end.state for end in ends.values()] == ["failed", "done", "done", "done"]
    assert ends[plan.members[0].name].line == "error no clips, no codec"
    assert last_outcome(plan.members[1]).state == "done"


# Stand for the three programs of a SLURM cluster that submitit calls. Each job is a process here.
SBATCH = """\
#!/bin/sh
count=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for index in $(seq 0 "$count"); do
  env SLURM_JOB_ID=$((4321 + index)) SLURM_ARRAY_JOB_ID=4321 SLURM_ARRAY_TASK_ID=$index \\
    SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 \\
    SLURM_JOB_NODELIST=here sh "$1" >/dev/null 2>&1 &
done
echo 1 >> submissions.txt
echo Submitted batch job 4321
"""
SRUN = """\
#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  case "$1" in --output|--error) shift;; esac
  shift
done
exec "$@"
"""
SACCT = """\
#!/bin/sh
echo 'JobID|State|NodeList'
echo '4321_0|RUNNING|here'
echo '4321_1|RUNNING|here'
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr("prune.sweeps.machines.POLL", 0.05)


def test_on_a_cluster_a_sweep_started_again_waits_for_the_jobs_that_it_has_queued(
    stand_in, cluster, tmp_path
):
    pytest.importorskip("submitit")
    plan = expand(stand_in, [SEEDS])
    for member in plan.members:
        prepare(member)
    folder = plan.folder.absolute() / ".submitit"
    runs = {
        m.name: MemberRun(
            stand_in, m.overrides, str(m.folder), command=(sys.executable, "stand_in.py")
        )
        for m in plan.members
    }
    first = submitted(runs, folder, "slurm", {"slurm_array_parallelism": 2})
    next(first)
    first.close()  # as if the sweep had been stopped here
    assert len(dict(submitted(runs, folder, "slurm", {}))) == 2
    assert (tmp_path / "submissions.txt").read_text() == "1\n"
    ends = prune.sweep(stand_in, {"seed": [0, 1]}, "slurm")
    assert [end.state for end in ends.values()] == ["done", "done"]
    assert len(started()) == 2


@pytest.mark.parametrize(
    ("machines", "parameters", "said"),
    [
        ("slurm", {}, r"submitit \(slurm\): .*srun"),
        ("local", {"gpus": 1}, r"submitit \(local\): .*gpus"),
    ],
)
def test_what_submitit_cannot_do_is_one_line(stand_in, machines, parameters, said, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=said):
        prune.sweep(stand_in, {"seed": [0, 1]}, machines, parameters)


def test_without_submitit_it_is_said_how_to_get_it(stand_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'leanvc\[sweep\]'"):
        prune.sweep(stand_in, {"seed": [0, 1]}, "local")


# ---------------------------------------------------------------------- the report


def test_the_report_links_each_run_and_draws_what_none_beats(stand_in):
    plan = expand(stand_in, [BUDGETS, SEEDS])
    for member, kept, lost in zip(
        plan.members, (0.5, 0.5, 0.35, 0.6), (0.2, 0.4, 0.6, 0.9), strict=True
    ):
        prepare(member, kept, lost)
    prune.sweep(stand_in, {"prune.budget": [0.5, 0.35], "seed": [0, 1]})
    page = (plan.folder / "sweep.html").read_text()
    for member in plan.members:
        assert f'<a href="{member.name.replace("=", "%3D")}/report.html">' in page
    assert page.count("<svg") == 4  # dB and bits, each against MACs and time
    best, worst = plan.members[0].name, plan.members[3].name
    shown = page[page.index("<svg") : page.index("</svg>")]
    assert f"<!-- {best} -->" in shown or best in shown
    assert worst not in shown
    text = (plan.folder / "sweep.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| 0.5 |"))
    assert "\N{MINUS SIGN}0.30 (\N{MINUS SIGN}0.40 to \N{MINUS SIGN}0.20)" in row


@pytest.mark.slow
def test_a_sweep_of_real_runs(recipe, monkeypatch, capfd):
    settings = [
        BUDGETS,
        "prune.method=one-shot",
        "finetune.phases.0.steps=2",
        "evaluate.anchors=[]",
    ]
    monkeypatch.setattr(sys, "argv", ["prune.sweep", recipe, *settings])
    main(command)
    plan = expand(recipe, settings)
    for member in plan.members:
        assert load_report(member.folder).setting("prune", "budget") == member.recipe.prune.budget
    assert "2 of 2 runs done" in (plan.folder / "sweep.md").read_text()
    capfd.readouterr()
    main(command)
    assert "2 of them done before" in capfd.readouterr().out
