"""What a budget would remove, told without training."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from prune.groups.trace import CONVOLUTIONS
from prune.measure.macs import decoder_macs
from prune.pipeline.job import Job
from prune.pipeline.plan import Plan, PlannedGroup, PlannedMacs, make_plan
from prune.pipeline.plan_tables import tables
from prune.plan import command
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from vcodecs import UserError

RECIPE = """\
codec: {name: dcvc, preset: tiny}
data: {train: /no/clips/here, eval: /nor/there}
prune: {budget: 0.4, align: 1}
train: {phases: [{stage: joint, steps: 1000000}]}
finetune: {phases: []}
measure: {height: 64, width: 128}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """What the recipe stands for, and its plan."""
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(RECIPE)
    job = Job(load_recipe(path, (), Recipe), path.parent)
    return job, make_plan(job)


# ---------------------------------------------------------------------- the plan


def test_the_plan_has_every_group_and_what_one_shot_pruning_would_remove(planned):
    job, plan = planned
    kept = job.one_shot()
    assert [group.name for group in plan.groups] == [g.name for g in job.channels.groups]
    for group in plan.groups:
        left = set(range(group.channels)) - set(group.removed)
        assert sorted(left) == kept[group.name]
        assert group.name in group.made_by
        assert group.read_by


def test_the_macs_are_those_of_the_shrunk_decoder_and_meet_the_budget(planned):
    job, plan = planned
    macs = plan.macs
    counts = torch.tensor([group.channels - len(group.removed) for group in plan.groups])
    assert macs.dense == decoder_macs(job.teacher, 64, 128).total
    assert macs.sparse == pytest.approx(float(job.cost.total(counts)), rel=1e-9)
    assert macs.sparse / macs.dense == pytest.approx(0.4, abs=0.01)
    assert macs.dense == sum(dense for dense, _ in macs.by_module.values())
    assert macs.sparse == sum(sparse for _, sparse in macs.by_module.values())
    assert set(macs.by_module) == set(job.teacher.decoder_modules())


def test_a_budget_of_everything_removes_nothing(recipe):
    plan = make_plan(Job(load_recipe(recipe, ["prune.budget=1"], Recipe), recipe.parent))
    assert not any(group.removed for group in plan.groups)
    assert plan.macs.sparse == plan.macs.dense


def test_every_convolution_of_the_decoder_is_in_a_group_or_has_a_reason(planned):
    job, plan = planned
    made = {layer for group in plan.groups for layer in group.made_by}
    assert not made & set(plan.fixed)
    assert all(reason.strip() for reason in plan.fixed.values())
    for name, layer in job.teacher.named_modules():
        inside = name.split(".")[0] in job.teacher.decoder_modules()
        inner = name.rpartition(".")[0] in made  # of a sub-pixel convolution
        if inside and isinstance(layer, CONVOLUTIONS):
            assert name in made or name in plan.fixed or inner


def test_planning_leaves_the_codec_whole_and_opens_no_clips(planned):
    job, _ = planned
    fresh = Job(job.recipe, job.base).teacher.state_dict()
    now = job.teacher.state_dict()
    assert all(torch.equal(now[name], value) for name, value in fresh.items())
    with pytest.raises(UserError, match="no such file"):
        job.check()


# ---------------------------------------------------------------------- command line


def test_the_tables_are_whole_in_a_pipe_and_no_wider_than_a_hundred_columns(
    call, recipe, planned, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "60")
    status, output, errors = call(recipe.parent, command, recipe)
    _, plan = planned
    assert status == 0
    assert errors.startswith("warning codec.checkpoint is not set")
    lines = output.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert "…" not in output
    rows = [line.split() for line in lines]
    for group in plan.groups:
        removed = len(group.removed)
        row = [group.made_by[0], group.read_by[0]]
        row += [str(n) for n in (group.channels, group.channels - removed, removed)]
        assert row in rows
        assert all(name in output for name in group.made_by + group.read_by)
    for layer, reason in plan.fixed.items():
        assert [layer, *reason.split()] in rows
    (total,) = [row for row in rows if row[:2] == ["in", "all"]]
    assert total[-1] == "60.0%"
    assert set(plan.macs.by_module) <= {row[0] for row in rows if row}
    assert lines[-1].startswith("For prune.budget 0.4 and prune.align 1,")


def test_json_holds_the_same_and_nothing_else_is_printed(call, recipe, planned):
    status, output, _ = call(recipe.parent, command, "--json", recipe)
    assert status == 0
    told = json.loads(output)
    _, plan = planned
    assert [group["removed"] for group in told["groups"]] == [g.removed for g in plan.groups]
    assert told["macs"]["sparse"] == plan.macs.sparse
    assert told["macs"]["by_module"] == {n: list(m) for n, m in plan.macs.by_module.items()}
    assert told["fixed"] == plan.fixed
    assert (told["codec"], told["preset"], told["budget"]) == ("dcvc", "tiny", 0.4)


def test_overrides_change_the_plan(call, recipe):
    _, output, _ = call(recipe.parent, command, recipe, "prune.budget=0.7", "--json")
    macs = json.loads(output)["macs"]
    assert macs["sparse"] / macs["dense"] == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["prune.budget=0"], "error override 'prune.budget=0': prune.budget: "),
        (["prune.budget=0.001"], "override 'prune.budget=0.001': prune.budget: 0.001: with align"),
        (["codec.preset=huge"], "there are: official, base, small, tiny"),
        (["codec.checkpoint=none.pth"], "codec.checkpoint: checkpoint none.pth: no such file"),
    ],
)
def test_a_budget_that_cannot_be_met_and_bad_settings_are_one_line(call, recipe, overrides, told):
    status, output, errors = call(recipe.parent, command, recipe, *overrides)
    (line,) = [line for line in errors.splitlines() if not line.startswith("warning")]
    assert (status, output) == (2, "")
    assert told in line


def test_long_and_odd_names_are_folded_and_shown_as_they_are():
    long = "decoder." + ".".join(["very_long_block_name"] * 6)
    plan = Plan(
        codec="x",
        preset="y",
        budget=0.5,
        groups=[PlannedGroup(long, [long, "[b]"], ["[/red]"] * 3, 64, [0, 63])],
        macs=PlannedMacs(64, 64, {"[bold]": (2_000_000_000, 0), "none": (0, 0)}, 2_000_000_000, 0),
        fixed={long: "because " * 30},
    )
    text = io.StringIO()
    console = Console(file=text, width=100, _environ={})
    for table in tables(plan):
        console.print(table)
    lines = text.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 100
    assert sum(line.count("because") for line in lines) == 30
    assert "[/red]" in text.getvalue()
    assert "[b]" in text.getvalue()
    assert any(
        line.split() == ["[bold]", "2.00", "GMAC", "0.00", "GMAC", "100.0%"] for line in lines
    )
    assert any(line.split() == ["none", "0.00", "GMAC", "0.00", "GMAC", "–"] for line in lines)


def test_the_recipes_that_come_along_can_be_planned(call):
    root = Path(__file__).parent.parent
    # Its channels do not depend on the weights, which are large and may be left out of a checkout.
    untrained = "codec.checkpoint=null"
    status, output, _ = call(root, command, "recipes/dcvc.yaml", "--json", untrained)
    assert status == 0
    macs = json.loads(output)["macs"]
    assert macs["sparse"] / macs["dense"] == pytest.approx(0.35, abs=0.01)
