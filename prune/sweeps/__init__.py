"""Sweeps: one recipe at every combination of some settings, a run each."""
