# SPDX-License-Identifier: Apache-2.0
"""Masks of both placements, and what holds of all of them."""

from __future__ import annotations

import numpy as np
import torch
from mask_twins import values
from pycocotools import mask as coco

from instseg import Masks, ops

SLACK = 1e-5  # pixels of the twin within this of the threshold may differ


def image_masks(
    probabilities: torch.Tensor,
    stride: int,
    network: tuple[int, int],
    image: tuple[int, int],
    threshold: float = 0.5,
    inclusive: bool = False,
    enlarge: str = "aligned",
) -> Masks:
    return Masks(
        probabilities,
        image,
        stride=stride,
        enlarge=enlarge,
        network_size=network,
        threshold=threshold,
        inclusive=inclusive,
    )


def box_masks(
    probabilities: torch.Tensor,
    boxes: list[list[float]],
    image: tuple[int, int],
    threshold: float = 0.5,
    inclusive: bool = True,
) -> Masks:
    return Masks(
        probabilities,
        image,
        placement="box",
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        threshold=threshold,
        inclusive=inclusive,
    )


def check(masks: Masks, allow_ties: bool = True) -> torch.Tensor:
    """Everything agrees with the twin and with pycocotools; returns the bitmaps."""
    expected = values(masks)
    wanted = expected >= masks.threshold if masks.inclusive else expected > masks.threshold
    bitmaps = masks.bitmaps()
    assert bitmaps.dtype == torch.uint8 and tuple(bitmaps.shape) == (len(masks), *masks.image_size)
    differs = bitmaps.bool() != wanted
    ties = (expected - masks.threshold).abs() < SLACK
    assert not (differs & ~ties).any()
    assert allow_ties or not differs.any()
    areas, crops = masks.area(), masks.crops()
    boxes = masks.tight_boxes()
    assert boxes.dtype == torch.float32 and tuple(boxes.shape) == (len(masks), 4)
    for bitmap, rle, area, box, (x, y, crop) in zip(
        bitmaps, masks.rle(), areas.tolist(), boxes.tolist(), crops, strict=True
    ):
        assert rle == ops.rle_encode(bitmap)
        theirs = coco.encode(np.asfortranarray(bitmap.numpy()))
        assert rle.compressed() == theirs["counts"].decode()
        assert area == rle.area() == int(bitmap.sum())
        rows, columns = bitmap.any(1).nonzero().flatten(), bitmap.any(0).nonzero().flatten()
        if area == 0:
            assert (x, y, *crop.shape) == (0, 0, 0, 0) and box == [0, 0, 0, 0]
            continue
        assert (x, y) == (int(columns[0]), int(rows[0]))
        assert box == [x, y, int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert torch.equal(crop, bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return bitmaps
