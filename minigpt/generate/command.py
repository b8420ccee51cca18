"""generate.py's work: load a run, sample, write. Nothing is written to the run's folder."""

import json
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from minigpt import interrupt
from minigpt.config import precision
from minigpt.config.composed import take_apart
from minigpt.config.schema import GenerateRoot
from minigpt.config.typed import resolved, root_problems
from minigpt.errors import ConfigError
from minigpt.files.reading import UnreadableError, read_bytes
from minigpt.formats import torch_dtype
from minigpt.generate import sampling
from minigpt.generate.load import Loaded, find_run, load_any
from minigpt.generate.rebuild import trusted_packages
from minigpt.seeding import generator
from minigpt.terminal import on_stdout

log = logging.getLogger(__name__)
FORMATS = ("text", "jsonl")


def settings_of(cfg: DictConfig) -> tuple[dict[str, Any], sampling.Sampling]:
    """The plain configuration, and how to sample. Raises ConfigError for what is wrong in it."""
    config = resolved(take_apart(cfg).own)
    problems = root_problems(config, GenerateRoot)
    if config["seed"] < 0:
        problems.append(f"out of range: seed={config['seed']} (at least 0)")
    if config["format"] not in FORMATS:
        problems.append(f"unknown choice: format={config['format']} (one of {', '.join(FORMATS)})")
    if problems:
        raise ConfigError(*problems)
    trusted_packages(config["trust"])
    keys = [field.name for field in fields(sampling.Sampling)]
    return config, sampling.Sampling(**{key: config[key] for key in keys})


def generate(cfg: DictConfig) -> None:
    """Continue each prompt; texts are separated by ---, or are JSON objects, one a line."""
    config, how = settings_of(cfg)
    prompts = prompts_of(config)
    run = find_run(config["run"], config["output_dir"])
    loaded = load_any(run, trusted_packages(config["trust"]))
    width = loaded.model.embed.weight.shape[1]
    chosen = precision.choose(config["device"], config["precision"], False, d_model=width, node="")
    loaded.model.to(chosen.device, torch_dtype(chosen.precision))
    step = "exported" if loaded.step is None else f"step {loaded.step}"
    log.info("%s (%s, %s, %s)", loaded.folder, step, chosen.device, chosen.precision)
    for number, prompt in enumerate(prompts):
        if number and config["format"] == "text":
            write("---\n")
        continue_prompt(loaded, prompt, config, how)


def prompts_of(config: dict[str, Any]) -> list[str]:
    """The prompt, or the lines of a file or of stdin that are not blank.

    Raises ConfigError if there is none, or for both kinds.
    """
    source = config["prompts"]
    if source is None:
        return [config["prompt"]]
    if config["prompt"]:
        raise ConfigError("two kinds of prompts: prompt= and prompts= (give one of them)")
    try:
        if source == "-":
            content = b"" if sys.stdin is None else sys.stdin.buffer.read()  # None: closed
        else:
            content = read_bytes(Path(source).expanduser())
    except UnreadableError as error:
        raise ConfigError(f"no prompts: prompts={source}: {error.why} (a prompt a line)") from None
    text = content.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    lines = [line for line in text.split("\n") if line.strip()]  # other breaks are text
    if not lines:
        raise ConfigError(f"no prompts: prompts={source} holds no text (a prompt a line)")
    return lines


def continue_prompt(
    loaded: Loaded, prompt: str, config: dict[str, Any], how: sampling.Sampling
) -> None:
    """Write what follows a prompt, as it would be alone: one sample as it comes."""
    tokenizer, as_json = loaded.tokenizer, config["format"] == "jsonl"
    ids, draws = sampling.encode_prompt(tokenizer, prompt), generator(config["seed"], "sampling")
    steps = sampling.generate(loaded.model, ids, how, draws, stop=tokenizer.end_of_text)
    live = config["stream"] and how.num_samples == 1 and not as_json
    stream = sampling.TextStream()
    new: list[list[int]] = []
    if live:
        write(prompt)
    for tokens in steps:
        interrupt.stop_if_requested("generation (the text so far stands above)")
        new.append(tokens)
        if live:
            write(stream.decode(tokenizer.decode_bytes(tokens)))
    if live:
        write(stream.decode(b"", final=True) + "\n")
        return
    samples = [list(sample) for sample in zip(*new)]
    texts = [b"".join(tokenizer.decode_bytes([token]) for token in sample) for sample in samples]
    whole = [prompt + text.decode("utf-8", "replace") for text in texts]
    if not as_json:
        write("\n---\n".join(whole) + "\n")
        return
    for text, sample in zip(whole, samples):
        row = {"prompt": prompt, "text": text, "tokens": sample}
        write(json.dumps(row, ensure_ascii=False) + "\n")


def write(text: str) -> None:
    """To stdout at once; on a terminal without the control bytes that a model may have learnt."""
    sys.stdout.write(on_stdout(text))
    sys.stdout.flush()
