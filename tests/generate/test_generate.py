"""generate.py and the export of a real run, as a user types them."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from runs import SMALL, Shell, contents


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
    assert [len(row["tokens"]) for row in rows] == [len(row["logprobs"]) for row in rows] == [9, 9]
    assert all(logprob < 0 for row in rows for logprob in row["logprobs"])
    lines.write_bytes(b"\xef\xbb\xbfTo\x0cbe\r\nO\xe2\x80\xa8Romeo\n")
    assert shell("generate", f"prompts={lines}", "max_new_tokens=1", "format=jsonl") == 0, shell.err
    rows = [json.loads(line) for line in shell.out.split("\n")[:-1]]
    assert [row["prompt"] for row in rows] == ["To\x0cbe", "O\u2028Romeo"]
    monkeypatch.setattr("sys.stdin", None)  # closed
    for wrong in (
        ["prompts=-", "prompt=x"],
        ["prompts=-", "interactive=true"],
        ["interactive=true"],
        ["stop="],
        ["stop=[a,1]"],
        ["prompts=-"],
        ["format=xml"],
        [f"prompts={tmp_path}"],
    ):
        assert shell("generate", *wrong) == 2
    assert f"no prompts: prompts={tmp_path}" in shell.err


def test_generating_writes_nothing(shell: Shell) -> None:
    def state() -> tuple[dict[str, bytes], dict[Path, int]]:
        return contents(shell.folder), {p: p.stat().st_mtime_ns for p in shell.folder.rglob("*")}

    before = state()
    assert shell("generate", "max_new_tokens=5") == 0
    assert state() == before


def test_a_text_ends_before_a_stop_string(shell: Shell) -> None:
    greedy = ["prompt=To be", "temperature=0", "max_new_tokens=40"]
    assert shell("generate", *greedy) == 0, shell.err
    new = shell.out.removeprefix("To be")
    for stop, typed in (
        (new[7:9], f"stop={new[7:9]}"),
        (new[3], f"stop=['{new[3]}', 'never, of course']"),
        ("e", "stop=e"),
    ):
        for stream in ("true", "false"):
            assert shell("generate", *greedy, typed, f"stream={stream}") == 0, shell.err
            assert shell.out == "To be" + new.partition(stop)[0].removesuffix("\n") + "\n"


def test_a_checkpoint_is_named_like_a_run(shell: Shell, tmp_path: Path) -> None:
    (checkpoint,) = (shell.run_folder() / "checkpoints").iterdir()
    texts = []
    for run in (shell.run_folder(), checkpoint):
        assert shell("generate", f"run={run}", "max_new_tokens=5") == 0, shell.err
        assert "step 12" in shell.err
        texts.append(shell.out)
    assert texts[0] == texts[1]
    copy = tmp_path / "copy"
    shutil.copytree(shell.run_folder(), copy)
    damaged = copy / "checkpoints" / checkpoint.name
    (damaged / "model.safetensors").write_bytes(b"")
    assert shell("generate", f"run={damaged}") == 4
    assert "damaged" in shell.err
    assert shell("generate", f"run={damaged.parent}") == 2


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
