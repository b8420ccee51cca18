"""All that can be typed wrongly: exit code, one line that names key and value, no traceback,
nothing written.
"""

import pytest
from fault_table import Tries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import Shell

# script arguments -> words that the message must have
TABLE = [
    ("train train.step=5", ["train.step", "train.steps"]),
    ("train modle=tiny", ["modle", "model"]),
    ("train optim.momentum=0.9", ["optim.momentum", "did you mean optim.hidden.momentum?"]),
    ("train optim.hidden.amsgrd=true optim=adamw", ["did you mean optim.hidden.amsgrad?"]),
    ("train model=tinny", ["model=tinny", "tiny"]),
    ("train optim=moun", ["optim=moun", "muon"]),
    ("train +new=1", ["unknown key: new"]),
    ("train +train.foo=1", ["unknown key: train.foo"]),
    ("train +optim.adam_lr=1", ["unknown key: optim.adam_lr"]),
    ("train ++optim.adam_lr=1", ["unknown key: optim.adam_lr"]),
    ("train +optim.hidden.foo=1", ["unknown key: optim.hidden.foo"]),
    (
        "train optim.hidden._target_=torch.optim.SGD",
        [
            "keys of another class: optim.hidden: momentum_warmup, momentum_dtype, ns_schedule",
            "split: torch.optim.SGD has dampening, ",
            "(give it a YAML of its own in conf/optim/, or take out each: '~optim.hidden.momentum_",
        ],
    ),
    (
        "train optim._target_=torch.optim.SGD",
        ["without roles: optim._target_=torch.optim.SGD", "_partial_: true, lr: 0.01}', or in a"],
    ),
    (
        "train optim=schedule_free optim.scalar._partial_=false",
        ["optim.scalar.params", "+optim.scalar._partial_=true"],
    ),
    (
        "train ~optim.embed ++optim.embed={_target_:torch.optim.LBFGS,_partial_:true}",
        ["embed: LBFGS.step needs closure"],
    ),
    ("train optim=adamw optim.hidden.foreach=true", ["hidden: `fused` and `foreach` cannot"]),
    ("train optim=AdamX", ["optim=AdamX", "did you mean adamw?"]),
    ("train optim=muon,adamw", ["a sweep without -m: optim=muon,adamw (add -m)"]),
    ("train optim=muon,moun", ["optim=muon,moun", "did you mean muon?"]),
    ("train optim=glob(m*)", ["a sweep without -m: optim=glob(m*) (add -m)"]),
    ("train seed=0,1", ["a sweep without -m: seed=0,1 (add -m, or write a list: seed=[0,1])"]),
    ("train seed=range(3)", ["a sweep without -m: seed=range(3) (add -m)"]),
    ("train sede=0,1", ["unknown key: sede (did you mean seed?)"]),
    ("train xyz=1", ["unknown key: xyz (known: accept_changes,", " data, data/tokenizer, "]),
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
    (
        "train train.device=cuda:1",
        ["train.device=cuda:1", "CUDA_VISIBLE_DEVICES=1", "train.device=cuda)"],
    ),
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
    ("train optim=sgd optim.hidden.momentum=1.25", ["momentum=1.25", "below 1"]),
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
    ("train model=null", ["model=null", "tiny"]),
    ("train model=[tiny,small]", ["no choice: model"]),
    ("train ~optim", ["no choice: optim"]),
    ("train ~train", ["~train"]),
    ("train ~train.steps", ["~train.steps", "train.steps=..."]),
    ("train ~seed", ["~seed"]),
    ("train hydra=null", ["hydra=null"]),
    ("train ~hydra", ["~hydra"]),
    ("train hydra.sweeper=null", ["hydra/sweeper"]),
    ("train hydra.mode=MULTIRUN", ["-m"]),
    ("train train=3", ["train=3"]),
    ("train train.compile={a:1}", ["train.compile"]),
    ("train study=???", ["study"]),
    ("train study=${study}", ["study", "ecursive"]),
    ("train study=${oc.env:NO_SUCH_NAME}", ["NO_SUCH_NAME"]),
    ("train seed=${model}", ["seed"]),
    ("train seed=${output_dir}", ["seed", "Integer"]),
    ("train dry_run=${train.steps}x", ["dry_run", "bool"]),
    ("generate seed=${output_dir}", ["seed", "Integer"]),
    ("generate seed=${run}", ["seed", "None"]),
    ("generate temperature=${temperature}", ["temperature", "ecursive"]),
    ("generate top_k=${nothing}", ["top_k", "nothing"]),
    ("generate ~seed", ["~seed"]),
    ("generate +sead=1", ["unknown key: sead", "seed"]),
    ("train optim.hidden=3", ["optim.hidden=3", "_target_"]),
    ("train optim.hidden.betas=[a,b]", ["betas"]),
    ("train data.tokenizer=x", ["data.tokenizer='x'"]),
    ("train data.tokenizer=null", ["data.tokenizer"]),
    ("train model._target_=3", ["model._target_"]),
    ("train +model._recursive_=x", ["_recursive_"]),
    ("train +schedule._args_=[0.5]", ["unknown key: schedule._args_"]),
    ("train +optim.hidden._args_=[0.001]", ["unknown key: optim.hidden._args_"]),
    ("train optim.lr=" + 400 * "9", ["optim.lr", "bits"]),
    ("train study=" + 400 * "[" + 400 * "]", ["study="]),
    ("train train.threads=10000", ["train.threads=10000", "cores"]),
    ("train data_dir=", ["data_dir=", "empty path"]),
    ("train init_from=''", ["init_from=", "empty path"]),
    ("train study=\udcff", ["not UTF-8"]),
    ("generate " + 300 * "x", ["unreadable argument: xxx"]),
    ("train branch=" + 300 * "x", ["no run: branch=xxx"]),
    ("train --config-dir=" + 300 * "x", ["no folder: --config-dir=xxx"]),
    (f"train -m {300 * 'x'}=glob(*)", ["no such group of options"]),
    (f"train hydra.searchpath=[file:///{300 * 'x'}] optim=moun", ["hydra.searchpath"]),
    ("train model._target_=minigpt." + 300 * "x", ["no such class: model._target_="]),
    ("generate run=" + 300 * "x", ["run=xxx"]),
    ("generate prompts=" + 300 * "x", ["prompts=xxx"]),
    ("train --config-name=x", ["--config-name", "experiment"]),
    ("train --config-path=/tmp", ["--config-path"]),
    ("train --config-dir=/no/such/folder", ["--config-dir=/no/such/folder"]),
    ("train --experimental-rerun=x", ["--experimental-rerun", "pickle"]),
    ("train --hydra-help model=tiny", ["--hydra-help"]),
    ("train --cfg=x", ["--cfg", "'x'"]),
    ("train --cfg=job --package=nope", ["nope"]),
    ("train --cfg=job model=tinny", ["model=tinny", "tiny"]),
    ("train --info=x", ["--info", "'x'"]),
    ("train --resolve", ["--resolve", "--cfg"]),
    ("train --nope", ["--nope"]),
    ("train --run -m", ["--run", "--multirun"]),
    ("train -sc install=nosh", ["install"]),
    ("generate output_dir=", ["output_dir=", "empty path"]),
    ("preprocess ~data", ["data"]),
    ("preprocess experiment=x", ["unknown key: experiment (known: data, data/tokenizer, data_dir"]),
    ("generate optim=muon", ["unknown key: optim ("]),
    ("preprocess data_dir=???", ["data_dir"]),
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
    ("train logger=wandb logger.folder=other", ["folder=other", "wandb"]),
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
        if sum(
            f"{part}=" in said
            for part in ("batch_size", "d_model", "n_heads", "n_kv_heads", "steps")
        )
        > 1
        else 42
    )


