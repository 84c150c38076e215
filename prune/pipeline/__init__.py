"""A run from recipe to report: `job` checks, `steps` remembers, `work` does, `assemble` tells.

`compress` is what becomes of the codec on the way, for runs and for `prune.interface` alike.
"""
