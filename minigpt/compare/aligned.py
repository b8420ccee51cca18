"""What differs between an arm and the baseline throughout, beside what is compared."""

from collections.abc import Mapping, Sequence

from minigpt.study.declaration import Declaration
from minigpt.study.run import Run

# What two arms may not differ in throughout, unless it is what is compared.
PATH = ("device", "precision", "compile")


def blocked_arms(declaration: Declaration, runs: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Arms that differ from the baseline throughout in what is not compared, and in what.

    runs: the judged runs by arm. Then the arm and that difference cannot be told apart.
    """
    found: dict[str, str] = {}
    tokens = {arm: _tokens(judged) for arm, judged in runs.items()}
    baseline = [facts_of(run, declaration.metric) for run in runs[declaration.baseline]]
    for arm, judged in runs.items():
        if arm == declaration.baseline:
            continue
        facts = [facts_of(run, declaration.metric) for run in judged]
        for name in sorted({name for one in (*facts, *baseline) for name in one}):
            here = {one[name] for one in facts if name in one}
            there = {one[name] for one in baseline if name in one}
            if here and there and not here & there and declaration.by != name:
                shown = f"{'/'.join(sorted(here))} for {arm}, {'/'.join(sorted(there))} for "
                found[arm] = f"{name} differs with the arm ({shown}{declaration.baseline})"
                break
        (own, step), (other, its_step) = tokens[arm], tokens[declaration.baseline]
        if abs(own - other) >= max(step, its_step):  # what rounding up to whole steps may add
            found[arm] = f"{arm} trains on {own:,} tokens, {declaration.baseline} on {other:,}"
    return found


def facts_of(run: Run, metric: str) -> dict[str, str]:
    """What computed a run: device, precision, compile, PyTorch, each module of code; and on which
    text its loss was measured.
    """
    chosen = run.record["chosen"]
    facts = {f"train.{key}": str(chosen.get(key)) for key in PATH}
    facts["torch"] = str(run.record.get("versions", {}).get("torch"))
    data = run.record["data"]
    if metric == "val_bits_per_byte":
        facts["bytes of the validation text"] = str(data.get("val_bytes"))
    else:
        facts["validation text"] = str(data.get("val_fingerprint", data["fingerprint"]))[:12]
    if "code" in run.record["identity"]:  # it is what is compared
        return facts
    return facts | {f"code of {module}": digest for module, digest in run.record["source"].items()}


def _tokens(runs: Sequence[Run]) -> tuple[int, int]:
    """The most training tokens of a run, and those of a step; 0 where only the corpus knows."""
    return max((run.budget_tokens or 0, run.tokens_per_step) for run in runs)
