"""The estimate of dry_run=true against what a process really takes, and what it is made of."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import ROOT, Shell

from minigpt.config.precision import choose
from minigpt.train.memory import activation_bytes, saved_bytes

NODE = {
    "_target_": "minigpt.model.transformer.Transformer",
    "n_layers": 3,
    "d_model": 64,
    "n_heads": 4,
    "d_ff": 160,
}
TOKENS = 512
FP32, BF16 = (choose("cpu", precision, False, d_model=64) for precision in ("fp32", "bf16"))


def config_of(activation_checkpointing: bool = False, **model: object) -> dict:
    return {"model": NODE | model, "train": {"activation_checkpointing": activation_checkpointing}}


def test_activations_are_those_that_the_code_keeps() -> None:
    """By hand for fp32 on a CPU, bytes a token and block: two inputs of norms, two outputs,
    queries, keys, values and attention's output, two of the feed-forward layer's width; each 4
    bytes. Beside them a norm's scale, attention's logarithm; one more block for temporaries.
    """
    d, f, kv = 64, 160, 16
    block = 4 * (6 * d + 2 * kv + 2 * f) + 2 * 4 + 4 * 4
    counted = activation_bytes(config_of(), TOKENS, d, FP32)
    head = 4 * d + 4 + 8  # the input of the final norm, its scale, the tokens
    assert counted == pytest.approx((4 * block + head) * TOKENS, rel=0.05)


def test_the_stand_in_is_linear_in_tokens() -> None:
    """What is taken from 1 and 2 sequences holds for 5."""
    one, two, five = map(sum, saved_bytes(NODE, (1, 2, 5), 64, BF16))
    assert five == one + 4 * (two - one)


def test_bf16_halves_and_checkpointing_keeps_inputs_only() -> None:
    # beside which the probabilities that attention keeps in bf16 are small
    wide = config_of(d_model=256, d_ff=640)
    whole = activation_bytes(wide, TOKENS, 64, FP32)
    # the residual stream stays fp32
    assert 0.5 < activation_bytes(wide, TOKENS, 64, BF16) / whole < 0.8
    three, four = (activation_bytes(config_of(True, n_layers=n), TOKENS, 64, FP32) for n in (3, 4))
    assert four - three == 4 * 64 * TOKENS
    deep, shallow = (
        activation_bytes(config_of(True, n_layers=n), TOKENS, 64, FP32) for n in (24, 3)
    )
    assert deep < activation_bytes(config_of(n_layers=24), TOKENS, 64, FP32) / 3
    assert shallow > 0


def test_another_part_of_a_block_is_measured_too() -> None:
    (plain,) = map(sum, saved_bytes(NODE, (1,), 64, FP32))
    (normed,) = map(sum, saved_bytes(NODE | {"qk_norm": True}, (1,), 64, FP32))
    # the inputs of both norms, in each of three blocks
    assert normed - plain >= 4 * 3 * 64 * (64 + 16)


LIGHT = """
from minigpt.model.attention import Attention

class Light(Attention):
    def connect(self, layer, attentions):
        self.light = layer % 4 == 1

    def forward(self, x, rope, mask=None, cache=None):
        return self.o(x) if self.light else super().forward(x, rope, mask, cache)
"""


def test_layers_that_differ_are_each_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lighter.py").write_text(LIGHT)
    monkeypatch.syspath_prepend(tmp_path)
    config = config_of(attention={"_target_": "lighter.Light", "_partial_": True}, n_layers=10)
    (_, *blocks) = whole = saved_bytes(config["model"], (2,), 64, FP32)[0]
    assert len(set(blocks[2:6])) == 2
    counted = activation_bytes(config, 128, 64, FP32)
    assert counted == pytest.approx(sum(whole) + max(blocks), rel=0.001)


def test_dropout_masks_are_counted_and_nothing_is_drawn() -> None:
    before = torch.random.get_rng_state()
    dropped = saved_bytes(NODE | {"dropout": 0.3}, (1,), 64, FP32)
    assert sum(dropped[0]) > sum(saved_bytes(NODE, (1,), 64, FP32)[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dry_run_says_it(shell: Shell) -> None:
    assert shell("train", "dry_run=true", "train.micro_batch_size=4") == 0, shell.err
    (line,) = (line for line in shell.out.splitlines() if line.startswith("memory, estimated"))
    assert "train.micro_batch_size=4" in line
    assert re.search(r"activations 1\d\.\d MiB", line)


@pytest.mark.parametrize(
    ("model", "checkpointing"),
    [
        ("tiny", "false"),
        pytest.param("tiny", "true", marks=pytest.mark.slow),
        pytest.param("tiny_ensemble", "false", marks=pytest.mark.slow),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_takes_what_was_estimated(model: str, checkpointing: str) -> None:
    """A step of a model with much to keep; within 20 %, glibc's heap included."""
    code = f"""
import json, torch
from minigpt.config import schema
from minigpt.cli import process
from minigpt.bench.machine import peak_memory
from minigpt.bench.model import Model
schema.register(); process.register_resolvers(); torch.set_num_threads(1)
model = Model(["model={model}", "model.n_layers=8", "model.d_model=256", "model.max_seq_len=256",
               "train.batch_size=16", "train.precision=fp32",
               "train.activation_checkpointing={checkpointing}"])
model.steps(model.chosen, 16, 2)
print(json.dumps([peak_memory("cpu"), model.memory(16, model.chosen).total]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    )
    measured, estimated = json.loads(done.stdout)
    assert estimated == pytest.approx(measured, rel=0.2)
