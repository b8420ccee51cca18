"""What a command says of a run that has ended. Needs no torch."""

import logging
import re
from pathlib import Path
from typing import Any

from minigpt.config.plan import Plan
from minigpt.config.schema import key_of
from minigpt.errors import NumericsError
from minigpt.files import records
from minigpt.files.reading import MAX_LINE_BYTES, UnreadableError, read_bytes
from minigpt.run.changes import changes_of, refusal
from minigpt.run.claim import own_record
from minigpt.run.source_digest import source_digest
from minigpt.terminal import on_stdout

log = logging.getLogger(__name__)


def answer(plan: Plan) -> dict[str, Any] | None:
    """The summary of a run that has finished already; None if there is still something to do.

    Logs that it has finished, and which settings are ignored for that. Raises CheckpointError if
    code or tokens changed since, unless accepted; NumericsError if the run had diverged.
    """
    summary, record = records.summary_of(plan.folder), own_record(plan)
    if summary is None or record is None:
        if not plan.config["dry_run"]:
            source_digest(plan.config)  # now, before anything that computes is imported
        return None
    if (changes := changes_of(plan)) and not plan.config["accept_changes"]:
        raise refusal(plan.folder, changes)
    if summary["status"] == "diverged":
        where = f"{plan.folder}: at step {summary['step']}"
        raise NumericsError(f"diverged before: {where} (change a setting, or attempt=2)")
    asked_now = [override for override in plan.overrides if override not in record["overrides"]]
    typed = {re.split("[@=]", override.lstrip("+~"))[0] for override in asked_now}
    ignored = sorted({*plan.unused, *(k for k in typed if key_of(k).effect == "watching")})
    chosen, commit = record["chosen"], (record["git"] or {}).get("commit", "unknown")[:7]
    said = f"already finished ({chosen['device']}, {chosen['precision']}, commit {commit})"
    log.info("%s%s", said, f"; ignored: {', '.join(ignored)}" if ignored else "")
    return summary


def print_outcome(folder: Path, summary: dict[str, Any]) -> None:
    """Print what a finished run came to: a sample, loss, training and where everything is."""
    try:
        sample = read_bytes(folder / "sample.txt", MAX_LINE_BYTES).decode(errors="replace")
    except UnreadableError:
        sample = ""
    if sample:
        print(f"{on_stdout(sample.rstrip())}\n")
    bits, rate = summary["val_bits_per_byte"], summary["tokens_per_s"]
    loss = f"{summary['val_loss']:.4f} nats per token"
    loss += "" if bits is None else f", {bits:.4f} bits per byte"
    print(f"validation loss   {loss}  ({summary['val_tokens']:,} tokens)")
    if doubt := records.worse_than_unigram(summary):
        print(f"                  {doubt}")
    training = f"{summary['step']:,} steps, {summary['tokens']:,} tokens"
    training += f", {summary['train_time_s']:.1f} s"
    training += "" if rate is None else f", {rate:,.0f} tokens/s"
    training += f"  (mixed: {', '.join(summary['mixed'])})" if summary["mixed"] else ""
    print(f"training          {training}")
    print(f"run folder        {folder}")
