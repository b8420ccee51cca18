"""`python -m minigpt.plot`: one figure, with labels of one's own."""

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
    labels = ["--labels", "muon=Muon, tuned", "val/loss=Loss (nats)", "optim.lr=Peak rate"]
    for kind in ("svg", "pdf", "png"):
        out = tmp_path / f"figure.{kind}"
        typed = ["--by", "optim", "--x", "optim.lr", "--out", str(out)]
        assert plot.main([outputs, *typed, *labels]) == 0
        assert out.stat().st_size > 1000
    text = (tmp_path / "figure.svg").read_text()
    assert all(word in text for word in ("Muon, tuned", "adamw", "Loss (nats)", "Peak rate"))
    for wrong, word in (
        (["--labels", "muom=M", "--by", "optim"], "did you mean muon?"),
        (["--y", "val/los"], "nothing to draw"),
        (["--out", "a.docx"], "unknown kind of figure"),
        (["--by", "optin"], "unknown key: --by optin"),
    ):
        assert plot.main([outputs, *wrong]) == 2
        assert word in capsys.readouterr().err
