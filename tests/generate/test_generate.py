"""generate.py and the export of a real run, as a user types them."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ROOT, SMALL, Shell
from safetensors.torch import load_file, save_file

from minigpt.generate.load import load_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ with one finished run."""
    folder = tmp_path_factory.mktemp("trained")
    places = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]
    subprocess.run(
        [sys.executable, "train.py", *SMALL, *places], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def shell(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    return Shell(trained, monkeypatch, capfd)


def test_the_text_goes_to_stdout_and_the_rest_to_stderr(shell: Shell) -> None:
    prompt = "To be, or not to be: that's it! ${seed} #1"
    assert shell("generate", f"prompt={prompt}", "max_new_tokens=20") == 0, shell.err
    assert shell.out.startswith(prompt)
    assert len(shell.out.encode()) > len(prompt) + 5
    assert str(shell.run_folder()) in shell.err
    assert "step 12" in shell.err


@pytest.mark.faults(50)
def test_a_seed_repeats_and_another_differs(shell: Shell) -> None:
    texts = []
    for seed in (1, 1, 2):
        assert shell("generate", "max_new_tokens=40", "temperature=1", f"seed={seed}") == 0
        texts.append(shell.out)
    assert texts[0] == texts[1] != texts[2]


def test_streamed_and_whole_text_are_the_same(shell: Shell) -> None:
    assert shell("generate", "max_new_tokens=40", "stream=true") == 0
    streamed = shell.out
    assert shell("generate", "max_new_tokens=40", "stream=false") == 0
    assert shell.out == streamed


@pytest.mark.faults(50)
def test_a_long_prompt_is_cropped_with_a_notice(shell: Shell) -> None:
    assert shell("generate", f"prompt={'word ' * 30}", "max_new_tokens=3") == 0
    assert "the model sees the last 16" in shell.err
    assert shell.out.startswith("word " * 30)


def test_several_samples_differ(shell: Shell) -> None:
    assert shell("generate", "prompt=A", "num_samples=3", "max_new_tokens=20", "temperature=1") == 0
    samples = shell.out.split("\n---\n")
    assert len(set(samples)) == 3
    assert all(sample.startswith("A") for sample in samples)


@pytest.mark.faults(19, 50)
def test_several_prompts_are_each_continued_as_alone(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "prompts.txt"
    lines.write_text("To be\n\nO, Romeo\n")
    alone = []
    for prompt in ("To be", "O, Romeo"):
        assert shell("generate", f"prompt={prompt}", "max_new_tokens=9") == 0, shell.err
        alone.append(shell.out)
    assert shell("generate", f"prompts={lines}", "max_new_tokens=9") == 0, shell.err
    assert shell.out == "---\n".join(alone)
    with lines.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert shell("generate", "prompts=-", "max_new_tokens=9", "format=jsonl") == 0, shell.err
    rows = [json.loads(line) for line in shell.out.splitlines()]
    assert [row["prompt"] for row in rows] == ["To be", "O, Romeo"]
    assert [row["text"] + "\n" for row in rows] == alone
    lines.write_bytes(b"\xef\xbb\xbfTo\x0cbe\r\nO\xe2\x80\xa8Romeo\n")
    assert shell("generate", f"prompts={lines}", "max_new_tokens=1", "format=jsonl") == 0, shell.err
    rows = [json.loads(line) for line in shell.out.split("\n")[:-1]]
    assert [row["prompt"] for row in rows] == ["To\x0cbe", "O\u2028Romeo"]
    monkeypatch.setattr("sys.stdin", None)  # closed
    for wrong in (
        ["prompts=-", "prompt=x"],
        ["prompts=-"],
        ["format=xml"],
        [f"prompts={tmp_path}"],
    ):
        assert shell("generate", *wrong) == 2
    assert f"no prompts: prompts={tmp_path}" in shell.err


def test_generating_writes_nothing(shell: Shell) -> None:
    before = {path: path.stat().st_mtime_ns for path in shell.folder.rglob("*")}
    assert shell("generate", "max_new_tokens=5") == 0
    assert {path: path.stat().st_mtime_ns for path in shell.folder.rglob("*")} == before


@pytest.mark.faults(50)
def test_a_closed_pipe_is_quiet(trained: Path) -> None:
    command = f"{sys.executable} generate.py output_dir={trained / 'outputs'} max_new_tokens=2000"
    done = subprocess.run(
        f"{command} | head -c 5", shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_an_exported_run_gives_equal_logits_in_transformers_and_the_same_text_here(
    shell: Shell, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from minigpt import export

    run, folder = shell.run_folder(), tmp_path / "exported"
    assert export.main([str(run), str(folder)]) == 0
    ours, theirs = load_run(run), AutoModelForCausalLM.from_pretrained(folder)
    ids = ours.tokenizer.encode("MACBETH: what")
    assert AutoTokenizer.from_pretrained(folder)("MACBETH: what")["input_ids"] == ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        assert torch.equal(ours.model(tokens), theirs(tokens).logits)
    texts = []
    for where in (run, folder):
        greedy = [f"run={where}", "prompt=MAC", "temperature=0", "max_new_tokens=12"]
        assert shell("generate", *greedy) == 0, shell.err
        texts.append(shell.out)
    assert texts[0] == texts[1]


def test_an_exported_folder_starts_a_new_run(shell: Shell, tmp_path: Path) -> None:
    from minigpt import export

    folder = tmp_path / "exported"
    assert export.main([str(shell.run_folder()), str(folder)]) == 0
    places = [f"init_from={folder}", f"output_dir={tmp_path / 'outputs'}"]
    assert shell("train", *SMALL, *places) == 0, shell.err


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    from minigpt import export

    (run,) = (path.parent for path in (trained / "outputs").glob("*/run.json"))
    assert export.main([str(run), str(trained / "exported")]) == 0
    return trained / "exported"


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
FIRST = "model.layers.0.self_attn.q_proj.weight"
ODD_EXPORTS: dict[str, Change] = {
    "a tensor is missing": lambda c, w: w.pop(FIRST),
    "another shape": lambda c, w: w.update({FIRST: torch.zeros(3, 5)}),
    "no dimensions": lambda c, w: w.update({FIRST: torch.tensor(1.0)}),
    "integers": lambda c, w: w.update({FIRST: w[FIRST].long()}),
    "complex numbers": lambda c, w: w.update({FIRST: w[FIRST].to(torch.complex64)}),
    "another vocabulary": lambda c, w: c.update(vocab_size=c["vocab_size"] - 1),
    "the vocabulary of another": lambda c, w: c.update(vocab_size=w.update({
        name: torch.zeros(5, 32) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }) or 5),
    "a large vocabulary": lambda c, w: c.update(vocab_size=10**15),
    "sizes that do not divide": lambda c, w: c.update(num_attention_heads=5),
    "heads that do not divide": lambda c, w: c.update(num_key_value_heads=3),
    "a head of its own size": lambda c, w: c.update(num_attention_heads=16),
    "a billion layers": lambda c, w: c.update(num_hidden_layers=10**9),
    "no layers": lambda c, w: c.update(num_hidden_layers=0),
    "fewer layers": lambda c, w: c.update(num_hidden_layers=-1),
    "true layers": lambda c, w: c.update(num_hidden_layers=True),
    "wide": lambda c, w: c.update(hidden_size=2**40, head_dim=None),
    "wider": lambda c, w: c.update(hidden_size=10**400, head_dim=None),
    "a long context": lambda c, w: c.update(max_position_embeddings=-5),
    "no number": lambda c, w: c.update(rms_norm_eps="small"),
    "no theta": lambda c, w: c.update(rope_parameters=[1]),
    "tied by a number": lambda c, w: c.update(tie_word_embeddings=2),
}  # fmt: skip


@pytest.mark.faults(23, 25)
@pytest.mark.parametrize("name", ODD_EXPORTS)
def test_an_exported_folder_that_does_not_fit_itself_is_one_line(
    shell: Shell, exported: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "odd"))
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    ODD_EXPORTS[name](config, weights)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    assert shell("generate", f"run={folder}", "max_new_tokens=2") == 4, shell.err
    assert all(line.startswith("error: ") for line in shell.err.splitlines())
    assert shell.out == ""


@pytest.mark.faults(23)
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize(
    "kind", ["a pipe", "a device", "a folder", "a link out", "deep", "nothing"]
)
def test_a_file_of_an_exported_folder_that_is_none_is_one_line(
    shell: Shell, exported: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "odd")) / name
    content = path.read_bytes()
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a link out":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "deep":
        path.write_bytes(b'{"a":' * 100_000)
    assert shell("generate", f"run={path.parent}", "max_new_tokens=2") in (2, 3, 4), shell.err
    assert shell.err.startswith("error: ")
    assert len(shell.err.splitlines()) == 1
    if not name.startswith("tokenizer"):
        places = [f"init_from={path.parent}", f"output_dir={tmp_path}"]
        assert shell("train", *SMALL, *places) in (2, 4), shell.err
        assert all(line.startswith("error: ") for line in shell.err.splitlines()[-1:])


@pytest.mark.faults(50)
def test_a_context_of_any_length_takes_the_memory_of_the_text(
    shell: Shell, exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "long"))
    short = [f"run={exported}", "prompt=MAC", "temperature=0", "max_new_tokens=8"]
    assert shell("generate", *short) == 0, shell.err
    text = shell.out
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10**15}))
    assert shell("generate", *short, f"run={folder}") == 0, shell.err
    assert shell.out == text


