# SPDX-License-Identifier: Apache-2.0
"""SGD as the published models were trained: parameter groups, warm-up and steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import torch

from instseg.recipe import SolverRecipe

NamedParameters = Iterable[tuple[str, torch.nn.Parameter]]


def warmup(iteration: int, iterations: int, factor: float, kind: str = "linear") -> float:
    """Multiplier of the rate: 1 from ``iterations`` on; before, it rises linearly from ``factor`` at
    iteration 0 towards 1, or is ``factor`` all the time with kind "constant"."""
    if iteration >= iterations:
        return 1.0
    if kind == "constant":
        return factor
    alpha = iteration / iterations
    return factor * (1 - alpha) + alpha


def learning_rate(iteration: int, solver: SolverRecipe) -> float:
    """Learning rate of an iteration (counted from 0): warm-up times ``gamma`` for each milestone passed."""
    steps = bisect_right(solver.milestones, iteration)
    warm = warmup(iteration, solver.warmup_iterations, solver.warmup_factor, solver.warmup)
    return solver.base_lr * warm * solver.gamma**steps


def kind_of(name: str) -> str:
    """Group of a parameter by its name: "norm", "bias" or "weight"."""
    if ".norm." in name:
        return "norm"
    return "bias" if name.endswith(".bias") else "weight"


def parameter_groups(parameters: NamedParameters, solver: SolverRecipe) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: weights, biases, norms; empty groups are left out.

    Norm parameters, their biases included, get ``weight_decay_norm``, other biases ``weight_decay_bias`` when
    it is given, everything else ``weight_decay``. ``lr_factor`` multiplies the learning rate of a group.
    """
    of_biases = solver.weight_decay if solver.weight_decay_bias is None else solver.weight_decay_bias
    groups: dict[str, dict[str, Any]] = {
        "weight": {"weight_decay": solver.weight_decay, "lr_factor": 1.0},
        "bias": {"weight_decay": of_biases, "lr_factor": solver.bias_lr_factor},
        "norm": {"weight_decay": solver.weight_decay_norm, "lr_factor": 1.0},
    }
    for group in groups.values():
        group["params"] = []
        group["lr"] = solver.base_lr * group["lr_factor"]
    for name, parameter in parameters:
        if parameter.requires_grad:
            groups[kind_of(name)]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(model: torch.nn.Module, solver: SolverRecipe) -> torch.optim.SGD:
    """SGD over parameter_groups(); ValueError when nothing is trainable."""
    groups = parameter_groups(model.named_parameters(), solver)
    if not groups:
        raise ValueError(
            "[build_optimizer] the model has no trainable parameter; lower model.backbone.freeze"
        )
    return torch.optim.SGD(groups, lr=solver.base_lr, momentum=solver.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, iteration: int, solver: SolverRecipe) -> float:
    """Sets the rate of every group for ``iteration`` and returns the one without a group's factor."""
    rate = learning_rate(iteration, solver)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
    return rate
