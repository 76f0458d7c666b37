# SPDX-License-Identifier: Apache-2.0
"""Imports published checkpoints (docs/import.md). Nothing in a checkpoint is ever executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from instseg.importers.backbones import load_backbone, load_from
from instseg.importers.containers import Checkpoint, from_mapping, read_checkpoint
from instseg.importers.detect import FLAVORS, candidates, choose, find_flavor, is_backbone
from instseg.importers.loading import copy_tensors, match_names
from instseg.importers.report import Report
from instseg.importers.structure import Config, Layout

if TYPE_CHECKING:
    from instseg import Model, ModelConfig

__all__ = ["Report", "convert", "convert_state", "load_backbone", "official_name_map"]


def convert(
    source: str | Path,
    preset: str | ModelConfig | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    strict: bool = True,
) -> tuple[Model, Report]:
    """
    A model with the weights of a foreign detector checkpoint, on the CPU in float32.

    Container, naming scheme, architecture and number of classes are recognised by content. ``preset``
    answers what names and shapes leave open, or is a complete configuration; ``overrides`` changes fields
    of the configuration, nested or dotted: ``{"post.nms_threshold": 0.5}``. With ``strict`` every parameter
    must get a value and nothing may be left over. A file of an ImageNet backbone becomes the model of
    ``preset`` with that backbone, everything else freshly initialised. Raises OSError when the file cannot
    be read and ValueError, in one line naming file and cause.
    """
    checkpoint = read_checkpoint(source)
    try:
        return _convert(checkpoint, str(source), preset, overrides, strict)
    except ValueError as error:
        raise ValueError(f"[convert] {source}: {_without_tag(str(error))}") from None


def convert_state(
    state: Mapping[str, torch.Tensor],
    preset: str | ModelConfig | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    strict: bool = True,
) -> tuple[Model, Report]:
    """``convert`` for a state dict in memory: official name -> tensor."""
    try:
        return _convert(from_mapping(state), "memory", preset, overrides, strict)
    except ValueError as error:
        raise ValueError(f"[convert_state] the state dict {_without_tag(str(error))}") from None


def official_name_map(preset_or_config: str | ModelConfig | Mapping[str, Any], flavor: str) -> dict[str, str]:
    """
    Official name -> our name of every parameter and buffer of a model.

    ``flavor`` is "adelaidet", "torchvision", "mmdet", "maskrcnn_benchmark" (whose names are given as
    AdelaiDet's) or "solo" (the repository of SOLO's authors).
    """
    if flavor not in FLAVORS:
        raise ValueError(f"[official_name_map] flavor '{flavor}' is not one of {', '.join(FLAVORS)}")
    from instseg.model import Model

    _, config = _given_config(preset_or_config)
    table = FLAVORS[flavor].table(Layout.of_config(config))
    pairs = ((table.official(name), name) for name in Model(config).state_dict())
    return {official: name for official, name in pairs if official is not None}


def _convert(
    checkpoint: Checkpoint,
    source: str,
    preset: str | ModelConfig | Mapping[str, Any] | None,
    overrides: Mapping[str, Any] | None,
    strict: bool,
) -> tuple[Model, Report]:
    from instseg._C import ModelConfig
    from instseg.model import Model

    if preset is not None and is_backbone(checkpoint.state):
        return _with_backbone(checkpoint, source, preset, overrides or {}, strict)
    flavor = find_flavor(checkpoint.state)
    report = Report(source=source, container=checkpoint.container, flavor=flavor.name)
    if preset is None or isinstance(preset, str):
        report.preset, config, notes = choose(checkpoint, flavor, preset)
        report.notes += notes
    else:
        _, config = _given_config(preset)
    _apply(config, overrides or {})
    _take_normalisation(checkpoint, config, report)
    model = Model(ModelConfig.from_dict(config))
    targets = model.state_dict()
    sources = match_names(checkpoint, flavor.ours, targets, report)
    copy_tensors(checkpoint, sources, targets, report, strict=strict)
    model.eval()
    return model, report


def _with_backbone(
    checkpoint: Checkpoint,
    source: str,
    preset: str | ModelConfig | Mapping[str, Any],
    overrides: Mapping[str, Any],
    strict: bool,
) -> tuple[Model, Report]:
    """A new model whose backbone is that of the file."""
    from instseg._C import ModelConfig
    from instseg.model import Model

    name, config = _given_config(preset)
    _apply(config, overrides)
    model = Model(ModelConfig.from_dict(config))
    report = load_from(model, checkpoint, source, strict)
    report.preset = name
    fresh = sum(not key.startswith("backbone.") for key, _ in model.named_parameters())
    report.notes.append(
        f"only the backbone was loaded; the other {fresh} parameters are freshly initialised and untrained"
    )
    model.eval()
    return model, report


def _given_config(value: str | ModelConfig | Mapping[str, Any]) -> tuple[str, Config]:
    from instseg._C import ModelConfig, find_preset

    if isinstance(value, str):
        for candidate in candidates():
            if candidate.name == value:
                return value, candidate.config
        return value, find_preset(value).config.to_dict()
    config = value if isinstance(value, ModelConfig) else ModelConfig.from_dict(dict(value))
    return "", config.to_dict()


def _apply(config: Config, overrides: Mapping[str, Any], path: str = "") -> None:
    for key, value in overrides.items():
        head, _, rest = key.partition(".")
        if head not in config:
            raise ValueError(
                f"override '{path}{key}' is no field of the configuration; fields are {', '.join(config)}"
            )
        if rest:
            _apply(config[head], {rest: value}, f"{path}{head}.")
        elif isinstance(value, Mapping) and isinstance(config[head], dict):
            _apply(config[head], value, f"{path}{head}.")
        else:
            config[head] = value


def _take_normalisation(checkpoint: Checkpoint, config: Config, report: Report) -> None:
    """Mean and standard deviation stored in the file win over the preset's."""
    for name, key in (("pixel_mean", "mean"), ("pixel_std", "std")):
        stored = checkpoint.state.get(name)
        if stored is None or stored.shape not in ((3,), (3, 1, 1), (1, 3, 1, 1)):
            continue
        values = [round(float(v), 4) for v in stored.load().flatten()]
        if any(abs(a - b) > 1e-3 for a, b in zip(values, config["input"][key], strict=True)):
            report.notes.append(
                f"input.{key} {values} was taken from the file; the preset has {config['input'][key]}"
            )
            config["input"][key] = values


def _without_tag(message: str) -> str:
    return message.partition("] ")[2] if message.startswith("[convert]") else message
