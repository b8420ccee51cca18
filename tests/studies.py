"""Run folders as train.py writes them, without training, for comparisons with known answers."""

import json
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from minigpt.compare.__main__ import main
from minigpt.config import identity
from minigpt.run.source_digest import source_digest

BATCH, SEQ = 8, 64
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LN2 = math.log(2)
DIGESTS = source_digest({"_target_": "minigpt.optim.muon.Muon"})  # of the code as it is


def wobble(seed: int, own: float = 0.0) -> float:
    """Deterministic noise: shared by all runs of a seed, and a smaller part of the run's own."""
    return 0.01 * math.sin(seed * 12.9898) + 0.003 * math.sin(seed * 78.233 + own * 3571)


def adamw(lr: float, weight_decay: float = 0.05) -> dict[str, Any]:
    return {
        "_target_": "torch.optim.AdamW", "_partial_": True,
        "lr": lr, "betas": [0.9, 0.95], "eps": 1e-10, "weight_decay": weight_decay,
    }  # fmt: skip


def optimizer(arm: str, lr: float) -> dict[str, Any]:
    """An `optim` node: Muon on the hidden matrices, or AdamW for other names; AdamW elsewhere."""
    muon = "minigpt.optim.muon.Muon"
    hidden = {"_target_": muon, "_partial_": True, "lr": lr, "weight_decay": 0.05}
    return {
        "_target_": "minigpt.optim.by_role.ByRole", "lr_scale": 1.0, "lr": lr, "adamw_lr": 0.005,
        "hidden": hidden if arm == "muon" else adamw(lr, 0.1),
        "embed": adamw(0.005), "head": adamw(0.005), "scalar": adamw(0.005, 0.0),
    }  # fmt: skip


