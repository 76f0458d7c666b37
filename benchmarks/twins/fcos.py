# SPDX-License-Identifier: Apache-2.0
"""FCOS with a ResNet-50 in plain eager PyTorch: the obvious way, and an independent check.

Parameter names are instseg's, so that `load_state_dict(model.state_dict())` works. NCHW, float32, no fusion.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, 1e-5)


class Conv(nn.Conv2d):
    """A convolution with its norm as child `norm`."""

    def __init__(
        self, i: int, o: int, k: int, stride: int = 1, bias: bool = False, norm: nn.Module | None = None
    ):
        super().__init__(i, o, k, stride, k // 2, bias=bias)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.norm(y) if self.norm is not None else y


def frozen_conv(i: int, o: int, k: int, stride: int = 1) -> Conv:
    return Conv(i, o, k, stride, norm=FrozenBatchNorm(o))


class Bottleneck(nn.Module):
    def __init__(self, i: int, w: int, o: int, stride: int, stride_in_1x1: bool = True) -> None:
        super().__init__()
        self.conv1 = frozen_conv(i, w, 1, stride if stride_in_1x1 else 1)
        self.conv2 = frozen_conv(w, w, 3, 1 if stride_in_1x1 else stride)
        self.conv3 = frozen_conv(w, o, 1)
        self.shortcut = frozen_conv(i, o, 1, stride) if i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))
        y = F.relu(self.conv2(y))
        return F.relu(self.conv3(y) + self.shortcut(x))


class ResNet50(nn.Module):
    """Maps from C`first` to C5."""

    def __init__(self, first: int = 3, stride_in_1x1: bool = True) -> None:
        super().__init__()
        self.first = first
        self.stem = frozen_conv(3, 64, 7, 2)
        i = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            w, o = 64 << stage, 256 << stage
            units = [
                Bottleneck(i if b == 0 else o, w, o, 2 if b == 0 and stage else 1, stride_in_1x1)
                for b in range(blocks)
            ]
            self.add_module(f"res{stage + 2}", nn.Sequential(*units))
            i = o

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        taps = []
        for stage in range(2, 6):
            x = getattr(self, f"res{stage}")(x)
            taps.append(x)
        return taps[self.first - 2 :]


class Fpn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for level, i in ((3, 512), (4, 1024), (5, 2048)):
            self.add_module(f"lateral{level}", Conv(i, 256, 1, bias=True))
            self.add_module(f"output{level}", Conv(256, 256, 3, bias=True))
        self.p6 = Conv(256, 256, 3, 2, bias=True)
        self.p7 = Conv(256, 256, 3, 2, bias=True)

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        top: Tensor | None = None
        for level in (5, 4, 3):
            lateral = getattr(self, f"lateral{level}")(taps[level - 3])
            top = lateral if top is None else lateral + F.interpolate(top, scale_factor=2.0, mode="nearest")
            outputs.insert(0, getattr(self, f"output{level}")(top))
        p6 = self.p6(outputs[2])
        return [*outputs, p6, self.p7(F.relu(p6))]


class LevelOutputs(NamedTuple):
    logits: Tensor  # [B, C, h, w]
    regression: Tensor  # [B, 4, h, w], in strides
    centerness: Tensor  # [B, 1, h, w]
    tower: Tensor  # [B, 256, h, w], of the boxes


class Head(nn.Module):
    def __init__(self, num_classes: int, scale: bool = True) -> None:
        super().__init__()
        self.cls_tower = nn.ModuleList(
            Conv(256, 256, 3, bias=True, norm=nn.GroupNorm(32, 256)) for _ in range(4)
        )
        self.box_tower = nn.ModuleList(
            Conv(256, 256, 3, bias=True, norm=nn.GroupNorm(32, 256)) for _ in range(4)
        )
        self.cls_logits = Conv(256, num_classes, 3, bias=True)
        self.box_pred = Conv(256, 4, 3, bias=True)
        self.centerness = Conv(256, 1, 3, bias=True)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in range(5 * scale))

    def forward(self, features: list[Tensor]) -> list[LevelOutputs]:
        outputs = []
        for level, x in enumerate(features):
            cls = box = x
            for conv in self.cls_tower:
                cls = F.relu(conv(cls))
            for conv in self.box_tower:
                box = F.relu(conv(box))
            reg = self.box_pred(box)
            if len(self.scales):
                reg = self.scales[level] * reg
            outputs.append(LevelOutputs(self.cls_logits(cls), F.relu(reg), self.centerness(box), box))
        return outputs


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy NMS, vectorised over the boxes that remain."""
    order = scores.argsort(descending=True, stable=True)
    kept = []
    while order.numel():
        first, order = order[0], order[1:]
        kept.append(first)
        a, b = boxes[first], boxes[order]
        size = (torch.minimum(a[2:], b[:, 2:]) - torch.maximum(a[:2], b[:, :2])).clamp(min=0)
        inter = size[:, 0] * size[:, 1]
        area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) + (a[2] - a[0]) * (a[3] - a[1])
        order = order[inter / (area - inter) <= threshold]
    return torch.stack(kept) if kept else order


