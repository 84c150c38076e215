"""Runs side by side on the command line."""

import copy
import json
import re
import subprocess
import sys

import pytest

from prune.compare import main
from prune.report.comparison import run_names


def pair(dense, sparse):
    return {"dense": dense, "sparse": sparse}


# Invented figures; only what every report must have.
REPORT = {
    "schema": 1,
    "codec": "fvc",
    "preset": "small",
    "created": "2025-03-04T05:06:07+00:00",
    "recipe": {"prune": {"method": "mask-decay", "budget": 0.5}},
    "macs": {
        "unit": "MAC",
        "height": 256,
        "width": 448,
        "decoder": pair(40_000_000_000, 21_000_000_000) | {"reduction": 0.475, "by_module": {}},
        "encoder": pair(50_000_000_000, 30_000_000_000),
    },
    "parameters": {"decoder": pair(2_000_000, 900_000), "total": pair(3_000_000, 1_500_000)},
    "latency": [
        {
            "runtime": "onnxruntime 1.31.1",
            "provider": "CPUExecutionProvider",
            "threads": 2,
            "precision": "fp32",
            "height": 256,
            "width": 448,
            "runs": 20,
            "dense_ms": {"median": 90.0, "p10": 88.0, "p90": 93.0},
            "sparse_ms": {"median": 60.0, "p10": 59.0, "p90": 62.0},
            "speedup": {"median": 1.5, "p10": 1.46, "p90": 1.54},
            "device": "Example CPU",
        }
    ],
    "quality": [
        {
            "dataset": "clips",
            "clips": 4,
            "frames": 9,
            "intra": "x265 intra",
            "points": [
                {
                    "rate": rate,
                    "dense": {"bpp": bpp, "psnr": 32.0, "ms_ssim": 0.96},
                    "sparse": {"bpp": 1.02 * bpp, "psnr": 32.0 - lost, "ms_ssim": 0.95},
                }
                for rate, bpp, lost in [(0, 0.1, 0.2), (1, 0.3, 0.4)]
            ],
            "bd_psnr_db": -0.31,
            "bd_rate_percent": 5.5,
        }
    ],
    "parity": {"masked_vs_shrunk": 2e-7, "torch_vs_onnx": 5e-3},
    "environment": {
        "python": "3.11",
        "torch": "2.15",
        "cpu": "Example CPU",
        "gpu": None,
        "leanvc": "0.1.0",
        "commit": "0123abc",
    },
}


@pytest.fixture
def runs(tmp_path):
    """Two run folders: `first`, and `second` on a GPU without any quality figures."""
    second = copy.deepcopy(REPORT)
    second |= {"codec": "[red]dcvc[/red]", "recipe": {}, "quality": [], "why": "no clips"}
    second["latency"][0] |= {"provider": "CUDAExecutionProvider", "device": "Example GPU"}
    folders = []
    for name, content in (("first", REPORT), ("second", second)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(content), encoding="utf-8")
        folders.append(str(folder))
    return folders


