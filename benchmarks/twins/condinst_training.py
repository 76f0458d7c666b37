# SPDX-License-Identifier: Apache-2.0
"""A training step of CondInst R-50 in plain eager PyTorch: the obvious way, and an independent check.

Formulas: docs/models.md, "FCOS losses" and "CondInst". Every location meets every object in tensors of
locations x objects; masks are full-size bitmaps from pycocotools; the mask heads are grouped convolutions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from twins.condinst import CondInst, Outputs, aligned_bilinear, mask_heads, relative_coordinates
from twins.fcos import LevelOutputs, Selected

RADIUS, SIZES = 1.5, (64, 128, 256, 512)  # of center sampling in strides; bounds between levels, px
MAX_PROPOSALS = 500
MASK_STRIDE = 4
NO_BOUND = 1e8


class Objects(NamedTuple):
    """Ground truth of one image."""

    boxes: Tensor  # [G, 4]
    labels: Tensor  # [G]
    bitmaps: Tensor  # [G, H, W] uint8, on the padded canvas


class Assigned(NamedTuple):
    """Locations of one level and one image, or of all: levels outermost, then images."""

    labels: Tensor  # [M], the number of classes for background
    reg: Tensor  # [M, 4], in strides
    objects: Tensor  # [M], counted through the batch
    levels: Tensor  # [M]
    images: Tensor  # [M]
    cells: Tensor  # [M]


def batch_of(images: list[Tensor], mean: list[float], channels_last: bool) -> Tensor:
    """RGB uint8 [H, W, 3] images as the BGR input of the network, padded to one size."""
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    padded = []
    for image in images:
        x = image.flip(2).permute(2, 0, 1).float() - torch.tensor(mean, device=image.device)[:, None, None]
        h, w = x.shape[-2:]
        padded.append(F.pad(x, (0, width + -width % 32 - w, 0, height + -height % 32 - h)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.stack(padded).contiguous(memory_format=layout)


def bitmaps(polygons: list[list[float]], size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """[G, H, W] uint8 on the padded canvas."""
    out = torch.zeros(len(polygons), *canvas, dtype=torch.uint8)
    for i, polygon in enumerate(polygons):
        bitmap = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], *size)))
        out[i, : size[0], : size[1]] = torch.from_numpy(np.ascontiguousarray(bitmap))
    return out


def centroids(masks: Tensor) -> Tensor:
    """x, y of the mean pixel index, [G, 2]."""
    masks = masks.float()
    x = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float32)
    y = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float32)
    area = masks.sum((1, 2)).clamp(min=1e-6)
    return torch.stack([(masks.sum(1) * x).sum(1) / area, (masks.sum(2) * y).sum(1) / area], 1)


def assign(level: int, height: int, width: int, image: int, first: int, objects: Objects,
           num_classes: int) -> Assigned:  # fmt: skip
    """Targets of one level of one image; `first` is the number of its first object."""
    device = objects.boxes.device
    stride = 8 << level
    y = torch.arange(height, device=device).repeat_interleave(width) * stride + stride // 2
    x = torch.arange(width, device=device).repeat(height) * stride + stride // 2
    point = torch.stack([x, y], 1).float()[:, None]  # [locations, 1, 2]
    cells = torch.arange(height * width, device=device)
    fixed = torch.full_like(cells, level), torch.full_like(cells, image), cells
    if not len(objects.boxes):
        background = torch.full_like(cells, num_classes)
        return Assigned(background, point.new_zeros(len(cells), 4), torch.full_like(cells, -1), *fixed)
    low, high = objects.boxes[:, :2], objects.boxes[:, 2:]
    distances = torch.cat([point - low, high - point], 2)  # [locations, objects, 4]: l, t, r, b
    center, reach = centroids(objects.bitmaps), RADIUS * stride
    near = torch.cat([point - (center - reach).maximum(low), (center + reach).minimum(high) - point], 2)
    largest = distances.amax(2)
    lower, upper = (-1, *SIZES)[level], (*SIZES, NO_BOUND)[level]
    area = ((high - low)[:, 0] * (high - low)[:, 1])[None].expand_as(largest)
    area = area.masked_fill((near.amin(2) <= 0) | (largest < lower) | (largest > upper), float("inf"))
    smallest, index = area.min(1)
    found = smallest < float("inf")
    return Assigned(
        torch.where(found, objects.labels[index], num_classes),
        torch.where(found[:, None], distances[cells, index] / stride, 0.0),
        torch.where(found, index + first, -1),
        *fixed,
    )


def assign_all(shapes: list[tuple[int, int]], objects: list[Objects], num_classes: int) -> Assigned:
    starts = np.cumsum([0] + [len(image.boxes) for image in objects])
    parts = [
        assign(level, height, width, image, int(starts[image]), objects[image], num_classes)
        for level, (height, width) in enumerate(shapes)
        for image in range(len(objects))
    ]
    return Assigned(*(torch.cat(values) for values in zip(*parts, strict=True)))


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over all entries of [M, C]."""
    target = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_true = p * target + (1 - p) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    return (alpha * (1 - p_true) ** 2 * cross_entropy).sum()


