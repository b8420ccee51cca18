"""Choices from logits by hand, generation against full forward passes, text as it comes."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from runs import ROOT

from minigpt.errors import ConfigError, NumericsError
from minigpt.generate.processors import Temperature
from minigpt.generate.sampling import Sampling, choose, encode_prompt, generate, sample_text
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

V = 40
GREEDY = Sampling(temperature=0, max_new_tokens=30)


@pytest.fixture(scope="module")
def model() -> Transformer:
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


def chosen(logits: torch.Tensor, sampling: Sampling, seed: int = 0) -> list[int]:
    rows, greedy = [[0]] * len(logits), sampling.temperature == 0
    return choose(logits, rows, sampling.processors(), greedy, generator(seed, "sampling"))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.1, 0.25, 0.15]),
        (Sampling(top_p=0.7), [2 / 3, 0, 1 / 3, 0]),
        (Sampling(top_k=3, temperature=0.5), [50 / 67, 0, 12.5 / 67, 4.5 / 67]),
    ],
)
def test_draws_follow_the_probabilities(sampling: Sampling, expected: list[float]) -> None:
    counts = Counter(chosen(LOGITS.expand(20_000, -1), sampling))
    for token, p in enumerate(expected):
        assert counts[token] / 20_000 == pytest.approx(p, abs=0.015)  # 4 standard deviations
    assert chosen(LOGITS, Sampling(temperature=0)) == [0]


def test_the_order_of_the_processors_is_the_documented_one() -> None:
    everything = Sampling(
        top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.2, ngram_size=3, temperature=0.5
    )
    names = [type(part).__name__ for part in everything.processors()]
    assert names == ["RepetitionPenalty", "NGramPenalty", "Temperature", "TopK", "TopP", "MinP"]
    documented = (ROOT / "conf/generate.yaml").read_text()
    keys = ["repetition_penalty", "ngram_penalty", "temperature", "top_k", "top_p", "min_p"]
    places = [documented.index(f"\n{key}: ") for key in keys]
    assert places == sorted(places)
    assert Sampling().processors() == [Temperature(1.0)]


def test_greedy_choices_feel_the_penalties() -> None:
    penalised = Sampling(temperature=0, repetition_penalty=9.0, top_k=1)
    assert chosen(torch.tensor([[2.0, 1.0, 0.0]]), penalised) == [1]  # the text holds 0


@pytest.mark.parametrize("row", [[math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_logits_of_a_broken_model_are_refused(row: list[float]) -> None:
    with pytest.raises(NumericsError, match="diverged"):
        chosen(torch.tensor([[0.0, 1.0], row]), Sampling())


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
    steps = generate(model, prompt, sampling, generator(seed, "sampling"), stop)
    return [list(text) for text in zip(*(step.tokens for step in steps))]


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


def test_logprobs_are_the_models_own(model: Transformer) -> None:
    """Of each token, by a full pass over the text before it; the sampler does not touch them."""
    sampling = Sampling(max_new_tokens=9, num_samples=2, temperature=3.0, top_k=20)
    steps = list(generate(model, [1, 2], sampling, generator(0, "sampling")))
    for row in range(2):
        new = [step.tokens[row] for step in steps]
        with torch.no_grad():
            logits = model.eval()(torch.tensor([[1, 2, *new]]))[0, 1:-1]
        expected = logits.log_softmax(-1)[range(9), new]
        found = torch.tensor([step.logprobs()[row] for step in steps])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    model.train()


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
        Sampling(0, -0.5, 0, 0.0, 2.0, 0.0, 0, -1.0, 0)
    typed = (
        "max_new_tokens=0 temperature=-0.5 top_k=0 top_p=0.0 min_p=2.0 repetition_penalty=0.0 "
        "ngram_size=0 ngram_penalty=-1.0 num_samples=0"
    )
    assert [problem.split()[3] for problem in caught.value.problems] == typed.split()
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
        {"min_p": 0.0},
        {"repetition_penalty": math.inf},
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
    edge = Sampling(1, 1e-300, 10**9, 1.0, 1.0, 1e3, 1, math.inf, 1)
    assert chosen(torch.tensor([[0.0, 2.0, 1.0]]), edge) == [1]
