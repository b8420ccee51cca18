"""Whatever stands in the folders of others is read, or refused in a line; nothing hangs or runs.

A small run, its export, its tokens and a sweep are made once. Each example damages one file, by
structure or by bytes, and reads the folder with all that reads such a folder. Checkpoints are
damaged under hashes that are right again.
"""

import json
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from damage import Good, HangsError, survives
from driver import SIX, Pool, run_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studies import Study

from minigpt import verify
from minigpt.compare.__main__ import main as compare
from minigpt.config.places import weights_id
from minigpt.data.tokens import Tokens
from minigpt.errors import MinigptError
from minigpt.files import records
from minigpt.generate import load
from minigpt.generate.hugging_face import to_hugging_face
from minigpt.schedule.wsd import WSD
from minigpt.study import status
from minigpt.study.find import find
from minigpt.study.outcome import outcome
from minigpt.terminal import UNSAFE
from minigpt.tokenizer import load as load_tokenizer
from minigpt.train import branch

Reader = Callable[[Path], object]
FAULTS = pytest.mark.faults(20, 22, 23, 24)
MANY = 20  # times as many examples in the slow selection, which is too long for the list of faults
RUN_FILES = ("run.json", "summary.json", "config.yaml", "metrics.jsonl")


def fuzz(example: Callable[[Any], None], examples: int) -> None:
    """Run an example on many draws, always the same ones."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: Any) -> None:
        example(data.draw)

    run()


def examples(number: int) -> pytest.MarkDecorator:
    """So many examples, and many more in the slow selection."""
    few = pytest.param(number, marks=FAULTS)
    many = pytest.param(number * MANY, marks=pytest.mark.slow)
    return pytest.mark.parametrize("examples", [few, many])


@pytest.fixture(scope="module")
def place(pool: Pool, fault_folder: Path) -> Path:
    """Two runs (one is damaged, one is not), an export and a sweep of both."""
    folder = Path(tempfile.mkdtemp(dir=fault_folder))  # the fixture may be asked for twice
    corpus = fault_folder / "fuzz.txt"
    corpus.write_text("".join(f"{number} men went to mow a meadow.\n" for number in range(60)))
    small = ["model.d_model=16", "model.n_heads=2", "data_dir=tokens", f"stand_in.path={corpus}"]
    outcome = pool.run(folder, [*SIX, *small, "schedule=wsd"])
    assert outcome.code == 0, outcome.said
    run = run_folder(folder)
    good = Path(shutil.copytree(run, folder / "outputs" / "good-00000000"))
    loaded = load.load_run(run)
    to_hugging_face(loaded.model, loaded.tokenizer, folder / "export")
    jobs = [{"overrides": [f"seed={n}"], "folder": path.name} for n, path in enumerate((run, good))]
    failed = {"error": "no such key", "exit_code": 2}
    jobs.append({"overrides": ["seed=9"], "folder": None, "failed": failed})
    content = {"schema": 1, "study": "s", "command": ["-m", "seed=0,1"], "jobs": jobs}
    (folder / "outputs" / "sweeps").mkdir()
    (folder / "outputs" / "sweeps" / "s-12345678.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Good:
    records = (place / "outputs").glob("*/run.json")
    (folder,) = (path.parent for path in records if path.parent.name != "good-00000000")
    return Good(folder)


@examples(350)
def test_verify_says_it_in_a_line(run: Good, examples: int) -> None:
    assert verify.line_about(run.folder)[0]
    trusted = []

    def example(draw: Any) -> None:
        with run.damaged(draw, *RUN_FILES, "checkpoints/*/*", "tokenizer/*"):
            assert survives(lambda: trusted.append(verify.line_about(run.folder))) is None

    fuzz(example, examples)
    assert sum(not whole for whole, _ in trusted) > examples / 2
    assert verify.line_about(run.folder)[0], "all is as it was"


@examples(350)
def test_a_bad_run_does_not_hide_the_good_one(run: Good, place: Path, examples: int) -> None:
    def example(draw: Any) -> None:
        shown = []
        with run.damaged(draw, *RUN_FILES, "../sweeps/*.json"):
            assert survives(lambda: shown.append(find([place / "outputs"]))) is None
            assert "good-00000000" in [found.name for found in shown[0].runs]
            is_run = (run.folder / "run.json").is_file()
            assert not is_run or len(shown[0].runs) + len(shown[0].unreadable) == 2
            sweeps: list[status.Sweep] = []
            assert survives(lambda: sweeps.extend(status.sweeps([place / "outputs"], None))) is None
            jobs = [(job.name, job.state) for one in sweeps for job in one.jobs]
            assert ("good-00000000", "done") in jobs
            said: list[str] = []
            assert survives(lambda: said.append(status.status_text(sweeps, "optim"))) is None
            assert not UNSAFE.search(said[0])

    fuzz(example, examples)


def read_or_refused(good: Good, patterns: list[str], examples: int, *calls: Reader) -> None:
    """Each call survives damage to any file; some of it is refused, and some does no harm."""
    refusals = []

    def example(draw: Any) -> None:
        with good.damaged(draw, *patterns):
            refusals.append([survives(partial(call, good.folder)) for call in calls])

    fuzz(example, examples)
    for of_one_call in zip(*refusals):
        assert {refusal is None for refusal in of_one_call} == {True, False}


@examples(350)
def test_weights_are_loaded_or_refused(run: Good, examples: int) -> None:
    files = ["run.json", "checkpoints/*/*", "tokenizer/*"]
    read_or_refused(run, files, examples, load.load_any, weights_id)


@examples(300)
def test_an_export_is_loaded_or_refused(place: Path, examples: int) -> None:
    files = ["*.json", "*.safetensors"]
    read_or_refused(Good(place / "export"), files, examples, load.load_any, weights_id)


@examples(250)
def test_a_tokenizer_is_loaded_or_refused(run: Good, examples: int) -> None:
    def encode(folder: Path) -> None:
        load_tokenizer(folder / "tokenizer").encode("some text")

    read_or_refused(run, ["tokenizer/*"], examples, encode)


@examples(200)
def test_tokens_are_opened_or_refused(place: Path, examples: int) -> None:
    (tokens,) = (path.parent for path in (place / "tokens").glob("*/manifest.json"))
    files = ["manifest.json", "tokenizer/*", "*.bin"]
    read_or_refused(Good(tokens), files, examples, Tokens.open)


@examples(150)
def test_a_neighbour_is_passed_by(run: Good, place: Path, examples: int) -> None:
    """What branching and a sweep's table make of a run that stands beside."""
    own = records.read_record(run.folder)
    assert own is not None
    plan = SimpleNamespace(folder=place / "outputs" / "x-ffffffff", identity=own["identity"])
    beside = SimpleNamespace(folder=plan.folder, plan=plan, saved=own)
    job = {"overrides": [], "folder": run.folder.name}

    def example(draw: Any) -> None:
        with run.damaged(draw, "run.json", "summary.json", "checkpoints/*/*"):
            refused: list[str] = []
            assert survives(lambda: branch.trunks(beside, WSD(), 6, None, refused)) is None  # type: ignore[arg-type]
            assert survives(lambda: outcome(job, place / "outputs")) is None

    fuzz(example, examples)


