"""What comes from elsewhere is data: nothing in it runs or leads out, and no size is believed."""

import ast
import functools
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from driver import SIX, Pool, run_folder
from fault_table import Tries
from runs import ROOT, SMALL, Shell, vouch
from safetensors.torch import save as to_bytes

from minigpt import export, interrupt, verify
from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.load import load_checkpoint, newest_checkpoint
from minigpt.checkpoint.save import entry_of, manifest_bytes
from minigpt.cli import overrides
from minigpt.compare.__main__ import main as compare_main
from minigpt.data.manifest import manifest_fingerprint
from minigpt.data.tokens import Tokens
from minigpt.errors import CheckpointError, ConfigError, DataError, Stopped
from minigpt.files import durable
from minigpt.generate.load import init_weights_from, load_run

CANARY = "c0ffee15badc0ffee15badc0ffee15badc0ffee1"


class Bomb:
    """Pickled, it makes a file the moment that anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def forge(folder: Path, files: dict[str, bytes]) -> Path:
    """A checkpoint with these files and a right manifest, as whoever knows the format can make."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    vouch(folder)
    return folder


def state(**changes: Any) -> bytes:
    return json.dumps({"schema": 1, "step": 1, "optimizer": None, **changes}).encode()


GOOD = {"model.safetensors": to_bytes({"w": torch.zeros(3)}), "state.json": state()}


