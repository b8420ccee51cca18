"""`python -m minigpt.plot`: one figure, with labels of one's own."""

import shutil
from pathlib import Path

import pytest
from studies import Study

from minigpt import plot


def test_curves_and_final_losses_in_the_terminal_and_as_files(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arm, base in (("muon", 3.0), ("adamw", 3.2)):
        for lr in (0.01, 0.02):
            study.run(arm, 0, base + lr, lr=lr)
    outputs = str(study.folder)
    assert plot.main([outputs, "--by", "optim"]) == 0
    assert "a  muon: 3.0150" in capsys.readouterr().out  # of 3.01 and 3.02
    assert plot.main([outputs, "--by", "optim", "--y", "loss", "val_loss", "--x", "seconds"]) == 0
    told = capsys.readouterr().out
    assert "b  adamw, train/loss: " in told
    assert "c  muon, val/loss: 3.0150" in told
    labels = ["--labels", "muon=Muon, tuned", "val_loss=Loss (nats)", "optim.lr=Peak rate"]
    for kind in ("svg", "pdf", "png", "html"):
        out = tmp_path / f"figure.{kind}"
        typed = ["--by", "optim", "--x", "optim.lr", "--out", str(out)]
        assert plot.main([outputs, *typed, *labels]) == 0
        assert out.stat().st_size > 1000
    for kind in ("svg", "html"):
        text = (tmp_path / f"figure.{kind}").read_text()
        assert all(word in text for word in ("Muon, tuned", "adamw", "Loss (nats)", "Peak rate"))
    for wrong, word in (
        (["--labels", "muom=M", "--by", "optim"], "did you mean muon?"),
        (["--y", "val_loss", "val/los"], "nothing to draw: --y val/los over --x tokens"),
        (["--by", "optim", "--labels", "muon=A", "adamw=A"], "two lines of one name: A"),
        (["--out", "a.docx"], "unknown kind of figure"),
        (["--by", "optin"], "unknown key: --by optin"),
    ):
        assert plot.main([outputs, *wrong]) == 2
        assert word in capsys.readouterr().err
    assert plot.main([outputs, "--out", str(tmp_path / "figure.svg" / "a.svg")]) == 6
    assert "choose another place with --out" in capsys.readouterr().err


def test_each_run_is_a_line_also_a_copy_of_another(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of the same command are told apart by their folders, and labelled by them."""
    first = study.run("muon", 0, 3.0, record={"overrides": ["seed=0"]})
    study.run("muon", 1, 3.1, record={"overrides": ["seed=1"]})
    shutil.copytree(first, first.with_name("copy"))
    assert plot.main([str(study.folder), "--labels", f"{first.name}=First"]) == 0
    told = capsys.readouterr().out
    for line in ("a  copy: 3.0000", "b  First: 3.0000", "c  seed=1: 3.1000"):
        assert line in told
