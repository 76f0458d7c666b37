# SPDX-License-Identifier: Apache-2.0
"""SGD as the published models were trained: parameter groups, layer-wise settings, warm-up and steps."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import torch

from instseg.recipe import LayerRecipe, SolverRecipe

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


def layer_settings(names: Iterable[str], solver: SolverRecipe) -> dict[str, tuple[str, LayerRecipe]]:
    """Parameters that ``solver.layers`` speaks of: name -> (longest prefix of it, settings of that prefix).

    A prefix is a dotted name or the beginning of one, up to a dot. Raises ValueError with the nearest names
    for a prefix of no parameter.
    """
    names = list(names)
    found: dict[str, tuple[str, LayerRecipe]] = {}
    for prefix in sorted(solver.layers, key=len):  # longer ones replace shorter ones
        covered = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
        if not covered:
            parts = (name.split(".") for name in names)
            known = list(dict.fromkeys(".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)))
            close = difflib.get_close_matches(prefix, known, 3, 0.5)
            hint = f"did you mean {', '.join(close)}?" if close else f"they begin with {_tops(names)}"
            raise ValueError(f"[solver.layers] no parameter's name begins with '{prefix}'; {hint}")
        found.update(dict.fromkeys(covered, (prefix, solver.layers[prefix])))
    return found


def _tops(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))


def freeze_layers(model: torch.nn.Module, solver: SolverRecipe) -> None:
    """Takes the gradient from the parameters that ``solver.layers`` freezes."""
    parameters = dict(model.named_parameters())
    for name, (_, settings) in layer_settings(parameters, solver).items():
        if settings.freeze:
            parameters[name].requires_grad_(False)


def parameter_groups(parameters: NamedParameters, solver: SolverRecipe) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: weights, biases, norms, then those of each prefix of
    ``solver.layers`` alike; empty groups are left out.

    Norm parameters, their biases included, get ``weight_decay_norm``, other biases ``weight_decay_bias`` when
    it is given, everything else ``weight_decay``; a prefix's own ``weight_decay`` goes for all three.
    ``lr_factor`` multiplies the learning rate of a group, ``param_names`` are the names of ``params``.
    """
    of_biases = solver.weight_decay if solver.weight_decay_bias is None else solver.weight_decay_bias
    kinds = {
        "weight": (solver.weight_decay, 1.0),
        "bias": (of_biases, solver.bias_lr_factor),
        "norm": (solver.weight_decay_norm, 1.0),
    }
    groups: dict[tuple[str | None, str], dict[str, Any]] = {}
    for prefix in (None, *solver.layers):
        settings = LayerRecipe() if prefix is None else solver.layers[prefix]
        for kind, (decay, factor) in kinds.items():
            factor *= settings.lr_factor
            groups[prefix, kind] = {
                "params": [],
                "param_names": [],
                "weight_decay": decay if settings.weight_decay is None else settings.weight_decay,
                "lr_factor": factor,
                "lr": solver.base_lr * factor,
            }
    named = list(parameters)
    special = layer_settings((name for name, _ in named), solver)
    for name, parameter in named:
        if parameter.requires_grad:
            group = groups[special[name][0] if name in special else None, kind_of(name)]
            group["params"].append(parameter)
            group["param_names"].append(name)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(model: torch.nn.Module, solver: SolverRecipe) -> torch.optim.SGD:
    """SGD over parameter_groups(), after freeze_layers(); ValueError when nothing is trainable.

    Its load_state_dict() also takes the state of an optimizer with other groups: momentum goes by name.
    """
    freeze_layers(model, solver)
    groups = parameter_groups(model.named_parameters(), solver)
    if not groups:
        advice = "freeze less in solver.layers" if solver.layers else "lower model.backbone.freeze"
        raise ValueError(f"[build_optimizer] the model has no trainable parameter; {advice}")
    optimizer = torch.optim.SGD(groups, lr=solver.base_lr, momentum=solver.momentum)
    optimizer.register_load_state_dict_pre_hook(_in_own_groups)
    return optimizer


def _in_own_groups(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any] | None:
    """A saved state in the groups of ``optimizer``; None when it has them already."""
    old, new = saved["param_groups"], optimizer.param_groups
    if [len(group["params"]) for group in old] == [len(group["params"]) for group in new] and all(
        before.get("param_names") in (None, now["param_names"]) for before, now in zip(old, new, strict=True)
    ):
        return None
    if not all("param_names" in group for group in old):
        raise ValueError(
            "[build_optimizer] the checkpoint does not name its parameters, and those that are trained have "
            "changed since; undo the change or start over with --no-resume"
        )
    index = {name: i for group in old for name, i in zip(group["param_names"], group["params"], strict=True)}
    state: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    position = 0
    for group in new:
        count = len(group["params"])
        groups.append({**group, "params": list(range(position, position + count))})
        for place, name in enumerate(group["param_names"], position):
            if index.get(name) in saved["state"]:
                state[place] = saved["state"][index[name]]
        position += count
    return {"state": state, "param_groups": groups}


def describe_parameters(model: torch.nn.Module, solver: SolverRecipe) -> str:
    """How many parameters are trained and frozen, and what ``solver.layers`` does, for the start of a run."""
    named = dict(model.named_parameters())
    frozen = [name for name, parameter in named.items() if not parameter.requires_grad]
    count = sum(parameter.numel() for parameter in named.values())
    still = sum(named[name].numel() for name in frozen)
    facts = [f"{(count - still) / 1e6:.2f} M trainable parameters"]
    if frozen:
        facts.append(f"{still / 1e6:.2f} M frozen")
    facts += [f"{prefix}: {text}" for prefix, layer in solver.layers.items() if (text := _text(layer))]
    drifting = _drifting_norms(model, frozen)
    if drifting:
        facts.append(
            f"the statistics of {drifting} frozen batch norms still follow the batches "
            "(fixed by model.backbone.freeze or model.backbone.norm bn_eval)"
        )
    return ", ".join(facts)


def _text(layer: LayerRecipe) -> str:
    if layer.freeze:
        return "frozen"
    factor = f"rate x {layer.lr_factor:g}" if layer.lr_factor != 1 else ""
    decay = f"weight decay {layer.weight_decay:g}" if layer.weight_decay is not None else ""
    return " and ".join(part for part in (factor, decay) if part)


def _drifting_norms(model: torch.nn.Module, frozen: list[str]) -> int:
    """Batch norms whose weight is frozen, but not their statistics."""
    config = getattr(model, "config", None)
    fixed = config is not None and config.backbone.norm == "bn_eval"
    buffers = {name for name, _ in model.named_buffers()}
    norms = [name.removesuffix("weight") for name in frozen if name.endswith("weight")]
    return sum(
        f"{norm}running_mean" in buffers and not (fixed and norm.startswith("backbone.")) for norm in norms
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, iteration: int, solver: SolverRecipe) -> float:
    """Sets the rate of every group for ``iteration`` and returns the one without a group's factor."""
    rate = learning_rate(iteration, solver)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
    return rate
