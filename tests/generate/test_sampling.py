"""Choices from logits by hand, generation against full forward passes, text as it comes."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from minigpt.errors import ConfigError, NumericsError
from minigpt.generate.sampling import (
    NGrams,
    Sampling,
    TextStream,
    candidates,
    choose,
    encode_prompt,
    generate,
    penalise,
    sample_text,
)
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

V = 40
GREEDY = Sampling(temperature=0, max_new_tokens=30)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.set_num_threads(1)
    model = Transformer(V, n_layers=2, d_model=32, n_heads=4, max_seq_len=16, dropout=0.5)
    model.init_weights(generator(0, "init"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 8 if parameter.ndim > 1 else 1
    return model


class Letters:
    """A tokenizer of 40 bytes, of which the last id is the end of a text."""

    end_of_text = V - 1

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 64 for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i + 64) for i in ids if i != self.end_of_text)


LOGITS = torch.tensor([[0.5, 0.1, 0.25, 0.15]]).log()


def chances(*arguments: float | int | None) -> list[float]:
    p, ids = candidates(LOGITS, *arguments)
    full = torch.zeros(4, dtype=torch.float64).index_add(0, ids[0], p[0] / p.sum())
    return pytest.approx(full.tolist(), abs=1e-6)


def test_candidates_by_hand() -> None:
    assert chances(1.0, None, None) == [0.5, 0.1, 0.25, 0.15]
    assert chances(1.0, 2, None) == [2 / 3, 0, 1 / 3, 0]
    assert chances(1.0, 99, None) == [0.5, 0.1, 0.25, 0.15]
    assert chances(1.0, None, 0.5) == [1, 0, 0, 0]
    assert chances(1.0, None, 0.51) == [2 / 3, 0, 1 / 3, 0]
    assert chances(1.0, None, 1.0) == [0.5, 0.1, 0.25, 0.15]
    assert chances(1.0, None, 1e-9) == [1, 0, 0, 0]
    assert chances(1.0, 2, 0.6) == [1, 0, 0, 0]  # 0.5 of the 0.75 left is enough
    squares = [0.25, 0.01, 0.0625, 0.0225]
    assert [x / sum(squares) for x in squares] == chances(0.5, None, None)
    assert chances(1e-300, None, None) == [1, 0, 0, 0]
    assert chances(1e30, None, None) == [0.25] * 4


@pytest.mark.faults(50)
def test_top_k_keeps_k_of_equal_logits() -> None:
    p, ids = candidates(torch.zeros(1, 8), 1.0, 3, None)
    assert p.shape == ids.shape == (1, 3)


def test_draws_follow_the_probabilities() -> None:
    draw = generator(0, "sampling")
    rows = LOGITS.expand(20_000, -1)
    counts = Counter(choose(rows, Sampling(), draw))
    for token, p in enumerate([0.5, 0.1, 0.25, 0.15]):
        assert counts[token] / 20_000 == pytest.approx(p, abs=0.015)  # 4 standard deviations
    assert choose(LOGITS, Sampling(temperature=0), draw) == [0]


@pytest.mark.parametrize("row", [[math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_logits_of_a_broken_model_are_refused(row: list[float]) -> None:
    with pytest.raises(NumericsError, match="diverged"):
        choose(torch.tensor([[0.0, 1.0], row]), Sampling(), generator(0, "sampling"))


def test_penalty_by_hand() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0])
    assert penalise(logits, {0, 2}, 1.5).tolist() == [-0.5, 2.0, 1.5]
    assert penalise(logits, {2}, math.inf).tolist() == [1.0, 2.0, -math.inf]
    # nothing would be left
    assert penalise(logits, {0, 1, 2}, math.inf).tolist() == [1.0, 2.0, 3.0]
    assert logits.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ngrams_against_brute_force(size: int) -> None:
    text = torch.randint(3, (60,), generator=generator(size, "data")).tolist()
    ngrams = NGrams(size)
    for end, token in enumerate(text):
        seen = {tuple(text[i : i + size]) for i in range(end - size + 1)}
        tail = tuple(text[max(0, end - size + 1) : end]) if size > 1 else ()
        assert ngrams.completions() == {t for t in range(3) if (*tail, t) in seen}
        ngrams.add(token)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_banned_ngram_never_returns(size: int) -> None:
    """A model that sees the last token only runs in circles, unless that is banned."""
    model = Transformer(V, n_layers=1, d_model=32, n_heads=4, max_seq_len=16)
    model.init_weights(generator(0, "init"))
    torch.nn.init.zeros_(model.blocks[0].attention.o.weight)
    prompt, n = [1, 2, 3, 1, 2], {1: 30, 2: 60, 3: 60}[size]

    def most_frequent(**penalty: float) -> int:
        text = (
            prompt + texts(model, prompt, Sampling(temperature=0, max_new_tokens=n, **penalty))[0]
        )
        return max(Counter(zip(*(text[i:] for i in range(size)))).values())

    assert most_frequent() > 2
    # as in the prompt
    assert most_frequent(ngram_size=size, ngram_penalty=math.inf) == (2 if size < 3 else 1)
    assert most_frequent(ngram_size=size, ngram_penalty=1e-9) > 2


def texts(
    model: Transformer,
    prompt: list[int],
    sampling: Sampling,
    seed: int = 0,
    stop: int | None = None,
) -> list:
    steps = list(generate(model, prompt, sampling, generator(seed, "sampling"), stop))
    return [list(text) for text in zip(*steps)]


def full_passes(model: Transformer, prompt: list[int], n: int) -> list[int]:
    """Greedy text without a cache, with the documented window."""
    text, start = list(prompt), max(0, len(prompt) - 16)
    with torch.inference_mode():
        for _ in range(n):
            if len(text) - start > 16:
                start = len(text) - 8
            text.append(int(model.eval()(torch.tensor([text[start:]]))[0, -1].argmax()))
    model.train()
    return text[len(prompt) :]


@pytest.mark.parametrize("length", [1, 5, 15, 16, 17, 40])
def test_generation_equals_full_passes_with_the_documented_window(
    model: Transformer, length: int
) -> None:
    prompt = torch.randint(V, (length,), generator=generator(length, "data")).tolist()
    assert texts(model, prompt, GREEDY) == [full_passes(model, prompt, 30)]


def test_a_window_of_one_token() -> None:
    model = Transformer(V, n_layers=1, d_model=8, n_heads=1, max_seq_len=1)
    model.init_weights(generator(0, "init"))
    assert len(texts(model, [1, 2, 3], GREEDY)[0]) == 30


@pytest.mark.faults(50)
def test_a_cropped_prompt_is_told(model: Transformer, caplog: pytest.LogCaptureFixture) -> None:
    texts(model, [1] * 16, GREEDY)
    assert not caplog.messages
    texts(model, [1] * 17, GREEDY)
    assert caplog.messages == ["the prompt has 17 tokens: the model sees the last 16"]


def test_samples_share_prompt_and_repeat_with_the_seed(model: Transformer) -> None:
    sampling = Sampling(max_new_tokens=25, num_samples=3, top_k=10)
    first = texts(model, [1, 2], sampling)
    assert len(first) == 3
    assert first[0] != first[1]
    state = torch.get_rng_state()
    assert texts(model, [1, 2], sampling) == first
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not touched
    assert texts(model, [1, 2], sampling, seed=1) != first


@pytest.mark.faults(50)
def test_greedy_samples_are_all_the_greedy_text(model: Transformer) -> None:
    alone = texts(model, [3], GREEDY)
    assert texts(model, [3], Sampling(temperature=0, max_new_tokens=30, num_samples=3)) == alone * 3


def test_the_models_mode_is_restored(model: Transformer) -> None:
    for training in (True, False):
        model.train(training)
        steps = generate(model, [1], GREEDY, generator(0, "sampling"))
        next(steps)
        steps.close()
        assert model.training is training
    model.train()


def test_a_finished_text_waits_for_the_others(model: Transformer) -> None:
    sampling = Sampling(max_new_tokens=200, num_samples=4, temperature=2.0)
    stop = 7
    stopped = texts(model, [1], sampling, stop=stop)
    ends = [text.index(stop) for text in stopped]
    assert len(set(ends)) > 1
    assert len(stopped[0]) == max(ends) + 1 < 200
    for text, end in zip(stopped, ends):
        assert set(text[end:]) == {stop}


def test_text_in_text_out(model: Transformer) -> None:
    sampling = Sampling(max_new_tokens=8, num_samples=2)
    first, second = sample_text(model, Letters(), "ABC", sampling, generator(0, "sampling"))
    assert first.startswith("ABC")
    assert second.startswith("ABC")
    assert first != second
    assert encode_prompt(Letters(), "") == [V - 1]
    assert encode_prompt(Letters(), "A") == [1]


@pytest.mark.faults(50)
def test_out_of_range_values_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Sampling(0, -0.5, 0, 0.0, 0, -1.0, 0)
    keys = [
        "max_new_tokens=0",
        "temperature=-0.5",
        "top_k=0",
        "top_p=0.0",
        "ngram_size=0",
        "ngram_penalty=-1.0",
    ]
    assert [problem.split()[3] for problem in caught.value.problems] == [*keys, "num_samples=0"]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": -3},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"ngram_penalty": math.nan},
    ],
    ids=str,
)
@pytest.mark.faults(50)
def test_one_value_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="out of range: " + next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.faults(50)
def test_values_at_the_edge_are_legal() -> None:
    sampling = Sampling(1, 0, 10**9, 1.0, 1, math.inf, 1)
    assert choose(torch.tensor([[0.0, 2.0, 1.0]]), sampling, torch.Generator()) == [1]


@pytest.mark.faults(50)
def test_text_comes_as_characters_complete() -> None:
    stream = TextStream()
    assert [stream.decode(bytes([byte])) for byte in "aé€".encode()] == ["a", "", "é", "", "", "€"]
    assert stream.decode(b"", final=True) == ""
    assert stream.decode(b"\xf0\x9f") == ""
    assert stream.decode(b"", final=True) == "\ufffd"
    assert stream.decode(b"\xc3(") == "\ufffd("

    content = "naïve — 🎭 ¡olé!".encode() + b"\xff\xe2\x82"
    pieces = TextStream()
    joined = "".join(pieces.decode(content[i : i + 1]) for i in range(len(content)))
    assert joined + pieces.decode(b"", final=True) == content.decode(errors="replace")
