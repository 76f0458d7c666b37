# SPDX-License-Identifier: Apache-2.0
"""Schedules of the published recipes and parameter groups."""

from __future__ import annotations

import pytest
import torch

from instseg import Model
from instseg.recipe import SolverRecipe, load_recipe
from instseg.training.optim import (
    build_optimizer,
    kind_of,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("name", "first", "second", "last"),
    [
        ("fcos_R_50_1x", 60000, 80000, 89999),
        ("fcos_MS_R_50_2x", 120000, 160000, 179999),
        ("fcos_RT_MS_R_50_4x_syncbn", 300000, 340000, 359999),
    ],
)
def test_published_schedules(name, first, second, last):
    solver = load_recipe(name).solver
    expected = {
        0: 1e-5,  # 0.01 * 0.001
        1: 0.01 * (0.001 * 0.999 + 0.001),
        500: 0.01 * (0.001 * 0.5 + 0.5),
        999: 0.01 * (0.001 * 0.001 + 0.999),
        1000: 0.01,
        first - 1: 0.01,
        first: 0.001,
        second - 1: 0.001,
        second: 0.0001,
        last: 0.0001,
    }
    for iteration, rate in expected.items():
        assert learning_rate(iteration, solver) == pytest.approx(rate, rel=1e-12)


def test_warmup_of_the_solo_repository_is_the_same_formula():
    solver = SolverRecipe(warmup_iterations=500, warmup_factor=1 / 3)
    for t in (0, 100, 499):
        assert learning_rate(t, solver) == pytest.approx(0.01 * (1 - (1 - t / 500) * (1 - 1 / 3)), rel=1e-12)


def test_constant_warmup():
    """mmdetection's caffe recipes: one third for 500 iterations."""
    solver = SolverRecipe(warmup="constant", warmup_iterations=500, warmup_factor=1 / 3)
    rates = [learning_rate(t, solver) for t in (0, 1, 250, 499)]
    assert rates == [pytest.approx(0.01 / 3, rel=1e-12)] * 4
    assert learning_rate(500, solver) == learning_rate(59999, solver) == 0.01


def test_no_warmup_and_no_milestones():
    solver = SolverRecipe(warmup_iterations=0, milestones=[], base_lr=0.5)
    assert learning_rate(0, solver) == learning_rate(10**9, solver) == 0.5


def test_kinds_follow_our_names():
    assert kind_of("backbone.res3.0.conv1.norm.weight") == "norm"
    assert kind_of("head.cls_tower.0.norm.bias") == "norm"
    assert kind_of("head.cls_tower.0.norm.2.bias") == "norm"
    assert kind_of("head.cls_tower.0.bias") == "bias"
    assert kind_of("head.scales.0") == "weight"
    assert kind_of("neck.p6.weight") == "weight"


def test_groups_of_a_model():
    model = Model({"backbone": {"name": "resnet18", "norm": "bn", "freeze": 2}, "neck": {"channels": 32}})
    solver = SolverRecipe(weight_decay=1e-4, weight_decay_norm=0.0, bias_lr_factor=2.0, base_lr=0.01)
    optimizer = build_optimizer(model, solver)
    names = {id(p): name for name, p in model.named_parameters()}
    grouped = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(grouped) == trainable and len(trainable) < len(names)
    assert grouped["head.cls_tower.0.norm.weight"]["weight_decay"] == 0.0
    assert grouped["backbone.res4.0.conv1.norm.bias"]["weight_decay"] == 0.0
    assert grouped["head.cls_tower.0.bias"]["weight_decay"] == 1e-4
    assert grouped["head.scales.0"]["weight_decay"] == 1e-4
    assert grouped["backbone.res4.0.conv1.weight"]["weight_decay"] == 1e-4
    assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
    assert not any(g["nesterov"] or g["dampening"] for g in optimizer.param_groups)
    rate = set_learning_rate(optimizer, 5000, solver)
    assert rate == 0.01
    assert grouped["head.cls_tower.0.bias"]["lr"] == 0.02
    assert grouped["head.cls_tower.0.weight"]["lr"] == grouped["head.cls_tower.0.norm.bias"]["lr"] == 0.01


@pytest.mark.parametrize(("given", "expected"), [(None, 3e-4), (0.0, 0.0), (0.01, 0.01)])
def test_weight_decay_of_biases(given, expected):
    model = torch.nn.Sequential()
    model.add_module("conv", torch.nn.Conv2d(1, 1, 1))
    model.add_module("norm", torch.nn.Sequential(torch.nn.GroupNorm(1, 1)))
    names = {id(p): name for name, p in model.named_parameters()}
    assert "norm.0.bias" in names.values()
    solver = SolverRecipe(weight_decay=3e-4, weight_decay_norm=0.2, weight_decay_bias=given)
    parameters = [("head." + name, p) for name, p in model.named_parameters()]
    groups = parameter_groups(parameters, solver)
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {
        "conv.weight": 3e-4,
        "conv.bias": expected,
        "norm.0.weight": 0.2,
        "norm.0.bias": 0.2,
    }


def test_empty_groups_are_left_out_and_nothing_to_train_is_an_error():
    layer = torch.nn.Linear(2, 2, bias=False)
    assert len(parameter_groups(layer.named_parameters(), SolverRecipe())) == 1
    layer.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(layer, SolverRecipe())


def test_a_step_follows_the_sgd_formula():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    holder = torch.nn.Module()
    holder.register_parameter("weight", weight)
    solver = SolverRecipe(base_lr=0.1, momentum=0.9, weight_decay=0.5, warmup_iterations=0, milestones=[])
    optimizer = build_optimizer(holder, solver)
    value, velocity = 2.0, 0.0
    for iteration in range(3):
        set_learning_rate(optimizer, iteration, solver)
        weight.grad = torch.tensor([3.0])
        optimizer.step()
        velocity = 0.9 * velocity + 3.0 + 0.5 * value
        value -= 0.1 * velocity
        assert weight.item() == pytest.approx(value, rel=1e-6)
