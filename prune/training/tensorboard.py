"""What TensorBoard shows of a training: figures, channels kept by module, decoded frames.

Written where the recipe asks for it (`train.tensorboard`); tensorboard is an optional extra and is
imported then. Nothing that is trained changes by it.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from prune.training.companion import Companion
from prune.training.phases import Phase
from prune.training.tradeoff import Tradeoff
from vcodecs import Reference, UserError, VideoCodec

PICTURES_EVERY = 500
"""Steps between two pictures; there is one at the end of each phase too."""


def check_tensorboard(where: str) -> None:
    """UserError where it is not installed; `where` names the key that asks for it."""
    if find_spec("tensorboard") is None:
        raise UserError(f"{where}: tensorboard is not installed: pip install 'leanvc[tensorboard]'")


class Board:
    """Writes event files to `folder`; `step` is the first of this process, counted over phases.

    What a killed process has written behind its last state is left out when TensorBoard reads it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step)

    def show(
        self, step: int, figures: Mapping[str, float], companions: Sequence[Companion]
    ) -> None:
        """Figures of a step, and what the companions tell those who look closer."""
        for name, value in figures.items():
            self.writer.add_scalar(f"training/{name}", value, step)
        for companion in companions:
            for name, value in companion.details().items():
                self.writer.add_scalar(name, value, step)

    def picture(
        self, step: int, codec: VideoCodec, clips: Tensor, phase: Phase, tradeoff: Tradeoff
    ) -> None:
        """The first P frame of the first clip (N, T, 3, H, W), beside what is decoded of it."""
        rate = tradeoff.points[len(tradeoff.points) // 2]
        pair = torch.cat((clips[0, 1], decoded(codec, clips[:1], phase, rate)), dim=-1)
        self.writer.add_image(f"original and decoded/{phase.name}", pair.clamp(0, 1), step)

    def close(self) -> None:
        self.writer.close()


@torch.no_grad()
def decoded(codec: VideoCodec, clips: Tensor, phase: Phase, rate: float | None) -> Tensor:
    """(3, H, W): the frame behind the first one, which is its reference, as the phase codes it."""
    picture = phase.stage.picture
    training = codec.training
    try:
        codec.eval()
        upto = None if picture == "frame" else picture
        return codec(clips[:, 1], Reference(clips[:, 0]), rate, upto).frame[0].float().cpu()
    finally:
        codec.train(training)
