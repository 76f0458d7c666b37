# SPDX-License-Identifier: Apache-2.0
"""Layer-wise settings: their groups, frozen layers, resuming with others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_helpers import log_of, recipe_of, run

from instseg import Model
from instseg.recipe import LayerRecipe, SolverRecipe, load_recipe, parse_recipe
from instseg.training import Trainer
from instseg.training.optim import (
    build_optimizer,
    describe_parameters,
    layer_settings,
    parameter_groups,
    set_learning_rate,
)

NET = {
    "backbone": {"name": "resnet18", "norm": "bn", "freeze": 0},
    "neck": {"channels": 32, "max_level": 5},
    "head": {"cls_convs": 1, "box_convs": 1},
    "targets": {"sizes_of_interest": [64, 128]},
}


def solver(layers: dict[str, dict[str, Any]], **fields: Any) -> SolverRecipe:
    return SolverRecipe(layers={prefix: LayerRecipe(**entry) for prefix, entry in layers.items()}, **fields)


def by_name(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    return {name: group for group in optimizer.param_groups for name in group["param_names"]}


def test_the_longest_prefix_alone_counts():
    names = ["backbone.stem.weight", "backbone.res2.0.weight", "backbone.res20.weight", "head.scales.0"]
    settings = solver(
        {
            "backbone.res2": {"weight_decay": 0.5},
            "backbone": {"lr_factor": 0.1},
            "head.scales.0": {"freeze": True},
        }
    )
    found = layer_settings(names, settings)
    assert {name: prefix for name, (prefix, _) in found.items()} == {
        "backbone.stem.weight": "backbone",
        "backbone.res2.0.weight": "backbone.res2",
        "backbone.res20.weight": "backbone",
        "head.scales.0": "head.scales.0",
    }
    assert found["backbone.res2.0.weight"][1].lr_factor == 1


def test_groups():
    settings = solver(
        {"backbone": {"lr_factor": 0.1}, "head.cls_tower": {"weight_decay": 0.0}, "neck": {"freeze": True}},
        bias_lr_factor=2.0,
        weight_decay=1e-3,
        weight_decay_norm=1e-4,
        base_lr=0.01,
    )
    model = Model(NET)
    optimizer = build_optimizer(model, settings)
    groups = by_name(optimizer)
    assert set(groups) == {name for name, _ in model.named_parameters() if not name.startswith("neck.")}
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.startswith("neck."))
    set_learning_rate(optimizer, 5000, settings)
    expected = {
        "backbone.res4.0.conv1.weight": (0.001, 1e-3),
        "backbone.res4.0.conv1.norm.bias": (0.001, 1e-4),
        "head.cls_tower.0.weight": (0.01, 0.0),
        "head.cls_tower.0.bias": (0.02, 0.0),
        "head.cls_tower.0.norm.weight": (0.01, 0.0),
        "head.box_tower.0.bias": (0.02, 1e-3),
        "head.box_tower.0.norm.weight": (0.01, 1e-4),
    }
    for name, values in expected.items():
        assert (groups[name]["lr"], groups[name]["weight_decay"]) == pytest.approx(values), name
    named = dict(model.named_parameters())
    for group in optimizer.param_groups:
        names = group["param_names"]
        assert all(named[n] is p for n, p in zip(names, group["params"], strict=True))


def test_without_settings_groups_are_the_three_of_before():
    layer = torch.nn.Sequential()
    layer.add_module("conv", torch.nn.Conv2d(1, 1, 1))
    groups = parameter_groups(layer.named_parameters(), SolverRecipe())
    assert [group["param_names"] for group in groups] == [["conv.weight"], ["conv.bias"]]


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("backbone.res6", "did you mean backbone.res"),
        ("head.cls_towers", "did you mean head.cls_tower"),
        ("head.cls_tow", "did you mean head.cls_tower"),  # no whole part of a name
        ("zzz", "they begin with backbone, neck, head"),
    ],
)
def test_a_prefix_of_nothing_is_an_error(prefix, hint):
    with pytest.raises(ValueError, match=rf"no parameter's name begins with '{prefix}'") as caught:
        build_optimizer(Model(NET), solver({prefix: {"lr_factor": 0.1}}))
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_freezing_everything_is_an_error():
    every = {part: {"freeze": True} for part in ("backbone", "neck", "head")}
    with pytest.raises(ValueError, match=r"no trainable parameter; freeze less in solver\.layers"):
        build_optimizer(Model(NET), solver(every))


def test_description():
    model = Model(NET)
    settings = solver({"backbone.stem": {"freeze": True}, "head": {"lr_factor": 0.5, "weight_decay": 0}})
    build_optimizer(model, settings)
    count = sum(p.numel() for p in model.parameters())
    stem = sum(p.numel() for name, p in model.named_parameters() if name.startswith("backbone.stem."))
    text = describe_parameters(model, settings)
    assert text == (
        f"{(count - stem) / 1e6:.2f} M trainable parameters, {stem / 1e6:.2f} M frozen, "
        "backbone.stem: frozen, head: rate x 0.5 and weight decay 0, "
        "the statistics of 1 frozen batch norms still follow the batches "
        "(fixed by model.backbone.freeze or model.backbone.norm bn_eval)"
    )
    fixed = Model({**NET, "backbone": {"name": "resnet18", "norm": "bn_eval", "freeze": 0}})
    build_optimizer(fixed, settings)
    assert "statistics" not in describe_parameters(fixed, settings)
    plain = Model({**NET, "backbone": {"name": "resnet18", "freeze": 0}})
    assert describe_parameters(plain, SolverRecipe()).endswith(" M trainable parameters")
    frozen = Model({**NET, "backbone": {"name": "resnet18", "freeze": 2}})
    assert " M frozen" in describe_parameters(frozen, SolverRecipe())


BOXINST = {"branch_channels": 16, "branch_convs": 1, "supervision": "boxes"}
LAYERS = {"backbone": {"freeze": True}, "head.cls_tower": {"lr_factor": 0.25}}


@pytest.mark.parametrize(
    "family",
    [
        {},
        {
            "family": "condinst",
            "condinst": {"branch_channels": 16, "branch_convs": 1, "supervision": "boxes"},
        },
    ],
    ids=["fcos", "boxinst"],
)
def test_frozen_layers_keep_their_values(make_dataset, tmp_path, family):
    recipe = recipe_of(make_dataset(), solver__layers=LAYERS, solver__iterations=2)
    recipe = parse_recipe({**recipe.model_dump(), "model": {**recipe.model, **family}})
    trainer = Trainer(recipe, tmp_path / "run", quiet=True)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.run()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(before[name], p)}
    assert not [name for name in changed if name.startswith("backbone.")]
    assert {"head.cls_tower.0.weight", "head.box_pred.weight", "neck.output3.weight"} <= changed


def interrupted(monkeypatch, recipe, folder, after: int) -> None:
    """Runs until the checkpoint of iteration ``after``."""
    real = Trainer.step

    def killed(self, batch, *arguments):
        if batch.iteration == after:
            raise SystemExit("killed")
        return real(self, batch, *arguments)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(SystemExit):
        run(recipe, folder)
    monkeypatch.setattr(Trainer, "step", real)


def test_resuming_with_layers_is_exact(make_dataset, tmp_path, monkeypatch):
    recipe = recipe_of(make_dataset(), solver__layers=LAYERS, checkpoint_every=2)
    run(recipe, tmp_path / "whole")
    interrupted(monkeypatch, recipe, tmp_path / "parts", after=4)
    run(recipe, tmp_path / "parts")
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")


def test_resuming_with_other_layers_keeps_the_momentum_by_name(make_dataset, tmp_path, monkeypatch, capsys):
    files = make_dataset()
    recipe = recipe_of(files, solver__layers=LAYERS, checkpoint_every=2)
    interrupted(monkeypatch, recipe, tmp_path / "run", after=4)
    saved = by_name_state(Trainer(recipe, tmp_path / "run", quiet=True))
    changed = recipe_of(
        files,
        solver__layers={"backbone.stem": {"freeze": True}, "head": {"weight_decay": 0.0}},
        checkpoint_every=2,
    )
    trainer = Trainer(changed, tmp_path / "run")
    said = " ".join(capsys.readouterr().err.split())
    assert "the recipe changed since the checkpoint: solver.layers" in said
    now = by_name_state(trainer)
    assert set(saved) == set(now) and all(torch.equal(saved[name], now[name]) for name in saved)
    groups = by_name(trainer.optimizer)
    assert groups["head.cls_tower.0.weight"]["weight_decay"] == 0
    assert groups["head.cls_tower.0.weight"]["lr_factor"] == 1
    assert any(name.startswith("backbone.stage") for name in groups)
    trainer.run()
    # and the other way round: what is frozen now loses its momentum
    frozen = recipe_of(files, solver__layers=LAYERS, solver__iterations=8)
    again = Trainer(frozen, tmp_path / "run", quiet=True)
    assert set(by_name_state(again)) == set(saved)


def by_name_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Momentum of each parameter that has one."""
    return {
        name: trainer.optimizer.state[p]["momentum_buffer"]
        for group in trainer.optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
        if p in trainer.optimizer.state
    }


