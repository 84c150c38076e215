"""Channel groups of a codec: those of the dependency graph that removal was tried on."""

from prune.groups.channels import Channels
from prune.groups.grouping import made_by, sort_out
from prune.groups.trace import trace
from prune.groups.verify import verify_groups
from vcodecs import VideoCodec


def find_groups(codec: VideoCodec) -> Channels:
    """The channel groups of `codec`'s decoder; the codec itself is left as it is.

    Torch-Pruning's dependency graph says what belongs together. A trial on a copy with random
    weights then removes channels of every group: a group for which that does not equal masking
    is fixed as well.
    """
    channels = sort_out(codec, trace(codec))
    for name, reason in verify_groups(codec, channels.groups).items():
        group = next(g for g in channels.groups if g.name == name)
        channels.groups = tuple(g for g in channels.groups if g is not group)
        channels.fixed |= dict.fromkeys(made_by(codec, group), reason)
    return channels
