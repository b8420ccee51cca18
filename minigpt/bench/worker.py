"""A process that measures one model and says what it found, a JSON object a line: {"say": ...} or
{"result": ...}.

A process of its own, so that peak memory is the model's and running out of it ends no more than
this measurement.
"""

import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from minigpt.bench.model import Model, StepTime, available_memory, peak_memory
from minigpt.cli import process
from minigpt.config import identity, schema
from minigpt.errors import MinigptError
from minigpt.terminal import gib
from minigpt.train.training import DEFAULT_THREADS, SEVERAL_THREADS_FROM_D_MODEL

TOKENS = 1024  # of the smallest micro-batch tried, or one sequence
SLICE_S = 0.3  # a round of a quick model has as many steps as fit
ROUNDS = 7
MUCH_SLOWER = 1.5  # a candidate is dropped after its first round
AS_GOOD = 1.03  # the smallest micro-batch within 3 % of the fastest is advised
ROOM = 0.8  # share of the free memory that a micro-batch may be estimated to need


@dataclass(frozen=True)
class Job:
    """What to measure. rates: "bf16 2" -> FLOP/s of matrix products. seconds: from the start of the
    process.
    """

    overrides: list[str]
    rates: dict[str, float]
    seconds: float
    started: float
    compile: bool = False  # compare compiled steps with eager ones, and nothing else


