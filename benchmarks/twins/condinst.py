# SPDX-License-Identifier: Apache-2.0
"""CondInst R-50 in plain eager PyTorch: the obvious way, and an independent check.

Parameter names are instseg's. NCHW, float32, no fusion; one image at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from twins.fcos import Conv, Fcos, LevelOutputs, Selected, select
from twins.masks import Refine, Result, at_locations, clip, conv_norm

CHANNELS = 8  # of the mask features, and between the layers of the mask head
WEIGHTS = ((CHANNELS, CHANNELS + 2), (CHANNELS, CHANNELS), (1, CHANNELS))
PARAMETERS = sum(o * i + o for o, i in WEIGHTS)


def aligned_bilinear(x: Tensor, factor: int) -> Tensor:
    height, width = x.shape[-2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[..., : factor * height, : factor * width]


class MaskBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.refine = Refine(128)
        self.tower = nn.ModuleList(conv_norm(128, 128) for _ in range(4))
        self.output = Conv(128, CHANNELS, 1, bias=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        p3, p4, p5 = self.refine.reduced(features)
        x = p3 + aligned_bilinear(p4, 2) + aligned_bilinear(p5, 4)
        for conv in self.tower:
            x = F.relu(conv(x))
        return self.output(x)


class Outputs(NamedTuple):
    head: list[LevelOutputs]
    parameters: list[Tensor]  # per level [B, PARAMETERS, h, w]
    features: Tensor  # [B, CHANNELS, H/8, W/8]


def relative_coordinates(found: Selected, maps: list[Tensor], height: int, width: int) -> Tensor:
    """(location - pixel) / size of interest, [N, 2, height, width] at stride 8."""
    strides = 8 << found.levels
    device = found.cells.device
    widths = torch.tensor([m.shape[-1] for m in maps], device=device)[found.levels]
    x = found.cells % widths * strides + strides // 2
    y = found.cells // widths * strides + strides // 2
    px, py = torch.arange(width, device=device) * 8 + 4, torch.arange(height, device=device) * 8 + 4
    dx = (x[:, None, None] - px).expand(-1, height, -1)
    dy = (y[:, None, None] - py[:, None]).expand(-1, -1, width)
    return torch.stack([dx, dy], 1) / (64 << found.levels).float()[:, None, None, None]


def mask_heads(inputs: Tensor, parameters: Tensor) -> Tensor:
    """Every instance's own three layers as grouped convolutions: [N, C, h, w] -> [N, 1, h, w]."""
    n, _, height, width = inputs.shape
    weights = parameters[:, : -(2 * CHANNELS + 1)].split([o * i for o, i in WEIGHTS], 1)
    biases = parameters[:, -(2 * CHANNELS + 1) :].split([o for o, _ in WEIGHTS], 1)
    x = inputs.reshape(1, -1, height, width)
    for layer, ((o, i), weight, bias) in enumerate(zip(WEIGHTS, weights, biases, strict=True)):
        x = F.conv2d(x, weight.reshape(n * o, i, 1, 1), bias.reshape(-1), groups=n)
        x = F.relu(x) if layer < 2 else x
    return x.reshape(n, 1, height, width)


class CondInst(Fcos):
    def __init__(self, num_classes: int = 80) -> None:
        super().__init__(num_classes)
        self.mask_branch = MaskBranch()
        self.controller = Conv(256, PARAMETERS, 3, bias=True)

    def forward(self, pixels: Tensor) -> Outputs:  # type: ignore[override]
        features = self.neck(self.backbone(pixels))
        head = self.head(features)
        parameters = [self.controller(level.tower) for level in head]
        return Outputs(head, parameters, self.mask_branch(features))

    def probabilities(self, outputs: Outputs, found: Selected) -> Tensor:
        """[N, 1, H/4, W/4]."""
        height, width = outputs.features.shape[-2:]
        coordinates = relative_coordinates(found, outputs.parameters, height, width)
        features = outputs.features.expand(len(coordinates), -1, -1, -1)
        inputs = torch.cat([coordinates, features], 1)
        logits = mask_heads(inputs, at_locations(outputs.parameters, found))
        return aligned_bilinear(logits, 2).sigmoid()

    def masks(self, outputs: Outputs, size: tuple[int, int], out_size: tuple[int, int]) -> Result:
        """Detections and masks for an image of `out_size` that the network saw as `size`."""
        found = select(outputs.head, threshold_product=True)
        scale = torch.tensor([out_size[1] / size[1], out_size[0] / size[0]]).repeat(2)
        boxes, keep = clip(found.boxes * scale, out_size)
        found, boxes = found.pick(keep), boxes[keep]
        if not len(boxes):
            return Result(boxes, found.scores, found.labels, torch.zeros(0, *out_size, dtype=torch.bool))
        maps = aligned_bilinear(self.probabilities(outputs, found), 4)[..., : size[0], : size[1]]
        maps = F.interpolate(maps, size=out_size, mode="bilinear", align_corners=False)
        return Result(boxes, found.scores, found.labels, maps[:, 0] > 0.5)
