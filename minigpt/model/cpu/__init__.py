"""Kernels that train or decode faster on a CPU, each named after the part that it replaces.

The part in `minigpt.model` is the reference, and says when its kernel is used. Each kernel names
the test that holds it to its reference.
"""
