# SPDX-License-Identifier: Apache-2.0
"""An image with objects, and what tests of all mask families check."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tiny_model import HEIGHT, WIDTH

import instseg


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[list[float]]:
    """Polygons of one object."""
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


BOXES = [[4.0, 6.0, 44.0, 50.0], [30.0, 10.0, 60.0, 34.0], [50.0, 20.0, 90.0, 60.0]]
MASKS = instseg.MaskTargets.from_coco([rectangle(*box) for box in BOXES], (HEIGHT, WIDTH))
OBJECTS = {"boxes": BOXES, "labels": [0, 2, 1], "masks": MASKS}
NOTHING: dict[str, Any] = {"boxes": [], "labels": []}


def scene(size: tuple[int, int] = (HEIGHT, WIDTH)) -> npt.NDArray[np.uint8]:
    """The rectangles of OBJECTS in their own colours."""
    image = np.full((*size, 3), 40, np.uint8)
    for color, (x1, y1, x2, y2) in zip([(250, 0, 0), (0, 250, 0), (0, 0, 250)], BOXES, strict=True):
        image[int(y1) : int(y2), int(x1) : int(x2)] = color
    return image


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([value.reshape(()) for value in losses.values()]).sum()


def assert_all_gradients(model: instseg.Model) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def step(model: instseg.Model, targets: list[dict[str, Any]]) -> dict[str, float]:
    """Losses of one backward pass over len(targets) images."""
    model.train().zero_grad(set_to_none=True)
    losses = model([scene() for _ in targets], targets)
    total(losses).backward()  # type: ignore[arg-type]
    return {name: float(value.detach()) for name, value in losses.items()}  # type: ignore[union-attr]


def same(first: list[instseg.Instances], second: list[instseg.Instances]) -> bool:
    assert any(len(instances) for instances in first)
    return all(
        torch.equal(a.boxes, b.boxes) and a.rle() == b.rle() for a, b in zip(first, second, strict=True)
    )
