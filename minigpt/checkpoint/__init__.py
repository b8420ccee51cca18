"""Checkpoints on disk: written, verified, pruned."""
