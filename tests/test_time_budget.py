"""A budget in time through plan and run; the times of layers are worked out, not measured."""

import json
from functools import partial

import pytest
from times import MACHINE, worked_out
from whole_runs import RECIPE as WHOLE

import prune
import vcodecs
from prune.pipeline.job import Job
from prune.pipeline.plan import make_plan
from prune.pipeline.plan_tables import as_text
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from vcodecs import UserError

RECIPE = """\
codec: {name: dcvc, preset: small}
data: {train: /no/clips/here, eval: /nor/there}
prune: {budget: {latency: 0.5}, align: 4}
train: {phases: [{stage: joint, steps: 1000000}]}
finetune: {phases: []}
measure: {latency_height: 64, latency_width: 128}
"""


def by_products(kind, inputs, outputs):
    """Milliseconds that go by both counts, of layers of any width."""
    return kind.height * kind.width * inputs * outputs * 1e-6


times = partial(worked_out, timer=by_products)


def job_of(folder, *overrides, text=RECIPE, times=times):
    path = folder / "plan.yaml"
    path.write_text(text)
    job = Job(load_recipe(path, overrides, Recipe), path.parent)
    job.times = times
    return job


def test_the_plan_meets_the_time_and_tells_macs_too(tmp_path):
    plan = make_plan(job_of(tmp_path))
    time = plan.time
    assert time.sparse_ms / time.dense_ms == pytest.approx(0.5, abs=0.01)
    assert (time.runtime, time.height, time.width) == (MACHINE.runtime, 64, 128)
    assert 0 < plan.macs.sparse < plan.macs.dense
    text = as_text(plan)
    assert "Time of the decoder for a frame of 128x64, predicted" in text
    assert f"{time.dense_ms:.4g} ms" in text


def test_milliseconds_are_met_as_well(tmp_path):
    dense = make_plan(job_of(tmp_path)).time.dense_ms
    plan = make_plan(job_of(tmp_path, "prune.budget={latency_ms: %r}" % (dense * 0.7)))
    assert plan.time.sparse_ms == pytest.approx(dense * 0.7, abs=0.01 * dense)
    assert plan.budget == pytest.approx(0.7)


def test_time_and_macs_choose_differently(tmp_path):
    kept = [
        {group.name: len(group.removed) for group in make_plan(job_of(tmp_path, *o)).groups}
        for o in ([], ["prune.budget=0.5"])
    ]
    assert kept[0] != kept[1]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("prune.budget={latency: 0.01}", r"with align 4 and floor 0.1 at least \S+ of the time on"),
        ("prune.budget={latency_ms: 1.0e+9}", r"latency_ms 1e\+09: the dense decoder takes"),
        ("prune.budget={latency: 0.5, precision: bf16}", "onnxruntime has no bf16"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_setting(tmp_path, override, told):
    with pytest.raises(UserError, match=told) as caught:
        make_plan(job_of(tmp_path, override))
    message = str(caught.value)
    assert message.startswith(f"override '{override}': prune.budget")
    assert message.count("prune.budget: ") <= 1 and "\n" not in message


def test_a_budget_in_time_is_for_codecs(tmp_path):
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 3, 3))
    with pytest.raises(UserError, match="is a number, a part of MACs"):
        prune.plan(module, {"latency": 0.5}, example=torch.zeros(1, 3, 16, 16), show=False)
    with pytest.raises(UserError, match="set latency"):
        prune.plan(vcodecs.create("dcvc", "tiny"), {}, show=False)


# Of so small a codec most layers are narrower than the least width that is measured.
@pytest.mark.slow
def test_a_run_by_time_reports_what_it_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr("prune.pipeline.job.layer_times", times)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(WHOLE.replace("budget: 0.5", "budget: {latency: 0.95}, method: one-shot"))
    report = prune.run(load_recipe(path, ["finetune.phases=[]"], Recipe), tmp_path)
    expected = report.prediction
    assert expected.sparse_ms / expected.dense_ms == pytest.approx(0.95, abs=0.01)
    # No row of the table has the made-up runtime.
    assert expected.measured_dense_ms is None and "no latency was measured" in expected.why
    assert report.latency[-1].runtime.endswith("eager")
    kept = json.loads((tmp_path / "out" / "sparse" / "layer_times.json").read_text())
    assert kept["machine"]["runtime"] == MACHINE.runtime and kept["times"]