class Selected(NamedTuple):
    """Detections of one image and the locations they come from."""

    boxes: Tensor  # [N, 4], network pixels, unclipped
    scores: Tensor  # [N]
    labels: Tensor  # [N]
    levels: Tensor  # [N], 0 is the finest
    cells: Tensor  # [N], index into the level's h * w

    def pick(self, index: Tensor) -> Selected:
        return Selected(*(values[index] for values in self))


def select_level(output: LevelOutputs, level: int, threshold_product: bool) -> Selected:
    """The level's best 1000 (location, class) pairs above 0.05."""
    stride, width = 8 << level, output.logits.shape[-1]
    p = output.logits[0].flatten(1).t().sigmoid()
    q = p * output.centerness[0].flatten().sigmoid()[:, None]
    cell, label = ((q if threshold_product else p) > 0.05).nonzero(as_tuple=True)
    score = q[cell, label]
    if len(score) > 1000:
        score, best = score.topk(1000)
        cell, label = cell[best], label[best]
    left, top, right, bottom = (output.regression[0].flatten(1)[:, cell] * stride).unbind(0)
    cx = (cell % width * stride + stride // 2).float()
    cy = (cell // width * stride + stride // 2).float()
    boxes = torch.stack([cx - left, cy - top, cx + right, cy + bottom], 1)
    return Selected(boxes, score.sqrt(), label, torch.full_like(label, level), cell)


def select(outputs: list[LevelOutputs], threshold_product: bool = False) -> Selected:
    """Candidates of all levels after NMS in each class, the 100 best."""
    levels = [select_level(output, level, threshold_product) for level, output in enumerate(outputs)]
    found = Selected(*(torch.cat(values) for values in zip(*levels, strict=True)))
    kept = [
        index[nms(found.boxes[index], found.scores[index], 0.6)]
        for index in ((found.labels == c).nonzero().flatten() for c in found.labels.unique())
    ]
    keep = torch.cat(kept) if kept else found.labels[:0]
    return found.pick(keep[found.scores[keep].argsort(descending=True)][:100])


class Fcos(nn.Module):
    """`forward` gives head outputs, `detect` boxes, scores and labels of one image in network coordinates."""

    def __init__(self, num_classes: int = 80, scale: bool = True) -> None:
        super().__init__()
        self.backbone = ResNet50()
        self.neck = Fpn()
        self.head = Head(num_classes, scale)

    def forward(self, pixels: Tensor) -> list[LevelOutputs]:
        return self.head(self.neck(self.backbone(pixels)))

    def postprocess(self, outputs: list[LevelOutputs]) -> tuple[Tensor, Tensor, Tensor]:
        return select(outputs)[:3]

    @torch.no_grad()
    def detect(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.postprocess(self(pixels))