MYLAB = """
import torch
from minigpt.model.attention import Attention
from minigpt.model.transformer import Transformer

class MyAttention(Attention):
    def __init__(self, *sizes, scale: float = 1.0, **others):
        super().__init__(*sizes, **others)
        self.scale = torch.tensor(scale)  # neither a parameter nor a buffer

    def forward(self, x, rope, mask=None, cache=None):
        return self.scale * super().forward(x, rope, mask, cache)

def no_class(): pass
"""


def test_a_class_of_the_users_is_built_if_the_user_names_its_package(
    other: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "mylab" / "attn.py"
    module.parent.mkdir()
    (module.parent / "__init__.py").touch()
    module.write_text(MYLAB)
    monkeypatch.syspath_prepend(tmp_path)
    mine = "+model.attention={_target_: mylab.attn.MyAttention, _partial_: true, scale: 0.5}"
    assert other("train", *SMALL, mine) == 0, other.err
    short = ["max_new_tokens=5", "temperature=0"]
    assert other("generate", *short) == 4
    assert "foreign class" in other.err
    assert "mylab.attn.MyAttention" in other.err
    assert "trust=mylab" in other.err
    assert other("generate", *short, "trust=mylab.attn") == 0, other.err
    text = other.out
    assert other("generate", *short, "trust=[torch,mylab]") == 0, other.err
    assert other.out == text
    assert other("generate", *short, "trust=mylab.other") == 4
    assert other("generate", *short, "trust=my/lab") == 2
    assert "no name of a package: trust=my/lab" in other.err

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()

    for text, expected in (
        (MYLAB.replace("MyAttention", "Renamed"), "no such class"),
        (MYLAB.replace("MyAttention", "Renamed") + "MyAttention = no_class", "no such class"),
        ("import nothing_of_this_name", "missing module"),
        (None, "missing module"),
    ):
        forget()
        module.unlink() if text is None else module.write_text(text)
        shutil.rmtree(module.parent / "__pycache__", ignore_errors=True)
        assert other("generate", *short, "trust=mylab") == 4, other.err
        assert expected in other.err
        assert len([line for line in other.err.splitlines() if line]) == 1
    forget()
