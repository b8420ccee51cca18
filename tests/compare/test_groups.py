"""What may stand side by side, what is refused, and that the keys that split runs are named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from studies import Compare, Study

from minigpt import plot


def pair(study: Study, seeds: range = range(100, 102), **muon: Any) -> None:
    for seed in seeds:
        study.run("adamw", seed, 4.0 + 0.001 * seed)
        study.run("muon", seed, 3.9 + 0.0011 * seed, **muon)


@pytest.mark.parametrize(
    ("muon", "named"),
    [
        ({"config": {"train.grad_clip": None}}, "train.grad_clip (adamw: 1, muon: null)"),
        ({"config": {"model.d_model": 128}}, "model.d_model (adamw: 64, muon: 128)"),
        ({"config": {"schedule.warmup": 0.5}}, "schedule.warmup"),
        ({"data": {"fingerprint": "e" * 64}}, "tokens (adamw: ffffffffffff, muon: eeeeeeeeeeee)"),
        ({"config": {"init_from": "abc"}}, "init_from"),
    ],
)
def test_arms_that_differ_in_something_else_are_refused_by_name(
    study: Study, compare: Compare, muon: dict[str, Any], named: str
) -> None:
    pair(study, **muon)
    assert compare("--by", "optim") == 2
    assert compare.out == ""
    assert compare.err.startswith(
        "error: nothing to compare: --by optim: arms adamw, muon also differ in"
    )
    assert named in compare.err
    assert compare.err.count("\n") == 1


def test_a_key_named_as_an_axis_is_tuned_and_splits_nothing(study: Study, compare: Compare) -> None:
    pair(study, config={"schedule.warmup": 0.5})
    assert compare("--by", "optim", "--axis", "schedule.warmup") == 0, compare.err


def test_groups_are_reported_apart_and_the_splitting_keys_named(
    study: Study, compare: Compare
) -> None:
    pair(study)
    for seed in (100, 101):
        study.run("adamw", seed, 3.5 + 0.001 * seed, config={"model.d_model": 128})
        study.run("muon", seed, 3.4 + 0.0012 * seed, config={"model.d_model": 128})
        study.run("muon", seed, 3.3, config={"model.d_model": 256})
        study.run("muon", seed, 3.2, config={"train.batch_size": 16})
    assert compare("--by", "optim") == 0
    assert "\nmodel.d_model=64, train.batch_size=8\n----" in compare.out
    assert "\nmodel.d_model=128, train.batch_size=8\n----" in compare.out
    assert "are not mixed: model.d_model, train.batch_size (below: in which" in compare.out
    assert "2 runs of one arm only: optim: muon  [model.d_model=256]\n" in compare.out
    assert "2 runs of one arm only: optim: muon  [train.batch_size=16]\n" in compare.out
    assert len([line for line in compare.out.splitlines() if line.startswith("[?]")]) == 2


def test_where_and_study_select(study: Study, compare: Compare) -> None:
    pair(study)
    study.run("muon", 100, 1.0, study="other", config={"model.d_model": 128})
    assert compare("--by", "optim", "--study", "s") == 0
    assert "Not compared" not in compare.out
    assert compare("--by", "optim", "--where", "model.d_model=64", "optim.hidden.lr=2e-2") == 0
    assert compare("--by", "optim", "--study", "none") == 2
    assert "--study none (there are: other, s)" in compare.err
    assert compare("--by", "optim", "--where", "model.d_modell=64") == 2
    assert "did you mean model.d_model?" in compare.err
    assert compare("--by", "optim", "--where", "oops") == 2
    assert compare("--by", "optim", "--where", "model.d_model=63") == 2


def test_a_key_instead_of_a_group_sets_arms_apart(study: Study, compare: Compare) -> None:
    for seed in (100, 101):
        for momentum in (0.9, 0.95):
            config = {"optim.hidden.momentum": momentum}
            study.run("muon", seed, 3.9 + momentum * seed / 1000, config=config)
        config = {"optim.hidden.momentum": 0.9, "train.grad_clip": 3.0}
        study.run("muon", seed, 3.9 + seed / 999, config=config)
    assert compare("--by", "optim.hidden.momentum") == 0
    assert "0.95 against 0.9 is undecided" in compare.out


def test_a_part_given_as_a_class_is_no_trial_of_the_arm_without_it(
    study: Study, compare: Compare, tmp_path: Path
) -> None:
    mlp = {"_target_": "minigpt.model.relu_squared.ReLUSquared", "_partial_": True}
    for seed in (100, 101):
        study.run("muon", seed, 3.2)
        study.run("muon", seed, 3.1 + seed / 1000, config={"model.mlp": mlp})
    assert compare("--by", "model/mlp") == 0
    assert "ReLUSquared against none" in compare.out
    assert compare("--by", "optim", "--where", "model/mlp=gated") == 2
    assert "(there are: ReLUSquared, none)" in compare.err
    drawn = [str(study.folder), "--by", "model/mlp", "--labels", "none=SwiGLU"]
    assert plot.main([*drawn, "--out", str(tmp_path / "arms.svg")]) == 0
    assert "SwiGLU" in (tmp_path / "arms.svg").read_text()


@pytest.mark.parametrize("key", ["optim.hidden.lr", "optim.lr"])
def test_learning_rates_can_be_the_arms(study: Study, compare: Compare, key: str) -> None:
    for lr in (0.001, 0.01, 0.02):
        for seed in (100, 101):
            study.run("muon", seed, 3.9 + lr * seed / 100, lr=lr)
    assert compare("--by", key) == 0, compare.err
    assert "0.01 against 0.001 is undecided" in compare.out
    assert "0.02 against 0.001 is undecided" in compare.out


def test_lr_scale_times_lr_is_one_setting_however_it_was_typed(
    study: Study, compare: Compare
) -> None:
    for seed in (100, 101):
        study.run("adamw", seed, 4.0 + seed / 1000, lr=0.01)
    study.run("muon", 100, 3.9, lr=0.02)
    # 0.02 is also Muon's own default, which the identity leaves out.
    others = {f"optim.{role}.lr": 0.0025 for role in ("embed", "head", "scalar")}
    study.run("muon", 101, 3.8, lr=0.01, config={"optim.lr_scale": 2.0, **others})
    assert compare("--by", "optim") == 0
    assert "muon against adamw is undecided" in compare.out
    assert "2 pairs" in compare.out
    assert "untuned: one setting for each arm" in compare.out


def test_tokenizers_are_compared_in_bits_per_byte_and_never_in_nats(
    study: Study, compare: Compare
) -> None:
    for seed in (100, 101):
        study.run("muon", seed, 2.0 + seed / 1000)
        bpe = {"data.tokenizer": {"_target_": "minigpt.tokenizer.fast_bpe.BPE", "vocab_size": 512}}
        other = {"data": {"fingerprint": "e" * 64}, "bytes_per_token": 3.0, "config": bpe}
        choices = {"model": "tiny", "optim": "muon", "data": "shakespeare", "data/tokenizer": "bpe"}
        study.run("muon", seed, 5.0 + seed / 1000, record={"choices": choices}, **other)
    assert compare("--by", "data/tokenizer") == 0, compare.err
    assert "bits per byte" in compare.out
    assert "nats" not in compare.out
    assert "bpe against byte" in compare.out


def test_another_validation_split_is_refused(study: Study, compare: Compare) -> None:
    for seed in (100, 101):
        other = {"fingerprint": "e" * 64}
        study.run("muon", seed, 2.0, config={"data.max_tokens": 1000}, data=other)
        study.run("muon", seed, 2.1)
    # other training text, the same validation tokens
    assert compare("--by", "data.max_tokens") == 0, compare.err
    study.run("muon", 102, 2.1, config={"data.max_tokens": 500}, data={"val_fingerprint": "w" * 64})
    assert compare("--by", "data.max_tokens", "--where", "data.max_tokens=500") == 2
    assert compare("--by", "data.max_tokens") == 0
    assert "not mixed: validation tokens" in compare.out


@pytest.mark.parametrize("key", ["seed", "train.steps"])
def test_what_pairs_runs_cannot_set_arms_apart(study: Study, compare: Compare, key: str) -> None:
    pair(study)
    assert compare("--by", key) == 2
    assert f"error: not an arm: --by {key}" in compare.err
    assert compare("--by", "optim", "--axis", key) == 2
    assert f"error: not to be tuned: --axis {key}" in compare.err


def test_bad_arguments_are_one_line_and_exit_code_2(
    study: Study, compare: Compare, tmp_path: Any
) -> None:
    assert compare("--by", "optim") == 2
    assert "no such folder" in compare.err
    study.folder.mkdir()
    assert compare("--by", "optim") == 2
    assert "no runs" in compare.err
    pair(study)
    for arguments, words in (
        ((), "missing argument: --by"),
        (("--study", "arms"), "not a declared study here: --study arms (look in another folder"),
        (("--by", "optin"), "unknown key: --by optin (did you mean optim?)"),
        (
            ("--by", "optim", "--baseline", "sgd"),
            "no such arm: --baseline sgd (arms of optim: adamw, muon)",
        ),
        (("--by", "optim", "--margin", "-1"), "out of range: --margin -1.0"),
        (("--by", "optim", "--margin", "x"), "arguments: argument --margin"),
        (("--by", "optim", "--nonsense"), "arguments: unrecognized arguments"),
        (("--by", "model"), "nothing to compare: --by model: only model=tiny in 4 runs"),
    ):
        assert compare(*arguments) == 2, arguments
        assert compare.err.startswith(f"error: {words}"), compare.err
        assert compare.err.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert compare("--by", "optim", "--out", str(tmp_path / "file")) == 6
    assert "cannot write" in compare.err


def test_no_common_budget_is_nothing_to_compare(study: Study, compare: Compare) -> None:
    study.run("adamw", 100, 4.0, steps=100)
    study.run("muon", 100, 4.0, steps=200)
    assert compare("--by", "optim") == 2
    assert "no seed and budget that two arms have ended" in compare.err
    assert "adamw: 51,200 tokens on 100 | muon: 102,400 tokens on 100" in compare.err
    study.run("muon", 101, 4.0, steps=100)
    assert compare("--by", "optim") == 2
    assert "muon: 51,200 tokens on 101; 102,400 tokens on 100" in compare.err


def test_unreadable_folders_are_named_and_do_not_stop_the_rest(
    study: Study, compare: Compare
) -> None:
    pair(study)
    broken = study.run("muon", 102, 3.0)
    (broken / "run.json").write_text("{")
    newer = study.run("muon", 103, 3.0, record={"schema": 2})
    assert compare("--by", "optim") == 0
    assert f"left out: {broken.name}" in compare.out
    why = f"unknown run format: {newer / 'run.json'}: schema 2, this minigpt reads 1"
    assert f"left out: {why}" in compare.out


@pytest.mark.faults(20)
@pytest.mark.parametrize(
    "content",
    [b"", b"\0\xff", b"[]", b"[" * 99_999, b"null", b'{"schema": 1, "id": 3}', "pipe", "folder"],
)
@pytest.mark.parametrize("name", ["run.json", "summary.json", "failed.json", "config.yaml"])
def test_one_bad_folder_is_left_out_and_named(
    study: Study, compare: Compare, name: str, content: bytes | str
) -> None:
    pair(study)
    broken = study.run("muon", 102, 3.0) / name
    broken.unlink(missing_ok=True)
    if content == "folder":
        broken.mkdir()
    elif isinstance(content, bytes):
        broken.write_bytes(content)
    else:
        os.mkfifo(broken)
    assert compare("--by", "optim") == 0
    assert f"left out: {broken.parent.name}/{name}: " in compare.out
    assert compare("--status") == 0
    assert "1 unreadable" in compare.out
    assert f"{broken.parent.name}/{name}: " in compare.out
    assert "best so far  adamw" in compare.out, "the others are shown"


@pytest.mark.faults(50)
def test_control_sequences_in_runs_reach_neither_terminal_nor_files(
    study: Study, compare: Compare, tmp_path: Path
) -> None:
    odd = "mu\x1b[2J\x1b]0;owned\x07\non"
    for seed in (0, 1):
        record = {"choices": {"optim": odd}, "git": {"commit": "\x1b[31m"}}
        study.run("muon", seed, 3.0, record=record)
        study.run("adamw", seed, 3.1, record={"overrides": ["\x1b[2J"]})
    failed = study.run("adamw", 2, None)
    ended = study.run("muon", 3, 3.0)
    ended.rename(ended.parent / "\x1b[2J\udcff")  # a name that is no UTF-8
    (failed / "failed.json").write_text(json.dumps({"error": "\x1b[2Jno\nspace", "exit_code": 6}))
    assert compare("--by", "optim", "--out", str(tmp_path / "report")) == 0
    said = compare.out
    assert compare("--status") == 0
    assert r"\x1b[2Jno; space (exit code 6)" in compare.out
    names = ("report.md", "report.html", "results.csv")
    for text in (said, compare.out, *((tmp_path / "report" / x).read_text() for x in names)):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert r"x1b[2J" in text.replace("\\[", "[")


def test_a_repeated_run_does_not_replace_the_older_one(study: Study, compare: Compare) -> None:
    pair(study, range(100, 103))
    study.run("muon", 100, 1.0, config={"attempt": 2})
    assert compare("--by", "optim") == 0
    assert "the older one counts" in compare.out
    assert ": muon against adamw is undecided: -0.0" in compare.out, "not -1"


def test_the_arm_of_a_learning_rate_has_lr_scale_in_it(study: Study, compare: Compare) -> None:
    for seed in (100, 101):
        study.run("muon", seed, 3.9 + seed / 1000, lr=0.02)
        study.run("muon", seed, 3.9 + seed / 999, lr=0.02, config={"optim.lr_scale": 2.0})
    assert compare("--by", "optim.hidden.lr") == 0, compare.err
    assert "0.04 against 0.02 is undecided" in compare.out
    # 0.01 x 2 is Muon's own default, which the identity leaves out altogether.
    study.run("muon", 102, 3.9, lr=0.01, config={"optim.lr_scale": 2.0})
    assert compare("--by", "optim.hidden.lr") == 0
    assert compare.out.startswith("optim.hidden.lr: 0.02, 0.04\n")
