"""A run from recipe to report: `job` checks, `steps` remembers, `work` does, `assemble` tells."""
