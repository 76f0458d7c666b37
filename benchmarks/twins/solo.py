# SPDX-License-Identifier: Apache-2.0
"""SOLO, Decoupled SOLO and SOLOv2 R-50 in plain eager PyTorch: the obvious way, and an independent check.

Every mask is computed, then chosen among. Parameter names are instseg's. NCHW, float32, no fusion; one image
at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from twins.fcos import Conv, ResNet50
from twins.masks import Result

GRIDS = (40, 36, 24, 16, 12)
STRIDES = (8, 8, 16, 32, 32)
SCORE, UPDATED_SCORE, INSIDE = 0.1, 0.05, 0.5
CANDIDATES, DETECTIONS, SIGMA = 500, 100, 2.0


def resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def with_coordinates(x: Tensor, axes: str = "xy") -> Tensor:
    """Further channels from -1 at the first to 1 at the last column (x) and row (y)."""
    n, _, height, width = x.shape
    maps = [x]
    if "x" in axes:
        maps.append(torch.linspace(-1, 1, width).expand(n, 1, height, width))
    if "y" in axes:
        maps.append(torch.linspace(-1, 1, height)[:, None].expand(n, 1, height, width))
    return torch.cat(maps, 1)


def group_conv(i: int, o: int, k: int = 3) -> Conv:
    return Conv(i, o, k, norm=nn.GroupNorm(32, o))


class Tower(nn.ModuleList):
    def __init__(self, i: int, width: int, depth: int) -> None:
        super().__init__(group_conv(width if n else i, width) for n in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self:
            x = F.relu(conv(x))
        return x


class SoloFpn(nn.Module):
    """P2..P5, and P6 as every second cell of P5."""

    def __init__(self) -> None:
        super().__init__()
        for level, i in ((2, 256), (3, 512), (4, 1024), (5, 2048)):
            self.add_module(f"lateral{level}", Conv(i, 256, 1, bias=True))
            self.add_module(f"output{level}", Conv(256, 256, 3, bias=True))

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        top: Tensor | None = None
        for level in (5, 4, 3, 2):
            lateral = getattr(self, f"lateral{level}")(taps[level - 2])
            top = lateral if top is None else lateral + F.interpolate(top, scale_factor=2.0, mode="nearest")
            outputs.insert(0, getattr(self, f"output{level}")(top))
        return [*outputs, F.max_pool2d(outputs[-1], 1, 2)]


class Head(nn.Module, ABC):
    """Per level class logits and what all its masks are made of."""

    def __init__(self, num_classes: int, width: int, depth: int, i: int = 256) -> None:
        super().__init__()
        self.cls_tower = Tower(i, width, depth)
        self.cls_logits = Conv(width, num_classes, 3, bias=True)

    def classify(self, grid: Tensor) -> Tensor:
        return self.cls_logits(self.cls_tower(grid))

    @abstractmethod
    def cells(self, level: int, x: Tensor) -> tuple[Tensor, ...]:
        """Class logits of the grid, then the maps of the masks, [1, ...] each."""

    def forward(self, features: list[Tensor]) -> list[tuple[Tensor, ...]]:
        half = F.interpolate(features[0], scale_factor=0.5, mode="bilinear", align_corners=False)
        maps = [half, *features[1:4], resized(features[4], features[3].shape[2:])]
        return [self.cells(level, x) for level, x in enumerate(maps)]


class MapHead(Head):
    """A map per cell."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, 256, 7)
        self.mask_tower = Tower(258, 256, 7)
        self.mask_output = nn.ModuleList(Conv(256, s * s, 1, bias=True) for s in GRIDS)

    def cells(self, level: int, x: Tensor) -> tuple[Tensor, ...]:
        logits = self.classify(resized(x, (GRIDS[level],) * 2))
        return logits, self.mask_output[level](doubled(self.mask_tower(with_coordinates(x))))


class DecoupledHead(Head):
    """A map per column and one per row."""

    def __init__(self, num_classes: int, light: bool) -> None:
        super().__init__(num_classes, 256, 4 if light else 7)
        self.light = light
        if light:
            self.mask_tower = Tower(258, 256, 4)
        else:
            self.x_tower = Tower(257, 256, 7)
            self.y_tower = Tower(257, 256, 7)
        self.x_output = nn.ModuleList(Conv(256, s, 3, bias=True) for s in GRIDS)
        self.y_output = nn.ModuleList(Conv(256, s, 3, bias=True) for s in GRIDS)

    def cells(self, level: int, x: Tensor) -> tuple[Tensor, ...]:
        logits = self.classify(resized(x, (GRIDS[level],) * 2))
        if self.light:
            across = down = doubled(self.mask_tower(with_coordinates(x)))
        else:
            across = doubled(self.x_tower(with_coordinates(x, "x")))
            down = doubled(self.y_tower(with_coordinates(x, "y")))
        return logits, self.x_output[level](across), self.y_output[level](down)


class KernelHead(Head):
    """A convolution per cell."""

    def __init__(self, num_classes: int, width: int, depth: int, channels: int) -> None:
        super().__init__(num_classes, width, depth)
        self.kernel_tower = Tower(258, width, depth)
        self.kernel = Conv(width, channels, 3, bias=True)

    def cells(self, level: int, x: Tensor) -> tuple[Tensor, ...]:
        grid = resized(with_coordinates(x), (GRIDS[level],) * 2)
        return self.classify(grid[:, :256]), self.kernel(self.kernel_tower(grid))


