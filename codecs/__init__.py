"""vcodecs: learned video codecs behind one contract (see `vcodecs.contract`).

Names are imported when first used, so that what needs no torch does not load it.
"""

from importlib import import_module
from typing import Any

from lvc.errors import UserError

_HOMES = {
    "CodedFrame": "vcodecs.contract",
    "DecoderGraph": "vcodecs.contract",
    "Reference": "vcodecs.contract",
    "Stage": "vcodecs.contract",
    "VideoCodec": "vcodecs.contract",
    "codec_of": "vcodecs.registry",
    "create": "vcodecs.registry",
    "names": "vcodecs.registry",
    "register": "vcodecs.registry",
    "save": "vcodecs.checkpoints",
}

__all__ = ["UserError", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vcodecs' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