@pytest.mark.faults(41, 42, 43, 44, 50)
@pytest.mark.parametrize(("command", "words"), TABLE, ids=[command for command, _ in TABLE])
def test_a_bad_input_is_named_and_nothing_is_written(
    command: str, words: list[str], shell: Shell, tries: Tries
) -> None:
    code = shell(*command.split())
    with tries.one(fault_of(command, shell.err)):
        assert code == 2, shell.err
        assert "Traceback" not in shell.err
        lines = shell.err.splitlines()
        assert all(line.startswith("error: ") and line.endswith(")") for line in lines), (
            "each says what to do"
        )
        assert any(all(word in line for word in words) for line in lines), shell.err
        assert len(lines) == 1 or any(value in command for value in ("nan", "optim.lr=")), (
            "one value, several keys"
        )
        assert shell.out == ""
        assert list(shell.folder.iterdir()) == []


def test_all_problems_come_at_once(shell: Shell) -> None:
    assert (
        shell("train", "modle=x", "train.steps=x", "optim=moun", "seed=-1", "optim.hidden.lr=x")
        == 2
    )
    assert len([line for line in shell.err.splitlines() if line.startswith("error: ")]) == 5


def typed(shell: Shell, *arguments: str) -> int:
    """Type a dry run of a small model."""
    code = shell("train", "debug=smoke", "dry_run=true", *arguments)
    assert "Traceback" not in shell.err
    return code


