"""All that these benchmarks use of leanvc, in one place."""

from lvc.anchor import anchor
from lvc.encoders import ENCODERS
from lvc.errors import UserError
from lvc.files import atomic_write
from prune.cli import main
from prune.data import open_source
from prune.evaluation.coding_loop import possible_bits
from prune.evaluation.metrics import BD, BD_POINTS, bd, mean
from prune.evaluation.rate_distortion import code_i_frames, evaluate_clip
from vcodecs import create
from vcodecs.intra import create_intra
from vcodecs.registry import codec_of

__all__ = [
    "BD",
    "BD_POINTS",
    "ENCODERS",
    "UserError",
    "anchor",
    "atomic_write",
    "bd",
    "code_i_frames",
    "codec_of",
    "create",
    "create_intra",
    "evaluate_clip",
    "main",
    "mean",
    "open_source",
    "possible_bits",
]