class Worker:
    """The stages of a measurement, each bounded by the time that is left."""

    def __init__(self, job: Job) -> None:
        self.job, self.deadline = (
            job,
            time.perf_counter() + job.seconds - (time.time() - job.started),
        )
        self.model = Model(job.overrides)
        cfg, m = self.model.config["train"], self.model
        auto_wide = identity.argument(m.config["model"], "d_model") >= SEVERAL_THREADS_FROM_D_MODEL
        self.result: dict[str, Any] = {
            "parameters": m.parameters,
            "seq_len": m.seq_len,
            "batch_size": m.batch_size,
            "flops_per_token": m.flops_per_token,
            "device": m.chosen.device,
            "auto": {
                "precision": m.chosen.precision,
                "threads": DEFAULT_THREADS if auto_wide else 1,
                "compile": m.chosen.compile,
            },
        }
        asked = cfg["precision"], cfg["threads"]
        pairs = [
            (key.split()[0], int(key.split()[1]))
            for key in sorted(job.rates, key=lambda k: -job.rates[k])
        ]
        self.candidates = [
            pair
            for pair in pairs
            if asked[0] in ("auto", pair[0])
            and (asked[1] in (None, pair[1]) or m.chosen.device != "cpu")
        ] or [(m.chosen.precision, asked[1] or torch.get_num_threads())]
        sizes = [n for n in range(1, m.batch_size + 1) if m.batch_size % n == 0]
        first = max(n for n in sizes if n == 1 or n * m.seq_len <= TOKENS)
        self.sizes = (
            [cfg["micro_batch_size"]]
            if cfg["micro_batch_size"]
            else [n for n in sizes if n >= first][:4]
        )

    def left(self) -> float:
        return self.deadline - time.perf_counter()

    def past(self) -> bool:
        return self.left() < 0

    def predicted(self, pair: tuple[str, int], micro_batch: int) -> float:
        """Seconds of a step if everything ran at the rate of matrix products: never reached."""
        best = max(self.job.rates.values(), default=1e12)
        return self.model.step_flops(micro_batch) / self.job.rates.get(f"{pair[0]} {pair[1]}", best)

    def step(
        self, pair: tuple[str, int], micro_batch: int, seconds: float, compile: bool = False
    ) -> list[StepTime]:
        """As many steps as `seconds` hold, one at least."""
        if self.model.chosen.device == "cpu":
            torch.set_num_threads(pair[1])
        chosen = self.model.with_format(pair[0], compile)
        # A GPU's clocks are not the loop's: there a whole step is measured, not composed from its
        # parts.
        micro_batches = 1 if chosen.device == "cpu" else self.model.batch_size // micro_batch
        end = time.perf_counter() + seconds
        past = lambda: time.perf_counter() > end or self.past()
        return self.model.steps(chosen, micro_batch, 10_000, micro_batches, past)

    def seconds_of(self, times: list[StepTime], micro_batch: int) -> float:
        """The median seconds of an optimizer step of the whole batch."""
        return median(t.of_batch(self.model.batch_size // micro_batch) for t in times)

    def run(self) -> None:
        """Micro-batches with the format that multiplies fastest, then formats and threads, then
        generation.
        """
        pair, size = self.candidates[0], self.sizes[0]
        if 1.3 * self.predicted(pair, size) > self.left():
            self.result["skipped"] = (
                f"a step would take more than {self.predicted(pair, size):.0f} s"
            )
            return self.tell()
        by_size = self.micro_batches(pair)
        if not by_size:
            self.result["skipped"] = "no room in memory for a sequence"
            return self.tell()
        fastest = min(self.seconds_of(times, size) for size, times in by_size.items())
        size = min(n for n in by_size if self.seconds_of(by_size[n], n) <= AS_GOOD * fastest)
        self.conclude(pair, size, {pair: [self.seconds_of(by_size[size], size)]}, by_size[size])
        rounds, times = self.formats(size)
        best = min(rounds, key=lambda p: median(rounds[p]))
        if best != pair:
            self.result["memory"] = peak_memory(self.model.chosen.device)
        self.conclude(best, size, rounds, times[best])
        return self.generation()

    def micro_batches(self, pair: tuple[str, int]) -> dict[int, list[StepTime]]:
        """Rising sizes, so that the process's peak memory after each is its own; as far as memory
        and time reach.
        """
        share, found = 0.4 * self.left(), dict[int, list[StepTime]]()
        self.result["micro_batches"] = {}
        end = time.perf_counter() + share
        device, room = self.model.chosen.device, ROOM * available_memory(self.model.chosen.device)
        for size in self.sizes:
            needed = self.model.memory(size, self.model.with_format(pair[0]))
            last = found[max(found)][-1].total if found else 0.0
            # The next size takes twice as long at most, and comes twice: cold and warm.
            if needed.work + needed.state > room or 4 * last > end - time.perf_counter():
                break
            warm = self.step(pair, size, 0.0)
            quick = 2 * warm[0].total < self.left()
            found[size] = (self.step(pair, size, max(SLICE_S, share / 12)) if quick else []) or warm
            peak = peak_memory(device)
            self.result["memory"] = self.result.get("memory", peak)
            seconds = self.seconds_of(found[size], size)
            rate = self.model.batch_size * self.model.seq_len / seconds
            self.result["micro_batches"][size] = {
                "tokens_per_s": rate, "memory": peak, "memory_estimated": needed.total
            }  # fmt: skip
            say(
                f"{pair[0]}, {threads(pair[1])}, micro-batch {size}: {rate:,.0f} tokens/s, {gib(peak)}"
            )
        return found

    def formats(
        self, size: int
    ) -> tuple[dict[tuple[str, int], list[float]], dict[tuple[str, int], list[StepTime]]]:
        """Seconds of a step of the batch for formats and threads, in rounds that take turns."""
        rounds: dict[tuple[str, int], list[float]] = defaultdict(list)
        times: dict[tuple[str, int], list[StepTime]] = defaultdict(list)
        end = time.perf_counter() + 0.75 * self.left()
        live = list(self.candidates)
        for number in range(ROUNDS):
            for pair in list(live):
                expected = (
                    times[pair][-1].total if times[pair] else 1.5 * self.predicted(pair, size)
                )
                if rounds and expected * (2 if number == 0 else 1) > end - time.perf_counter():
                    if number == 0:
                        live.remove(pair)
                    continue
                if number == 0 and 2 * expected < end - time.perf_counter():
                    self.step(pair, size, 0.0)  # warm
                seen = self.step(pair, size, SLICE_S)
                times[pair] += seen
                rounds[pair].append(self.seconds_of(seen, size))
            if number == 0:
                best = min(values[0] for values in rounds.values())
                for pair, values in rounds.items():
                    rate = self.model.batch_size * self.model.seq_len / values[0]
                    say(f"{pair[0]}, {threads(pair[1])}, micro-batch {size}: {rate:,.0f} tokens/s")
                live = [pair for pair in live if rounds[pair][0] < MUCH_SLOWER * best]
        return dict(rounds), dict(times)

    def conclude(
        self,
        best: tuple[str, int],
        size: int,
        rounds: dict[tuple[str, int], list[float]],
        times: list[StepTime],
    ) -> None:
        """The figures so far, told at once: a process that is killed later has said what it
        knew.
        """
        tokens = self.model.batch_size * self.model.seq_len
        seconds = rounds[best]
        middle = median(seconds)
        step = median(t.total for t in times)
        self.result |= {
            "precision": best[0],
            "threads": best[1],
            "micro_batch_size": size,
            "memory": self.result["micro_batches"]
            .get(size, {})
            .get("memory", self.result["memory"]),
            "step_s": middle,
            "tokens_per_s": tokens / middle,
            "rounds": len(seconds),
            "spread": (max(seconds) - min(seconds)) / middle,
            "optimizer_share": median(t.optimizer for t in times) / self.seconds_of(times, size),
            "loop_share": median(t.total - t.data - t.forward_backward - t.optimizer for t in times)
            / step,
            "formats": {
                f"{precision} {count}": tokens / median(values)
                for (precision, count), values in rounds.items()
            },
        }
        self.tell()

    def generation(self) -> None:
        """One text at a time, in each format; bf16 last, since the weights are cast in place."""
        self.result["generation"] = {}
        formats = [p for p in ("fp32", "bf16") if any(p == pair[0] for pair in self.candidates)]
        if self.model.chosen.device == "cpu":
            torch.set_num_threads(self.result["threads"])
        for precision in formats:
            if self.left() < 1 and self.result["generation"]:
                break
            rate = self.model.generation(precision, max(0.3, min(2.0, self.left() / 3)))
            self.result["generation"][precision] = rate
            say(f"generation, {precision}: {rate:,.0f} tokens/s")
        self.tell()

    def run_compiled(self, pair: tuple[str, int], size: int) -> None:
        """Compiled against eager steps in turn, after what compiling costs."""
        self.step(pair, size, 0.0)
        begin = time.perf_counter()
        self.step(pair, size, 0.0, compile=True)
        self.result["compile_s"] = time.perf_counter() - begin
        say(f"compiled in {self.result['compile_s']:.0f} s")
        rounds: dict[bool, list[float]] = {False: [], True: []}
        for number in range(ROUNDS):
            for compile in (False, True):
                if number and self.past():
                    break
                rounds[compile].append(
                    self.seconds_of(self.step(pair, size, SLICE_S, compile), size)
                )
        self.result["compile_speedup"] = median(rounds[False]) / median(rounds[True])
        self.tell()

    def tell(self) -> None:
        print(json.dumps({"result": self.result}), flush=True)


def threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def say(text: str) -> None:
    print(json.dumps({"say": text}), flush=True)


def main() -> int:
    """Read a job from the command line; exit code of the error, if any."""
    schema.register()
    process.register_resolvers()
    try:
        job = Job(**json.loads(sys.argv[1]))
        worker = Worker(job)
        if job.compile:
            worker.run_compiled(worker.candidates[0], worker.sizes[0])
        else:
            worker.run()
    except MinigptError as error:
        print(json.dumps({"error": list(error.problems), "code": error.exit_code}), flush=True)
        return error.exit_code
    except torch.OutOfMemoryError:
        say("out of memory")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
