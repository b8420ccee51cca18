"""Runs in, a verdict with an interval out: `python -m minigpt.compare PATH... --by KEY`. No torch,
no Hydra.
"""
