"""The files of a report: self-contained, linked to runs, one CSV row a run, without torch."""

import csv
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import ROOT, SMALL, Shell, rows
from studies import Compare, Study

from minigpt.compare.__main__ import main

VOID = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report; its runs lie in `outputs` beside it."""
    folder = tmp_path_factory.mktemp("reported")
    study = Study(folder / "outputs")
    for arm, base in (("adamw", 4.0), ("muon", 3.95)):
        for lr in (0.01, 0.02, 0.04):
            for seed in (0, 1):
                loss = base + 0.05 * math.log2(lr / 0.02) ** 2 + 0.001 * seed
                study.run(arm, seed, loss, lr=lr, steps=200)
        for seed in range(100, 108):
            for steps in (100, 200):
                own = 0.003 * math.sin(seed * 7 + len(arm))
                study.run(arm, seed, base - 0.1 * math.log2(steps / 200) + own, steps=steps)
    study.run("muon", 100, 3.0, config={"model.d_model": 128})
    study.run("muon", 109, None)
    assert main([str(study.folder), "--by", "optim", "--out", str(folder / "report")]) == 0
    return folder / "report"


class Page(HTMLParser):
    """Balanced tags, ids and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value or "" for key, value in attributes if key == "id"]
        self.links += [value or "" for key, value in attributes if key in ("href", "src")]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(reported: Path) -> None:
    text = (reported / "report.html").read_text()
    addresses, tags = ("http:", "https:", "//", "src=", "@import"), ("<script", "<link")
    for outside in (*addresses, *tags, "xmlns", "<!DOCTYPE svg"):
        assert outside not in text, outside
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert text.count("<svg") == 4
    assert "var(--ink)" in text
    assert text.count("#1f2328") == 1, "the style's own; figures take the page's colours"


def test_the_page_is_well_formed_and_its_links_lead_somewhere(reported: Path) -> None:
    page = Page((reported / "report.html").read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner <= set(page.ids)
    assert len([name for name in inner if name.startswith("runs-")]) > 5
    folders = [link for link in page.links if not link.startswith("#")]
    assert folders
    assert all((reported / link / "run.json").is_file() for link in folders)


def test_every_loss_in_the_tables_is_linked_to_its_runs(reported: Path) -> None:
    text = (reported / "report.html").read_text()
    cells = re.findall(r"<td>(.*?)</td>", text)
    losses = [cell for cell in cells if re.search(r"\d\.\d{4} \(|x \(", cell)]
    assert losses
    assert all(cell.startswith('<a href="#runs-') for cell in losses)


def test_names_cannot_break_out_of_the_page(study: Study, compare: Compare, tmp_path: Path) -> None:
    for seed in (100, 101):
        study.run("adamw", seed, 4.0 + seed / 1000)
        choices = {"optim": "<b>|x</b>", "model": "tiny"}
        study.run("muon", seed, 3.9 + seed / 999, record={"choices": choices})
    assert compare("--by", "optim", "--out", str(tmp_path / "r")) == 0
    assert "<b>|x" not in (tmp_path / "r" / "report.html").read_text()
    assert not re.search(r"(?<!\\)<b", (tmp_path / "r" / "report.md").read_text())


def test_markdown_has_the_verdict_the_figures_and_links(reported: Path) -> None:
    text = (reported / "report.md").read_text()
    assert "muon ended lower than adamw" in text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert len(pictures) == 4
    for picture in pictures:
        assert (reported / picture).read_bytes().startswith(b"\x89PNG")
    anchors = set(re.findall(r'id="(runs-\d+)"', text))
    assert set(re.findall(r"\]\(#(runs-\d+)\)", text)) == anchors
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) > 10
    assert all(line.endswith("|") for line in table)


def test_results_csv_has_a_row_for_each_run(reported: Path) -> None:
    found = list(csv.DictReader((reported / "results.csv").read_text().splitlines()))
    assert len(found) == 46
    records = (reported.parent / "outputs").glob("*/run.json")
    runs = {path.parent.name: json.loads(path.read_text()) for path in records}
    assert {row["run"] for row in found} == runs.keys()
    for row in found:
        identity = runs[row["run"]]["identity"]
        assert row["train.steps"] == str(identity["budget"]["steps"])
        assert row["optim"] in row["run"]
    assert len([row for row in found if row["phase"] == "confirm"]) == 32
    tuning = [row for row in found if row["phase"] == "tune"]
    assert len(tuning) == 12
    for name in ("optim.lr", "optim.hidden.lr"):
        assert {row[name] for row in tuning} == {"0.01", "0.02", "0.04"}
    others = {row["status"]: row for row in found if row["phase"] == "none"}
    assert others.keys() == {"unfinished", "finished"}
    assert (others["unfinished"]["seed"], others["unfinished"]["val_loss"]) == ("109", "")
    assert others["finished"]["model.d_model"] == "128", "a group of one arm"


