"""The door: arguments in, one line per problem and an exit code out. The only place that starts Hydra."""

import difflib
import importlib.util
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt import interrupt, schema
from minigpt.arguments import reader_has_gone, report
from minigpt.errors import ConfigError, MinigptError, Stopped
from minigpt.sweep import JobFailed, Sweep, shortest_first

CONF = Path(__file__).parent.parent / "conf"
PATH_KEYS = (
    "data.path", "data.source", "data.train", "data.val", "data.out", "data.tokenizer.path", "data_dir", "output_dir",
    "run", "init_from", "branch",
)  # fmt: skip
TEXT_KEYS = ("prompt", "sample.prompt")
LAUNCHERS = {  # launcher -> the plugin it comes with
    "joblib": "hydra_joblib_launcher",
    "slurm": "hydra_submitit_launcher",
    "submitit_local": "hydra_submitit_launcher",
}
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
    arrive()
    schema.register()
    sweep = Sweep(job, arrive, report)
    try:
        arguments = protect(sys.argv[1:])
        parsed = _parse(arguments)
        if parsed.multirun:
            refuse_torchrun()
            begin = arguments.index(parsed.overrides[0]) if parsed.overrides else 0  # they stand in one stretch
            end = begin + len(parsed.overrides)
            parsed.overrides = arguments[begin:end] = shortest_first(parsed.overrides)
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
            if parsed.multirun:
                sweep.begin(cfg, arguments, parsed.overrides)
                if "submitit" in cfg.hydra.launcher._target_:
                    interrupt.restore()  # this process only waits: Ctrl-C leaves the jobs in the queue
            elif not needs_hydra(parsed, cfg):
                job(cfg)
                return 0
        import hydra

        sys.argv[1:] = arguments
        task = sweep if parsed.multirun else job
        with plain_failures():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
    except JobFailed as error:
        return sweep.finish() or error.exit_code
    except MinigptError as error:
        report(error)
        return sweep.finish() or error.exit_code
    except BrokenExecutor:
        print("error: a worker process was killed, and the others with it (the same command goes on)", file=sys.stderr)
        return sweep.finish() or 1
    except KeyboardInterrupt:
        print("interrupted: jobs that were submitted go on without this process (scancel ends them)", file=sys.stderr)
        return sweep.finish() or 130
    except BrokenPipeError:
        reader_has_gone()
        return 0
    except SystemExit as stop:
        sweep.finish()
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if type(error).__module__.startswith("submitit."):  # a job that Slurm ended, or could not start
            print(f"error: {' '.join(str(error).split())} (the same command goes on)", file=sys.stderr)
        else:
            traceback.print_exc()
        return sweep.finish() or 1
    code = sweep.finish()
    signal_number = interrupt.requested()  # where workers ran the jobs, none of them could end the sweep
    return Stopped(signal_number).exit_code if signal_number and parsed.multirun else code


def needs_hydra(parsed: Any, cfg: DictConfig) -> bool:
    """Whether a single run asks for what Hydra does around a job; else Hydra need not compose it twice more (0.3 s)."""
    options = (parsed.config_name, parsed.config_path, parsed.experimental_rerun, parsed.package)
    hydra = cfg.hydra
    wishes = (hydra.mode, hydra.callbacks, hydra.output_subdir, hydra.verbose, hydra.job.env_set, hydra.job.chdir)
    return any(options) or any(wishes) or OmegaConf.to_container(hydra.run) != {"dir": "${run_folder:}"}


def arrive() -> None:
    """What a process needs before it composes: in the workers of a sweep too."""
    show_log()
    register_resolvers()


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


class AboveTheBar(logging.Handler):
    """Lines on stderr, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" in sys.modules:  # imported with the first bar
            from tqdm import tqdm

            tqdm.write(self.format(record), file=sys.stderr)
        else:
            print(self.format(record), file=sys.stderr)


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
    from hydra.core.hydra_config import HydraConfig

    extra = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose(config_name, overrides=[*overrides, *extra], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # so that ${hydra:...} resolves, as inside hydra.main
    return cfg


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
            if group == "hydra/launcher":
                problems.append(_explain_launcher(option))
                values = [value for value in values if not value.startswith("hydra.launcher.")]
                continue
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


def _explain_launcher(option: str) -> str:
    if option in LAUNCHERS and not _is_installed(f"hydra_plugins.{LAUNCHERS[option]}"):
        package = LAUNCHERS[option].replace("_", "-")
        return f"missing package: hydra/launcher={option} needs {package} (pip install 'minigpt[launchers]')"
    return f"unknown choice: hydra/launcher={option} {nearest(option, ['basic', *LAUNCHERS])}"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


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


def refuse_torchrun() -> None:
    """Each rank of torchrun would start the whole sweep, and the second job would find the group gone."""
    if "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ:
        raise ConfigError("sweep under torchrun: -m (start the sweep without torchrun; each job is one process)")


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
