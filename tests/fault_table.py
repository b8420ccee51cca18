"""The faults that minigpt survives, and the table of them that `pytest -m faults` prints."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

TITLES = {
    1: "kill -9 at every file operation of a save",
    2: "kill -9 at random moments, several per run",
    3: "kill -9 while pruning",
    4: "kill -9 before the first checkpoint is complete",
    5: "SIGTERM in the middle of accumulation",
    6: "SIGTERM while saving, evaluating, generating, preparing data",
    7: "a second signal during the save",
    8: "SIGINT, SIGUSR1, SIGHUP; in a multirun",
    9: "exception in the middle of a step",
    10: "resume at every edge, of a resume, of a finished run",
    11: "owner killed: a new run starts at once",
    12: "disk full during a save",
    13: "disk full for metrics and log",
    14: "output folder read-only, a file, too long, odd names",
    15: "two runs on one folder",
    16: "stale or copied lock",
    17: "clock jumps, equal or old mtimes",
    18: "leftovers: temporary folders, step 9 and step 10, .bak",
    19: "run folder moved, copied, read-only for generate",
    20: "checkpoint truncated, zeros, text",
    21: "one flipped bit in a checkpoint",
    22: "every checkpoint damaged",
    23: "foreign file, another schema version",
    24: "malicious pickle under our file name",
    25: "model configuration differs",
    26: "parameter order or role split changed",
    27: "code, tokens or hardware path changed",
    28: "saved with compile on, loaded without, and the reverse",
    29: "saved on CUDA, loaded on CPU",
    30: "optimizer, lr, batch or schedule changed: another run",
    31: "shard missing, empty, odd, truncated, wrong header",
    32: "shard truncated or replaced while training",
    33: "token id outside the vocabulary, another tokenizer",
    34: "corpus too short, one document, empty validation",
    35: "shards added, removed, reordered before a resume",
    36: "odd documents: empty, NUL, invalid UTF-8, huge, null",
    37: "a literal end-of-text marker inside text",
    38: "preprocessing killed at every file operation",
    39: "worker counts, two preprocessors, a dead worker",
    40: "network drop, 429, truncated download, hub offline",
    41: "typo, wrong type, missing value",
    42: "values out of range",
    43: "keys that do not fit each other",
    44: "device, precision or compile that does not exist",
    45: "sweep: a job fails; sweep repeated; job alone = job in a sweep",
    46: "NaN or Inf in loss or gradient",
    47: "fp16 overflow in one of two optimizers",
    48: "loss spike, zero gradients, all targets ignored",
    49: "wandb missing, no key, unreachable, dies, hangs; torn row; memory",
    50: "generate: odd prompts and arguments, closed stdout, control bytes",
    51: "terminal or reader of the log gone, full or hanging; nohup",
}
NOT_COVERED = {
    28: "needs a C++ compiler",
    29: "needs a CUDA device (pytest -m gpu)",
}


class Tries:
    """How often a test tried each of its faults, and how often that was survived."""

    def __init__(self, faults: Iterable[int]) -> None:
        self.counts = {fault: [0, 0] for fault in faults}

    @contextmanager
    def one(self, *faults: int) -> Iterator[None]:
        """One try of these faults (none given: of all of the test's), survived unless it raises."""
        counted = [self.counts[fault] for fault in faults or self.counts]
        for count in counted:
            count[0] += 1
        yield
        for count in counted:
            count[1] += 1

    def result(self, passed: bool) -> dict[int, list[int]]:
        """Tries and survivals of each fault; a test that counted none counts as one."""
        return {
            fault: count if count[0] else [1, int(passed)] for fault, count in self.counts.items()
        }


def table(results: Iterable[dict[int, list[int]]]) -> list[str]:
    """A line for each fault: number, what, tries, survived."""
    totals: dict[int, list[int]] = {}
    for result in results:
        for fault, (tried, survived) in result.items():
            total = totals.setdefault(fault, [0, 0])
            total[0] += tried
            total[1] += survived
    width = max(map(len, TITLES.values()))
    lines = [f"{'':>4}  {'fault':<{width}}  {'tries':>6}  {'survived':>8}"]
    for fault, title in TITLES.items():
        if fault in totals:
            tried, survived = totals[fault]
            note = "" if tried == survived else "  FAILED"
            lines.append(f"{fault:>4}  {title:<{width}}  {tried:>6}  {survived:>8}{note}")
        else:
            why = NOT_COVERED.get(fault, "not in this selection")
            lines.append(f"{fault:>4}  {title:<{width}}  not tried: {why}")
    tried, survived = (sum(total[column] for total in totals.values()) for column in (0, 1))
    all_of_them = f"{len(totals)} of {len(TITLES)} faults"
    return [*lines, f"{'':>4}  {all_of_them:<{width}}  {tried:>6}  {survived:>8}"]
