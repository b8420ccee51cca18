"""All that can be typed wrongly: exit code, one line that names key and value, no traceback, nothing written."""

from pathlib import Path

import pytest
from fault_table import Tries
from runs import Shell

# script arguments -> words that the message must have
TABLE = [
    ("train train.step=5", ["train.step", "train.steps"]),
    ("train modle=tiny", ["modle", "model"]),
    ("train model=tinny", ["model=tinny", "tiny"]),
    ("train optim=moun", ["optim=moun", "muon"]),
    ("train +new=1", ["unknown key: new"]),
    ("train +train.foo=1", ["unknown key: train.foo"]),
    ("train +optim.hidden.foo=1", ["unknown key: optim.hidden.foo"]),
    ("train optim.hidden.lrr=1", ["optim.hidden.lrr", "optim.hidden.lr"]),
    ("train model.dmodel=64", ["model.dmodel", "model.d_model"]),
    ("train train.steps=abc", ["train.steps=abc", "an integer"]),
    ("train train.steps=1e8", ["train.steps=1e8", "an integer"]),
    ("train train.steps=1.5", ["train.steps=1.5", "an integer"]),
    ("train seed=null", ["seed=null"]),
    ("train train.grad_clip=x", ["train.grad_clip=x", "a number"]),
    ("train dry_run=perhaps", ["dry_run=perhaps", "true or false"]),
    ("train model.d_model=wide", ["model.d_model='wide'", "an integer"]),
    ("train model.tie_embeddings=3", ["model.tie_embeddings=3", "true or false"]),
    ("train optim.hidden.lr=fast", ["optim.hidden.lr='fast'", "a number"]),
    ("train optim.embed.betas=0.9", ["optim.embed.betas=0.9", "a list"]),
    ("train train.steps=0", ["train.steps=0", "at least 1"]),
    ("train train.steps=-5", ["train.steps=-5"]),
    ("train train.tokens=-1", ["train.tokens=-1"]),
    ("train train.epochs=0", ["train.epochs=0"]),
    ("train train.epochs=nan", ["train.epochs=nan"]),
    ("train train.steps=99999999999999999999", ["train.steps"]),
    ("train train.steps=5 train.epochs=1", ["train.steps=5", "train.epochs=1", "exactly one"]),
    ("train train.steps=null", ["exactly one"]),
    ("train train.batch_size=0", ["train.batch_size=0"]),
    ("train train.batch_size=30 train.micro_batch_size=8", ["30", "8", "24 and 32"]),
    ("train train.micro_batch_size=0", ["train.micro_batch_size=0"]),
    ("train train.grad_clip=0", ["train.grad_clip=0"]),
    ("train train.skip_spikes=1", ["train.skip_spikes=1", "above 1"]),
    ("train train.precision=fp8", ["train.precision=fp8", "fp16"]),
    ("train train.device=gpu", ["train.device=gpu", "cpu"]),
    ("train train.device=cuda", ["train.device=cuda"]),
    ("train train.compile=maybe", ["train.compile=maybe"]),
    ("train train.threads=0", ["train.threads=0"]),
    ("train seed=-1", ["seed=-1"]),
    ("train attempt=0", ["attempt=0"]),
    ("train eval.every=0", ["eval.every=0"]),
    ("train eval.tokens=0", ["eval.tokens=0"]),
    ("train checkpoint.keep=0", ["checkpoint.keep=0"]),
    ("train log.every=-1", ["log.every=-1"]),
    ("train sample.temperature=-1", ["sample.temperature=-1"]),
    ("train name=a/b", ["name='a/b'"]),
    ("train optim.lr=nan", ["nan"]),
    ("train optim.lr=-0.1", ["-0.1"]),
    ("train optim.lr=1e400", ["inf"]),
    ("train optim.lr_scale=0", ["lr_scale=0"]),
    ("train optim.hidden.momentum=1.5", ["momentum=1.5"]),
    ("train optim.embed.betas=[0.9,1.5]", ["1.5"]),
    ("train optim.hidden.weight_decay=-1", ["weight_decay"]),
    ("train optim.hidden.ns_dtype=fp8", ["ns_dtype", "fp8"]),
    ("train schedule.warmup=600", ["600"]),
    ("train schedule.warmup=-1", ["warmup=-1"]),
    ("train model.dropout=1", ["dropout=1"]),
    ("train model.d_model=130", ["d_model=130", "n_heads=4"]),
    ("train model.n_kv_heads=3", ["n_kv_heads=3", "n_heads=4"]),
    ("train model.n_heads=128", ["n_heads=128", "d_model=128"]),
    ("train model.max_seq_len=0", ["max_seq_len=0"]),
    ("train model.n_layers=0", ["n_layers=0"]),
    ("train init_from=/no/such/run", ["init_from=/no/such/run"]),
    ("train data=files", ["data.path"]),
    ("train logger.api_key=123", ["api_key"]),
    ("train +optim.hidden._target_=os.system", ["optim.hidden"]),
    ("train optim.hidden._target_=no_such_package.Thing", ["no_such_package"]),
    ("train optim.hidden._target_=torch.optim.Muonn", ["torch.optim.Muonn"]),
    ("preprocess data=shakespear", ["data=shakespear", "shakespeare"]),
    ("preprocess data.tokenizer.vocab_size=many", ["data.tokenizer.vocab_size='many'"]),
    ("generate temperature=-1", ["temperature=-1"]),
    ("generate temperature=nan", ["temperature=nan"]),
    ("generate top_p=0", ["top_p=0"]),
    ("generate top_p=1.5", ["top_p=1.5"]),
    ("train logger=wandb logger.timeout_s=-1", ["logger", "timeout_s=-1"]),
    ("train logger=wandb logger.finish_timeout_s=0", ["logger", "finish_timeout_s=0"]),
    ("generate top_k=0", ["top_k=0"]),
    ("generate max_new_tokens=0", ["max_new_tokens=0"]),
    ("generate num_samples=0", ["num_samples=0"]),
    ("generate ngram_size=-1", ["ngram_size=-1"]),
    ("generate tempreature=1", ["tempreature", "temperature"]),
    ("generate run=/no/such/run", ["/no/such/run"]),
    ("generate", ["no finished run"]),
]


