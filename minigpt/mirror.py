"""Send finished runs to a logger afterwards.

python -m minigpt.mirror RUN [RUN ...] logger=wandb
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from minigpt import interrupt
from minigpt.cli.arguments import Parser, exit_code_of, report
from minigpt.cli.composition import compose, each_logger
from minigpt.cli.overrides import protect, quote, refuse_secrets
from minigpt.cli.process import set_up_process
from minigpt.config.build import build
from minigpt.config.plan import plan_of
from minigpt.errors import CheckpointError, ConfigError, MinigptError, StorageError
from minigpt.files import durable, records
from minigpt.files.reading import if_there, read_json

HELP = """\
Send the metrics.jsonl of finished runs to a logger, as if it had been there while they trained:
rows, configuration, summary, name and group are the same.

  python -m minigpt.mirror outputs/tiny-muon-shakespeare-3fa9c1d2 logger=wandb
  python -m minigpt.mirror outputs/*-???????? logger=wandb logger.project=my-study
  python -m minigpt.mirror outputs/*-???????? logger=tensorboard

What a logger has of a run already, since it trained with it or by this command, is left out:
typed twice, nothing doubles. mirrored.json in the run's folder says what was sent.
"""
MIRRORED = "mirrored.json"
SEVERAL = "minigpt.logger.several.Several"
HOW = ("folder", "timeout_s", "finish_timeout_s")  # keys of a logger that say how, not where to


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.mirror", HELP)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders, and logger=... values")
    parser.add_argument("--again", action="store_true", help="send what was sent already, too")
    return exit_code_of(lambda: mirror(parser.parse_intermixed_args(arguments)))


def mirror(asked: argparse.Namespace) -> int:
    """Each run to the logger. The exit code of the first run that failed, else 0."""
    set_up_process()
    interrupt.install()
    typed = [text for text in asked.runs if text.startswith(("logger=", "logger."))]
    folders = [Path(text).expanduser() for text in asked.runs if text not in typed]
    refuse_secrets(typed)
    typed = each_logger([protect(text, sweeping=False) for text in typed], None)
    if not any(text.startswith("logger=") for text in typed):
        raise ConfigError("no logger: which one? (add logger=wandb)")
    code = 0
    for folder in folders:
        interrupt.stop_if_requested(f"before {folder} (the same command goes on)")
        try:
            print(f"{_send(folder, typed, asked.again)}: {folder}")
        except ConfigError:
            raise  # of the logger, and so of every run
        except MinigptError as error:
            report(error)
            code = code or error.exit_code
    return code


def _send(folder: Path, typed: list[str], again: bool) -> str:
    """What became of a run. Raises MinigptError."""
    record, summary = records.read_record(folder), records.read_summary(folder)
    if record is None:
        raise CheckpointError(f"not a run: {folder}: no run.json (give the folder of a run)")
    if summary is None:
        raise CheckpointError(f"not finished: {folder} (its own logger is at work; let it end)")
    config = records.read_config(folder)
    output = f"output_dir={quote(str(folder.absolute().parent))}"
    node = plan_of(compose("train", [output, *typed], None, plan_of)).config["logger"]
    own = [_where(part) for part in _parts(config.get("logger") or {})]
    parts = [part for part in _parts(node) if again or _where(part) not in [*own, *_sent(folder)]]
    if not parts:
        return "there already"
    rows, bad, torn = records.read_rows(folder / "metrics.jsonl")
    if bad or torn:
        raise CheckpointError(f"damaged rows: {folder / 'metrics.jsonl'} (see minigpt.verify)")
    for part in parts:
        logger: Any = build(part)
        logger.start(record, config, rows)
        logger.finish(summary)
        if getattr(logger, "failed", False):
            raise StorageError(
                f"not sent: {folder} (see the warning above; the same command tries it)"
            )
        _note(folder, _where(part))
    return "sent"


def _parts(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The node of each logger."""
    if node.get("_target_") != SEVERAL:
        return [node]
    return [part for key, part in node.items() if key != "_target_"]


def _where(node: dict[str, Any]) -> dict[str, Any]:
    """Where a logger shows runs."""
    where = {key: value for key, value in node.items() if key not in HOW}
    return where | ({"logdir": os.path.abspath(where["logdir"])} if "logdir" in where else {})


def _note(folder: Path, where: dict[str, Any]) -> None:
    content = {"loggers": [*(one for one in _sent(folder) if one != where), where]}
    with durable.writing(folder):
        durable.write_atomic(folder / MIRRORED, durable.json_bytes(content))


def _sent(folder: Path) -> list[Any]:
    found = (if_there(read_json, folder / MIRRORED) or {}).get("loggers")
    return found if isinstance(found, list) else []


if __name__ == "__main__":
    sys.exit(main())
