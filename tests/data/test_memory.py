"""Fault 36: a document of 200 MB is prepared, and read again, in bounded memory."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from minigpt.data.files import Files
from minigpt.data.prepare import prepare
from minigpt.data.windows import TrainWindows, validation_batches
from minigpt.tokenizer.byte import Byte

def peak_mb():
    # Of this program; getrusage would count the test process that it was forked from, too.
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

before = peak_mb()
options = {"val_fraction": 0.01, "workers": 2}
tokens = prepare(Files(sys.argv[1]), Byte(), sys.argv[2], **options)
assert tokens.train.n_tokens + tokens.val.n_tokens > 200_000_000
windows = TrainWindows(tokens.train, 512, seed=0)
for step in range(300):
    windows.batch(step, 64)
for _ in validation_batches(tokens.val, 512, 64):
    pass
print(peak_mb() - before)
"""


@pytest.mark.faults(36)
def test_a_document_of_200_mb(tmp_path: Path) -> None:
    line = ("To be, or not to be: that is the question, " * 24 + "\n").encode()
    with open(tmp_path / "big.txt", "wb") as file:
        for _ in range(200):
            file.write(line * 1000)
    assert (tmp_path / "big.txt").stat().st_size > 200_000_000
    command = [sys.executable, "-c", CODE, str(tmp_path / "big.txt"), str(tmp_path / "tokens")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 100  # measured: 40 MB