@examples(100)
def test_a_comparison_leaves_a_bad_run_out(
    fault_folder: Path, examples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(fault_folder / "fuzzed-study")
    if not study.folder.exists():
        for seed in (0, 1, 2):
            study.run("adamw", seed, 4.0 + seed / 100)
            study.run("muon", seed, 3.9 + seed / 90)
    bad = Good(next(study.folder.glob("tiny-muon-s2-*")))

    def example(draw: Any) -> None:
        with bad.damaged(draw, *RUN_FILES):
            codes: list[int] = []
            by_optim = [str(study.folder), "--by", "optim"]
            assert survives(lambda: codes.append(compare(by_optim))) is None
            said = capsys.readouterr()
            if codes == [2]:  # a baseline that is declared counts, even if there is no such arm
                assert said.err.startswith("error: no such arm: --baseline ")
            else:
                assert codes == [0], said.err
                assert "muon against adamw" in said.out
            assert not UNSAFE.search(said.out + said.err)

    fuzz(example, examples)


def test_the_fuzzer_finds_what_is_wrong() -> None:
    """A reader that believes what it reads does not survive."""
    with pytest.raises(KeyError):
        survives(lambda: {}["step"])
    with pytest.raises(HangsError):
        survives(lambda: signal.raise_signal(signal.SIGALRM))
    assert isinstance(survives(lambda: records.read_config(Path("/no/such"))), MinigptError)
