# SPDX-License-Identifier: Apache-2.0
"""Three ways to a model: a new one, one of a model file, one of a checkpoint of another code base."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from . import _C
from .model import Model


def create(preset_or_config: str | _C.ModelConfig | Mapping[str, Any], seed: int | None = None) -> Model:
    """A freshly initialised model, in training mode.

    `preset_or_config` is the name of a preset (`instseg models` lists them), a ModelConfig or a dict of its
    fields. With `seed` the values are those of that seed, 0..2**63-1, and torch's generator is left alone;
    otherwise they come from torch's generator. Raises ValueError on an unknown preset or a bad field.
    """
    if seed is None:
        return Model(preset_or_config)
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"[create] seed must be an integer of 0..2**63-1, got {seed!r}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Model(preset_or_config)


def load(path: str | os.PathLike[str]) -> Model:
    """The model of a model file, in training mode; OSError or ValueError name the file and what is wrong."""
    return Model.load(path)


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str] | None = None,
    *,
    preset: str | _C.ModelConfig | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    strict: bool = True,
    dtype: str = "float32",
) -> Model:
    """A model with the weights of a checkpoint of another code base (docs/import.md), in evaluation mode.

    What `source` is is found from its content; `preset` answers what that leaves open, or is a complete
    configuration, and `overrides` changes fields of it: {"post.nms_threshold": 0.5}. With `strict` every
    parameter must get a value and nothing may be left over. A file of an ImageNet backbone (MSRA,
    torchvision, EfficientNet-Lite) becomes the model of `preset` with that backbone loaded and everything
    else freshly initialised, as the report says. Given a `destination`, the model file is written
    there, with parameters in `dtype`, "float32" or "float16". `report` of the model says which names matched.
    Nothing in `source` is ever executed. Raises OSError when a file cannot be read or written and ValueError,
    in one line naming file and cause.
    """
    from .importers import convert as run

    model, report = run(os.fspath(source), preset, overrides, strict=strict)
    model.report = report
    if destination is not None:
        model.save(destination, dtype=dtype)
    return model