def giou_loss(pred: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of l, t, r, b [P, 4] around one location, [P]."""
    inner, outer = torch.minimum(pred, target), torch.maximum(pred, target)

    def area(sides: Tensor) -> Tensor:
        return (sides[:, 0] + sides[:, 2]) * (sides[:, 1] + sides[:, 3])

    intersection, hull = area(inner), area(outer)
    union = area(pred) + area(target) - intersection
    return 1 - (intersection + 1) / (union + 1) + (hull - union) / hull


def centerness(reg: Tensor) -> Tensor:
    x, y = reg[:, [0, 2]], reg[:, [1, 3]]
    return (x.amin(1) / x.amax(1) * (y.amin(1) / y.amax(1))).sqrt()


def rows(maps: list[Tensor]) -> Tensor:
    """[B, C, h, w] of each level as [M, C] float32."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps]).float()


def fcos_losses(head: list[LevelOutputs], assigned: Assigned) -> dict[str, Tensor]:
    positive = assigned.objects >= 0
    count = max(int(positive.sum()), 1)
    reg = rows([level.regression for level in head])[positive]
    quality = rows([level.centerness for level in head])[positive, 0]
    target = assigned.reg[positive]
    weight = centerness(target)
    box = (giou_loss(reg, target) * weight).sum() / weight.sum().clamp(min=1e-6)
    return {
        "loss_cls": focal_loss(rows([level.logits for level in head]), assigned.labels) / count,
        "loss_box": box,
        "loss_centerness": F.binary_cross_entropy_with_logits(quality, weight, reduction="sum") / count,
    }


def dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    p, g = probabilities.flatten(1), targets.flatten(1)
    return 1 - 2 * (p * g).sum(1) / ((p * p).sum(1) + (g * g).sum(1) + 1e-5)


class CondInstTraining(CondInst):
    """`losses` gives the terms by name."""

    def __init__(self, num_classes: int = 80) -> None:
        super().__init__(num_classes)
        self.num_classes = num_classes
        for part in (self.backbone.stem, self.backbone.res2):
            for parameter in part.parameters():
                parameter.requires_grad_(False)

    def mask_loss(self, outputs: Outputs, assigned: Assigned, objects: list[Objects]) -> Tensor:
        chosen = (assigned.objects >= 0).nonzero().flatten()
        if len(chosen) > MAX_PROPOSALS:
            chosen = chosen[torch.randperm(len(chosen))[:MAX_PROPOSALS].to(chosen.device)]
        found = Assigned(*(values[chosen] for values in assigned))
        half = MASK_STRIDE // 2
        truth = torch.cat([image.bitmaps[:, half::MASK_STRIDE, half::MASK_STRIDE] for image in objects])
        features = outputs.features.float()
        height, width = features.shape[-2:]
        terms = []
        for image in range(len(objects)):
            here = found.images == image
            if not here.any():
                continue
            cells = Selected(
                *[found.reg[here]] * 2, found.labels[here], found.levels[here], found.cells[here]
            )
            coordinates = relative_coordinates(cells, outputs.parameters, height, width)
            shared = features[image].expand(len(coordinates), -1, -1, -1)
            parameters = self.at(outputs.parameters, cells, image)
            with torch.autocast(features.device.type, enabled=False):
                logits = mask_heads(torch.cat([coordinates, shared], 1), parameters)
            masks = aligned_bilinear(logits, 2).sigmoid()[:, 0]
            terms.append(dice_loss(masks, truth[found.objects[here]].float()))
        return torch.cat(terms).mean() if terms else 0 * (features.sum() + outputs.parameters[0].sum())

    @staticmethod
    def at(maps: list[Tensor], cells: Selected, image: int) -> Tensor:
        """Per cell the vector of its location, [N, channels] float32."""
        vectors = torch.zeros(len(cells.cells), maps[0].shape[1], device=maps[0].device)
        for level, values in enumerate(maps):
            here = cells.levels == level
            vectors[here] = values[image].flatten(1)[:, cells.cells[here]].t().float()
        return vectors

    def losses(self, pixels: Tensor, objects: list[Objects]) -> dict[str, Tensor]:
        outputs = self(pixels)
        shapes = [(int(m.logits.shape[2]), int(m.logits.shape[3])) for m in outputs.head]
        assigned = assign_all(shapes, objects, self.num_classes)
        terms = fcos_losses(outputs.head, assigned)
        return {**terms, "loss_mask": self.mask_loss(outputs, assigned, objects)}


def twin_of(model: nn.Module, **arguments: Any) -> CondInstTraining:
    """A twin with the parameters and buffers of an instseg model, in training mode."""
    twin = CondInstTraining(**arguments)
    state = model.state_dict()
    twin.load_state_dict({name: state[name].detach().clone() for name in twin.state_dict()})
    return twin.train()
