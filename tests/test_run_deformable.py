"""A whole run of a codec with deformable convolutions: both operators are exported and timed."""

import pytest
from whole_runs import RECIPE, finish, folder_with_recipe, killed_and_started_again, start, trained

from lvc.bundle import read_bundle
from prune.report import load_report

pytestmark = pytest.mark.slow

DEFORMABLE = RECIPE.replace("{name: dcvc, ", "{name: fvc, ").replace(
    "stage: motion", "stage: alignment"
)


@pytest.fixture(scope="module")
def deformable(tmp_path_factory):
    folder = folder_with_recipe(tmp_path_factory.mktemp("deformable"), DEFORMABLE)
    status, output, errors = finish(start(folder, "small.yaml"))
    assert status == 0, errors
    return folder, output


def test_both_operators_are_timed_dense_against_sparse(deformable):
    report = load_report(deformable[0] / "out" / "report.json")
    ours = [row for row in report.latency if row.runtime.startswith("onnxruntime")]
    operators = [row.runtime.rpartition(", ")[2] for row in ours]
    assert set(operators) == {"DeformConv", "GridSample"} and operators[0] == "DeformConv"
    assert all(row.speedup.median > 0 for row in report.latency)
    assert "DeformConv" in deformable[1] and "GridSample" in deformable[1]


def test_each_bundle_has_its_twin_inside(deformable):
    for step in ("onnx", "onnx_dense"):
        folder = deformable[0] / "out" / step
        assert read_bundle(folder)["deformable"] == "DeformConv"
        assert read_bundle(folder / "gridsample")["deformable"] == "GridSample"


def test_the_budget_is_met_and_graphs_and_torch_count_alike(deformable):
    report = load_report(deformable[0] / "out" / "report.json")
    macs = report.macs
    assert macs.decoder.reduction == pytest.approx(0.5, abs=0.01)
    assert (macs.onnx.dense, macs.onnx.sparse) == (macs.decoder.dense, macs.decoder.sparse)
    assert report.parity.masked_vs_shrunk <= 1e-5 and report.parity.torch_vs_onnx <= 1e-4


def test_a_killed_run_ends_with_the_same_bytes(deformable, tmp_path):
    folder = folder_with_recipe(tmp_path, DEFORMABLE)
    killed_and_started_again(folder, seed=5)
    assert trained(folder) == trained(deformable[0])
