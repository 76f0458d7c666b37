# SPDX-License-Identifier: Apache-2.0
"""Pasting of masks in plain tensor operations, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import instseg


def aligned_bilinear(x: torch.Tensor, factor: int) -> torch.Tensor:
    """[N, h, w] enlarged; docs/ops.md."""
    height, width = x.shape[-2:]
    x = F.pad(x[:, None], (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, (factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[:, 0, : factor * height, : factor * width]


def enlarged(masks: instseg.Masks) -> torch.Tensor:
    """Probabilities of every network pixel, [N, h * stride, w * stride] float64."""
    maps = masks.probabilities.double()
    if masks.enlarge == "aligned":
        return aligned_bilinear(maps, masks.stride)
    size = [masks.stride * side for side in maps.shape[1:]]
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def image_values(masks: instseg.Masks) -> torch.Tensor:
    """Probabilities at the size of the image, [N, H, W] float64."""
    height, width = masks.network_size
    large = enlarged(masks)[:, :height, :width]
    size = masks.image_size
    return F.interpolate(large[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def box_values(masks: instseg.Masks) -> torch.Tensor:
    """The same for maps that fill boxes; 0 outside the boxes."""
    assert masks.boxes is not None
    height, width = masks.image_size
    x1, y1, x2, y2 = masks.boxes.double().unbind(1)
    x = ((torch.arange(width) + 0.5) - x1[:, None]) / (x2 - x1)[:, None] * 2 - 1
    y = ((torch.arange(height) + 0.5) - y1[:, None]) / (y2 - y1)[:, None] * 2 - 1
    count = len(masks)
    grid = torch.stack(
        [x[:, None, :].expand(count, height, width), y[:, :, None].expand(count, height, width)], 3
    )
    return F.grid_sample(masks.probabilities.double()[:, None], grid, align_corners=False)[:, 0]


def values(masks: instseg.Masks) -> torch.Tensor:
    return image_values(masks) if masks.placement == "image" else box_values(masks)


def blobs(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Probability maps with smooth objects of different sizes, [N, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    maps = []
    for _ in range(count):
        a, b, r, s, p, q = torch.rand(6, generator=generator).tolist()
        radius = (0.05 + 0.4 * r) * min(height, width)
        dy, dx = y - a * height, (x - b * width) * (0.5 + s)
        angle = torch.atan2(dy, dx)
        edge = radius * (1 + 0.3 * torch.sin(3 * angle + 6 * p) + 0.2 * torch.cos(7 * angle + 6 * q))
        maps.append(torch.sigmoid((edge - torch.hypot(dy, dx)) * 2))
    return torch.stack(maps) if maps else torch.zeros(0, height, width)
