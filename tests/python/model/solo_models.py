# SPDX-License-Identifier: Apache-2.0
"""Small models of the SOLO family, and what holds of all they find."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mask_scene import scene
from tiny_model import HEIGHT, WIDTH, tiny_images

import instseg
from instseg import MaskTargets

HEADS = ("solo", "decoupled", "decoupled_light", "solov2")
GRIDS = [12, 9, 6, 4, 3]
SCORE, PROBABILITY = 1e-4, 1e-4  # fused against unfused convolutions, through a random network

of_heads = pytest.mark.parametrize("head", HEADS)


def config(head: str, solo: dict[str, Any] | None = None, **changes: Any) -> instseg.ModelConfig:
    """A small model; `changes` are sections, merged into the small ones."""
    sections: dict[str, Any] = {
        "input": {"short_side": HEIGHT, "long_side": WIDTH},
        "backbone": {"name": "resnet18", "norm": "bn", "freeze": 0},
        "neck": {"channels": 32, "min_level": 2, "max_level": 6, "extra": "pool"},
        "post": {"score_threshold": 0.1},
        "solo": {
            "head": head,
            "grids": GRIDS,
            "min_scales": [1, 12, 24, 48, 96],
            "max_scales": [24, 48, 96, 192, 512],
            "convs": 2,
            "channels": 32,
            "mask_channels": 32,
            "branch_channels": 32,
            **(solo or {}),
        },
    }
    for section, values in changes.items():
        sections[section] = {**sections[section], **values}
    return instseg.ModelConfig(family="solo", num_classes=3, **sections)


def make(head: str, solo: dict[str, Any] | None = None, **changes: Any) -> instseg.Model:
    torch.manual_seed(0)
    return instseg.Model(config(head, solo, **changes))


def detecting(head: str, solo: dict[str, Any] | None = None, **changes: Any) -> instseg.Model:
    """Weights with which some cells of every level have a class and a mask."""
    model = make(head, solo, **changes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            part = name.removeprefix("head.")
            if part == "cls_logits.weight":
                parameter.mul_(10)
            elif part == "cls_logits.bias":
                parameter.fill_(-2.0)
            elif part.startswith(("mask_output", "x_output", "y_output")):
                if part.endswith("weight"):
                    parameter.mul_(30)
                else:
                    parameter.fill_(0.0 if head == "solo" else 1.0)
            elif part == "kernel.weight":
                parameter.mul_(30)
    return model


def photos() -> list[npt.NDArray[np.uint8]]:
    return [scene(), *tiny_images(2)]


def given(masks: torch.Tensor, labels: list[int] | None = None) -> dict[str, Any]:
    """A target of bitmaps [G, H, W] that are not empty, with tight boxes."""
    boxes = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": labels or [i % 3 for i in range(len(masks))],
        "masks": MaskTargets.from_bitmaps(masks.to(torch.uint8)),
    }


def assert_valid(found: instseg.Instances, size: tuple[int, int]) -> None:
    count = len(found)
    assert found.image_size == size
    assert found.boxes.shape == (count, 4) and found.boxes.dtype == torch.float32
    assert found.scores.shape == (count,) and found.scores.dtype == torch.float32
    assert found.labels.shape == (count,) and found.labels.dtype == torch.int64
    assert ((found.scores > 0) & (found.scores <= 1)).all() and (found.scores.diff() <= 0).all()
    assert ((found.labels >= 0) & (found.labels < 3)).all()
    masks = found.masks
    assert masks is not None and len(masks) == count
    assert (masks.placement, masks.stride, masks.enlarge) == ("image", 4, "half_pixel")
    assert masks.probabilities.dtype == torch.float32
    bitmaps = found.bitmaps()
    assert bitmaps.shape == (count, *size) and len(found.rle()) == count
    for bitmap, box in zip(bitmaps, found.boxes.tolist(), strict=True):
        rows, columns = bitmap.any(1).nonzero().flatten(), bitmap.any(0).nonzero().flatten()
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0] * 4
        assert box == [float(value) for value in tight]


def assert_close(ours: instseg.Instances, scores: torch.Tensor, labels: torch.Tensor, soft: Any) -> None:
    """The same scores in the same order; instances within SCORE of each other may have changed places."""
    assert ours.masks is not None and len(ours) == len(scores) > 0
    torch.testing.assert_close(ours.scores, scores.float(), rtol=0, atol=SCORE)
    unused = list(range(len(ours)))
    for score, label, mask in zip(scores.tolist(), labels.tolist(), soft, strict=True):
        near = [
            i
            for i in unused
            if abs(float(ours.scores[i]) - score) <= 2 * SCORE
            and int(ours.labels[i]) == label
            and float((ours.masks.probabilities[i] - mask).abs().max()) <= PROBABILITY
        ]
        assert near, f"no instance of label {label} at score {score}"
        unused.remove(near[0])
