"""The door: arguments in, one line per problem and an exit code out. The only place that starts Hydra."""

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt import interrupt, schema
from minigpt.errors import ConfigError, MinigptError, Stopped
from minigpt.terminal import escape_controls

CONF = Path(__file__).parent.parent / "conf"
PATH_KEYS = (
    "data.path", "data.source", "data.train", "data.val", "data.out", "data.tokenizer.path", "data_dir", "output_dir",
    "run", "init_from",
)  # fmt: skip
TEXT_KEYS = ("prompt", "sample.prompt")
SECRET = re.compile(r"(key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
# The same inside a value: {api_key: ...}, ${oc.env:WANDB_API_KEY}
SECRET_INSIDE = re.compile(r"(key|token|secret|password|passwd|credentials?)['\"]?\s*[:}]", re.IGNORECASE)
Job = Callable[[DictConfig], Any]


def main(
    job: Job, config_name: str, check: Callable[[DictConfig], object], before: Callable[[DictConfig, bool], bool]
) -> int:
    """Run `job` on the configuration that the command line composes; returns the exit code.

    check: raises ConfigError with every problem of a composed configuration, in milliseconds.
    before: what can be done before Hydra makes any folder, in a sweep with its first values; for a single run True
    means that nothing is left to do.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    show_log()
    schema.register()
    register_resolvers()
    sweep = Sweep(job)
    try:
        arguments = protect(sys.argv[1:])
        parsed = _parse(arguments)
        refuse_secrets(parsed.overrides)
        asks = parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
        if not asks:
            interrupt.install()
            first = [first_value(override) for override in parsed.overrides] if parsed.multirun else parsed.overrides
            cfg = compose(config_name, first, parsed.config_dir, check)
            if not parsed.multirun and cfg.hydra.sweeper.get("params") and cfg.hydra.mode is None:
                raise ConfigError("this experiment is a sweep: add -m (python train.py -m experiment=...)")
            if before(cfg, parsed.multirun):
                return 0
        import hydra

        sys.argv[1:] = arguments
        task = sweep if parsed.multirun else job
        with plain_failures():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
    except MinigptError as error:
        report(error)
        return sweep.finish() or error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; nothing to say
        return 0
    except SystemExit as stop:
        sweep.finish()
        return stop.code if isinstance(stop.code, int) else 1
    except Exception:
        traceback.print_exc()
        return sweep.finish() or 1
    return sweep.finish()


@contextmanager
def plain_failures() -> Iterator[None]:
    """The error of a job comes out of Hydra as it is, without a line of Hydra's own on stderr before ours."""
    from hydra.core.utils import JobReturn, JobStatus

    def return_value(job: JobReturn) -> Any:
        if job.status == JobStatus.FAILED:
            raise job._return_value
        return job._return_value

    hydras = JobReturn.return_value
    JobReturn.return_value = hydras.getter(return_value)  # type: ignore[attr-defined, method-assign]
    try:
        yield
    finally:
        JobReturn.return_value = hydras  # type: ignore[method-assign]


def report(error: MinigptError) -> None:
    """One line a problem on stderr."""
    for problem in error.problems:
        print(f"error: {escape_controls(' '.join(str(problem).split()))}", file=sys.stderr)


class Sweep:
    """The jobs of a multirun: a failure lets the others run, a stop signal ends it; a table at the end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rows: list[tuple[str, str, str]] = []
        self.exit_code = 0

    def __call__(self, cfg: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig

        name = " ".join(o for o in HydraConfig.get().overrides.task) or "(no overrides)"
        try:
            result = self.job(cfg)
        except Stopped as stop:
            self.rows.append((name, "stopped", "the same command goes on"))
            report(stop)
            raise SystemExit(stop.exit_code) from None
        except MinigptError as error:
            self.rows.append((name, f"failed ({error.exit_code})", error.problems[0]))
            self.exit_code = self.exit_code or error.exit_code
            report(error)
            with suppress(OSError):  # Hydra made the job's folder before the job could refuse
                Path(HydraConfig.get().runtime.output_dir).rmdir()
            raise
        except Exception as error:
            self.rows.append((name, "failed (1)", f"{type(error).__name__}: {error}"))
            self.exit_code = self.exit_code or 1
            traceback.print_exc()
            raise
        self.rows.append((name, "done", "" if result is None else f"val_loss {result:.4f}"))
        return result

    def finish(self) -> int:
        """Print the table of a sweep; returns its exit code."""
        if self.rows:
            widths = [max(len(row[column]) for row in self.rows) for column in (0, 1)]
            print(file=sys.stderr)
            for name, status, detail in self.rows:
                print(f"{name:<{widths[0]}}  {status:<{widths[1]}}  {detail}".rstrip(), file=sys.stderr)
        return self.exit_code


class AboveTheBar(logging.Handler):
    """Lines on stderr, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def show_log() -> None:
    """minigpt's own log to stderr, as plain lines."""
    logger = logging.getLogger("minigpt")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if not logger.handlers:
        handler = AboveTheBar()
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


def register_resolvers() -> None:
    """${run_folder:} and ${run_folder_name:}: where the composed run lives, for hydra.run and hydra.sweep."""
    OmegaConf.register_new_resolver("run_folder", lambda _root_: str(_run_folder(_root_)), replace=True)
    OmegaConf.register_new_resolver("run_folder_name", lambda _root_: _run_folder(_root_).name, replace=True)


def _run_folder(root: DictConfig) -> Path:
    """The run's folder. A resolver must not raise (it would end a whole sweep), so a bad configuration gets a place
    that the job, which reports the problem, removes again."""
    from minigpt import config

    try:
        return config.plan_of(root).folder
    except MinigptError:
        return Path(str(root.get("output_dir", "outputs"))) / ".invalid"


def _parse(arguments: list[str]) -> Any:
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_args(arguments)


def compose(
    config_name: str, overrides: list[str], config_dir: str | None, check: Callable[[DictConfig], object]
) -> DictConfig:
    """The configuration with its `hydra` node. Raises ConfigError with every bad override found."""
    try:
        return _compose(config_name, overrides, config_dir)
    except Exception as error:
        if not _is_composition_error(error):
            raise
        problems, rest = explain(config_name, overrides, config_dir)
        problems = problems or [one_line(error)]
        try:
            check(rest)
        except ConfigError as more:
            problems += more.problems
        raise ConfigError(*dict.fromkeys(problems)) from None


def _compose(config_name: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    extra = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(config_name, overrides=[*overrides, *extra], return_hydra_config=True)


def _is_composition_error(error: Exception) -> bool:
    from hydra.errors import HydraException

    return isinstance(error, HydraException | OmegaConfBaseException)


def one_line(error: Exception) -> str:
    """Hydra's message without its line breaks, as a problem."""
    return f"configuration: {' '.join(str(error).split())} (see --help)"


def explain(config_name: str, overrides: list[str], config_dir: str | None) -> tuple[list[str], DictConfig]:
    """What is wrong with each override, tried alone on top of the choices that work; and what is left, composed."""
    groups = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir()}
    choices: list[str] = []
    values: list[str] = []
    problems: list[str] = []
    for override in overrides:
        (choices if override.lstrip("+~").partition("=")[0] in groups else values).append(override)
    for choice in list(choices):
        try:
            _compose(config_name, [choice], config_dir)
        except Exception as error:
            choices.remove(choice)
            group, _, option = choice.partition("=")
            options = [path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_")]
            if option in options:
                problems.append(f"configuration: {choice}: {' '.join(str(error).split())} (mend the file)")
            else:
                problems.append(f"unknown choice: {choice} {nearest(option, options)}")
    base = _compose(config_name, choices, config_dir)
    good = []
    for value in values:
        try:
            _compose(config_name, [*choices, value], config_dir)
            good.append(value)
        except Exception as error:
            problems.append(_explain_value(base, value, groups, error))
    return problems, _compose(config_name, [*choices, *good], config_dir)


def _explain_value(base: DictConfig, override: str, groups: set[str], error: Exception) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    text = " ".join(str(error.__cause__ or error).split())
    if (
        "no viable alternative" in text
        or "mismatched input" in text
        or "token recognition" in text
        or "=" not in override
    ):
        return (
            f"unreadable argument: {override} (write key=value; quote a value with special characters: 'key=\"a,b\"')"
        )
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    while parent and not isinstance(node, DictConfig):
        parent, _, last = parent.rpartition(".")
        node = OmegaConf.select(base, parent) if parent else base
    if isinstance(node, DictConfig) and last not in node:
        known = [str(k) for k in node if k != "hydra"] + ([] if parent else sorted(groups))
        shown = nearest(last, known)
        if parent and shown.startswith("(did you mean "):
            shown = shown.replace("(did you mean ", f"(did you mean {parent}.")
        return f"unknown key: {key} {shown}"
    expected = next((words for name, words in _EXPECTED.items() if name in text), None)
    if expected:
        return f"wrong type: {key}={value} (expects {expected})"
    return f"configuration: {override}: {text} (see --help)"


_EXPECTED = {
    "Integer": "an integer, written without exponent",
    "Float": "a number",
    "bool": "true or false",
    "not None": "a value; null is none here",
}


def nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"(did you mean {near[0]}?)" if near else f"(known: {', '.join(sorted(known))})"


def first_value(override: str) -> str:
    """A sweep override with its first value, so that a sweep's keys can be checked before its first job."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return override
    if not parsed.is_sweep_override():
        return override
    try:
        value = next(iter(parsed.sweep_string_iterator()))
    except HydraException:
        return override
    return f"{parsed.get_key_element()}={value}"


def protect(arguments: list[str]) -> list[str]:
    """Quote prompts and paths so that Hydra's grammar leaves them alone: `prompt=To be, or not: that's it!` just works.

    A value that is quoted already, or null, keeps Hydra's meaning; in a sweep the commas of a path still separate.
    """
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    sweeping = bool(flags)
    result = flags[:1]  # first, since Hydra's parser wants the key=value arguments in one stretch
    for argument in arguments:
        if argument in flags:
            continue
        key, equals, value = argument.partition("=")
        is_path = key in PATH_KEYS
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        if not equals or quoted or not (is_path or key in TEXT_KEYS) or (is_path and value == "null"):
            result.append(argument)
        elif is_path:
            pieces = value.split(",") if sweeping else [value]
            result.append(f"{key}=" + ",".join(quote(os.path.expanduser(piece)) for piece in pieces))
        else:
            result.append(f"{key}={quote(value)}")
    return result


def quote(value: str) -> str:
    """A Hydra single-quoted string that means exactly `value`, interpolations included."""
    value = value.replace("${", "\\${")
    value = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    trailing = len(value) - len(value.rstrip("\\"))
    return f"'{value}{chr(92) * trailing}'"


def refuse_secrets(overrides: list[str]) -> None:
    """Overrides are written to run.json and into folder names, so keys must come from the environment."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        last = key.rpartition(".")[2]
        if SECRET.search(last) or (key not in TEXT_KEYS and SECRET_INSIDE.search(value)):
            raise ConfigError(
                f"secret on the command line: {key} "
                "(it would be written to disk; use the environment, e.g. WANDB_API_KEY)"
            )
