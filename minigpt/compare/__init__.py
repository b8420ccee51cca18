"""Runs in, a verdict with an interval out: `python -m minigpt.compare PATH... --by KEY`.

Loads neither torch nor Hydra.
"""
