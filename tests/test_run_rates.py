"""A whole run of a codec of many rates, with its own learned I frames."""

import pytest
import torch
from whole_runs import RECIPE, finish, folder_with_recipe, killed_and_started_again, start, trained

import vcodecs
from prune import compare
from prune.report import load_report
from vcodecs import checkpoints

pytestmark = pytest.mark.slow

INTRA = '  intra: "network:checkpoint=intra.safetensors"\n'
RATED = (
    RECIPE.replace(
        "{name: dcvc, preset: tiny, lambda: 512}",
        "{name: dcvc_hem, preset: tiny, lambda: [85, 170, 380, 840]}",
    )
    .replace("train:\n  device", f"train:\n{INTRA}  device")
    .replace("finetune:\n  device", f"finetune:\n{INTRA}  device")
    .replace("pictures: 1}", 'pictures: 1, intra: "network:checkpoint=intra.safetensors"}')
)


def folder_with_weights(folder):
    """Beside the recipe the weights of an intra network, the same every time."""
    torch.manual_seed(0)
    checkpoints.save(vcodecs.create("dcvc_hem_intra", "tiny"), folder / "intra.safetensors")
    return folder_with_recipe(folder, RATED)


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    folder = folder_with_weights(tmp_path_factory.mktemp("rated"))
    status, output, errors = finish(start(folder, "small.yaml"))
    assert status == 0, errors
    return folder, output


def test_one_run_gives_a_rate_distortion_curve(rated):
    report = load_report(rated[0] / "out" / "report.json")
    (entry,) = report.quality
    assert [point.rate for point in entry.points] == [0, 1, 2, 3]
    bits = [point.dense.bpp for point in entry.points]
    assert bits == sorted(bits) and len(set(bits)) == 4
    # Untrained weights need not make a curve that Bjontegaard's delta is defined for.
    assert entry.bd_psnr_db is not None or "rise" in entry.reason("bd_psnr_db")
    assert "dcvc_hem_intra" in entry.intra
    assert "rate 3: " in rated[1]


def test_the_budget_is_met_and_graphs_and_torch_count_alike(rated):
    macs = load_report(rated[0] / "out" / "report.json").macs
    assert macs.decoder.reduction == pytest.approx(0.5, abs=0.01)
    assert (macs.onnx.dense, macs.onnx.sparse) == (macs.decoder.dense, macs.decoder.sparse)


def test_a_run_killed_while_it_draws_rates_ends_with_the_same_bytes(rated, tmp_path):
    folder = folder_with_weights(tmp_path)
    killed_and_started_again(folder, seed=3)
    assert trained(folder) == trained(rated[0])


def test_codecs_of_one_and_of_many_rates_are_compared_side_by_side(finished, rated, capsys):
    assert compare.main([str(finished[0] / "out"), str(rated[0] / "out")]) == 0
    table = capsys.readouterr().out
    (codecs,) = (line for line in table.splitlines() if line.strip(" │|").startswith("codec "))
    assert codecs.replace("dcvc_hem", "").count("dcvc") == codecs.count("dcvc_hem") == 1
    assert table.count("50.0 %") == 2
