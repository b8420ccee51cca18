"""Tokens per second of generation beside transformers' `generate`.

    python experiments/speed/generation.py [--threads 1] [--rounds 5] [--tokens 64]
        [--batches 1 32] [--shape small]

Same weights, same prompt, greedy, with key/value caches. The model has random weights, is exported
by minigpt.export and loaded by transformers from that folder. The programs run in turn, in
alternating order; rates are medians over the rounds, ratios medians of the rounds' own ratios. Both
generate exactly --tokens tokens after a prompt of 32; the clock covers the prompt, as a user would
see it. The table goes into the README beside this file, one for each number of threads.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, cast

import torch
from in_readme import put
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from minigpt.config.build import build
from minigpt.generate import hugging_face, sampling
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

ROOT = Path(__file__).parent.parent.parent
VOCAB_SIZE, PROMPT = 20_000, 32
GOAL = {1: "3"}


class Ids:
    """All that the export asks of a tokenizer."""

    end_of_text = VOCAB_SIZE - 1

    def save(self, folder: Path) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--shape", default="small")
    parser.add_argument(
        "--processor-time", action="store_true", help="for one thread on a busy machine"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor_time else time.perf_counter
    files = [ROOT / f"conf/model/{name}.yaml" for name in ("_base", options.shape)]
    merged = OmegaConf.merge(*map(OmegaConf.load, files))
    shape = cast(dict[str, Any], OmegaConf.to_container(merged))
    model = build(shape, VOCAB_SIZE, drop=("defaults",))
    model.init_weights(generator(0, "init"))
    lines = [
        "| precision | batch | transformers, tokens/s | minigpt | ratio (quartiles) | goal |",
        "|---" * 6 + "|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        hugging_face.to_hugging_face(model, Ids(), Path(folder) / "model")
        for dtype in (torch.float32, torch.bfloat16):
            reference = AutoModelForCausalLM.from_pretrained(
                Path(folder) / "model", dtype=dtype
            ).eval()
            ours = model.to(dtype).eval()
            for batch in options.batches:
                rates = pairs(ours, reference, batch, options.tokens, options.rounds, clock)
                ratios = [a / b for a, b in rates]
                low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (*ratios, 0, *ratios)
                mine, theirs = (median(rate) for rate in zip(*rates, strict=True))
                line = (
                    f"| {str(dtype)[6:]} | {batch} | {theirs:.0f} | {mine:.0f} "
                    f"| {median(ratios):.2f} ({low:.2f} to {high:.2f}) "
                    f"| {GOAL.get(batch, 'report')} |"
                )
                print(line, flush=True)
                lines.append(line)
    put(f"generation, {options.threads} threads", "\n".join(lines))


def pairs(
    ours: Transformer, reference: torch.nn.Module, batch: int, n_tokens: int, rounds: int,
    clock: Callable[[], float],
) -> list[tuple[float, float]]:  # fmt: skip
    """Tokens per second (ours, theirs) of each round, the first of them taking turns."""
    prompt = torch.randint(VOCAB_SIZE - 1, (PROMPT,), generator=generator(0, "data")).tolist()
    greedy = sampling.Sampling(max_new_tokens=n_tokens, temperature=0.0, num_samples=batch)

    def minigpt() -> float:
        begin = clock()
        steps = list(sampling.generate(ours, prompt, greedy, generator(0, "sampling")))
        assert len(steps) == n_tokens
        return batch * n_tokens / (clock() - begin)

    def transformers() -> float:
        ids = torch.tensor([prompt] * batch)
        begin = clock()
        with torch.inference_mode():
            out = reference.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
                pad_token_id=0, min_new_tokens=n_tokens, max_new_tokens=n_tokens,
            )  # fmt: skip
        assert out.shape == (batch, PROMPT + n_tokens)
        return batch * n_tokens / (clock() - begin)

    minigpt(), transformers()  # warm
    found = []
    for index in range(rounds):
        if index % 2:
            theirs, mine = transformers(), minigpt()
        else:
            mine, theirs = minigpt(), transformers()
        found.append((mine, theirs))
    return found


if __name__ == "__main__":
    main()