def fault_of(command: str, said: str) -> int:
    """Which fault of the list a bad input tries."""
    if command.startswith("generate"):
        return 50
    if any(key in command for key in ("train.device", "train.precision", "train.compile")):
        return 44
    if any(word in said for word in ("unknown", "wrong type", "missing", "unreadable", "secret")):
        return 41
    return (
        43
        if sum(f"{part}=" in said for part in ("batch_size", "d_model", "n_heads", "n_kv_heads", "steps")) > 1
        else 42
    )


@pytest.mark.faults(41, 42, 43, 44, 50)
@pytest.mark.parametrize(("command", "words"), TABLE, ids=[command for command, _ in TABLE])
def test_a_bad_input_is_named_and_nothing_is_written(
    command: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tries: Tries,
) -> None:
    shell = Shell(tmp_path, monkeypatch, capfd)
    code = shell(*command.split())
    with tries.one(fault_of(command, shell.err)):
        assert code == 2, shell.err
        assert "Traceback" not in shell.err
        lines = shell.err.splitlines()
        assert all(line.startswith("error: ") and line.endswith(")") for line in lines), "each says what to do"
        assert any(all(word in line for word in words) for line in lines), shell.err
        assert len(lines) == 1 or any(value in command for value in ("nan", "optim.lr=")), "one value, several keys"
        assert shell.out == ""
        assert list(tmp_path.iterdir()) == []


def test_all_problems_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capfd)
    assert shell("train", "modle=x", "train.steps=x", "optim=moun", "seed=-1", "optim.hidden.lr=x") == 2
    assert len([line for line in shell.err.splitlines() if line.startswith("error: ")]) == 5
