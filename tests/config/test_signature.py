import ast
import inspect
from pathlib import Path

import pytest
import torch

from minigpt.config.annotations import type_problem
from minigpt.config.signature import read_signature


@pytest.mark.parametrize("name", ["AdamW", "NAdam", "SGD", "RMSprop", "Adafactor"])
def test_signatures_read_from_source_are_those_of_the_imported_class(name: str) -> None:
    read = read_signature(f"torch.optim.{name}")
    actual = inspect.signature(getattr(torch.optim, name)).parameters
    assert list(read.parameters) == list(actual)
    for key, parameter in actual.items():
        if (
            isinstance(parameter.default, int | float | bool | tuple | None)
            and read.parameters[key].default != "<not a literal>"
        ):
            expected = "<required>" if parameter.default is parameter.empty else parameter.default
            assert read.parameters[key].default == expected, key


def test_base_classes_dataclasses_and_aliases_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("from .parts import Child as Renamed, Point\n")
    (tmp_path / "shop" / "parts.py").write_text(
        "from dataclasses import dataclass\n"
        "class Base:\n    def __init__(self, a: int, *, b: float = 2.0, **rest): ...\n"
        "class Child(Base):\n    pass\n"
        "@dataclass(frozen=True)\nclass Point:\n    x: float\n    y: float = 1.0\n"
        "Alias = Child\n"
        "class Closed:\n    def __init__(self, a: int, b: str = 'x'): ...\n"
        "class Empty:\n    pass\n"
        "class Wider(Empty, Closed):\n    def __init__(self, c: int, b: str = 'y', **rest):\n"
        "        super().__init__(b=b, **rest)\n"
        "class Given(Closed):\n    def __init__(self, **rest):\n"
        "        super().__init__(3, **rest)\n"
        "class Keeps(Closed):\n    def __init__(self, **rest):\n        self.rest = rest\n"
        "class Folds(Closed):\n    def __init__(self, lr=0.1, **rest):\n"
        "        super().__init__(1, dict(lr=lr, **rest))\n"
        "from abc import ABC\n"
        "class Abstract(ABC):\n    def __init__(self, **rest):\n        super().__init__(**rest)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert list(read_signature("shop.Renamed").parameters) == ["a", "b"]
    assert read_signature("shop.Renamed").open
    assert read_signature("shop.parts.Alias").parameters["b"].default == 2.0
    wider = read_signature("shop.parts.Wider")  # its **rest can only be what Closed takes
    assert {name: p.default for name, p in wider.parameters.items() if not p.required} == {"b": "y"}
    assert set(wider.parameters) == {"a", "b", "c"}
    assert not wider.open
    assert list(read_signature("shop.parts.Given").parameters) == ["b"]  # `a` is given
    for name in ("Keeps", "Folds", "Abstract"):  # nothing says what their **rest is
        assert read_signature(f"shop.parts.{name}").open
        assert not any(p.required for p in read_signature(f"shop.parts.{name}").parameters.values())
    assert read_signature("shop.Point").parameters["x"].required
    assert read_signature("shop.Point").parameters["y"].default == 1.0
    with pytest.raises(ModuleNotFoundError):
        read_signature("no_such_package.Thing")
    with pytest.raises(AttributeError):
        read_signature("shop.parts.Missing")


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -3], [1.5, True, "1", None]),
        ("float", [1, 1.5], [True, "x", None]),
        ("float | None", [None, 2], ["x"]),
        ("Optional[bool]", [None, True], [1]),
        ("list[float]", [[1, 2]], [3, "x"]),
        ("tuple[float, float]", [[0.9, 1]], [[0.9], [0.9, "x"], 0.9]),
        ("tuple[float, ...]", [[0.9], [1, 2, 3]], [["x"]]),
        ("Literal['a', 'b'] | None", ["a", None], ["c", 1]),
        ("float | Tensor", [0.1], ["x"]),
        ("SomethingUnknown", ["anything"], []),
    ],
)
def test_types_fit_or_not(annotation: str, good: list[object], bad: list[object]) -> None:
    tree = ast.parse(annotation, mode="eval").body
    assert all(type_problem(value, tree) is None for value in good)
    assert all(type_problem(value, tree) is not None for value in bad)
