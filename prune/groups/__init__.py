"""Which channels of a decoder go together, and how they are taken out (Torch-Pruning underneath).

trace      one run of the codec as a dependency graph, with what the graph cannot see
grouping   the graph's groups, those that can go and those that have to stay, with reasons
verify     each group tried: removing its channels must equal masking them
find       both together: the groups that are offered
weights    the weights behind a group's channels: norms, zeros
removal    channels cut out of layers; layer_rules: how, for layers of our own
shrink     masks turned into smaller layers, with the proof that nothing else changed
"""
