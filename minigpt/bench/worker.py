"""The process that measures one model."""

import json
import sys
import time
import traceback
from statistics import median
from typing import Any

import torch

from minigpt.bench.machine import available_memory, forget_peak, peak_memory
from minigpt.bench.model import Model, StepTime
from minigpt.cli import process
from minigpt.errors import MinigptError
from minigpt.terminal import count, gib
from minigpt.train.training import DEFAULT_THREADS

TOKENS = 1024  # of the smallest micro-batch tried, or one sequence
SLICE_S = 0.3  # a round of a quick model has as many steps as fit
ROUNDS = 7  # after one that warms up
MUCH_SLOWER = 1.5  # a candidate is dropped after its first round
AS_GOOD = 1.03  # the smallest micro-batch within 3 % of the fastest is advised
ROOM = 0.8  # share of the free memory that a micro-batch may be estimated to need

Path = tuple[str, int, bool]  # number format, threads, compiled


class Worker:
    """The stages of a measurement, each bounded by the time that is left.

    candidates: formats and threads, the fastest at matrix products first.
    deadline: by time.time(), of all but compiling, which has `compile_seconds` after it.
    rival: measure transformers' Llama in that shape instead; generate: also how fast it writes.
    """

    def __init__(
        self, name: str, overrides: list[str], candidates: list[tuple[str, int]], deadline: float,
        compile_seconds: float, rival: bool = False, generate: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.deadline, self.compile_seconds = name, deadline, compile_seconds
        self.generate = generate
        self.candidates: list[Path] = [(precision, n, False) for precision, n in candidates]
        self.model = model = Model(overrides, rival)
        self.result: dict[str, Any] = {
            "parameters": model.parameters,
            "seq_len": model.seq_len,
            "batch_size": model.batch_size,
            "flops_per_token": model.flops_per_token,
            "device": model.chosen.device,
            "auto": {
                "precision": model.chosen.precision,
                "threads": model.plan.threads(DEFAULT_THREADS),
            },
        }
        self.tell()

    def run(self) -> None:
        """Micro-batches with the first candidate, then all candidates, generation, compiling."""
        path = self.candidates[0]
        by_size = self.micro_batches(path)
        if not by_size:
            self.result["skipped"] = "no room in memory for a sequence"
            return self.tell()
        seconds = {size: self.seconds_of(times, size) for size, times in by_size.items()}
        size = min(n for n in seconds if seconds[n] <= AS_GOOD * min(seconds.values()))
        self.conclude(path, size, {path: [by_size[size]]})
        rounds = self.rounds(size, self.candidates, 0.75 * self.left())
        best = min(rounds, key=lambda path: self.middle(rounds[path], size))
        self.conclude(best, size, rounds)
        if self.generate:
            self.generation()
        if self.compile_seconds:
            self.compare_compiled(best, size)
        return None

    def left(self) -> float:
        return self.deadline - time.time()

    def step(self, path: Path, micro_batch: int, seconds: float) -> list[StepTime]:
        """As many steps as `seconds` hold, one at least."""
        on_cpu = self.model.chosen.device == "cpu"
        if on_cpu:
            torch.set_num_threads(path[1])
        # Where the device runs behind the host a whole batch is measured, not put together.
        micro_batches = 1 if on_cpu else self.model.batch_size // micro_batch
        end = min(time.time() + seconds, self.deadline)
        chosen = self.model.with_format(path[0], path[2])
        past = lambda: time.time() > end
        return self.model.steps(chosen, micro_batch, 10_000, micro_batches, past)

    def seconds_of(self, times: list[StepTime], micro_batch: int) -> float:
        """The median seconds of an optimizer step of the whole batch."""
        return median(t.of_batch(self.model.batch_size // micro_batch) for t in times)

    def middle(self, rounds: list[list[StepTime]], micro_batch: int) -> float:
        """The median of that over rounds."""
        return median(self.seconds_of(times, micro_batch) for times in rounds)

    def sizes(self) -> list[int]:
        """The micro-batches to try: as asked, else four that divide the batch.

        A GPU is slow at small ones: there the two largest that are estimated to fit.
        """
        model = self.model
        if asked := model.config["train"]["micro_batch_size"]:
            return [asked]
        sizes = [n for n in range(1, model.batch_size + 1) if model.batch_size % n == 0]
        if model.chosen.device == "cuda":
            return [n for n in sizes if n == 1 or self.fits(n)][-2:]
        first = max(n for n in sizes if n == 1 or n * model.seq_len <= TOKENS)
        return [n for n in sizes if n >= first][:4]

    def fits(self, size: int) -> bool:
        """Whether a micro-batch is estimated to have room."""
        needed = self.model.memory(size, self.model.with_format(self.candidates[0][0]))
        return needed.work + needed.state <= ROOM * available_memory(self.model.chosen.device)

    def micro_batches(self, path: Path) -> dict[int, list[StepTime]]:
        """Rising sizes, so that the peak memory after each is its own; as memory and time allow."""
        device, chosen = self.model.chosen.device, self.model.with_format(path[0])
        share = 0.4 * self.left()
        end = time.time() + share
        found: dict[int, list[StepTime]] = {}
        figures = self.result["micro_batches"] = {}
        for size in self.sizes():
            needed = self.model.memory(size, chosen)
            last = found[max(found)][-1].total if found else 0.0
            # The next size takes twice as long at most, and comes twice: cold and warm.
            if not self.fits(size) or (found and 4 * last > end - time.time()):
                break
            try:
                times = self.step(path, size, 0.0)
                if 2 * times[0].total < self.left():
                    times = self.step(path, size, max(SLICE_S, share / 12))
            except torch.OutOfMemoryError:  # a rival needs more than is estimated
                self.say(f"micro-batch {size} is out of memory")
                break
            found[size] = times
            figures[size] = {
                "tokens_per_s": self.say_rate(path, size, found[size]),
                "memory": peak_memory(device),
                # the allocator of a GPU knows nothing of what the program takes
                "memory_estimated": needed.total - (needed.program if device == "cuda" else 0),
            }
        return found

    def rounds(
        self, size: int, paths: list[Path], seconds: float
    ) -> dict[Path, list[list[StepTime]]]:
        """Steps of each path in rounds that take turns, so that other work hits all alike."""
        end = time.time() + seconds
        rounds: dict[Path, list[list[StepTime]]] = {}
        live, slowest = list(paths), 0.0
        for number in range(1 + ROUNDS):
            for path in list(live):
                # Those that were not yet seen multiply more slowly.
                expected = rounds[path][-1][-1].total if path in rounds else 2 * slowest
                if rounds and time.time() + expected > end:
                    continue
                seen = self.step(path, size, SLICE_S if number else 0.0)
                slowest = max(slowest, seen[-1].total)
                rounds.setdefault(path, []).append(seen)
            if number == 1:
                latest = {path: self.say_rate(path, size, rounds[path][-1]) for path in rounds}
                fastest = max(latest.values())
                live = [path for path in rounds if MUCH_SLOWER * latest[path] > fastest]
        return {path: seen[1:] or seen for path, seen in rounds.items()}

    def conclude(self, best: Path, size: int, rounds: dict[Path, list[list[StepTime]]]) -> None:
        """Tell the figures so far, for the case that time runs out later."""
        tokens = self.model.batch_size * self.model.seq_len
        seconds = {path: [self.seconds_of(r, size) for r in seen] for path, seen in rounds.items()}
        middle = median(seconds[best])
        optimizer = median(t.optimizer for r in rounds[best] for t in r)
        self.result |= {
            "precision": best[0],
            "threads": best[1],
            "micro_batch_size": size,
            "memory": self.result["micro_batches"][size]["memory"],
            "step_s": middle,
            "tokens_per_s": tokens / middle,
            "rounds": len(seconds[best]),
            "spread": (max(seconds[best]) - min(seconds[best])) / middle,
            "optimizer_share": optimizer / middle,
            "formats": {
                f"{precision} {threads}": tokens / median(values)
                for (precision, threads, _), values in seconds.items()
            },
        }
        self.tell()

    def compare_compiled(self, path: Path, size: int) -> None:
        """Compiled against eager steps in turn, after what compiling costs."""
        self.deadline += self.compile_seconds
        compiled, begin = (*path[:2], True), time.time()
        self.step(compiled, size, 0.0)
        self.result["compile_s"] = time.time() - begin
        self.say(f"compiled in {self.result['compile_s']:.0f} s")
        forget_peak(self.model.chosen.device)
        rate = self.say_rate(compiled, size, self.step(compiled, size, 0.0))
        memory = peak_memory(self.model.chosen.device)
        self.result["compiled"] = {"tokens_per_s": rate, "memory": memory}
        self.tell()
        rounds = self.rounds(size, [path, compiled], self.left())
        if rounds.keys() == {path, compiled}:
            seconds = self.middle(rounds[compiled], size)
            tokens = self.model.batch_size * self.model.seq_len
            self.result["compiled"]["tokens_per_s"] = tokens / seconds
            self.result["compile_speedup"] = self.middle(rounds[path], size) / seconds
        self.tell()

    def generation(self) -> None:
        """One text at a time, in each format."""
        if self.model.chosen.device == "cpu":
            torch.set_num_threads(self.result["threads"])
        known = {path[0] for path in self.candidates}
        self.result["generation"] = {}
        for precision in [p for p in ("fp32", "bf16") if p in known]:
            rate = self.model.generation(precision, max(0.3, min(2.0, self.left() / 3)))
            self.result["generation"][precision] = rate
            self.say(f"generation, {precision}: {rate:,.0f} tokens/s")
            self.tell()

    def say_rate(self, path: Path, size: int, times: list[StepTime]) -> float:
        """Tokens per second, also said."""
        rate = self.model.batch_size * self.model.seq_len / self.seconds_of(times, size)
        setting = f"{path[0]}, {count(path[1], 'thread')}, micro-batch {size}"
        setting += ", compiled" * path[2]
        peak = gib(peak_memory(self.model.chosen.device))
        self.say(f"{setting}: {rate:,.0f} tokens/s, {peak}")
        return rate

    def say(self, text: str) -> None:
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def tell(self) -> None:
        print(json.dumps(self.result), flush=True)


def main() -> int:
    """Read a job from the command line; exit code of the error, if any."""
    process.set_up_composing()
    known: dict[str, Any] = {}
    try:
        worker = Worker(**json.loads(sys.argv[1]))
        known = worker.result
        worker.run()
    except MinigptError as error:
        print(json.dumps({"error": list(error.problems)}), flush=True)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        print(json.dumps(known | {"stopped": why}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
