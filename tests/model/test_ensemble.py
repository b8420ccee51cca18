"""An ensemble, in every way a model is used: the mean of probabilities, members learn alone."""

from functools import partial
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from minigpt.config.groups import group_problems
from minigpt.errors import ConfigError
from minigpt.generate.hugging_face import hugging_face_config
from minigpt.generate.sampling import Sampling, generate
from minigpt.model.ensemble import Ensemble
from minigpt.model.ngram_embedding import NgramEmbedding
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

V = 96
SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 4, "max_seq_len": 32}


def make(members: int = 3, **arguments: object) -> Ensemble:
    model = Ensemble(V, members=members, **SHAPE, **arguments)
    model.init_weights(generator(0, "init"))
    # far from uniform, so that a mean of logits differs from a mean of probabilities
    with torch.no_grad():
        for member in model.members:
            member.head_weight.mul_(40)
    return model.eval()


def alone(model: Ensemble) -> list[Transformer]:
    """Each member as a Transformer of its own."""
    found = []
    for i in range(len(model.members)):
        member = Transformer(V, **SHAPE)
        prefix = "" if i == 0 else f"others.{i - 1}."
        member.load_state_dict(
            {name: model.state_dict()[prefix + name] for name in member.state_dict()}
        )
        found.append(member.eval())
    return found


def test_it_predicts_the_mean_of_probabilities(tokens: torch.Tensor) -> None:
    model = make()
    with torch.no_grad():
        each = torch.stack([F.softmax(member(tokens).double(), -1) for member in alone(model)])
        assert all((a - b).abs().max() > 1e-3 for a, b in combinations(each, 2))
        expected = each.mean(0)
        torch.testing.assert_close(
            F.softmax(model(tokens).double(), -1), expected, atol=1e-6, rtol=1e-4
        )
        targets = tokens.roll(-1, 1)
        targets[:, -1] = -100
        nats = -expected[:, :-1].log().gather(-1, targets[:, :-1, None]).sum()
        torch.testing.assert_close(model(tokens, targets).double(), nats, atol=1e-3, rtol=1e-5)


def test_each_member_is_trained_on_its_own_loss(tokens: torch.Tensor) -> None:
    model, targets = make().train(), tokens.roll(-1, 1)
    members = alone(model)
    losses = [member.train()(tokens, targets) for member in members]
    loss = model(tokens, targets)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    loss.backward()
    torch.stack(losses).sum().backward()
    for mine, theirs in zip(model.members, members, strict=True):
        gradients = dict(mine.named_parameters())
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(
                3 * gradients[name].grad, parameter.grad, atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("embedding", [None, partial(NgramEmbedding, longest=3, rows=101)])
def test_a_cache_changes_nothing(tokens: torch.Tensor, embedding: object) -> None:
    model = make(embedding=embedding)
    with torch.no_grad():
        expected = model(tokens)
        cache = model.new_cache(len(tokens))
        first = model(tokens[:, :5], cache=cache)
        then = [model.next_logits(tokens[:, i : i + 1], cache) for i in range(5, tokens.shape[1])]
    torch.testing.assert_close(
        torch.cat([first, torch.stack(then, 1)], 1), expected, atol=1e-4, rtol=1e-4
    )


def test_it_generates_what_its_logits_say(tokens: torch.Tensor) -> None:
    model, prompt = make(), tokens[0, :6].tolist()
    text = list(prompt)
    for step in generate(
        model, prompt, Sampling(max_new_tokens=9, temperature=0), generator(0, "sampling")
    ):
        (token,) = step.tokens
        with torch.no_grad():
            assert token == int(model(torch.tensor([text]))[0, -1].argmax())
        text.append(token)
    assert len(text) == 15


def test_activation_checkpointing_reaches_every_member(tokens: torch.Tensor) -> None:
    gradients = []
    for again in (False, True):
        model = make().train()
        model.activation_checkpointing = again
        model(tokens, tokens.roll(-1, 1)).backward()
        assert all(member.activation_checkpointing is again for member in model.members)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_roles_and_flops_are_those_of_the_members() -> None:
    model, one = make(), Transformer(V, **SHAPE)
    roles, own = model.roles(), one.roles()
    assert list(roles) == [name for name, _ in model.named_parameters()]
    for name, role in own.items():
        assert roles[name] == roles[f"others.0.{name}"] == roles[f"others.1.{name}"] == role
    assert model.flops_per_token(32) == 3 * one.flops_per_token(32)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="members=1 must be at least 2"):
        Ensemble(V, members=1, **SHAPE)
    with pytest.raises(ConfigError, match="Ensemble has no counterpart"):
        hugging_face_config(make(), 0)
    node = {"_target_": "minigpt.model.ensemble.Ensemble", **SHAPE}
    assert group_problems("model", node) == []
    assert group_problems("model", node | {"d_modle": 3}) == [
        "unknown key: model.d_modle (did you mean d_model?)"
    ]
    assert group_problems("model", node | {"members": 1.5}) == [
        "wrong type: model.members=1.5 (expects an integer)"
    ]
