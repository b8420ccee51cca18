import math

import pytest
import torch
from runs import SMALL, Shell

from minigpt.config.corpus import prepare_tokens
from minigpt.config.precision import choose
from minigpt.data.tokens import Tokens
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator
from minigpt.train.evaluate import documents_of, evaluate


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    data = {
        "_target_": "minigpt.data.copy_task.CopyTask",
        "n_documents": 60,
        "val_fraction": 0.1,
        "tokenizer": {"_target_": "minigpt.tokenizer.byte.Byte"},
    }
    return prepare_tokens(data, tmp_path_factory.mktemp("tokens") / "copy")


PRECISION = choose("cpu", "fp32", False, d_model=16)


def make(tokens: Tokens) -> Transformer:
    model = Transformer(
        tokens.vocab_size, n_layers=1, d_model=16, n_heads=2, max_seq_len=16, dropout=0.5
    )
    model.init_weights(generator(0, "init"))
    return model.train()


def test_documents_are_numbered_from_the_token_that_begins_them() -> None:
    tokens = torch.tensor([[9, 1, 2, 9, 3], [1, 9, 9, 2, 2]])
    found = documents_of(tokens, end_of_text=9)
    assert found is not None
    assert found.tolist() == [[1, 1, 1, 2, 2], [0, 1, 2, 2, 2]]
    assert documents_of(tokens, None) is None


def test_the_loss_is_that_of_every_token_once_and_bits_follow_from_the_bytes(
    tokens: Tokens,
) -> None:
    model = make(tokens)
    found = evaluate(model, tokens.val, seq_len=16, batch_size=3, precision=PRECISION)
    assert found is not None
    assert model.training, "the mode is put back"
    ids = torch.from_numpy(tokens.val.read(0, tokens.val.n_tokens).astype("int64"))
    nats = 0.0
    model.eval()
    for start in range(0, len(ids) - 1, 16):
        window = ids[start : start + 17]
        with torch.no_grad():
            logits = model(window[None, :-1])[0]
        nats += torch.nn.functional.cross_entropy(
            logits.double(), window[1:], reduction="sum"
        ).item()
    assert found.tokens == len(ids) - 1
    assert found.loss == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / tokens.val.n_bytes, rel=1e-5)


def test_a_stop_ends_an_evaluation_at_once(tokens: Tokens) -> None:
    how = {"seq_len": 16, "batch_size": 1, "precision": PRECISION, "stop": lambda: 15}
    assert evaluate(make(tokens), tokens.val, **how) is None


def test_a_run_may_keep_attention_inside_documents(shell: Shell) -> None:
    copy_task = ["stand_in._target_=minigpt.data.copy_task.CopyTask", "~stand_in.plays"]
    command = [*SMALL, "train.document_mask=true", *copy_task, "~stand_in.val_plays"]
    assert shell("train", *command) == 0, shell.err
