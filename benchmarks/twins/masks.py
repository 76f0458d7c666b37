# SPDX-License-Identifier: Apache-2.0
"""What the CondInst and BlendMask twins share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from twins.fcos import Conv, Selected


class Result(NamedTuple):
    """Detections of one image, in its pixels."""

    boxes: Tensor  # [N, 4], clipped
    scores: Tensor  # [N]
    labels: Tensor  # [N]
    masks: Tensor  # [N, H, W] bool


def conv_norm(i: int, o: int) -> Conv:
    return Conv(i, o, 3, norm=nn.BatchNorm2d(o))


class Refine(nn.ModuleList):
    """P3, P4 and P5 reduced to one width, enlarged to P3 and summed."""

    def __init__(self, channels: int) -> None:
        super().__init__(conv_norm(256, channels) for _ in range(3))

    def reduced(self, features: list[Tensor]) -> list[Tensor]:
        return [F.relu(conv(x)) for conv, x in zip(self, features[:3], strict=True)]


def at_locations(maps: list[Tensor], found: Selected) -> Tensor:
    """Per detection the vector of its location, [N, channels]."""
    rows = maps[0].new_zeros(len(found.scores), maps[0].shape[1])
    for level, values in enumerate(maps):
        here = found.levels == level
        rows[here] = values[0].flatten(1)[:, found.cells[here]].t()
    return rows


def clip(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes inside an image of height, width; and which of them are not empty."""
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    boxes = boxes.clamp(min=0).minimum(limit)
    return boxes, (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def encode(masks: Tensor) -> list[dict[str, Any]]:
    """COCO run lengths of [N, H, W]."""
    return [coco_mask.encode(np.asfortranarray(mask.numpy().view(np.uint8))) for mask in masks]
