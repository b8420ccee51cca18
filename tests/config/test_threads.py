"""How many CPU threads train a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.config.plan import Plan


def plan(d_model: int, threads: int | None) -> Plan:
    config = {"model": {"d_model": d_model}, "train": {"threads": threads}}
    return Plan(config, {}, [], {}, "", Path(), Path())


@pytest.mark.parametrize(
    ("d_model", "given", "cores", "threads", "side_by_side"),
    [
        (64, None, 16, 1, True),
        (128, None, 16, 2, True),
        (128, None, 1, 1, True),
        (256, None, 16, 16, False),
        (128, 2, 16, 2, False),
        (256, 1, 16, 1, True),
    ],
)
def test_wider_models_train_on_more_threads(
    d_model: int, given: int | None, cores: int, threads: int, side_by_side: bool
) -> None:
    found = plan(d_model, given)
    assert found.threads(cores) == threads
    assert found.fits_a_core is side_by_side


def test_threads_that_wait_soon_sleep() -> None:
    """OpenMP reads how soon once, when torch is imported: so it is set before."""
    clean = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    told = "import sys, os; from minigpt.cli.process import set_up_process; set_up_process();"
    told += "print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    for given, spins in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        found = subprocess.check_output([sys.executable, "-c", told], env=clean | given, text=True)
        assert found.split() == ["False", spins]
