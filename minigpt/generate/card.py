"""The model card of an exported run, README.md, from what the run says."""

import shlex
from typing import Any

from minigpt.config.places import as_typed_here
from minigpt.files.durable import json_bytes
from minigpt.files.records import read_config, read_record, summary_of
from minigpt.generate.load import Loaded
from minigpt.terminal import escape_line

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
license: unknown
tags: [minigpt]
---
# {name}

A language model trained from scratch by minigpt for research; it says what its data makes likely,
true or not. Nobody has chosen a licence for the weights: whoever publishes them does, above.

{table}

Made by, with minigpt {minigpt} at commit {commit}:

```
{command}
```

Read by transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
```

Text has to be encoded as here: without special tokens added. Documents began with the end-of-text
token in training. The whole recipe, whose hash is the run's id {id}:

```json
{recipe}
```
"""
PLACES = ("output_dir=", "data_dir=", "'output_dir=", "'data_dir=")  # of one machine


def model_card(run: Loaded) -> str:
    """README.md of an exported run. Says "unknown" of what the run does not know.

    Raises CheckpointError if its run.json is damaged.
    """
    record: dict[str, Any] = read_record(run.folder) or {}
    identity, choices = record["identity"], record["choices"]
    data = identity["data"].items()
    git: dict[str, Any] = record.get("git") or {}
    edited = " with edits" if git.get("dirty") else ""
    typed = [word for word in record.get("overrides", []) if not word.startswith(PLACES)]
    batch = f"{read_config(run.folder)['train']['batch_size']:,} sequences a step"
    sources = {key: value for key, value in data if key not in ("_target_", "tokenizer")}
    parts = [str(choices.get(group)) for group in ("model", "optim", "schedule")]
    budget = ", ".join(f"{key} {value:,}" for key, value in identity["budget"].items())
    facts = {
        "parameters": f"{sum(p.numel() for p in run.model.parameters()):,}",
        "context": f"{run.model.max_seq_len:,} tokens",
        "data": f"{choices.get('data@stand_in', choices.get('data'))} {sources}",
        "licence of the data": record["data"].get("licence", "unknown"),
        "tokenizer": f"{run.tokenizer.kind}, {run.tokenizer.vocab_size:,} ids",
        "recipe": f"{', '.join(parts)}; {batch}; {budget}; seed {identity['seed']}",
        "step": f"{run.step:,} of {record.get('steps') or 'unknown'}",
        "validation loss": loss_of(run),
    }
    if record["mixed"]:
        facts["mixed, as was accepted"] = ", ".join(record["mixed"])
    cells = [f"| {cell(key)} | {cell(value)} |" for key, value in facts.items()]
    return CARD.format(
        name=escape_line(run.folder.name),
        table="\n".join(["| | |", "|---|---|", *cells]),
        minigpt=escape_line(str(record.get("minigpt"))),
        commit=escape_line(str(git.get("commit") or "unknown")) + edited,
        command=escape_line(shlex.join([*as_typed_here("python train.py").split(), *typed])),
        id=escape_line(record["id"]),
        recipe=json_bytes(identity).decode().rstrip(),
    )


def loss_of(run: Loaded) -> str:
    """On the run's own validation split, where it was measured at this very step."""
    summary = summary_of(run.folder) or {}
    if summary.get("step") != run.step or summary.get("val_loss") is None:
        return "unknown at this step"
    bits = summary.get("val_bits_per_byte")
    bits = "" if bits is None else f", {bits:.4f} bits per byte"
    return f"{summary['val_loss']:.4f} nats per token{bits}"


def cell(value: str) -> str:
    """Text inside a table of Markdown."""
    return escape_line(value).replace("|", "\\|")
