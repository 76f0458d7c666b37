# SPDX-License-Identifier: Apache-2.0
"""From the maps of all cells to instances, as published: every mask is made, then chosen among."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import instseg

STRIDES = (8, 8, 16, 32, 32)


class Found(NamedTuple):
    """Instances of one image, best first."""

    scores: Tensor  # [N]
    labels: Tensor  # [N]
    probabilities: Tensor  # [N, h, w] at stride 4


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def all_masks(named: dict[str, Tensor], level: int, image: int) -> Tensor:
    """Probabilities of every cell, [S * S, h, w] at stride 4."""
    height, width = named["p2"].shape[2:]

    def maps(kind: str) -> Tensor:
        return resized(named[f"{kind}.{level}"][image : image + 1].sigmoid(), (height, width))[0]

    if f"mask.{level}" in named:
        return maps("mask")
    if f"x.{level}" in named:
        return (maps("y")[:, None] * maps("x")[None]).flatten(0, 1)
    kernels = named[f"kernel.{level}"][image].flatten(1).t()
    features = named["mask_features"][image]
    return (kernels @ features.flatten(1)).reshape(-1, *features.shape[1:]).sigmoid()


def points_nms(probabilities: Tensor) -> Tensor:
    """[C, S, S]: 0 where the cell above, to the left or above-left is better."""
    highest = F.max_pool2d(probabilities[None], 2, stride=1, padding=1)[0, :, :-1, :-1]
    return torch.where(probabilities == highest, probabilities, 0)


def overlaps(masks: Tensor) -> Tensor:
    """IoU of every pair of bool [N, h, w]."""
    flat = masks.flatten(1).double()
    inter = flat @ flat.t()
    areas = flat.sum(1)
    return inter / (areas[:, None] + areas[None] - inter)


def rescored(scores: Tensor, labels: Tensor, masks: Tensor, kernel: str, sigma: float) -> Tensor:
    """Scores after matrix NMS, mask by mask."""
    iou = overlaps(masks) * (labels[:, None] == labels[None])
    result = scores.clone()
    for j in range(1, len(scores)):
        decay = 1.0
        for i in range(j):
            worst = float(iou[:i, i].max()) if i else 0.0
            mine = float(iou[i, j])
            if kernel == "gaussian":
                factor = torch.exp(torch.tensor(-sigma * (mine**2 - worst**2))).item()
            else:
                factor = 0.0 if mine == 1 else (1 - mine) / (1 - worst) if worst < 1 else float("inf")
            decay = min(decay, factor)
        result[j] = scores[j] * decay
    return result


def kept_by_mask_nms(labels: Tensor, masks: Tensor, threshold: float) -> list[int]:
    iou = overlaps(masks)
    kept: list[int] = []
    for j in range(len(labels)):
        if all(labels[i] != labels[j] or float(iou[i, j]) <= threshold for i in kept):
            kept.append(j)
    return kept


def detect(named: dict[str, Tensor], image: int, config: instseg.ModelConfig) -> Found:
    solo = config.solo
    parts = []
    for level, stride in enumerate(STRIDES):
        kept = points_nms(named[f"cls.{level}"][image].sigmoid()).flatten(1).t()
        cells, labels = (kept > config.post.score_threshold).nonzero(as_tuple=True)
        soft = all_masks(named, level, image)[cells]
        areas = (soft > 0.5).flatten(1).sum(1)
        mass = (soft * (soft > 0.5)).flatten(1).sum(1)
        large = areas > stride
        scores = kept[cells, labels] * mass / areas
        parts.append((scores[large], labels[large], soft[large]))
    scores, labels, soft = (torch.cat(values) for values in zip(*parts, strict=True))
    order = scores.argsort(descending=True, stable=True)[: solo.max_candidates]
    scores, labels, soft = scores[order], labels[order], soft[order]
    if solo.nms == "mask":
        kept_rows = torch.tensor(kept_by_mask_nms(labels, soft > 0.5, config.post.nms_threshold)).long()
        scores, labels, soft = scores[kept_rows], labels[kept_rows], soft[kept_rows]
    else:
        scores = rescored(scores, labels, soft > 0.5, solo.nms_kernel, solo.nms_sigma)
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= solo.update_threshold][: config.post.max_detections]
    return Found(scores[order], labels[order], soft[order])
