"""generate.py's work: load a run, sample, write. Nothing is written to the run's folder."""

import logging
import sys

from omegaconf import DictConfig

from minigpt import interrupt
from minigpt.config import precision
from minigpt.errors import ConfigError
from minigpt.formats import torch_dtype
from minigpt.generate.load import find_run, load_any
from minigpt.generate.rebuild import trusted_packages
from minigpt.generate.sampling import Sampling, TextStream, encode_prompt
from minigpt.generate.sampling import generate as generate_tokens
from minigpt.seeding import generator
from minigpt.terminal import on_stdout

log = logging.getLogger(__name__)


def sampling_of(cfg: DictConfig) -> Sampling:
    """The sampling arguments. Raises ConfigError that names every one out of range."""
    if cfg.seed < 0:
        raise ConfigError(f"out of range: seed={cfg.seed} (at least 0)")
    trusted_packages(cfg.trust)
    return Sampling(
        cfg.max_new_tokens,
        cfg.temperature,
        cfg.top_k,
        cfg.top_p,
        cfg.ngram_size,
        cfg.ngram_penalty,
        cfg.num_samples,
    )


def generate(cfg: DictConfig) -> None:
    """Continue the prompt; each sample as it comes, or one after the other, separated by a line of
    ---.
    """
    sampling = sampling_of(cfg)
    loaded = load_any(find_run(cfg.run, cfg.output_dir), trusted_packages(cfg.trust))
    chosen = precision.choose(
        cfg.device, cfg.precision, False, d_model=loaded.model.embed.weight.shape[1]
    )
    dtype = torch_dtype(chosen.precision)
    model = loaded.model.to(chosen.device, dtype)
    step = "exported" if loaded.step is None else f"step {loaded.step}"
    log.info("%s (%s, %s, %s)", loaded.folder, step, chosen.device, chosen.precision)

    tokenizer, ids = loaded.tokenizer, encode_prompt(loaded.tokenizer, cfg.prompt)
    steps = generate_tokens(
        model, ids, sampling, generator(cfg.seed, "sampling"), stop=tokenizer.end_of_text
    )
    live = cfg.stream and sampling.num_samples == 1
    streams = [TextStream() for _ in range(sampling.num_samples)]
    texts = [cfg.prompt] * sampling.num_samples
    if live:
        write(cfg.prompt)
    for tokens in steps:
        interrupt.stop_if_requested("generation (the text so far stands above)")
        for sample, token in enumerate(tokens):
            new = streams[sample].add(tokenizer.decode_bytes([token]))
            texts[sample] += new
            if live:
                write(new)
    endings = [stream.end() for stream in streams]
    if live:
        write(endings[0] + "\n")
    else:
        write("\n---\n".join(text + ending for text, ending in zip(texts, endings)) + "\n")


def write(text: str) -> None:
    """To stdout at once; on a terminal without the control bytes that a model may have learnt."""
    sys.stdout.write(on_stdout(text))
    sys.stdout.flush()