def test_states_without_names():
    """Checkpoints of before the names load as long as the groups are the same."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(net, SolverRecipe())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["param_names"]
    twin = torch.nn.Linear(2, 2)
    other = build_optimizer(twin, SolverRecipe())
    other.load_state_dict(state)
    assert torch.equal(
        other.state[twin.weight]["momentum_buffer"], optimizer.state[net.weight]["momentum_buffer"]
    )
    assert other.param_groups[0]["param_names"] == ["weight", "bias"]
    fewer = build_optimizer(torch.nn.Linear(2, 2), solver({"bias": {"freeze": True}}))
    with pytest.raises(ValueError, match="does not name its parameters") as caught:
        fewer.load_state_dict(state)
    assert "--no-resume" in str(caught.value) and "\n" not in str(caught.value)


def test_in_recipes(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "base: fcos_R_50_1x\nsolver:\n  layers:\n    backbone.res2: {lr_factor: 0.5}\n"
    )
    recipe = load_recipe(
        tmp_path / "r.yaml",
        ["solver.layers.backbone.res2.weight_decay=0", "solver.layers.head.cls_tower={freeze: true}"],
    )
    assert recipe.solver.layers == {
        "backbone.res2": LayerRecipe(lr_factor=0.5, weight_decay=0.0),
        "head.cls_tower": LayerRecipe(freeze=True),
    }
    assert load_recipe("fcos_R_50_1x", ["solver.layers.head.freeze=true"]).solver.layers["head"].freeze


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("solver.layers.head.lr_facto=1", "did you mean 'solver.layers.head.lr_factor'"),
        ("solver.layers.head.cls_tower={frozen: true}", "unknown key 'solver.layers.head.cls_tower.frozen'"),
        ("solver.layers.head.lr_factor=0", "solver.layers.head.lr_factor: Input should be greater than 0"),
        ("solver.layers=[head]", "solver.layers: Input should be a valid dictionary"),
        ("wandb.projekt=x", "did you mean 'wandb.project'"),
        ("wandb={}", "wandb.project: Field required"),
        ("pictures_every=-1", "pictures_every: Input should be greater than or equal to 0"),
    ],
)
def test_mistakes_in_recipes(override, text):
    with pytest.raises(ValueError) as caught:
        load_recipe("fcos_R_50_1x", [override])
    assert text in str(caught.value) and "\n" not in str(caught.value)