def mine(shell: Shell, content: bytes) -> list[str]:
    """An experiment of the user's own, and what chooses it."""
    path = shell.folder / "conf" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"# @package _global_\n" + content)
    return [f"--config-dir={shell.folder / 'conf'}", "experiment=mine"]


@pytest.mark.faults(41)
@pytest.mark.parametrize("name", ["BENCH_API_KEY", "HF_TOKEN", "MY_SECRET", "DB_PASSWORD"])
def test_a_secret_of_the_environment_reaches_no_file(
    name: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("INDIRECT", name)
    monkeypatch.setenv("MAX_TOKENS_HERE", "harmless")
    content = f"study: ${{oc.env:${{oc.env:INDIRECT}},x}}\nlogger:\n  _target_: {name}\n"
    assert typed(shell, *mine(shell, content.encode())) == 2
    assert f"secret in the configuration: ${{oc.env:{name}}}" in shell.err
    assert "canary" not in shell.err + shell.out
    assert typed(shell, "study=${oc.env:MAX_TOKENS_HERE}") == 0
    assert not (shell.folder / "outputs").exists()


BAD_FILES = {
    "a tab": b"study:\n\t- x\n",
    "a key twice": b"study: a\nstudy: b\n",
    "a cycle": b"study: &x [*x]\n",
    "no UTF-8": b"study: \xff\n",
    "control bytes": bytes(range(32)),
    "a list": b"- 1\n",
    "text": b"text\n",
    "deep": b"study: " + b"[" * 2000 + b"]" * 2000,
    "unclosed": b"study: [1\n",
    "itself": b"defaults:\n  - /experiment: mine\n",
    "a surrogate": b'study: "\\ud800"\n',
    "a reference to nothing": b"study: ${nothing.here}\n",
}


@pytest.mark.faults(41)
@pytest.mark.parametrize("content", BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_yaml_file_that_cannot_be_read_is_named(content: bytes, shell: Shell) -> None:
    assert typed(shell, *mine(shell, content)) == 2
    assert all(line.startswith("error: ") and line.endswith(")") for line in shell.err.splitlines())
    assert "mine" in shell.err or "study" in shell.err
    assert not (shell.folder / "outputs").exists()


@pytest.mark.parametrize("kind", ["list", "mapping", "merge"])
def test_aliases_that_multiply_are_one_line(kind: str, shell: Shell) -> None:
    one = {"list": "[{}]", "mapping": "{{a: {0}, b: {0}}}", "merge": "{{<<: [{}]}}"}[kind]
    lines = ["x0: &x0 {a: 1}"]
    for n in range(1, 40):
        again = f"*x{n - 1}" if kind == "mapping" else ", ".join(9 * [f"*x{n - 1}"])
        lines.append(f"x{n}: &x{n} {one.format(again)}")
    assert shell("train", *mine(shell, "\n".join(lines).encode()), "seed=x") == 2
    (line,) = shell.err.splitlines()
    assert "mine.yaml: aliases repeat more than 10,000 values" in line


def test_aliases_that_repeat_a_little_are_read(shell: Shell) -> None:
    content = b"seed: &seed 3\neval: {every: *seed}\nlog: {every: *seed}"
    assert typed(shell, *mine(shell, content)) == 0, shell.err


def test_without_can_be_swept(shell: Shell) -> None:
    assert typed(shell, "-m", "model/embedding=null,ngram") == 0
    assert "model/embedding=none   done" in shell.err
    assert "model/embedding=ngram  done" in shell.err


def test_flags_may_stand_between_overrides(shell: Shell) -> None:
    assert shell("train", "seed=7", "--cfg", "job", "attempt=2", "-p", "train") == 0
    assert "batch_size: 32" in shell.out


def test_a_fault_of_our_own_code_keeps_its_traceback(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(cfg: object) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr("minigpt.config.plan.plan_of", broken)
    assert shell("train", "dry_run=true") == 1
    assert "Traceback" in shell.err
    assert "a bug" in shell.err


KEYS = [
    "model", "optim", "data", "schedule", "logger", "probe", "train", "train.steps",
    "train.compile", "train.device", "sample.prompt", "seed", "study", "name", "output_dir",
    "init_from", "branch", "checkpoint.at", "eval", "verdict.confirm", "model.d_model",
    "model.attention", "model._target_", "optim.hidden", "optim.lr", "optim.hidden.betas",
    "data.tokenizer", "data.workers", "data.out", "schedule.warmup", "hydra", "hydra.run.dir",
    "hydra.sweeper", "stand_in", "model/embedding", "data/tokenizer", "experiment",
    "hydra/launcher", "x", "", ".", "a..b", "model@x",
]  # fmt: skip
VALUES = [
    "", "null", "none", "???", "x", "0", "-1", "1e400", "nan", "true", "[]", "{}", "[1,a]",
    "{a: 1}", "9" * 30,
    "9" * 5000, "${seed}", "${train}", "${x}", "${", "${oc.env:NO_SUCH}", "'",
    "\"", "a,b", "choice(1,2)", "glob(*)", "range(3)", "../x", "/dev/null/x", "\x1b[31m", "a\nb",
    "\udcff", "[" * 300, "=", "@", "~", "tiny", "adamw",
]  # fmt: skip
ODD = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "", "", "+", "~", "++"]),
    st.sampled_from(KEYS),
    st.sampled_from(VALUES),
)


