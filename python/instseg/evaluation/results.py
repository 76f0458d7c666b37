# SPDX-License-Identifier: Apache-2.0
"""The numbers of an evaluation: COCO's twelve, those of each class, precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Prefix of the numbers of masks among those of boxes, which have none.
MASK_PREFIX = "mask_"

#: Detections an image that COCO counts at most.
COCO_MAX_DETECTIONS = 100

Floats = npt.NDArray[np.float64]


def limits_of(max_detections: int) -> list[int]:
    """The numbers of detections that are looked at, ascending."""
    return sorted({1, 10, COCO_MAX_DETECTIONS, max_detections})


def prefix_of(kind: str) -> str:
    """What the names of the numbers of a kind begin with."""
    return MASK_PREFIX if kind == "mask" else ""


@dataclass(eq=False)
class CocoResult:
    """Average precision of one kind, "box" or "mask".

    The arrays are those of pycocotools: precision and scores [IoU 0.50..0.95, recall 0..1, class, area
    (all, small, medium, large), limit], recall [IoU, class, area, limit]; -1 where a class has no object.
    """

    kind: str
    precision: Floats
    recall: Floats
    scores: Floats
    objects: npt.NDArray[np.int64]  # [class, area]: annotations that count
    class_names: list[str]  # in ascending order of the category ids
    category_ids: list[Any]
    max_detections: int

    @property
    def limits(self) -> list[int]:
        """Detections an image of each entry of the last axis."""
        return limits_of(self.max_detections)

    @property
    def numbers(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, AR<N>; -1: no such object."""
        return self._numbers(slice(None))

    def per_class(self) -> list[dict[str, Any]]:
        """A row of each class: name, AP, AP50, AP75, APs, APm, APl, AR100 and objects, their number."""
        rows = []
        for k, name in enumerate(self.class_names):
            numbers = self._numbers(slice(k, k + 1))
            shown = {key: numbers[key] for key in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")}
            rows.append({"name": name, **shown, "objects": int(self.objects[k, 0])})
        return rows

    def curve(self, iou: float | None = None, label: int | None = None) -> Floats:
        """Precision at recall 0, 0.01, ..., 1, all areas: [101].

        iou: one of 0.5, 0.55, ..., 0.95; None: the mean over them. label: index of a class; None: the mean
        over those that have objects. All -1 where there are none. Raises ValueError on another IoU.
        """
        step = None if iou is None else round((iou - 0.5) / 0.05)
        if step is not None and (iou is None or not 0 <= step <= 9 or abs(0.5 + 0.05 * step - iou) > 1e-6):
            raise ValueError(f"[CocoResult.curve] IoU must be one of 0.5, 0.55, ..., 0.95, got {iou}")
        steps = slice(None) if step is None else slice(step, step + 1)
        values = self.precision[steps, :, :, 0, self.limits.index(self.max_detections)]
        present = self.objects[:, 0] > 0
        if label is not None:
            present &= np.arange(len(present)) == label
        if not present.any():
            return np.full(values.shape[1], -1.0)
        mean: Floats = values[:, :, present].mean(axis=(0, 2))
        return mean

    def _numbers(self, classes: slice) -> dict[str, float]:
        limits, at = self.limits, self.limits.index(self.max_detections)
        precision, recall = self.precision[:, :, classes], self.recall[:, classes]
        everything, small, medium, large = range(4)
        numbers = {
            "AP": _mean(precision[:, :, :, everything, at]),
            "AP50": _mean(precision[0, :, :, everything, at]),
            "AP75": _mean(precision[5, :, :, everything, at]),
            "APs": _mean(precision[:, :, :, small, at]),
            "APm": _mean(precision[:, :, :, medium, at]),
            "APl": _mean(precision[:, :, :, large, at]),
        }
        for count in (1, 10, COCO_MAX_DETECTIONS):
            numbers[f"AR{count}"] = _mean(recall[:, :, everything, limits.index(count)])
        numbers["ARs"] = _mean(recall[:, :, small, at])
        numbers["ARm"] = _mean(recall[:, :, medium, at])
        numbers["ARl"] = _mean(recall[:, :, large, at])
        numbers[f"AR{self.max_detections}"] = _mean(recall[:, :, everything, at])
        return numbers


def summary_line(numbers: Mapping[str, float]) -> str:
    """AP, AP50, AP75 and AP by size in one line; those of masks, when there are any, after those of boxes."""
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")

    def line(prefix: str) -> str:
        values = ((n, numbers[prefix + n]) for n in names)
        return "  ".join(f"{n} {value:.3f}" if value >= 0 else f"{n} -" for n, value in values)

    return f"box {line('')}  mask {line(MASK_PREFIX)}" if f"{MASK_PREFIX}AP" in numbers else line("")


def _mean(values: Floats) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0
