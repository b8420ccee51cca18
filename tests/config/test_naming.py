"""Names of runs: they read like the command, and what differs stays visible where they are cut."""

import pytest

from minigpt.config.naming import run_name

CHOICES = {"model": "tiny", "optim": "muon", "data": "files"}
MANY = [f"model.number{n}={n}00" for n in range(12)]
LONG = f"[{','.join(f'0.0{n}' for n in range(1, 30))}]"


def test_a_name_reads_like_the_command() -> None:
    name = run_name(CHOICES, ["optim.lr=0.04", "seed=1", "train.steps=300"], None)
    assert name == "tiny-muon-files-lr0.04-s1-steps300"
    assert run_name(CHOICES, ["seed=1", "optim.lr=1", "seed=2"], None) == "tiny-muon-files-s2-lr1"
    choices = CHOICES | {"schedule": "wsd", "model/mlp": "relu_squared"}
    typed = ["sample.prompt=x", "optim.lr=0.1", "schedule=wsd", "model/mlp=relu_squared"]
    assert run_name(choices, typed, None) == "tiny-muon-files-relu_squared-lr0.1-wsd"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([f"model.pattern={LONG}", "seed=0"], [f"model.pattern={LONG}", "seed=1"]),
        ([f"model.pattern={LONG[:-1]},1]"], [f"model.pattern={LONG[:-1]},2]"]),
        ([*MANY, "train.steps=3"], [*MANY, "train.steps=4"]),
        (["train.steps=3", *MANY], ["train.steps=4", *MANY]),
    ],
)
def test_a_cut_name_shows_what_differs(one: list[str], other: list[str]) -> None:
    names = [run_name(CHOICES, typed, None) for typed in (one, other)]
    assert len({*names}) == 2
    assert all(len(name) <= 80 and name.startswith("tiny-muon-files-") for name in names)