def only_lines(shell: Shell, override: str) -> None:
    code = typed(shell, override)
    assert code in (0, 2, 3, 4, 6), shell.err
    assert code == 0 or shell.err.splitlines()
    assert code == 0 or all(
        line.startswith("error: ") and line.endswith(")") for line in shell.err.splitlines()
    )
    assert list(shell.folder.iterdir()) == []


FIXTURES = [HealthCheck.function_scoped_fixture]


@pytest.mark.faults(41)
@settings(
    max_examples=6, derandomize=True, deadline=None, database=None, suppress_health_check=FIXTURES
)
@given(override=ODD)
def test_any_override_is_a_dry_run_or_a_line(override: str, shell: Shell) -> None:
    only_lines(shell, override)


@pytest.mark.slow  # three minutes: not of the list of faults
@settings(
    max_examples=1000,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=FIXTURES,
)
@given(override=ODD)
def test_a_thousand_overrides_are_dry_runs_or_lines(override: str, shell: Shell) -> None:
    only_lines(shell, override)


def test_advice_on_storage_names_the_key_that_chose_the_place(shell: Shell) -> None:
    (shell.folder / "file").write_text("in the way")
    assert shell("preprocess", "data=one_play", f"data.out={shell.folder / 'file' / 'tokens'}") == 6
    assert "data_dir= or data.out=" in shell.err
    assert "output_dir" not in shell.err


def test_only_training_has_ranks(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert shell("generate", "prompt=a") == 2
    assert "torchrun, WORLD_SIZE=4 (start generate.py without torchrun)" in shell.err
    assert shell("train", "debug=smoke", "train.batch_size=6") == 2
    assert "train.batch_size=6 is not a multiple of train.micro_batch_size=4 x 4 dev" in shell.err
    assert shell("train", "debug=smoke", "train.devices=2") == 2
    assert "other devices: train.devices=2, started with WORLD_SIZE=4" in shell.err
