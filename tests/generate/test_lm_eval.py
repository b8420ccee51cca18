"""lm-evaluation-harness on an exported folder, with the tasks of experiments/lm_eval."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from runs import ROOT, SMALL, Shell

from minigpt import export
from minigpt.evaluate import scores, text_of
from minigpt.generate.load import Loaded, load_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed"),
]
STUDY = ROOT / "experiments" / "lm_eval"


def whole_windows(run: Loaded, text: str) -> str:
    """The longest beginning whose tokens fill windows: cut anywhere, the last one differs."""
    length = next(
        n for n in range(len(text), 0, -1)
        if len(run.tokenizer.encode(text[:n])) % run.model.max_seq_len == 0
    )  # fmt: skip
    return text[:length]


def log_p(run: Loaded, query: str, choice: str) -> float:
    """Of a line after others, as lm-eval cuts them into tokens."""
    start, ids = len(run.tokenizer.encode(query)), run.tokenizer.encode(f"{query}\n{choice}")
    ids, n = ids[-run.model.max_seq_len - 1 :], len(ids) - start
    with torch.no_grad():
        logs = run.model(torch.tensor([ids[:-1]])).log_softmax(-1)[0, -n:]
    return logs[range(n), ids[-n:]].sum().item()


def test_lm_eval_says_what_we_say(shell: Shell, tmp_path: Path) -> None:
    sizes = ["model.max_seq_len=96", "train.precision=fp32", "name=lm_eval"]
    assert shell("train", *SMALL, *sizes, f"output_dir={tmp_path}") == 0, shell.err
    (folder,) = (path.parent for path in tmp_path.glob("*/run.json"))
    assert export.main([str(folder), str(tmp_path / "exported")]) == 0
    run = load_run(folder)
    here = Path(shutil.copytree(STUDY, tmp_path / "here"))
    rows = (here / "data" / "plays.jsonl").read_text().splitlines()
    texts = [whole_windows(run, json.loads(row)["text"][:3000]) for row in rows]
    lines = [json.dumps({"text": text}) for text in texts]
    (here / "data" / "plays.jsonl").write_text("\n".join(lines))

    options = {
        "--model": "hf", "--model_args": f"pretrained={tmp_path / 'exported'},dtype=float32",
        "--include_path": "tasks", "--tasks": "plays,next_line", "--device": "cpu",
        "--batch_size": "16", "--output_path": str(tmp_path / "results"),
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    offline["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    subprocess.run(
        [sys.executable, "-m", "lm_eval", *words], cwd=here, check=True,
        env=os.environ | offline, capture_output=True,
    )  # fmt: skip
    (found,) = (tmp_path / "results").rglob("*.json")
    results = json.loads(found.read_text())["results"]

    bits = n_bytes = 0.0
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.txt"
        path.write_text(text)
        alone = scores(run, text_of(run, str(path), "text"))
        bits, n_bytes = bits + alone["bits_per_byte"]["value"] * alone["bytes"], n_bytes + len(text)
    assert results["plays"]["bits_per_byte,none"] == pytest.approx(bits / n_bytes, rel=1e-6)

    asked = [
        json.loads(row) for row in (here / "data" / "next_line.jsonl").read_text().splitlines()
    ]
    right = 0
    for row in asked:
        each = [log_p(run, row["query"], choice) for choice in row["choices"]]
        right += each.index(max(each)) == row["answer"]
    assert results["next_line"]["acc,none"] == pytest.approx(right / len(asked))
