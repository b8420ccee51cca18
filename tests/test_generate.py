"""generate.py and the export of a real run, as a user types them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import ROOT, SMALL, Shell

from minigpt.load import load_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ with one finished run."""
    folder = tmp_path_factory.mktemp("trained")
    places = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]
    subprocess.run([sys.executable, "train.py", *SMALL, *places], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def shell(trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
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
def test_generating_writes_nothing(shell: Shell) -> None:
    before = {path: path.stat().st_mtime_ns for path in shell.folder.rglob("*")}
    assert shell("generate", "max_new_tokens=5") == 0
    assert {path: path.stat().st_mtime_ns for path in shell.folder.rglob("*")} == before


@pytest.mark.faults(50)
def test_a_closed_pipe_is_quiet(trained: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} generate.py output_dir={trained / 'outputs'} max_new_tokens=2000 | head -c 5",
        shell=True, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
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
        assert shell("generate", f"run={where}", "prompt=MAC", "temperature=0", "max_new_tokens=12") == 0, shell.err
        texts.append(shell.out)
    assert texts[0] == texts[1]


def test_an_exported_folder_starts_a_new_run(shell: Shell, tmp_path: Path) -> None:
    from minigpt import export

    assert export.main([str(shell.run_folder()), str(tmp_path / "exported")]) == 0
    assert shell("train", *SMALL, f"init_from={tmp_path / 'exported'}", f"output_dir={tmp_path / 'outputs'}") == 0, (
        shell.err
    )
