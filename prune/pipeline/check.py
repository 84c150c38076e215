"""A codec tried before anything is trained: exported, run by onnxruntime, coded, decoded, saved."""

import tempfile
from pathlib import Path

import torch

from prune.data import Procedural
from prune.groups.shrink import largest_difference
from prune.onnx_export.bit_parity import LONGEST, check_bundle
from prune.onnx_export.bundle import Size, export_bundle
from prune.pipeline.job import Job
from vcodecs import UserError, checkpoints
from vcodecs.coding import can_code


def check(job: Job) -> str:
    """Try what the end of a run needs, with the teacher's weights; returns what held, as a line.

    UserError of one line that names the graph and the operation, or what cannot be rebuilt.
    """
    codec = job.teacher
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        checkpoints.save(codec, path)
        clip = torch.from_numpy(Procedural(0, 1, 128, 192, LONGEST).read(0)).float() / 255
        again = job.load(path)
        if largest_difference(codec, again, [clip[:2, :, :64, :64]]) > 0:
            raise UserError(
                f"codec {codec.name}: behind a file it is another codec: a tensor of its state is "
                "not in its state_dict (register_buffer with persistent=True, or a parameter)"
            )
        section, place = job.recipe.export, Path(folder) / "onnx"
        size = Size(section.height, section.width, section.dynamic)
        export_bundle(codec, place, size, section.deformable)
        check_bundle(codec, place, clip)
    graphs = len(codec.decoder_graphs(64, 64))
    bits = "frames coded and decoded" if can_code(codec) else "no coding(): bits are estimated"
    return f"{graphs} graphs exported and run by onnxruntime, {bits}, weights saved and loaded"
