"""Channel groups of a codec: found by following its channels, and each tried."""

from prune.groups.atoms import TooManyError
from prune.groups.channels import Channels, Group, is_boundary
from prune.groups.grouping import explain_the_rest, made_by, said_of, sort_out
from prune.groups.leaves import refuse_old_hooks, shared_weights
from prune.groups.trace import Traced, trace
from prune.groups.verify import NOT_MASKING, verify_groups
from vcodecs import UserError, VideoCodec


def find_groups(codec: VideoCodec) -> Channels:
    """The channel groups of `codec`'s decoder; the codec itself is left as it is.

    Following labels through a run says what belongs together. A trial on a copy with random
    weights then removes channels of every group: a group for which that does not equal masking
    is fixed as well. Heads of an attention go whole where the codec can do with fewer, else the
    same positions of all heads. UserError for a codec that cannot be copied or run.
    """
    refuse_old_hooks(codec)
    channels, heads = _tried(codec, "heads")
    if heads and channels.fixed:
        others, _ = _tried(codec, "positions")
        channels = min(channels, others, key=lambda found: len(found.fixed))
    return channels


def _tried(codec: VideoCodec, units: str) -> tuple[Channels, bool]:
    """The groups that hold, and whether there were heads."""
    try:
        traced = trace(codec, units)
        channels = sort_out(codec, traced)
    except UserError:
        raise
    except TooManyError:
        return _nothing(codec, "there are too many ties between its channels to sort out"), False
    except Exception as error:  # whatever the codec's own code does under the trace
        said = next(iter(str(error).splitlines()), "")
        reason = f"its channels cannot be followed ({type(error).__name__}: {said})"
        return _nothing(codec, reason), False
    shared = shared_weights(codec)
    faults = {g.name: _shared(shared, g) for g in channels.groups if _shared(shared, g)}
    left = [g for g in channels.groups if g.name not in faults]
    faults |= verify_groups(codec, left)
    for name, reason in faults.items():
        group = next(g for g in channels.groups if g.name == name)
        channels.groups = tuple(g for g in channels.groups if g is not group)
        why = _in_words(traced, group, reason)
        channels.fixed |= dict.fromkeys(made_by(codec, group), why)
    explain_the_rest(codec, channels)
    return channels, traced.book.heads


def _in_words(traced: Traced, group: Group, reason: str) -> str:
    if reason != NOT_MASKING:
        return reason
    if note := said_of(traced, group, traced.book.notes):
        return f"{reason}: they go through {note}"
    held = [m.layer for m in group.members if m.dim is not None and "." not in m.layer]
    if held:
        return f"{reason}: {held[0]} is held by the codec itself; put it into a module"
    return f"{reason}: something makes a value of zeros, such as a sigmoid or a constant added"


def _shared(shared: dict[str, str], group: Group) -> str:
    names = [m.layer for m in group.members if not is_boundary(m.layer) and m.layer in shared]
    return f"{names[0]} has its weight in common with {shared[names[0]]}" if names else ""


def _nothing(codec: VideoCodec, reason: str) -> Channels:
    channels = Channels(())
    for name in codec.decoder_modules():
        channels.fixed[name] = reason
    explain_the_rest(codec, channels)
    return channels