def header(length: int, content: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + content


def described(shape: list[int], end: int) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return header(len(text), text) + bytes(16)


FORGED = {
    "a header of 2^60 bytes": {"model.safetensors": header(2**60)},
    "a header longer than the file": {"model.safetensors": header(10_000, b"{}")},
    "a tensor of 2^40 numbers": {"model.safetensors": described([2**40], 2**42)},
    "a tensor outside the file": {"model.safetensors": described([4], 2**30)},
    "a shape that overflows": {"model.safetensors": described([2**32, 2**32, 2**32], 16)},
    "no tensors at all": {"model.safetensors": b""},
    "state that is deep": {"state.json": b"[" * 100_000},
    "state of another kind": {"state.json": b"[1, 2]"},
    "optimizer state that names no tensor": {"state.json": state(optimizer={"@tensor": "nowhere"})},
    "optimizer state of an unknown kind": {"state.json": state(optimizer={"@pickle": "gASVBA=="})},
    "optimizer state of two kinds": {"state.json": state(optimizer={"@tensor": "a", "@dict": []})},
}


@pytest.mark.faults(23, 24)
@pytest.mark.parametrize("name", FORGED)
def test_forged_checkpoints_are_refused_before_anything_is_allocated(
    tmp_path: Path, name: str
) -> None:
    folder = forge(tmp_path / "step_00000001", GOOD | FORGED[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="not as minigpt writes it"):
        load_checkpoint(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"
    load_checkpoint(forge(tmp_path / "good", GOOD))


@pytest.mark.faults(24)
@pytest.mark.parametrize(
    "place", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_pickle_under_our_names_is_refused_and_not_executed(tmp_path: Path, place: str) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    folder = forge(tmp_path / "checkpoints" / "step_00000001", GOOD | {place: bomb})
    if place == "manifest.json":
        (folder / place).write_bytes(bomb)
    with pytest.raises(CheckpointError):
        newest_checkpoint(folder.parent)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)  # noqa: S301 (the bomb itself works)
    assert (tmp_path / "exploded").exists()


@pytest.mark.faults(24)
@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..", "sub/file"])
def test_a_checkpoint_cannot_point_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    folder = forge(tmp_path / "step_00000001", GOOD)
    entries = {known: entry_of(content) for known, content in (GOOD | {name: b"x"}).items()}
    (folder / "manifest.json").write_bytes(manifest_bytes(entries))
    with pytest.raises(CheckpointError, match="missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "files", [None, [], {"state.json": 3}, {"state.json": {"bytes": "1", "sha256": ""}}]
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, files: Any) -> None:
    folder = forge(tmp_path / "step_00000001", GOOD)
    body = {"schema": 1, "files": files}
    whole = durable.json_bytes({**body, "checksum": durable.sha256_bytes(durable.json_bytes(body))})
    (folder / "manifest.json").write_bytes(whole)
    with pytest.raises(CheckpointError, match="no list of files"):
        load_checkpoint(folder)


@pytest.fixture(scope="session")
def trained(pool: Pool, fault_folder: Path) -> Path:
    """A finished run and its tokens; tests work on copies."""
    folder = fault_folder / "security"
    (fault_folder / "security.txt").write_text("It was a dark and stormy night.\n" * 200)
    arguments = [*SIX, f"stand_in.path={fault_folder / 'security.txt'}", "data_dir=tokens"]
    outcome = pool.run(folder, arguments)
    assert outcome.code == 0, outcome.said
    return folder


def forged_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.faults(31, 33)
@pytest.mark.parametrize(
    "name", ["../train_00000.bin", "/etc/hostname", "..", ".hidden", "a/b.bin", ""]
)
@pytest.mark.parametrize("what", ["shard", "tokenizer"])
def test_a_manifest_of_tokens_cannot_point_outside(
    trained: Path, tmp_path: Path, what: str, name: str
) -> None:
    (tokens,) = (path.parent for path in (trained / "tokens").glob("*/manifest.json"))
    copy = Path(shutil.copytree(tokens, tmp_path / "tokens"))
    (tmp_path / "train_00000.bin").write_bytes((copy / "train_00000.bin").read_bytes())

    def change(manifest: dict[str, Any]) -> None:
        if what == "shard":
            manifest["splits"]["train"]["shards"][0]["name"] = name
        else:
            files = manifest["tokenizer"]["files"]
            files[name] = files.pop("tokenizer.json")

    forged_manifest(copy, change)
    with pytest.raises(DataError, match="bad file name"):
        Tokens.open(copy)


@pytest.mark.faults(31)
def test_a_shard_that_claims_more_than_it_holds_is_refused(trained: Path, tmp_path: Path) -> None:
    (tokens,) = (path.parent for path in (trained / "tokens").glob("*/manifest.json"))
    copy = Path(shutil.copytree(tokens, tmp_path / "tokens"))
    shard = copy / "train_00000.bin"
    content = bytearray(shard.read_bytes())
    content[16:24] = struct.pack("<Q", 2**50)
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard has \d+ bytes instead of"):
        Tokens.open(copy)


def forged_run(
    trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], **files: bytes
) -> Path:
    """A copy of a run whose newest checkpoint says something else, with hashes that are right."""
    run = Path(shutil.copytree(run_folder(trained), tmp_path / "run-00000000"))
    (folder,) = steps_on_disk(run / "checkpoints")
    found = json.loads((folder / "state.json").read_text())
    change(found)
    vouch(folder, state=json.dumps(found).encode(), **files)
    return run


def one_line(code: int, shell: Shell) -> bool:
    """A refusal of a run or folder: exit code 4, lines of ours and no traceback."""
    lines = shell.err.splitlines()
    ours = [line for line in lines if line.startswith(("error: ", "warning: "))]
    return code == 4 and bool(lines) and ours == lines


BOMBS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a large vocabulary": lambda state: state.update(vocab_size=10**12),
    "wide": lambda state: state["model"].update(d_model=2**20),
    "a billion blocks": lambda state: state["model"].update(n_layers=10**9),
    "a billion members": lambda state: state["model"].update(
        _target_="minigpt.model.ensemble.Ensemble", members=10**9
    ),
    "sizes that overflow": lambda state: state["model"].update(d_model=10**30, n_heads=1),
    "sizes without an end of divisors": lambda state: state["model"].update(
        d_model=2 * 10**12, n_heads=10**12, n_kv_heads=7
    ),
    "a feed-forward of 2^62": lambda state: state["model"].update(d_ff=2**62),
    "no numbers": lambda state: state["model"].update(n_layers="two"),
    "unknown arguments": lambda state: state["model"].update(_args_=[1]),
    "half a model": lambda state: state["model"].update(_partial_=True),
    "another kind of module": lambda state: state.update(
        model={"_target_": "minigpt.model.dropout.Dropout", "probability": 0.1}
    ),
    "no model": lambda state: state.pop("model"),
    "a list": lambda state: state.update(model=[]),
}


@pytest.mark.faults(23, 25)
@pytest.mark.parametrize("name", BOMBS)
def test_a_run_cannot_make_us_build_what_it_does_not_hold(
    trained: Path, tmp_path: Path, shell: Shell, name: str
) -> None:
    run = forged_run(trained, tmp_path, BOMBS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert one_line(shell("generate", f"run={run}"), shell), shell.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"


@pytest.mark.faults(6)
def test_a_stop_signal_is_heard_while_a_model_is_loaded(trained: Path) -> None:
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    try:
        interrupt.install()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="reading"):
            load_run(run_folder(trained))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


HUB = """
from pathlib import Path
def model(): Path({canary!r}).touch()
"""


def code_nodes(folder: Path, canary: Path) -> dict[str, dict[str, Any]]:
    """Configurations that make a file where whatever they name is called."""
    hub = {"repo_or_dir": str(folder), "model": "model", "source": "local"}
    return {
        "a function elsewhere": {"_target_": "os.mkdir", "path": str(canary)},
        "an attribute of a module": {"_target_": "minigpt.model.transformer.torch.hub.load", **hub},
        "an attribute of a class": {
            "_target_": "minigpt.model.transformer.Transformer.mkdir", "path": str(canary),
        },
        "what a module imports": {"_target_": "minigpt.model.transformer.partial", "func": "print"},
        "a path": {"_target_": "minigpt.model./../evil.Evil"},
        "a node inside a node": {
            "_target_": "minigpt.model.swiglu.SwiGLU", "_partial_": True,
            "d_ff": [{"_target_": "os.mkdir", "path": str(canary)}],
        },
    }  # fmt: skip


@pytest.mark.faults(24)
@pytest.mark.parametrize("name", code_nodes(Path("/tmp"), Path("/nowhere")))
@pytest.mark.parametrize("place", ["model", "mlp"])
def test_no_code_runs_from_a_checkpoint(
    trained: Path, tmp_path: Path, shell: Shell, name: str, place: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Not where a text is generated, not where it is exported, not where its weights are taken."""
    canary = tmp_path / "exploded"
    (tmp_path / "hubconf.py").write_text(HUB.format(canary=str(canary)))
    node = code_nodes(tmp_path, canary)[name]

    def change(state: dict[str, Any]) -> None:
        if place == "model":
            state["model"] = node
        else:
            state["model"]["mlp"] = node

    run = forged_run(trained, tmp_path, change)
    assert one_line(shell("generate", f"run={run}"), shell), shell.err
    assert export.main([str(run), str(tmp_path / "exported")]) == 4
    assert capfd.readouterr().err.startswith("error: ")
    if (place, name) == ("model", "an attribute of a module"):
        shell("train", *SMALL, f"init_from={run}")
    assert not canary.exists()
    assert not (tmp_path / "exported").exists()


@pytest.mark.faults(24)
def test_text_of_a_checkpoint_is_text(
    trained: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    text = {"parametrization": "${oc.env:CANARY}"}
    run = forged_run(trained, tmp_path, lambda state: state["model"].update(text))
    assert one_line(shell("generate", f"run={run}"), shell), shell.err
    assert CANARY not in shell.err


@pytest.mark.faults(20, 24)
@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool], ids=str)
def test_weights_are_floating_point(
    trained: Path, tmp_path: Path, shell: Shell, dtype: torch.dtype
) -> None:
    (folder,) = steps_on_disk(run_folder(trained) / "checkpoints")
    weights = {name: tensor.to(dtype) for name, tensor in load_checkpoint(folder).model.items()}
    run = forged_run(trained, tmp_path, lambda state: None, model=to_bytes(weights))
    assert one_line(shell("generate", f"run={run}"), shell), shell.err
    assert "not a weight" in shell.err
    model = load_run(run_folder(trained)).model
    with pytest.raises(CheckpointError, match="not a weight"):
        init_weights_from(model, run, durable.sha256_bytes(to_bytes(weights)))


@pytest.mark.faults(23)
@pytest.mark.parametrize("part", ["model", "schedule", "optim.hidden"])
def test_what_reads_a_run_imports_nothing_that_the_run_names(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A class whose arguments only an import could tell, in a module that is there."""
    name = f"strange_{part.partition('.')[0]}"
    (tmp_path / f"{name}.py").write_text(
        f"open({str(tmp_path / 'exploded')!r}, 'w').close()\nThing = type('Thing', (), {{}})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = Path(shutil.copytree(run_folder(trained), tmp_path / "outputs" / "run-00000000"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    record = json.loads((run / "run.json").read_text())
    for tree in (config, record["identity"]):
        node = functools.reduce(lambda node, key: node[key], part.split("."), tree)
        node["_target_"] = f"{name}.Thing"
        node.pop("max_seq_len", None)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "run.json").write_text(json.dumps(record))
    assert verify.main([str(run)]) == 4
    compare_main([str(tmp_path / "outputs"), "--status"])
    compare_main([str(tmp_path / "outputs"), "--by", "optim"])
    assert capsys.readouterr().out.startswith("NOT to be trusted")
    assert not (tmp_path / "exploded").exists()
    assert name not in sys.modules
    __import__(name)
    assert (tmp_path / "exploded").exists(), "the module itself works"


@pytest.mark.faults(49)
def test_no_secret_reaches_a_file(tmp_path: Path, tokens: list[str]) -> None:
    """Keys live in the environment of a run that logs to wandb; no file knows them."""
    names = (
        "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
        "MY_PASSWORD",
    )  # fmt: skip
    command = [*SIX, *tokens, "logger=wandb", f"logger.folder={tmp_path / 'outputs' / 'wandb'}"]
    variables = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **dict.fromkeys(names, CANARY)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command],
        cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert any(path.name == "run.json" for path in files)
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "override",
    [
        f"logger.api_key={CANARY}",
        f"+logger.wandb_key={CANARY}",
        f"+hf_token={CANARY}",
        f"+password={CANARY}",
        f"+logger={{api_key: {CANARY}}}",
        "+study2=${oc.env:WANDB_API_KEY}",
        "study=${oc.env:HF_TOKEN}",
    ],
)
def test_a_secret_on_the_command_line_is_refused_unwritten(
    override: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    shell = Shell(tmp_path, monkeypatch, capfd)
    assert shell("train", *SMALL, override) == 2
    assert "error: secret on the command line" in shell.err
    assert CANARY not in shell.err
    assert list(tmp_path.iterdir()) == []


def test_ordinary_overrides_are_no_secrets() -> None:
    ordinary = ["train.tokens=5", "data/tokenizer=byte", "eval.tokens=1", "study=key"]
    overrides.refuse_secrets([*ordinary, "prompt=the key: a token}"])
    with pytest.raises(ConfigError):
        overrides.refuse_secrets(["x.token=1"])


UNSAFE_CALLS = {
    ("pickle", None), ("cPickle", None), ("dill", None), ("cloudpickle", None), ("joblib", None),
    ("shelve", None), ("marshal", None), ("torch", "load"), ("torch", "save"), ("yaml", "load"),
    ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"), ("os", "popen"),
}  # fmt: skip
LOADS_NOTHING = "joblib.externals.loky.backend"  # it starts processes
UNSAFE_ARGUMENTS = {
    "weights_only": False,
    "allow_pickle": True,
    "trust_remote_code": True,
    "shell": True,
}


def unsafe_uses(path: Path) -> list[str]:
    """Calls and imports of loaders that can execute what they load, in a source file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func
            if isinstance(name, ast.Name) and name.id in ("eval", "exec", "__import__", "compile"):
                found.append(f"{path.name}:{node.lineno} {name.id}")
            if (
                isinstance(name, ast.Attribute)
                and isinstance(name.value, ast.Name)
                and {(name.value.id, name.attr), (name.value.id, None)} & UNSAFE_CALLS
            ):
                found.append(f"{path.name}:{node.lineno} {name.value.id}.{name.attr}")
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in UNSAFE_ARGUMENTS and value == UNSAFE_ARGUMENTS[keyword.arg]:
                    found.append(f"{path.name}:{node.lineno} {keyword.arg}={value}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            is_from = isinstance(node, ast.ImportFrom)
            names = [node.module or ""] if is_from else [alias.name for alias in node.names]
            unsafe = [name for name in names if (name.split(".")[0], None) in UNSAFE_CALLS]
            unsafe = [name for name in unsafe if name != LOADS_NOTHING]
            found += [f"{path.name}:{node.lineno} import {name}" for name in unsafe]
    return found


@pytest.mark.faults(24)
def test_no_unsafe_loader_in_the_tree(tmp_path: Path) -> None:
    places = [ROOT / "minigpt", ROOT / "experiments", ROOT / "conf"]
    files = [*ROOT.glob("*.py"), *(path for place in places for path in place.rglob("*.py"))]
    assert len(files) > 60
    assert [use for path in files for use in unsafe_uses(path)] == []
    lines = [
        "import pickle", "torch.load('x')", "torch.load('x', weights_only=False)", "yaml.load(x)",
        "eval('1')", "exec('1')", "np.load('x', allow_pickle=True)",
        "load_dataset('x', trust_remote_code=True)", "os.system('x')", "from joblib import load",
        "subprocess.run('x', shell=True)",
    ]  # fmt: skip
    for number, line in enumerate(lines):
        (tmp_path / f"{number}.py").write_text(line)
        assert unsafe_uses(tmp_path / f"{number}.py"), line
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert "trust_remote_code" not in path.read_text(), path


READERS = {
    "load", "loads", "load_all", "load_file", "safe_load", "unsafe_load", "full_load", "fromfile",
    "memmap", "open", "safe_open", "read_text", "read_bytes", "read_table",
}  # fmt: skip
# What else opens a file or parses its text, and why that is no way in for the data of a run.
OTHER_WAYS_IN = {
    "files/lock.py": "the lock file: nothing is parsed, and only regular files are opened",
    "files/durable.py": "folders and hashes: nothing is parsed, and only regular files are opened",
    "run/metrics.py": "the run's own file, to append to",
    "run/log.py": "the run's own log, to append to",
    "streams.py": "/dev/null",
    "formats.py": "/proc/cpuinfo",
    "bench/machine.py": "/proc/self/status and /proc/meminfo",
    "bench/worker.py": "the job in its own command line",
    "bench/processes.py": "lines from processes that it started",
    "logger/wandb_process.py": "objects from the run that started it",
    "dashboard.py": "the text that a model of wandb's just wrote",
    "config/signature.py": "Python source of installed packages, parsed and never run",
    "config/budget_layers.py": "YAML of the user's own configuration folders",
    "cli/code_arms.py": "YAML of the user's own configuration folders",
    "cli/plans.py": "a line from the study that started this process",
    "study/elsewhere.py": "a line from a process that it started",
    "study/checkouts.py": "code of the user's repository, regular files only",
    "cli/explain.py": "YAML of the user's own configuration folders",
    "cli/help.py": "YAML of our own and the user's own configuration folders",
    "cli/rank.py": "the plan from the process that started this one, in its own folder",
    "train/devices.py": "how the ranks that it started ended, in its own folder",
    "ranks.py": "decisions of the other ranks of this run",
    "files/records.py": "one line of metrics.jsonl, whose file reading.py has opened",
    "compare/question.py": "JSON that this room itself made",
    "data/rows.py": "a line of the user's texts",
    "data/shakespeare.py": "plays out of an installed package",
    "data/prepare.py": "JSON that this module itself made",
    "data/shard_writer.py": "half-made shards of its own, regular files only",
    "tokenizer/fast_bpe.py": "JSON that the trainer of tokenizers just made",
    "generate/hugging_face.py": "tensors out of bytes that reading.py has read",
    "checkpoint/load.py": "tensors out of bytes that reading.py has read",
}


def ways_in(path: Path) -> list[str]:
    """Calls that open a file or parse one, but for those of our own modules."""
    tree = ast.parse(path.read_text())

    def imported_from(package: str, names: tuple[str, ...] = ("",)) -> set[str]:
        return {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package)
            for alias in node.names
            if alias.name.startswith(names)
        }

    ours = imported_from("minigpt.")
    from_safetensors = imported_from("safetensors", ("load", "safe_open"))
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        head, _, last = name.rpartition(".")
        if name in ours or head in ("reading", "checkpoint", "self", "Tokens", "load", "tokenizer"):
            continue
        if isinstance(call.func, ast.Name) and name == "open" and _writes_anew(call):
            continue
        if last in READERS or name in from_safetensors:
            found.append(f"{path.name}:{call.lineno} {name}")
    return found


def _writes_anew(call: ast.Call) -> bool:
    mode = call.args[1] if len(call.args) > 1 else None
    return isinstance(mode, ast.Constant) and str(mode.value)[:1] in ("w", "x")


@pytest.mark.faults(24)
def test_there_is_one_way_in_for_data_from_files(tmp_path: Path) -> None:
    """A new reader belongs into minigpt/files/reading.py, or into the list above with a reason."""
    package = ROOT / "minigpt"
    files = [path for path in package.rglob("*.py") if path != package / "files" / "reading.py"]
    found = {str(path.relative_to(package)): uses for path in files if (uses := ways_in(path))}
    assert {name: uses for name, uses in found.items() if name not in OTHER_WAYS_IN} == {}
    assert sorted(OTHER_WAYS_IN.keys() - found.keys()) == [], "exceptions that are needed no more"
    assert [use for path in ROOT.glob("*.py") for use in ways_in(path)] == []
    lines = [
        "json.loads(x)", "json.load(x)", "yaml.safe_load(x)", "OmegaConf.load(x)",
        "open(x)", "open(x, 'rb')", "open(x, 'a+')", "io.open(x)", "path.open()",
        "path.read_bytes()", "Path(x).read_text()", "np.fromfile(x)", "np.load(x)",
        "orjson.loads(x)", "safetensors.safe_open(x)",
        "from safetensors.torch import load as from_bytes\nfrom_bytes(x)",
    ]  # fmt: skip
    for number, line in enumerate(lines):
        (tmp_path / f"{number}.py").write_text(line)
        assert ways_in(tmp_path / f"{number}.py"), line


@pytest.mark.faults(50)
def test_control_sequences_reach_a_terminal_only_escaped(trained: Path, tries: Tries) -> None:
    """generate.py on a terminal of its own, with an odd prompt and with an odd name of a run."""
    import pty

    prompt = "prompt=\x1b]0;owned\x07\x1b[2J"
    for arguments in (
        [f"run={run_folder(trained)}", prompt, "max_new_tokens=2"],
        ["run=/no/such/\x1b[2Jrun"],
    ):
        with tries.one():
            main, other = pty.openpty()
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "generate.py"), *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=other, stderr=other, stdin=other,
            )  # fmt: skip
            os.close(other)
            said = b""
            while True:
                try:
                    piece = os.read(main, 4096)
                except OSError:
                    break
                if not piece:
                    break
                said += piece
            process.wait()
            os.close(main)
            assert b"\\x1b[2J" in said
            assert b"\x1b[2J" not in said
            assert b"\x1b]0;" not in said
