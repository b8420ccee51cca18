"""A model small enough to think about, with every role, and the optimizers of a preset on it."""

import copy
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from minigpt.optim.by_role import ByRole
from minigpt.optim.state_tree import decode, encode
from minigpt.roles import Role

CONF = Path(__file__).parents[2] / "conf"
ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


class Toy(nn.Module):
    """Embedding, one attention-like and one MLP-like pair of matrices, a gain, a head."""

    def __init__(
        self, vocab_size: int = 11, d: int = 8, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d, device=device)
        self.gain = nn.Parameter(torch.ones(d, device=device))
        self.q = nn.Linear(d, d, bias=False, device=device)
        self.k = nn.Linear(d, d // 2, bias=False, device=device)
        self.up = nn.Linear(d, 3 * d, bias=False, device=device)
        self.down = nn.Linear(3 * d, d, bias=False, device=device)
        self.head = nn.Linear(d, vocab_size, bias=False, device=device)
        if device != "meta":
            generator = torch.Generator().manual_seed(seed)
            for p in self.parameters():
                nn.init.normal_(p, std=0.3, generator=generator) if p.ndim == 2 else None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) * self.gain
        x = x + torch.tanh(self.q(x)) * self.k(x).repeat(1, 2)
        return self.head(x + self.down(torch.relu(self.up(x))))

    def roles(self) -> dict[str, Role]:
        return {
            "embed.weight": Role("embed", "embed"),
            "gain": Role("scalar", "gain"),
            "q.weight": Role("hidden", "q", n_heads=2),
            "k.weight": Role("hidden", "k"),
            "up.weight": Role("hidden", "up"),
            "down.weight": Role("hidden", "down"),
            "head.weight": Role("head", "head"),
        }

    def listed(self) -> list[tuple[str, nn.Parameter, Role]]:
        roles = self.roles()
        return [(name, p, roles[name]) for name, p in self.named_parameters()]


def backward(model: nn.Module, seed: int, vocab_size: int = 11) -> float:
    """Gradients of one random batch that depends on nothing but `seed`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocab_size, (32,), generator=generator)
    targets = torch.randint(vocab_size, (32,), generator=generator)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(tokens).float(), targets)
    loss.backward()
    return loss.item()


def train(model: nn.Module, optimizer: Any, seeds: range) -> list[float]:
    before = torch.get_rng_state()
    losses = []
    for seed in seeds:
        losses.append(backward(model, seed))
        optimizer.step()
    assert torch.equal(before, torch.get_rng_state()), (
        "the optimizer draws from torch's global generator, so neither a resumed run nor one that "
        "evaluates in between is the same run: draw from a torch.Generator of the optimizer's own, "
        "kept in its state"
    )
    return losses


def by_role(model: Toy, hidden: Any = ADAMW, lr_scale: float = 1.0) -> ByRole:
    return ByRole(
        model.listed(), hidden=hidden, embed=ADAMW, head=ADAMW, scalar=ADAMW, lr_scale=lr_scale
    )


@cache
def preset(name: str, *overrides: str) -> Any:
    """The resolved config node of conf/optim/<name>.yaml."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(
            compose(overrides=[f"+optim={name}", *overrides]), resolve=True
        )
    return config["optim"]


def build(name: str, model: Toy | list[Any], *overrides: str) -> ByRole:
    """A preset from YAML on the toy model (or on a list of parameters), as the scripts do it."""
    node = {k: v for k, v in preset(name, *overrides).items() if k not in ("lr", "adamw_lr")}
    listed = model if isinstance(model, list) else model.listed()
    optimizer = instantiate(node, listed, _convert_="all")
    assert isinstance(optimizer, ByRole)
    return optimizer


def presets() -> list[str]:
    return sorted(path.stem for path in (CONF / "optim").glob("[!_]*.yaml"))


def saved(tree):
    """A state tree as a checkpoint gives it back: through JSON, with other, contiguous tensors."""
    tensors = {}
    written = json.dumps(encode(tree, tensors))
    files = {
        path: tensor.clone(memory_format=torch.contiguous_format)
        for path, tensor in tensors.items()
    }
    return decode(json.loads(written), files)


def assert_resumes(build):
    """15 steps equal 5, saved and loaded into a model of other weights, and 10 more, to the bit."""
    model, resumed = Toy(), Toy(seed=7)
    optimizer = build(model)
    train(model, optimizer, range(5))
    tree, weights = saved(optimizer.state_tree()), copy.deepcopy(model.state_dict())
    losses = train(model, optimizer, range(5, 15))

    resumed.load_state_dict(weights)
    again = build(resumed)
    again.load_state_tree(tree)
    assert train(resumed, again, range(5, 15)) == losses
    assert all(map(torch.equal, model.parameters(), resumed.parameters()))
    assert_equal_trees(saved(optimizer.state_tree()), saved(again.state_tree()))


def assert_equal_trees(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal_trees(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal_trees(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    else:
        assert a == b
