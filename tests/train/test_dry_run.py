"""What dry_run=true says is what the run then is."""

import json
import re
from pathlib import Path

import pytest
from runs import SMALL, Shell

WORDS = "to be or not to be, that is the question whether tis nobler in the mind to suffer\n"


def said(shell: Shell, *command: str) -> dict[str, int]:
    """The figures of dry_run=true, by the first word of their line."""
    assert shell("train", *command, "dry_run=true") == 0, shell.err
    patterns = {
        "parameters": r"^parameters +([\d,]+)",
        "vocab_size": r"^vocabulary +([\d,]+)",
        "flops_per_token": r"^FLOPs per token +([\d,]+)",
        "tokens_per_step": r"^tokens per step +([\d,]+)",
        "steps": r"^budget +([\d,]+) steps",
        "tokens": r"^budget +[\d,]+ steps = ([\d,]+) tokens",
    }
    found = {key: re.search(pattern, shell.out, re.MULTILINE) for key, pattern in patterns.items()}
    return {
        key: int(match[1].replace(",", "")) for key, match in found.items() if match is not None
    }


def true(shell: Shell) -> dict[str, int]:
    """The same figures of the run that was trained."""
    folder = shell.run_folder()
    record, summary = (
        json.loads((folder / name).read_text()) for name in ("run.json", "summary.json")
    )
    assert summary["status"] == "finished"
    return {
        "parameters": summary["parameters"],
        "vocab_size": record["data"]["vocab_size"],
        "flops_per_token": summary["flops_per_token"],
        "tokens_per_step": summary["tokens"] // summary["step"],
        "steps": record["steps"],
        "tokens": summary["tokens"],
    }


BYTES = ["data@stand_in=one_play"]
CHARACTERS = [*BYTES, "data/tokenizer@stand_in.tokenizer=char"]
MERGES = [*BYTES, "data/tokenizer@stand_in.tokenizer=bpe", "stand_in.tokenizer.vocab_size=300"]
TASK = ["data@stand_in=copy_task", "stand_in.n_documents=200"]


@pytest.mark.parametrize(
    "choices",
    [
        BYTES,
        [*BYTES, "train.steps=null", "train.tokens=1000"],
        [*MERGES, "model.tie_embeddings=true"],
        [*TASK, "model=tiny_ensemble", "model.members=2"],
        [*BYTES, "model/embedding=ngram", "model.embedding.rows=97"],
    ],
    ids=["bytes", "tokens", "merges", "task", "n-grams"],
)
def test_every_figure_is_that_of_the_run(shell: Shell, choices: list[str]) -> None:
    command = [*SMALL, "train.steps=2", *choices]
    before = said(shell, *command)
    assert shell("train", *command) == 0, shell.err
    assert before == true(shell)
    assert said(shell, *command, "attempt=2") == before, "the tokens are prepared by now"


@pytest.mark.parametrize("choices", [CHARACTERS, MERGES], ids=["characters", "merges"])
def test_what_only_the_text_decides_is_known_once_it_is_prepared(
    shell: Shell, choices: list[str]
) -> None:
    (shell.folder / "words.txt").write_text(WORDS * 40)
    text = [*choices, "data@stand_in=files", f"stand_in.path={shell.folder / 'words.txt'}"]
    command = (
        [*SMALL, *text, "stand_in.tokenizer.vocab_size=900"]
        if choices is MERGES
        else [*SMALL, *text]
    )
    command += ["train.steps=null", "train.epochs=0.5"]
    before = said(shell, *command)
    assert "assumed, until" in shell.out or "fewer if the text is too small" in shell.out
    assert "0.5 epochs (steps follow from the size of the corpus)" in shell.out
    assert shell("train", *command) == 0, shell.err
    after = said(shell, *command, "attempt=2")
    assert after == true(shell)
    assert after["vocab_size"] < before["vocab_size"]


def test_a_gpu_that_is_not_here_is_planned_for(shell: Shell) -> None:
    command = [*SMALL, "dry_run=true", "train.device=cuda"]
    facts = lambda: dict(re.split(r"  +", line, maxsplit=1) for line in tail(shell.out))
    tail = lambda out: out.rpartition("\n\n")[2].splitlines()
    assert shell("train", *command) == 0, shell.err
    here = facts()
    assert here["device"].startswith("cuda (planned for a GPU), bf16 (native on this GPU), eager")
    assert shell("train", *command, "dry_run_gpu=H100", "train.precision=fp32") == 0, shell.err
    there = facts()
    assert float(there["memory, estimated"].split()[0]) > 0.48, "its context"
    flops = float(re.search(r"([\d.e+]+) FLOPs", there["budget"])[1])  # type: ignore[index]
    assert (
        there["budget"] == f"{here['budget']} = {1e3 * flops / 494.7e12:.0f} ms at the peak of H100"
    )
    assert shell("train", *command, "dry_run_gpu=T4") == 0, shell.err
    assert "fp16 (this GPU has no bf16)" in facts()["device"]


OWN = """
import torch
from torch import nn
from minigpt.model.transformer import Transformer

class Own(Transformer):
    def __init__(self, vocab_size, **transformer):
        super().__init__(vocab_size, **transformer)
        self.embed.weight.requires_grad_(False)
        self.mix, self.stack = (nn.Parameter(torch.empty(2, 4, 8)) for _ in range(2))
        self.parameter_roles = {"mix": "scalar"}
"""


def test_frozen_and_stacked_parameters_of_a_model_of_ones_own(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mixing.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    command = [*SMALL, "model._target_=mixing.Own", "dry_run=true"]
    assert shell("train", *command) == 0, shell.err
    shown = re.findall(r"^(embed.weight|mix|stack) +(\w+) .*  (\w+) ", shell.out, re.MULTILINE)
    assert [(name, role) for name, role, _ in shown] == [
        ("mix", "scalar"), ("stack", "hidden"), ("embed.weight", "embed")
    ]  # fmt: skip
    assert re.search(r"^embed.weight .* frozen +0 ", shell.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dry_run=true", "dry_run_gpu=H1000"], "unknown GPU: dry_run_gpu=H1000 (one of B200, "),
        (["dry_run_gpu=H100"], "a plan alone: dry_run_gpu=H100 (add dry_run=true)"),
    ],
)
def test_a_gpu_that_no_plan_is_for_is_refused(
    shell: Shell, arguments: list[str], words: str
) -> None:
    assert shell("train", *SMALL, *arguments) == 2
    assert words in shell.err
