# SPDX-License-Identifier: Apache-2.0
"""BlendMask R-50 in plain eager PyTorch: the obvious way, and an independent check.

Parameter names are instseg's. NCHW, float32, no fusion; one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from twins.fcos import Conv, Fcos, LevelOutputs, Selected, select
from twins.masks import Refine, Result, at_locations, clip, conv_norm

BASES, ATTENTION, SIZE = 4, 14, 56


class ProtoNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.refine = Refine(128)
        self.tower = nn.ModuleList(conv_norm(128, 128) for _ in range(4))
        self.output = Conv(128, BASES, 1, bias=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        p3, p4, p5 = self.refine.reduced(features)
        size = p3.shape[-2:]
        x = p3 + F.interpolate(p4, size, mode="bilinear") + F.interpolate(p5, size, mode="bilinear")
        for conv in self.tower[:3]:
            x = F.relu(conv(x))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return self.output(F.relu(self.tower[3](x)))


class Outputs(NamedTuple):
    head: list[LevelOutputs]
    attention: list[Tensor]  # per level [B, BASES * ATTENTION * ATTENTION, h, w]
    bases: Tensor  # [B, BASES, H/4, W/4]


def roi_align(x: Tensor, boxes: Tensor, scale: float) -> Tensor:
    """One bilinear sample in each of SIZE x SIZE bins of boxes on x [1, C, H, W]: [N, C, SIZE, SIZE]."""
    n, (height, width) = len(boxes), x.shape[-2:]
    steps = (torch.arange(SIZE) + 0.5) / SIZE
    low, high = boxes[:, :2] * scale - 0.5, boxes[:, 2:] * scale - 0.5
    xs, ys = (low[:, :, None] + (high - low)[:, :, None] * steps).unbind(1)
    outside_x, outside_y = (xs < -1) | (xs > width), (ys < -1) | (ys > height)
    grid_x = (2 * xs / (width - 1) - 1)[:, None, :].expand(-1, SIZE, -1)
    grid_y = (2 * ys / (height - 1) - 1)[:, :, None].expand(-1, -1, SIZE)
    grid = torch.stack([grid_x, grid_y], 3).reshape(1, n * SIZE, SIZE, 2)
    samples = F.grid_sample(x, grid, padding_mode="border", align_corners=True)
    samples = samples.reshape(-1, n, SIZE, SIZE).transpose(0, 1)
    return samples.masked_fill((outside_y[:, :, None] | outside_x[:, None, :])[:, None], 0)


def at_least_half(values: Tensor) -> Tensor:
    return values >= 0.5


def near_half(values: Tensor) -> Tensor:
    """Where rounding alone decides: a box beyond the bases has a plateau of exactly one half."""
    return (values - 0.5).abs() <= 1e-4


def paste(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], chosen: Callable[[Tensor], Tensor] = at_least_half
) -> Tensor:
    """Probabilities [N, 1, SIZE, SIZE] sampled at the pixels of an image: bool [N, height, width]."""
    height, width = size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        # Only around the box: many times faster on a CPU than sampling the whole image.
        left, top = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
        right, bottom = min(int(x2) + 2, width), min(int(y2) + 2, height)
        xs = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
        ys = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], 2)
        values = F.grid_sample(masks[index : index + 1], grid[None], align_corners=False)
        pasted[index, top:bottom, left:right] = chosen(values[0, 0])
    return pasted


class BlendMask(Fcos):
    def __init__(self, num_classes: int = 80) -> None:
        super().__init__(num_classes, scale=False)
        self.basis_module = ProtoNet()
        self.top_layer = Conv(256, BASES * ATTENTION * ATTENTION, 3, bias=True)

    def forward(self, pixels: Tensor) -> Outputs:  # type: ignore[override]
        features = self.neck(self.backbone(pixels))
        head = self.head(features)
        attention = [self.top_layer(level.tower) for level in head]
        return Outputs(head, attention, self.basis_module(features))

    def probabilities(self, outputs: Outputs, found: Selected) -> Tensor:
        """[N, 1, SIZE, SIZE]."""
        crops = roi_align(outputs.bases, found.boxes, 0.25)
        attention = at_locations(outputs.attention, found).reshape(-1, BASES, ATTENTION, ATTENTION)
        weights = F.interpolate(attention, size=(SIZE, SIZE), mode="bilinear").softmax(1)
        return (crops * weights).sum(1, keepdim=True).sigmoid()

    def masks(
        self,
        outputs: Outputs,
        size: tuple[int, int],
        out_size: tuple[int, int],
        chosen: Callable[[Tensor], Tensor] = at_least_half,
    ) -> Result:
        """Detections and masks for an image of `out_size` that the network saw as `size`."""
        found = select(outputs.head, threshold_product=True)
        scale = torch.tensor([out_size[1] / size[1], out_size[0] / size[0]]).repeat(2)
        boxes, keep = clip(found.boxes * scale, out_size)
        found, boxes = found.pick(keep), boxes[keep]
        pasted = paste(self.probabilities(outputs, found), boxes, out_size, chosen)
        return Result(boxes, found.scores, found.labels, pasted)
