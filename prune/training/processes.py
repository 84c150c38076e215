"""Messages between the processes of one training.

Every process holds the whole codec and computes its part of each batch; what then has to be the
same everywhere (gradients, thresholds, the distillation's running distortions, when to stop, what
goes on from a saved state) is averaged, or is that of the first process.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn

from prune.launch import launched
from vcodecs import UserError
from vcodecs.noise import BatchPart

T = TypeVar("T")

LOST = (
    "another process of this run is gone; what it said is above, or in its own output. The same "
    "command goes on from the last saved state"
)


class Processes:
    """The processes that work on one run; alone, everything here is a no-op."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        together = dist.is_available() and dist.is_initialized()
        self.count = dist.get_world_size() if together else 1
        self.rank = dist.get_rank() if together else 0
        self.device = torch.device(device)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and tells."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.count == 1

    def share(self, batch: int) -> BatchPart:
        """The clips of a batch that this process trains on; it has to be a multiple of `count`."""
        own = batch // self.count
        return BatchPart(self.rank * own, batch)

    def mean(self, values: Tensor) -> Tensor:
        """Elementwise mean over the processes, the same to the bit in all of them."""
        if self.alone:
            return values
        total = values.detach().to(self.device, copy=True)
        with lost_ones():
            dist.all_reduce(total)
        return (total / self.count).to(values.device)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients; a parameter that no process has one of keeps none.

        One message for all of them: a codec's backward pass goes through each parameter once for
        every unrolled frame, so gradients are complete at its end only.
        """
        if self.alone:
            return
        trained = list(parameters)
        given = [p.new_tensor(float(p.grad is not None), dtype=torch.float32) for p in trained]
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
        message = torch.cat([torch.stack(given), *[part.float() for part in parts]])
        with lost_ones():
            dist.all_reduce(message)
        some, values = message[: len(trained)] > 0, message[len(trained) :] / self.count
        pieces = values.split([p.numel() for p in trained])
        for parameter, piece, is_some in zip(trained, pieces, some.tolist(), strict=True):
            if not is_some:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(piece.view_as(parameter))

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes."""
        return flag if self.alone else bool(self.mean(torch.tensor(float(flag))) > 0)

    def agreed(self, value: T) -> T:
        """The first process's value, in all of them; also what they wait for one another with."""
        if self.alone:
            return value
        box: list[Any] = [value]
        with lost_ones():
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """Every process's value, in all of them and in the order of their ranks."""
        if self.alone:
            return [value]
        box: list[Any] = [None] * self.count
        with lost_ones():
            dist.all_gather_object(box, value)
        return box

    def leave(self) -> None:
        """Part from the others, behind the last thing that is done together."""
        if not self.alone:
            self.agreed(None)
            dist.destroy_process_group()


def join(device: str) -> Processes:
    """Meet the other processes of the run, where a launcher has started any."""
    if launched() == 1:
        return Processes()
    with lost_ones():
        state = PartialState(cpu=device == "cpu")
    return Processes(state.device)


@contextmanager
def lost_ones() -> Iterator[None]:
    """Turn what torch says of a process that has ended into one line for the user."""
    try:
        yield
    except RuntimeError as error:
        if is_loss(error):
            raise UserError(LOST) from error
        raise


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process cannot be reached."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "Connection closed" in text
