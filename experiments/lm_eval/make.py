"""Write data/: the beginnings of the three held-out plays, and lines to choose from.

python experiments/lm_eval/make.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.shakespeare import Shakespeare

DATA = Path(__file__).parent / "data"
HELD_OUT = ["the-comedy-of-errors", "king-john", "timon-of-athens"]  # conf/data/shakespeare.yaml
CHARACTERS, BEFORE, QUESTIONS = 10_000, 6, 40  # of a play; lines of context; of a play


def is_speech(line: str) -> bool:
    """No speaker's name, no stage direction, and long enough to say something."""
    return len(line) > 25 and not line.endswith(":") and not line.startswith(("Enter", "Ex", "["))


def questions(text: str, random: np.random.Generator) -> list[dict[str, Any]]:
    """Which of four lines of the play comes next?"""
    lines = text.split("\n")
    places = [i for i, line in enumerate(lines) if i > BEFORE and is_speech(line)]
    found = []
    for i in sorted(random.choice(places, QUESTIONS, replace=False).tolist()):
        others = random.choice([j for j in places if lines[j] != lines[i]], 3, replace=False)
        answer = int(random.integers(4))
        choices = [lines[j] for j in others]
        choices.insert(answer, lines[i])
        query = "\n".join(lines[i - BEFORE : i])
        found.append({"query": query, "choices": choices, "answer": answer})
    return found


def write(name: str, rows: list[dict[str, Any]]) -> None:
    (DATA / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    plays = [str(d.text) for d in Shakespeare(HELD_OUT).documents() if d.split == "val"]
    random = np.random.default_rng(0)
    begins = [play[: play.rindex("\n\n", 0, CHARACTERS)] for play in plays]
    write("plays.jsonl", [{"text": begin} for begin in begins])
    write("next_line.jsonl", [row for play in plays for row in questions(play, random)])


if __name__ == "__main__":
    main()
