# SPDX-License-Identifier: Apache-2.0
"""Small models and images: 64x96 px, three classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import instseg

HEIGHT, WIDTH = 64, 96
TARGETS = [
    {"boxes": [[4.0, 6.0, 44.0, 50.0], [30.0, 10.0, 60.0, 34.0]], "labels": [0, 2]},
    {"boxes": [], "labels": []},
]


def tiny_config(norm: str = "bn", **head: Any) -> instseg.ModelConfig:
    return instseg.ModelConfig(
        num_classes=3,
        class_names=["cat", "dog", "bird"],
        category_ids=[7, 8, 9],
        input={"short_side": HEIGHT, "long_side": WIDTH},
        backbone={"name": "resnet18", "norm": norm, "freeze": 0 if norm == "bn" else 2},
        neck={"channels": 32},
        head={"cls_convs": 1, "box_convs": 1, **head},
        post={"score_threshold": 0.01},
    )


def tiny_images(count: int = 2) -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(count)]


def amplified(model: instseg.Model) -> instseg.Model:
    """`model` with head weights large enough that scores differ."""
    with torch.no_grad():
        for name in ("cls_logits", "box_pred", "centerness"):
            model.get_parameter(f"head.{name}.weight").mul_(20)
        model.get_parameter("head.box_pred.bias").add_(2)
    return model
