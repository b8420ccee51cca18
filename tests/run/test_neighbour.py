"""What a new run says of the one beside it."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from studies import Study

from minigpt.run.neighbour import describe_neighbour


def told(folder: Path, identity: dict[str, Any], **changes: Any) -> str | None:
    new = copy.deepcopy(identity)
    for key, value in changes.items():
        *above, last = key.split("__")
        place = new
        for part in above:
            place = place[part]
        place[last] = value
    plan: Any = SimpleNamespace(folder=folder / "new", identity=new)
    return describe_neighbour(plan)


def test_all_differences_from_the_nearest_run_are_told_and_not_too_many(tmp_path: Path) -> None:
    study = Study(tmp_path)
    near, far = study.run("muon", 0, 3.0), study.run("muon", 0, 3.0, steps=200, lr=0.01)
    who = json.loads((near / "run.json").read_text())["identity"]
    begin = f"differs from {near.name} only in "
    wide = {"model__n_layers": 4, "model__d_model": 128}
    assert told(tmp_path, who, budget__steps=150) == f"{begin}train.steps 100 -> 150"
    assert told(tmp_path, who, **wide) == f"{begin}model.d_model 64 -> 128, model.n_layers 2 -> 4"
    four = told(tmp_path, who, **wide, train__batch_size=16, model__n_heads=8)
    assert four is not None
    assert four.startswith(f"{begin}model.d_model 64 -> 128, model.n_heads 4 -> 8, ")
    assert four.endswith(" and 1 more")
    assert far.name in (told(tmp_path, who, budget__steps=200, optim__hidden__lr=0.04) or "")


def test_another_seed_or_quite_another_run_is_no_neighbour(tmp_path: Path) -> None:
    folder = Study(tmp_path).run("muon", 0, 3.0)
    who = json.loads((folder / "run.json").read_text())["identity"]
    assert told(tmp_path, who, seed=1) is None
    assert told(tmp_path, who, schedule={"_target_": "x", **dict.fromkeys("abcdef", 1)}) is None
