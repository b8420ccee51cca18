"""Kernels that train or decode faster on a CPU, each named after the part that it replaces.

The part in `minigpt.model` is the reference, and says when its kernel is used. Tests compare the
two: tests/model/test_blocked_attention.py, test_cpu_kernels.py and test_decode.py.
"""
