"""What runs cost: FLOPs, and how many others they shared their machine with."""

from collections.abc import Sequence

from minigpt.study.run import Run


def beside(run: Run, everything: Sequence[Run]) -> float:
    """How many of these ran on the same host at a time while this one ran, on average."""
    if run.interval_s is None or run.interval_s[1] <= run.interval_s[0]:
        return 0.0
    begin, end = run.interval_s
    host = run.record["hardware"].get("host")
    others = [
        other.interval_s
        for other in everything
        if other.folder != run.folder and other.record["hardware"].get("host") == host
    ]
    shared = sum(max(0.0, min(end, o[1]) - max(begin, o[0])) for o in others if o is not None)
    return shared / (end - begin)


def flops_per_token(run: Run) -> float | None:
    """FLOPs of the matrix products that train on a token, those of the optimizer included.

    None where one of the two is unknown.
    """
    summary = run.summary or {}
    if summary.get("flops_per_token") is None or summary.get("optimizer_flops_share") is None:
        return None
    return float(summary["flops_per_token"]) * (1 + float(summary["optimizer_flops_share"]))
