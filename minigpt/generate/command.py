"""generate.py's work: load a run, sample, write. Nothing is written to the run's folder."""

import json
import logging
import sys
from dataclasses import fields
from typing import Any

import torch
from omegaconf import DictConfig

from minigpt import interrupt
from minigpt.config import precision
from minigpt.config.composed import take_apart
from minigpt.config.schema import GenerateRoot
from minigpt.config.typed import resolved, root_problems
from minigpt.errors import ConfigError
from minigpt.formats import torch_dtype
from minigpt.generate import sampling
from minigpt.generate.load import Loaded, find_run, load_any
from minigpt.generate.prompts import at_terminal, cut_short, prompts_of
from minigpt.generate.rebuild import trusted_packages
from minigpt.generate.text import Sample
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
    stop = config["stop"]
    config["stop"] = stop if isinstance(stop, list) else [] if stop is None else [stop]
    if not all(isinstance(text, str) and text for text in config["stop"]):
        problems.append(f"no text: stop={stop!r} (a string, or a list of them)")
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
    draws = generator(config["seed"], "sampling")
    for number, prompt in enumerate(prompts):
        if number and config["format"] == "text" and not (config["interactive"] and at_terminal()):
            write("---\n")
        if not config["interactive"]:  # each prompt as alone; there, as the first one typed
            draws = generator(config["seed"], "sampling")
        continue_prompt(loaded, prompt, config, how, draws)


def continue_prompt(
    loaded: Loaded,
    prompt: str,
    config: dict[str, Any],
    how: sampling.Sampling,
    draws: torch.Generator,
) -> None:
    """Write what follows a prompt: one sample as it comes, several when all are there."""
    tokenizer, as_json = loaded.tokenizer, config["format"] == "jsonl"
    ids = sampling.encode_prompt(tokenizer, prompt)
    samples = [Sample(tokenizer, config["stop"]) for _ in range(how.num_samples)]
    live = config["stream"] and how.num_samples == 1 and not as_json
    if live:
        write(prompt)
    for step in sampling.generate(loaded.model, ids, how, draws, tokenizer.end_of_text):
        if config["interactive"] and cut_short():
            break
        interrupt.stop_if_requested("generation (the text so far stands above)")
        logprobs = step.logprobs() if as_json else [None] * how.num_samples
        for sample, token, logprob in zip(samples, step.tokens, logprobs):
            new = sample.add(token, logprob)
        if live:
            write(new)
        if all(sample.finished for sample in samples):
            break
    rest = [sample.end() for sample in samples]
    if live:
        write(rest[0] + "\n")
    elif as_json:
        for sample in samples:
            row: dict[str, Any] = {"prompt": prompt, "text": prompt + sample.text}
            row |= {"tokens": sample.tokens, "logprobs": sample.logprobs}
            write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        write("\n---\n".join(prompt + sample.text for sample in samples) + "\n")


def write(text: str) -> None:
    """To stdout at once; on a terminal without the control bytes that a model may have learnt."""
    sys.stdout.write(on_stdout(text))
    sys.stdout.flush()
