"""What --help shows."""

from pathlib import Path

import pytest
from runs import ROOT, Shell

from minigpt.cli.help import WIDTH, first_sentence
from minigpt.cli.overrides import groups_of, options_of

CONF = ROOT / "conf"


def shown(shell: Shell, script: str, *arguments: str) -> str:
    assert shell(script, "--help", *arguments) == 0, shell.err
    assert shell.err == ""
    return shell.out


@pytest.mark.parametrize("script", ["train", "generate", "preprocess"])
def test_a_page_fits_on_a_screen(script: str, shell: Shell) -> None:
    lines = shown(shell, script).splitlines()
    assert len(lines) <= 50
    assert [line for line in lines if len(line) > WIDTH] == []
    assert not [line for line in lines if "$" in line.replace('"$(python', "")]
    template = (CONF / f"{script}.yaml").read_text().partition("template:")[2].splitlines()
    keys = [line.split()[0][1:] for line in template if line.startswith("      $")]
    values = [line.split()[0].partition("=")[0] for line in lines if line.startswith("  ")]
    assert {*keys} - {*values} == {"CHOICES"} - ({"CHOICES"} if script == "generate" else set())


def test_a_page_shows_choices_and_the_values_that_hold(shell: Shell) -> None:
    page = shown(shell, "train", "train.steps=7", f"data_dir={'x' * 90}")
    assert "  train.steps=7 " in page
    assert "  optim.lr=0.014 " in page
    assert "  train.micro_batch_size=null " in page
    assert "  schedule         linear, constant, warmup_cosine, wsd\n" in page
    assert "_base" not in page
    assert "optim  " not in shown(shell, "preprocess")


def test_each_group_says_what_its_options_are_for(shell: Shell) -> None:
    groups = sorted(groups_of([CONF]))
    page = shown(shell, "train", *groups)
    assert max(map(len, page.splitlines())) <= WIDTH
    in_a_line = " ".join(page.split())
    for path in (path for group in groups for path in options_of(group, [CONF]).values()):
        sentence = first_sentence(path)
        assert sentence.endswith((".", "?")), f"{path}: its comment begins with no sentence"
        assert len(sentence) <= 130, f"{path}: its first sentence has {len(sentence)} characters"
        assert f"{path.stem} {sentence}" in in_a_line


def test_an_option_shows_its_comments_keys_and_what_it_builds_upon(shell: Shell) -> None:
    page = shown(shell, "train", "optim=muon_polar", "logger=[none]")
    names = ("muon_polar", "muon", "_base")
    places = [page.index(f"conf/optim/{name}.yaml\n") for name in names]
    assert places == sorted(places)
    assert "Keys (optim.<key>=<value>" in page
    assert "  ns_schedule: polar_express\n" in page
    assert "  momentum_warmup: 0  # steps in which the momentum rises from 0.85\n" in page
    assert "conf/logger/none.yaml\n" in page
    assert "Keys (<key>=<value>" in shown(shell, "train", "debug=smoke")


def test_shells_complete_options(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "python train.py optim=m"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert shell("train", "-sc", "query=bash") == 0, shell.err
    assert shell.out.split() == [
        f"optim=muon{end}" for end in ("", "_moonlight", "_polar", "_torch")
    ]


def test_a_key_of_the_script_shows_its_comment(shell: Shell) -> None:
    page = shown(shell, "train", "eval", "log.every")
    assert "eval:\n  every: 200               # steps; null: only at the end\n" in page
    assert page.endswith("log:\n  every: 10                # steps\n")
    assert "# packages of yours" in shown(shell, "generate", "trust")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--help otpim", ["unknown group: otpim (did you mean optim?)"]),
        ("--help optim=moun", ["unknown choice: optim=moun (did you mean muon?)"]),
        ("--help probe=x", ["unknown choice: probe=x (known: none, optimizer; see --help probe)"]),
        ("--hlep", ["arguments: unrecognized arguments: --hlep (see --help)"]),
        (
            "probe help",
            [
                "unreadable argument: probe (write probe=..., see --help probe)",
                "unreadable argument: help (write key=value, see --help; quote a value with "
                "special characters: 'key=\"a,b\"')",
            ],
        ),
    ],
)
def test_what_is_misspelt_leads_to_help(arguments: str, said: list[str], shell: Shell) -> None:
    assert shell("train", *arguments.split()) == 2
    assert shell.err.splitlines() == [f"error: {line}" for line in said]
    assert shell.out == ""


def test_options_of_its_user_are_shown(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package" / "conf").mkdir(parents=True)
    for folder in ("package", "package/conf"):
        (tmp_path / folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in ("one", "two", "package/conf"):
        for group, name in (("schedule", Path(place).name), ("schedule", "shared"), ("own", "x")):
            path = tmp_path / place / group / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# From {place}. More.\ndefaults: [constant]\nwarmup: 1\n")
    given = [f"--config-dir={tmp_path / 'one'}"]
    given.append(f"hydra.searchpath=[file://{tmp_path / 'two'},pkg://package.conf]")
    page = shown(shell, "train", *given)
    assert "linear, conf, constant, one, shared, two, warmup_cosine, wsd\n" in page
    assert "\n  own              x\n" in page
    page = shown(shell, "train", *given, "schedule", "schedule=two")
    for name, place in (
        ("conf", "package/conf"),
        ("one", "one"),
        ("shared", "one"),
        ("two", "two"),
    ):
        assert f"\n  {name:13}  From {place}.\n" in page
    assert page.index(f"{tmp_path / 'two'}/schedule/two.yaml") < page.index(
        "conf/schedule/constant"
    )
    (tmp_path / "one" / "schedule" / "gone.yaml").symlink_to("nowhere")
    assert "(cannot be read: No such file or directory)" in shown(
        shell, "train", *given, "schedule"
    )
    (tmp_path / "one" / "schedule" / "one.yaml").write_text("a: [")
    assert shell("train", "--help", *given, "schedule=one") == 2
    assert "one.yaml: " in shell.err
    assert "(mend the file)" in shell.err
