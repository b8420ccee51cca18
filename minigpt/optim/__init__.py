"""Optimizers, and the one that gives every role its own."""
