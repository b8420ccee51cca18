"""generate.py's work: load a run, sample, write. Nothing is written to the run's folder."""

import logging
import sys
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig

from minigpt import interrupt
from minigpt.config import precision
from minigpt.config.composed import take_apart
from minigpt.config.schema import GenerateRoot
from minigpt.config.typed import resolved, root_problems
from minigpt.errors import ConfigError
from minigpt.formats import torch_dtype
from minigpt.generate import sampling
from minigpt.generate.load import find_run, load_any
from minigpt.generate.rebuild import trusted_packages
from minigpt.seeding import generator
from minigpt.terminal import on_stdout

log = logging.getLogger(__name__)


def settings_of(cfg: DictConfig) -> tuple[dict[str, Any], sampling.Sampling]:
    """The plain configuration, and how to sample. Raises ConfigError for what is wrong in it."""
    config = resolved(take_apart(cfg).own)
    problems = root_problems(config, GenerateRoot)
    if config["seed"] < 0:
        problems.append(f"out of range: seed={config['seed']} (at least 0)")
    if problems:
        raise ConfigError(*problems)
    trusted_packages(config["trust"])
    keys = [field.name for field in fields(sampling.Sampling)]
    return config, sampling.Sampling(**{key: config[key] for key in keys})


def generate(cfg: DictConfig) -> None:
    """Continue the prompt: one sample as it comes, several at the end with --- between them."""
    config, how = settings_of(cfg)
    run = find_run(config["run"], config["output_dir"])
    loaded = load_any(run, trusted_packages(config["trust"]))
    width = loaded.model.embed.weight.shape[1]
    chosen = precision.choose(config["device"], config["precision"], False, d_model=width)
    model = loaded.model.to(chosen.device, torch_dtype(chosen.precision))
    step = "exported" if loaded.step is None else f"step {loaded.step}"
    log.info("%s (%s, %s, %s)", loaded.folder, step, chosen.device, chosen.precision)

    tokenizer, prompt = loaded.tokenizer, config["prompt"]
    ids, draws = sampling.encode_prompt(tokenizer, prompt), generator(config["seed"], "sampling")
    steps = sampling.generate(model, ids, how, draws, stop=tokenizer.end_of_text)
    live = config["stream"] and how.num_samples == 1
    stream = sampling.TextStream()
    new: list[list[bytes]] = []
    if live:
        write(prompt)
    for tokens in steps:
        interrupt.stop_if_requested("generation (the text so far stands above)")
        new.append([tokenizer.decode_bytes([token]) for token in tokens])
        if live:
            write(stream.decode(new[-1][0]))
    if live:
        write(stream.decode(b"", final=True) + "\n")
    else:
        texts = [prompt + b"".join(parts).decode("utf-8", "replace") for parts in zip(*new)]
        write("\n---\n".join(texts) + "\n")


def write(text: str) -> None:
    """To stdout at once; on a terminal without the control bytes that a model may have learnt."""
    sys.stdout.write(on_stdout(text))
    sys.stdout.flush()
