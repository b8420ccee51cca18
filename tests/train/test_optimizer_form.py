"""The form of optimizer state, learnt from one step on stand-ins, is that of a whole model."""

from pathlib import Path

import pytest
import torch
from runs import ROOT

from minigpt.cli import composition, process
from minigpt.config import schema
from minigpt.config.build import build, build_optimizer
from minigpt.config.plan import plan_of
from minigpt.train.optimizer_form import check_optimizer_state

FILES = sorted((ROOT / "conf" / "optim").glob("[!_]*.yaml"))


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_state_keeps_its_form_from_the_first_step_on(name: str) -> None:
    schema.register()
    process.register_resolvers()
    overrides = [f"optim={name}", "model.d_model=32", "model.n_layers=2"]
    config = plan_of(composition.compose("train", overrides, None, plan_of)).config
    model = build(config["model"], 64)
    optimizer = build_optimizer(config["optim"], model)
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * step / 3  # from 0, as a warmup does
        for number, parameter in enumerate(optimizer.names):
            random = torch.Generator().manual_seed(100 * step + number)
            parameter.grad = 0.01 * torch.randn(parameter.shape, generator=random)
        optimizer.step()
        check_optimizer_state(optimizer.state_tree(), config["optim"], model, Path("here"))