def test_report_json_holds_the_figures_and_claims_nothing(reported: Path) -> None:
    facts = json.loads((reported / "report.json").read_text())
    assert facts["declared"] is None
    (cell,) = facts["cells"]
    assert cell["findings"]["muon"]["word"] == "lower"
    assert cell["findings"]["muon"]["pairs"] == 8
    assert {cost["what"] for cost in cell["findings"]["muon"]["equal_cost"]} >= {"tokens", "FLOPs"}
    assert any("109" in note for note in cell["notes"])
    assert not re.search(r"\b(better|worse|equivalent)\b", (reported / "report.md").read_text())


def test_the_same_runs_give_the_same_files(reported: Path) -> None:
    other = reported.parent / "again"
    assert main([str(reported.parent / "outputs"), "--by", "optim", "--out", str(other)]) == 0
    for path in sorted(reported.iterdir()):
        assert (other / path.name).read_bytes() == path.read_bytes(), path.name


def test_help_teaches_and_loads_nothing_heavy_and_comparing_no_torch(reported: Path) -> None:
    runs = str(reported.parent / "outputs")
    code = (
        "import sys\nfrom minigpt.compare.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'wandb', 'datasets'}\n"
        "found = (heavy | {'scipy', 'numpy', 'matplotlib'}) & set(sys.modules)\n"
        "assert not found, found\n"
        f"assert main([{runs!r}, '--by', 'optim', '--out', {str(reported)!r}]) == 0\n"
        "assert not heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "python -m minigpt.compare outputs --by optim" in done.stdout


def test_real_runs_compare_and_synthetic_ones_look_like_them(shell: Shell, tmp_path: Path) -> None:
    short = [*SMALL, "train.steps=3", "train.threads=1"]
    for optim in ("muon", "adamw"):
        assert shell("train", *short, f"optim={optim}") == 0, shell.err
    outputs, report = str(tmp_path / "outputs"), str(tmp_path / "report")
    asked = ["--baseline", "adamw", "--margin", "0.25"]
    assert main([outputs, "--by", "optim", *asked, "--out", report]) == 0
    out, _ = shell.capfd.readouterr()
    assert "[?] Exploratory, at 384 tokens: muon against adamw is undecided" in out
    assert "margin 0.25 nats" in out
    assert "1 pair, of 8 that a claim needs" in out
    assert (tmp_path / "report" / "report.html").is_file()
    # A declaration is no part of a run's identity.
    assert shell("train", *short, "optim=muon", "verdict.margin=0.5") == 0
    assert "already finished" in shell.err
    assert "ignored: verdict.margin" in shell.err
    real, *others = (tmp_path / "outputs").glob("*muon*/run.json")
    assert others == []
    folders = real.parent, Study(tmp_path / "made").run("muon", 0, 3.0)
    record, made = (json.loads((folder / "run.json").read_text()) for folder in folders)
    assert made.keys() <= record.keys()
    for key in ("chosen", "data", "hardware", "git"):
        assert made[key].keys() == record[key].keys(), key
    summary, made = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    assert made.keys() <= summary.keys()
    assert summary["seconds"].keys() <= made["seconds"].keys()
    lines, made_lines = (rows(folder) for folder in folders)
    for key in ("train/loss", "val/loss"):
        keys = next(row.keys() for row in lines if key in row)
        assert next(row.keys() for row in made_lines if key in row) <= keys


@pytest.mark.parametrize("foreign", ["report.md", "report.json", "forest.png"])
def test_a_folder_with_files_of_its_names_is_refused_and_left_as_it_is(
    foreign: str, study: Study, compare: Compare, tmp_path: Path
) -> None:
    study.run("muon", 100, 3.0)
    study.run("adamw", 100, 3.1)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / foreign).write_text("mine")
    assert compare("--by", "optim", "--out", str(tmp_path / "r")) == 6
    assert f"not written: {tmp_path / 'r' / foreign}" in compare.err
    assert [(path.name, path.read_text()) for path in (tmp_path / "r").iterdir()] == [
        (foreign, "mine")
    ]