class Study:
    """`study.run("muon", seed=100, loss=3.1)` writes a run folder and returns it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = BEGIN

    def run(
        self,
        arm: str,
        seed: int,
        loss: float | None,
        *,
        lr: float = 0.02,
        steps: int = 100,
        status: str = "finished",
        study: str | None = "s",
        step_time_s: float = 0.01,
        overlapping: bool = False,
        config: dict[str, Any] | None = None,
        record: dict[str, Any] | None = None,
        summary: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        bytes_per_token: float = 1.0,
    ) -> Path:
        """loss None: not ended. status: finished or diverged. config takes dotted keys."""
        tokens = steps * BATCH * SEQ
        resolved = {
            "name": None, "seed": seed, "attempt": 1, "study": study,
            "train": {
                "tokens": None, "steps": steps, "epochs": None,
                "batch_size": BATCH, "micro_batch_size": None, "grad_clip": 1.0,
                "document_mask": False, "precision": "auto", "device": "auto", "compile": "auto",
                "deterministic": False, "threads": 1, "max_bad_steps": 10, "stop_after": None,
            },
            "verdict": dict.fromkeys(
                ("baseline", "margin", "tuning_seeds", "confirmation_seeds", "looks")
            ),
            "init_from": None,
            "model": {"_target_": "minigpt.model.transformer.Transformer",
                      "n_layers": 2, "d_model": 64, "n_heads": 4, "max_seq_len": SEQ},
            "optim": optimizer(arm, lr),
            "schedule": {"_target_": "minigpt.schedule.warmup_cosine.WarmupCosine", "warmup": 0.05},
            "data": {"_target_": "minigpt.data.shakespeare.Shakespeare", "val_fraction": 0.1,
                     "tokenizer": {"_target_": "minigpt.tokenizer.byte.Byte"}},
        }  # fmt: skip
        for key, value in (config or {}).items():
            *path, last = key.split(".")
            node = resolved
            for part in path:
                node = node[part]
            node[last] = value
        who = identity.run_identity(resolved, weights=resolved["init_from"])
        id = identity.short_hash(who)
        folder = self.folder / f"tiny-{arm}-s{seed}-{id}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(resolved))
        trained_s = steps * step_time_s
        seconds = {
            "data": 0.02, "forward_backward": 0.8 * trained_s, "optimizer": 0.2 * trained_s,
            "evaluation": 0.1, "saving": 0.01,
        }  # fmt: skip
        if not overlapping:
            self.clock += timedelta(seconds=math.ceil(sum(seconds.values())) + 5)
        run_json = {
            "schema": 1, "minigpt": "0.1.0", "id": id, "name": folder.name, "identity": who,
            "choices": {"model": "tiny", "optim": arm, "schedule": "warmup_cosine",
                        "data": "shakespeare", "data/tokenizer": "byte", "logger": "none"},
            "overrides": [f"optim={arm}", f"seed={seed}"],
            "study": study,
            "command": ["train.py"],
            "started": self.clock.isoformat(timespec="seconds"),
            "git": {"commit": "c" * 40, "dirty": False, "diff": ""},
            "source": {name: DIGESTS[name]
                       for name in ("minigpt.train.loop", "minigpt.optim.muon")},
            "versions": {"torch": "2.13.0", "python": "3.11"},
            "chosen": {"device": "cpu", "precision": "fp32", "compile": False,
                       "deterministic": False, "threads": 1, "micro_batch_size": BATCH,
                       "world_size": 1},
            "hardware": {"host": "vm", "cpus": 2, "device": "x86_64",
                         "peak_flops": 1e11, "peak_source": "measured"},
            "data": {"fingerprint": "f" * 64, "val_fingerprint": "v" * 64, "val_bytes": 10_000,
                     "folder": "tokens", "vocab_size": 257, "licence": "unknown"} | (data or {}),
            "mixed": [],
        } | (record or {})  # fmt: skip
        (folder / "run.json").write_text(json.dumps(run_json))
        ended = loss if loss is not None and math.isfinite(loss) else None
        rows = self._rows(steps, tokens, step_time_s, ended if ended is not None else 4.0)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if loss is None:
            return folder
        final = ended if status == "finished" else None
        found = {
            "status": status, "step": steps, "tokens": tokens, "skipped_steps": 0,
            "val_loss": final, "val_tokens": 10_000,
            "val_bits_per_byte": None if final is None else final / LN2 / bytes_per_token,
            "train_time_s": trained_s, "seconds": seconds,
            "tokens_per_s": BATCH * SEQ / step_time_s,
            "parameters": 127_424, "flops_per_token": 762_240,
            "optimizer_flops_share": 0.25 if arm == "muon" else 0.0,
            "optimizer_state_bytes": 1_019_476, "mixed": run_json["mixed"],
        } | (summary or {})  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(found))
        return folder

    def _rows(
        self, steps: int, tokens: int, step_time_s: float, loss: float
    ) -> Iterable[dict[str, Any]]:
        for k in range(1, 11):
            time_s = steps * k / 10 * step_time_s
            row = {"step": steps * k // 10, "tokens": tokens * k // 10, "time_s": time_s}
            here = loss + 2.5 * (1 - k / 10) ** 2
            train = {"train/loss": here - 0.05, "grad_norm": 1.0, "lr/hidden": 0.01}
            yield row | train | {"perf/tokens_per_s": 1e4}
            yield row | {"val/loss": here, "val/tokens": 4096, "val/bits_per_byte": here / LN2}

    def tuned_and_confirmed(
        self,
        arm: str,
        loss: Callable[[float, int, int], float],
        lrs: Iterable[float],
        best: float,
        confirm: Iterable[int] = range(100, 108),
        steps: Iterable[int] = (100, 200),
    ) -> None:
        """A grid over lr on seeds 0 and 1 at the last budget; `best` on all others and budgets."""
        steps = list(steps)
        for lr in lrs:
            for seed in (0, 1):
                self.run(arm, seed, loss(lr, seed, steps[-1]), lr=lr, steps=steps[-1])
        for seed in confirm:
            for budget in steps:
                self.run(arm, seed, loss(best, seed, budget), lr=best, steps=budget)


class Compare:
    """`compare("--by", "optim")` on the study's folder returns its exit code.

    `out` and `err` hold what it printed.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = main([str(self.folder), *arguments])
        self.out, self.err = self.capsys.readouterr()
        return code
