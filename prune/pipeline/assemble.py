"""The report from what the steps left in their folders."""

import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prune.measure.latency import cpu_name
from prune.measure.macs import decoder_macs, encoder_macs, parameters
from prune.pipeline.job import Job
from prune.pipeline.plan import predicted
from prune.pipeline.steps import read_json
from prune.report import Report
from prune.report.render import Picture
from prune.sparsify.time_cost import TimeCost
from vcodecs import VideoCodec

CURVES = ("loss", "bpp", "psnr", "beta", "keep", "budget")


def assemble(job: Job, folders: dict[str, Path], seconds: dict[str, float]) -> Report:
    """Everything that was measured, as schema 1."""
    recipe = job.recipe
    sparse = job.load(folders["finetune"] / "weights.safetensors")
    quality = read_json(folders["evaluate"] / "quality.json")
    entries = quality["entries"]
    if "evaluate_int8" in folders:
        entries += read_json(folders["evaluate_int8"] / "quality.json")["entries"]
    speed = read_json(folders["measure"] / "speed.json")
    curves = read_json(folders["sparse"] / "curves.json")
    curves += read_json(folders["finetune"] / "curves.json")
    kept = read_json(folders["sparse"] / "kept.json")
    bundles = [read_json(folders[name] / "parity.json") for name in ("onnx", "onnx_dense")]
    return Report.model_validate(
        {
            "schema": 1,
            "codec": recipe.codec.name,
            "preset": job.preset,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": recipe.model_dump(mode="json", by_alias=True),
            "macs": _macs(job, sparse) | {"onnx": speed["onnx_macs"]},
            "parameters": _parameters(job.teacher, sparse),
            "latency": speed["latency"],
            "quality": entries,
            "parity": {
                **read_json(folders["shrink"] / "parity.json"),
                "torch_vs_onnx": max(one["torch_vs_onnx"] for one in bundles),
                "decoded_frames": sum(one["decoded_frames"] for one in bundles) or None,
            },
            "environment": environment(),
            "training": [
                {key: curve[key] for key in ("stage", "step", *CURVES) if key in curve}
                for curve in curves
            ],
            "channels": _channels(job, kept),
            "prediction": _prediction(job, kept, speed["latency"]),
            "warnings": job.warnings + quality["warnings"],
            "times": seconds,
        }
    )


def pictures(folder: Path) -> list[Picture]:
    """The decoded frames that the evaluation kept."""
    with np.load(folder / "pictures.npz") as arrays:
        count = len([name for name in arrays.files if name.endswith(".original")])
        return [
            Picture(
                str(arrays[f"{i}.clip"]),
                int(arrays[f"{i}.frame"]),
                arrays[f"{i}.original"],
                arrays[f"{i}.dense"],
                arrays[f"{i}.sparse"],
            )
            for i in range(count)
        ]


def environment() -> dict[str, Any]:
    """Where the figures were measured."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "gpu": gpu,
        "leanvc": version("leanvc"),
        "commit": _commit(),
    }
    if found["commit"] is None:
        found["why"] = {"commit": "leanvc does not run from a git checkout here"}
    return found


def _macs(job: Job, sparse: VideoCodec) -> dict[str, Any]:
    size = job.recipe.measure
    dense_macs = decoder_macs(job.teacher, size.height, size.width)
    sparse_macs = decoder_macs(sparse, size.height, size.width)
    return {
        "unit": "MAC",
        "height": size.height,
        "width": size.width,
        "decoder": {
            "dense": dense_macs.total,
            "sparse": sparse_macs.total,
            "reduction": 1 - sparse_macs.total / dense_macs.total,
            "by_module": {
                name: {"dense": macs, "sparse": sparse_macs.by_module[name]}
                for name, macs in dense_macs.by_module.items()
            },
        },
        "encoder": {
            "dense": encoder_macs(job.teacher, size.height, size.width).total,
            "sparse": encoder_macs(sparse, size.height, size.width).total,
        },
    }


def _parameters(dense: VideoCodec, sparse: VideoCodec) -> dict[str, Any]:
    inside = dense.decoder_modules()
    return {
        "decoder": {"dense": parameters(dense, inside), "sparse": parameters(sparse, inside)},
        "total": {"dense": parameters(dense), "sparse": parameters(sparse)},
    }


def _channels(job: Job, kept: dict[str, list[int]]) -> dict[str, Any]:
    groups, by_layer = [], {}
    for group in job.channels.groups:
        left = kept[group.name]
        counts = {"dense": group.size * group.width, "sparse": len(left) * group.width}
        groups.append(
            {"name": group.name, "layers": [m.layer for m in group.producers()], **counts}
        )
        for member in group.producers():
            by_layer[member.layer] = {
                "dense": sum(map(len, member.channels)),
                "sparse": sum(len(member.channels[i]) for i in left),
            }
    return {"groups": groups, "by_layer": by_layer}


def _prediction(
    job: Job, kept: dict[str, list[int]], latency: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """For a budget in time: predicted beside measured."""
    if not isinstance(job.cost, TimeCost):
        return None
    expected = asdict(predicted(job.cost, job.channels, kept))
    keys = ("precision", "threads", "height", "width")
    row = next(
        (
            row
            for row in latency
            if row["runtime"].startswith(expected["runtime"])
            and row["provider"] == "CPUExecutionProvider"
            and all(row[key] == expected[key] for key in keys)
        ),
        None,
    )
    sides = ("dense_ms", "sparse_ms")
    measured = {f"measured_{side}": row and row[side]["median"] for side in sides}
    why = {} if row else {"why": "no latency was measured with this runtime and frame size"}
    return expected | measured | why


def _commit() -> str | None:
    """The checkout's commit, with a + where files differ from it."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
