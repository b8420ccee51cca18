"""The embedding of n-grams: which rows a token looks up. test_transformer.py has it in a model."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from minigpt.generate.sampling import Sampling, generate
from minigpt.model.ngram_embedding import NgramEmbedding
from minigpt.model.transformer import Transformer
from minigpt.roles import Role
from minigpt.seeding import generator


def make(**options: object) -> Transformer:
    embedding = partial(NgramEmbedding, **{"longest": 4, "rows": 101} | options)
    model = Transformer(96, n_layers=2, d_model=32, n_heads=4, max_seq_len=32, embedding=embedding)
    model.init_weights(generator(0, "init"))
    with torch.no_grad():  # as loud as the blocks, so that nothing hides
        model.embed.ngrams.mul_(50)
    return model.eval()


def test_rows_are_numbers_in_base_v_plus_1() -> None:
    # (V + 1)^3 / 10 = 900 bigrams, 9000 trigrams
    embedding = NgramEmbedding(9, 4, longest=3, rows=2000)
    rows = embedding.ngram_rows(torch.tensor([[3, 1, 4]]), None, None)
    assert rows.tolist() == [
        [30, 2000 + 300],  # 3 after nothing, after nothing
        [10 + 3 + 1, 2000 + 140],  # 1 after 3, after nothing
        [40 + 1 + 1, 2000 + 424],  # 4 after 1, after 3
    ]


def test_no_two_bigrams_share_a_row_while_there_is_room() -> None:
    v = 12
    embedding = NgramEmbedding(v, 4, longest=2, rows=(v + 1) ** 2)
    pairs = torch.cartesian_prod(torch.arange(v), torch.arange(v))
    rows = embedding.ngram_rows(pairs, None, None).view(-1, 2)
    assert len(rows[:, 1].unique()) == v * v
    assert len(rows.unique()) == v * v + v  # and none of them is that of a token after nothing


def test_the_vector_is_the_sum_of_all_lengths() -> None:
    embedding = NgramEmbedding(9, 4, longest=3, rows=97)
    for weight in embedding.parameters():
        torch.nn.init.normal_(weight)
    tokens = torch.tensor([[3, 1, 4, 1], [5, 5, 5, 8]])
    rows = embedding.ngram_rows(tokens, None, None)
    expected = embedding.weight[tokens] + embedding.ngrams[rows].sum(1).view(2, 4, 4)
    torch.testing.assert_close(embedding(tokens), expected)


def test_generation_beyond_the_window_sees_what_a_fresh_reading_sees() -> None:
    model = make()
    text = [5, 7, 9]
    for step in generate(
        model, text, Sampling(max_new_tokens=80, temperature=0), torch.Generator()
    ):
        text += step.tokens
    reread = 3 + 32 + 16 * 2  # the window was full at 32, and from then on every 16 tokens
    seen = text[reread - 16 - 3 : reread - 3]
    assert int(model(torch.tensor([seen]))[0, -1].argmax()) == text[reread - 3]


def test_dropout_acts_on_the_ngrams_alone_and_only_in_training() -> None:
    embedding = NgramEmbedding(9, 64, longest=2, rows=97, dropout=0.5)
    for weight in embedding.parameters():
        torch.nn.init.normal_(weight)
    tokens = torch.randint(9, (4, 50))
    plain = F.embedding(tokens, embedding.weight)
    assert embedding.eval()(tokens).ne(plain).all()
    share = (embedding.train()(tokens) == plain).float().mean()
    assert 0.45 < share < 0.55


def test_its_table_is_an_embedding_to_the_optimizer() -> None:
    roles = make().roles()
    assert roles["embed.weight"] == Role("embed", "embed")
    assert roles["embed.ngrams"] == Role("embed", "ngrams")


@pytest.mark.parametrize("wrong", [{"longest": 1}, {"rows": 0}, {"dropout": 1.0}])
def test_sizes_that_make_no_table(wrong: dict[str, float]) -> None:
    (key,) = wrong
    with pytest.raises(ValueError, match=f"{key}="):
        NgramEmbedding(9, 4, **wrong)  # type: ignore[arg-type]