def rows(markdown):
    """The cells of a Markdown table by the first cell of each row."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_every_figure_stands_in_the_column_of_its_run(runs, capsys):
    assert main(["--markdown", *runs]) == 0
    table = rows(capsys.readouterr().out)
    assert table[""] == ["first", "second"]
    assert table["codec"] == ["fvc", r"\[red\]dcvc\[/red\]"]
    assert table["method"] == ["mask-decay", "not measured (not in the recipe)"]
    assert table["decoder MACs cut (448×256)"] == ["47.5 %", "47.5 %"]
    assert table["all parameters, sparse"] == ["1.50 M", "1.50 M"]
    assert table["PSNR lost (clips)"] == ["0.300 dB", "–"]
    assert table["bpp gained (clips)"] == ["+0.0040 (+2.0 %)", "–"]
    assert table["BD-rate (clips)"] == ["+5.50 %", "–"]
    assert table["BD-rate"] == ["–", "not measured (no clips)"]
    assert table["device"] == ["Example CPU", "Example GPU"]


def test_speedups_of_different_providers_do_not_share_a_row(runs, capsys):
    main(["--markdown", *runs])
    table = rows(capsys.readouterr().out)
    speedups = {label: cells for label, cells in table.items() if label.startswith("speed-up")}
    assert list(speedups.values()) == [["1.50× (1.46 to 1.54)", "–"], ["–", "1.50× (1.46 to 1.54)"]]
    labels = list(table)
    at = labels.index(next(iter(speedups)))
    assert labels[at : at + 2] == list(speedups)


def test_two_latency_rows_that_differ_in_the_device_alone_are_both_shown(runs, tmp_path, capsys):
    twice = copy.deepcopy(REPORT)
    twice["latency"] += [twice["latency"][0] | {"device": "Other CPU"}, twice["latency"][0]]
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(twice), encoding="utf-8")
    main(["--markdown", str(path)])
    labels = [label for label in rows(capsys.readouterr().out) if label.startswith("speed-up")]
    assert len(labels) == 3
    assert "Other CPU" in labels[1]


def test_the_terminal_table_cuts_nothing_off_when_piped(runs, capsys):
    assert main(runs) == 0
    shown = capsys.readouterr().out
    assert "[red]dcvc[/red]" in shown
    assert "speed-up (onnxruntime 1.31.1, CUDA, 2 threads, fp32, 448×256)" in shown
    assert "4 clips of 9 frames, I frames by x265 intra" in shown


def test_json_holds_the_measured_values_and_why_there_are_none(runs, capsys):
    assert main(["--json", *runs]) == 0
    first, second = json.loads(capsys.readouterr().out)["runs"]
    assert (first["run"], second["run"]) == ("first", "second")
    decoder = REPORT["macs"]["decoder"]
    assert {side: first["decoder_macs"][side] for side in ("dense", "sparse", "reduction")} == {
        side: decoder[side] for side in ("dense", "sparse", "reduction")
    }
    assert first["quality"][0]["psnr_lost_db"] == pytest.approx(0.3)
    assert first["quality"][0]["bpp_gained_percent"] == pytest.approx(2)
    assert second["quality"] == []
    assert second["why"] == "no clips"
    assert second["latency"][0]["speedup"]["median"] == 1.5


def test_a_mean_that_does_not_exist_is_null_with_its_reason(tmp_path, capsys):
    unknown = copy.deepcopy(REPORT)
    for point in unknown["quality"][0]["points"]:
        point["sparse"] |= {"psnr": None, "why": "decoding failed"}
    (tmp_path / "report.json").write_text(json.dumps(unknown), encoding="utf-8")
    main(["--json", str(tmp_path)])
    entry = json.loads(capsys.readouterr().out)["runs"][0]["quality"][0]
    assert entry["psnr_lost_db"] is None
    assert entry["why"]["psnr_lost_db"] == "decoding failed"


@pytest.mark.parametrize("spoil", [None, "{}", "not json"])
def test_a_run_that_cannot_be_read_is_one_line_and_status_2(spoil, runs, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    if spoil is not None:
        (bad / "report.json").write_text(spoil, encoding="utf-8")
    assert main([runs[0], str(bad)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert str(bad / "report.json") in output.err


def test_runs_of_the_same_name_are_told_apart_by_their_paths():
    assert run_names(["a/run", "b/run/report.json"]) == ["a/run", "b/run"]
    assert run_names(["x/a", "x/b"]) == ["a", "b"]
    assert run_names(["x/a", "x/a"]) == ["a", "a"]
    assert run_names(["x/one.json", "x/two.json"]) == ["one.json", "two.json"]


def test_a_comparison_does_not_load_torch_or_the_drawing_libraries(runs):
    code = (
        "import sys; from prune.compare import main; status = main(sys.argv[1:]);"
        "print({'torch', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *runs], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^set\(\)$", done.stdout, flags=re.MULTILINE)
