"""Mirrors of metrics.jsonl; none of them can stop or change a run."""
