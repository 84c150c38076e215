"""Any `nn.Module` behind the codecs' contract, so that its channels can be grouped and removed.

Channel groups, masks, gradient decay, the budget of MACs and the shrink proof work on whatever has
convolutions; they know codecs alone. The module is the decoder here, its output the picture, and
its inputs are examples, so that it may take tensors of any shape.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lvc.errors import UserError
from vcodecs import CodedFrame, DecoderGraph, Reference, Stage, VideoCodec

EXTRA = ("feature", "latent", "motion_latent")
"""Where outputs behind the first one go: fields of a reference that nobody reads."""


class ModuleCodec(VideoCodec):
    """`module` with examples of its inputs. UserError where it cannot be run on them, or returns
    something else than a tensor, or up to four of which the later ones are (N, C, H, W)."""

    name = "module"
    presets = {"only": None}  # noqa: RUF012 - a class attribute by contract
    preset = "only"

    def __init__(self, module: nn.Module, example: Tensor | Sequence[Tensor]) -> None:
        super().__init__()
        self.module = module
        inputs = (example,) if isinstance(example, Tensor) else tuple(example)
        for i, tensor in enumerate(inputs):
            self.register_buffer(f"example_{i}", tensor.detach().clone(), persistent=False)
        self.inputs = len(inputs)
        try:
            with torch.no_grad():
                copy.deepcopy(self).eval().run()
        except (RuntimeError, ValueError, TypeError) as error:
            kind = type(module).__name__
            raise UserError(f"example: {kind} cannot be run on it: {error}") from error

    def examples(self) -> list[Tensor]:
        """The inputs that it was made with."""
        return [getattr(self, f"example_{i}") for i in range(self.inputs)]

    def run(self) -> tuple[Tensor, ...]:
        """The module's results on its examples."""
        made = self.module(*self.examples())
        outputs = (made,) if isinstance(made, Tensor) else tuple(made)
        extra = outputs[1:]
        if not outputs or len(extra) > len(EXTRA) or not all(
            isinstance(x, Tensor) and (i == 0 or x.dim() == 4) for i, x in enumerate(outputs)
        ):  # fmt: skip
            raise UserError(
                f"{type(self.module).__name__}: returns a tensor, or up to {1 + len(EXTRA)} of "
                "which those behind the first are (N, C, H, W): wrap it so that it does"
            )
        return outputs

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """The module's outputs; frame and reference are of no effect."""
        first, *extra = self.run()
        left = dict(zip(EXTRA, extra, strict=False))
        return CodedFrame(first, Reference(reference.frame, **left), left)

    def forward(
        self,
        frame: Tensor,
        reference: Reference,
        rate: float | Tensor | None = None,
        upto: str | None = None,
    ) -> CodedFrame:
        """As `code`: neither padded nor clamped."""
        return self.code(frame, reference, rate, upto)

    def decoder_modules(self) -> tuple[str, ...]:
        return ("module",)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("all", ("module",)),)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        """One graph without inputs: the MACs are those of the examples, whatever the size."""
        names = ("output",)
        return (DecoderGraph("module", self, ModuleCodec.run, {}, names, (height, width)),)

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)
