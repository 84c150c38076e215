"""Which channels of a decoder go together, and how they are taken out (by Torch-Pruning).

atoms        channels by number, and the ties between them
labels       for every entry of a tensor its channel; what moving entries does to them
follower     one pass of a codec with labels; trace: the passes that are needed
leaves       what layers do to channels; operations, products, moving, special: what functions do
counts       sizes that a codec asks of tensors, which know whose channels they count
grouping     the groups that follow, those that can go and those that have to stay, with reasons
verify       each group tried: removing its channels must equal masking them
find         all together: the groups that are offered
weights      what makes, scales and shifts a group's channels: norms, zeros
removal      channels cut out of layers; layer_rules: how, for layers of our own
shrink       masks turned into smaller layers, with the proof that nothing else changed
"""

from prune.groups.find import find_groups
from prune.groups.shrink import check_same, masked_copy, shrunk_copy

__all__ = ["check_same", "find_groups", "masked_copy", "shrunk_copy"]