class MaskBranch(nn.Module):
    """P2..P5 to one map at stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.level0 = Tower(256, 128, 1)
        self.level1 = Tower(256, 128, 1)
        self.level2 = Tower(256, 128, 2)
        self.level3 = Tower(258, 128, 3)
        self.output = group_conv(128, channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        total = self.level0(features[0])
        for level in (1, 2, 3):
            x = features[level] if level < 3 else with_coordinates(features[level])
            for conv in getattr(self, f"level{level}"):
                x = doubled(F.relu(conv(x)))
            total = total + x
        return F.relu(self.output(total))


class Outputs(NamedTuple):
    levels: list[tuple[Tensor, ...]]  # class logits [1, C, S, S] and maps of the masks
    features: Tensor | None  # of SOLOv2, [1, E, H/4, W/4]
    size: torch.Size  # H/4, W/4


class Candidates(NamedTuple):
    scores: Tensor  # [N]
    labels: Tensor  # [N]
    masks: Tensor  # [N, H/4, W/4] probabilities

    def pick(self, index: Tensor) -> Candidates:
        return Candidates(*(values[index] for values in self))


def points_nms(probabilities: Tensor) -> Tensor:
    highest = F.max_pool2d(probabilities, 2, stride=1, padding=1)[..., :-1, :-1]
    return probabilities * (probabilities == highest)


def matrix_nms(found: Candidates) -> Tensor:
    """Scores of candidates that come best first, lowered by those before them."""
    masks = (found.masks > INSIDE).flatten(1).float()
    inter, areas = masks @ masks.t(), masks.sum(1)
    iou = inter / (areas[:, None] + areas - inter)
    iou = (iou * (found.labels[:, None] == found.labels)).triu(1)
    own = iou.max(0).values[:, None]
    decay = torch.exp(-SIGMA * iou**2) / torch.exp(-SIGMA * own**2)
    return found.scores * decay.min(0).values


def tight_boxes(masks: Tensor) -> Tensor:
    """[N, 4] around [N, H, W] bool; 0 where a mask is empty."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            box[:] = torch.stack(ends).float()
    return boxes


class Solo(nn.Module):
    """`kind`: "solo", "decoupled", "decoupled_light", "solov2" or "solov2_light"."""

    def __init__(self, kind: str = "solo", num_classes: int = 80, caffe: bool = False) -> None:
        super().__init__()
        self.backbone = ResNet50(first=2, stride_in_1x1=caffe)
        self.neck = SoloFpn()
        self.mask_branch: MaskBranch | None = None
        self.head: Head
        if kind == "solo":
            self.head = MapHead(num_classes)
        elif kind.startswith("decoupled"):
            self.head = DecoupledHead(num_classes, kind == "decoupled_light")
        else:
            width, depth, channels = (256, 2, 128) if kind == "solov2_light" else (512, 4, 256)
            self.head = KernelHead(num_classes, width, depth, channels)
            self.mask_branch = MaskBranch(channels)

    def forward(self, pixels: Tensor) -> Outputs:
        features = self.neck(self.backbone(pixels))
        branch = self.mask_branch(features) if self.mask_branch is not None else None
        return Outputs(self.head(features), branch, features[0].shape[2:])

    def probabilities(self, outputs: Outputs, level: int, cells: Tensor) -> Tensor:
        """Masks of cells [N], [N, H/4, W/4]."""
        maps = outputs.levels[level][1:]
        if outputs.features is not None:
            kernels = maps[0][0].flatten(1).t()[cells]
            return F.conv2d(outputs.features, kernels[:, :, None, None])[0].sigmoid()
        all_maps = [resized(x.sigmoid(), outputs.size)[0] for x in maps]
        if len(all_maps) == 1:
            return all_maps[0][cells]
        return all_maps[0][cells % GRIDS[level]] * all_maps[1][cells // GRIDS[level]]

    def candidates(self, outputs: Outputs) -> Candidates:
        """Cells with a class and a mask that is large enough, scored, the best first."""
        levels = []
        for level, (logits, *_) in enumerate(outputs.levels):
            p = points_nms(logits.sigmoid())[0].flatten(1).t()
            cells, labels = (p > SCORE).nonzero(as_tuple=True)
            if not len(cells):
                continue
            soft = self.probabilities(outputs, level, cells)
            inside = soft > INSIDE
            areas = inside.flatten(1).sum(1)
            scores = p[cells, labels] * (soft * inside).flatten(1).sum(1) / areas
            levels.append(Candidates(scores, labels, soft).pick(areas > STRIDES[level]))
        if not levels:
            none = torch.zeros(0)
            return Candidates(none, none.long(), torch.zeros(0, *outputs.size))
        found = Candidates(*(torch.cat(values) for values in zip(*levels, strict=True)))
        return found.pick(found.scores.argsort(descending=True)[:CANDIDATES])

    def masks(self, outputs: Outputs, size: tuple[int, int], out_size: tuple[int, int]) -> Result:
        """Detections and masks for an image of `out_size` that the network saw as `size`."""
        found = self.candidates(outputs)
        if len(found.scores):
            found = found._replace(scores=matrix_nms(found))
            order = found.scores.argsort(descending=True)
            found = found.pick(order[found.scores[order] >= UPDATED_SCORE][:DETECTIONS])
        if not len(found.scores):
            empty = torch.zeros(0, *out_size, dtype=torch.bool)
            return Result(torch.zeros(0, 4), found.scores, found.labels, empty)
        large = F.interpolate(found.masks[None], scale_factor=4.0, mode="bilinear", align_corners=False)
        inside = resized(large[..., : size[0], : size[1]], out_size)[0] > INSIDE
        return Result(tight_boxes(inside), found.scores, found.labels, inside)
