"""Weights that are no numbers: NaN, which a training that diverged leaves, and infinity."""

from collections.abc import Mapping

from torch import Tensor, nn

from lvc.errors import UserError


def check_finite(codec: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """UserError that names the first tensor of `state` with a value that is no number.

    Buffers may hold infinity, as a mask of an attention does, but no NaN.
    """
    weights = {name for name, _ in codec.named_parameters()}
    for name, value in state.items():
        if not value.is_floating_point() or value.is_meta:
            continue
        bad = ~value.isfinite() if name in weights else value.isnan()
        if count := int(bad.sum()):
            what = "NaN" if value.isnan().any() else "infinite"
            raise UserError(
                f"{where}: {name} has {count} of {value.numel()} values that are no numbers "
                f"({what}): the file is damaged or its training diverged; take an earlier one"
            )
