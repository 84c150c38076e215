"""The recipes, so that an installed leanvc finds them by name: `python -m prune.run dcvc`."""
