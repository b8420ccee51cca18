"""experiments/tour.ipynb does what it shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT

NOTEBOOK = json.loads((ROOT / "experiments" / "tour.ipynb").read_text())
CELLS: list[dict[str, Any]] = [x for x in NOTEBOOK["cells"] if x["cell_type"] == "code"]


def shown(cell: dict[str, Any]) -> str:
    """What a cell printed when the notebook was saved."""
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def test_every_cell_of_the_tour_is_saved_with_what_it_gave() -> None:
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, 9))
    assert all(cell["outputs"] for cell in CELLS)
    assert "error" not in {output["output_type"] for cell in CELLS for output in cell["outputs"]}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_cells_of_the_tour_run_and_reach_the_loss_that_is_saved(tmp_path: Path) -> None:
    code = "\n\n".join("".join(cell["source"]) for cell in CELLS)
    code = re.sub(
        r"^!(.*)$", r"subprocess.run(f'''\1''', shell=True, check=True)", code, flags=re.M
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", f"import subprocess\n{code}"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reached, saved = (
        float(re.search(r"^([\d.]+) nats per token after 307,200", text, re.M)[1])  # type: ignore[index]
        for text in (done.stdout, shown(CELLS[0]))
    )
    assert reached == pytest.approx(saved, abs=0.02)
    assert (tmp_path / "outputs" / "tour" / "report" / "report.html").is_file()
    assert (tmp_path / "outputs" / "tour" / "exported" / "config.json").is_file()
