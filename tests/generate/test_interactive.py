"""interactive=true, from a pipe and at a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT


@pytest.mark.faults(19)
def test_prompts_come_from_a_pipe_as_they_are_typed(trained: Path) -> None:
    """The next one is sent when the text of the one before has come; SIGINT ends it in one line."""
    command = [sys.executable, "generate.py", "interactive=true", "max_new_tokens=4", "stop=\n"]
    with subprocess.Popen(
        [*command, f"output_dir={trained / 'outputs'}"], cwd=ROOT, text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        assert process.stderr
        texts = []
        for prompt in ("To be", "O, Romeo", "\nO, Romeo"):
            process.stdin.write(f"{prompt}\n")
            if texts:
                assert process.stdout.readline() == "---\n"
            texts.append(process.stdout.readline())
            assert texts[-1].startswith(prompt.strip())
        assert texts[1] != texts[2], "the same prompt goes on otherwise"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        err = process.stderr.read()
        assert err.splitlines()[1:] == ["error: stopped by SIGINT: prompts that nobody types"]


class Terminal:
    """generate.py at a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "generate.py"), "interactive=true", *arguments]
        self.said = b""
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            os.execve(sys.executable, command, os.environ | {"TERM": "dumb"})

    def wait_for(self, text: str, times: int) -> None:
        while self.said.count(text.encode()) < times:
            assert select.select([self.terminal], [], [], 20)[0], self.said
            self.said += os.read(self.terminal, 4096)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def exit_code(self) -> int:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        finally:
            os.close(self.terminal)


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["\x04", "\x03"], ids=["Ctrl-D", "Ctrl-C"])
def test_a_terminal_has_a_history_a_way_to_cut_and_two_to_leave(trained: Path, leave: str) -> None:
    endless = ["max_new_tokens=1000000", "top_k=1", f"output_dir={trained / 'outputs'}"]
    terminal = Terminal(*endless)
    terminal.wait_for("\n> ", 1)
    terminal.type("café\n")
    terminal.wait_for("café", 2)  # echoed, then continued
    terminal.type("\x03")
    terminal.wait_for("\n> ", 2)
    terminal.type("\x1b[A\n")  # the line before
    terminal.wait_for("café", 4)
    terminal.type("\x03")
    terminal.wait_for("\n> ", 3)
    terminal.type(leave)
    assert terminal.exit_code() == 0
    assert b"Traceback" not in terminal.said
