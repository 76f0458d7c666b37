# SPDX-License-Identifier: Apache-2.0
"""Which detections are wrong and why, and which objects were not found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from instseg import _C
from instseg.evaluation._truth import (
    Detection,
    GroundTruth,
    Source,
    check_rows,
    read_detections,
    rows_by_image,
)
from instseg.evaluation.evaluator import check_settings

# A detection that overlaps an object less than this has nothing to do with it.
NEAR = 0.1
#: IoU from which a detection finds an object.
FOUND = 0.5

REASONS = ("duplicate", "wrong class", "bad localisation", "background")


@dataclass(frozen=True)
class FalsePositive:
    """A detection that finds nothing: why, and the object it comes closest to (None: background)."""

    image_id: Any
    row: Mapping[str, Any]
    class_name: str
    reason: str
    iou: float
    nearest: Mapping[str, Any] | None
    nearest_class: str


@dataclass(frozen=True)
class FalseNegative:
    """An object that no detection finds."""

    image_id: Any
    row: Mapping[str, Any]
    class_name: str


@dataclass(frozen=True)
class Mistakes:
    """False positives, the most confident first, and false negatives, the largest first."""

    kind: str
    false_positives: list[FalsePositive]
    false_negatives: list[FalseNegative]
    found: int  # objects that were found
    file_names: dict[Any, str]  # of each image
    sizes: dict[Any, tuple[int, int]]  # height, width


def find_mistakes(
    ground_truth: Source,
    detections: str | os.PathLike[str] | Sequence[Detection],
    *,
    kind: str = "box",
    min_score: float = 0.3,
) -> Mistakes:
    """Sorts detections and objects into right and wrong at IoU 0.5, as the evaluation does.

    A wrong detection is, with IoU to the objects of its image: a "duplicate" of an object of its class that a
    better one has found; of the "wrong class", when it covers an object of another class by 0.5; a "bad
    localisation" of one of its class by 0.1 to 0.5; otherwise "background". Those that fall on crowds are
    neither right nor wrong.

    Args: as of evaluate_detections(). min_score: detections below it are not there.
    Raises what evaluate_detections() raises.
    """
    check_settings((kind,), 1, "find_mistakes")
    rows = read_detections(detections, "find_mistakes")
    check_rows(rows, (kind,), "find_mistakes")
    truth = GroundTruth(ground_truth, kind, "find_mistakes")
    by_image = rows_by_image(rows, truth)
    wrong: list[FalsePositive] = []
    missed: list[FalseNegative] = []
    found = 0
    for image in truth.image_ids:
        kept = [row for row in by_image.get(image, []) if row["score"] >= min_score]
        kept = [row for row in kept if row["category_id"] in truth.label]
        kept.sort(key=lambda row: -row["score"])
        objects = truth.annotations.get(image, [])
        used, positives = _sort(truth, image, kept, objects)
        wrong += positives
        found += len(used)
        missed += [
            FalseNegative(image, row, _class(truth, row))
            for g, row in enumerate(objects)
            if g not in used and not row["iscrowd"]
        ]
    wrong.sort(key=lambda mistake: -mistake.row["score"])
    missed.sort(key=lambda mistake: -mistake.row["area"])
    names = {i: str(record.get("file_name", "")) for i, record in truth.image_records.items()}
    sizes = {i: (int(r.get("height") or 1), int(r.get("width") or 1)) for i, r in truth.image_records.items()}
    return Mistakes(kind, wrong, missed, found, names, sizes)


def _sort(
    truth: GroundTruth, image: Any, rows: list[Mapping[str, Any]], objects: list[dict[str, Any]]
) -> tuple[set[int], list[FalsePositive]]:
    """Objects found, and wrong detections, of one image; rows by descending score."""
    table = _iou(truth, image, rows, objects).tolist()
    used: set[int] = set()
    wrong: list[FalsePositive] = []
    for row, overlaps in zip(rows, table, strict=True):
        own = [g for g, o in enumerate(objects) if o["category_id"] == row["category_id"]]
        free = [g for g in own if not objects[g]["iscrowd"] and g not in used and overlaps[g] >= FOUND]
        if free:
            used.add(max(free, key=lambda g: (overlaps[g], g)))
        elif not any(objects[g]["iscrowd"] and overlaps[g] >= FOUND for g in own):
            wrong.append(_explain(truth, image, row, overlaps, objects))
    return used, wrong


def _explain(
    truth: GroundTruth,
    image: Any,
    row: Mapping[str, Any],
    overlaps: list[float],
    objects: list[dict[str, Any]],
) -> FalsePositive:
    best: dict[bool, tuple[float, int]] = {}  # of the same class and of others
    for g, o in enumerate(objects):
        same = o["category_id"] == row["category_id"]
        if not o["iscrowd"] and overlaps[g] > best.get(same, (0.0, -1))[0]:
            best[same] = overlaps[g], g
    own, other = best.get(True, (0.0, -1)), best.get(False, (0.0, -1))
    if own[0] >= FOUND:
        reason, (iou, g) = "duplicate", own
    elif other[0] >= FOUND:
        reason, (iou, g) = "wrong class", other
    elif own[0] >= NEAR:
        reason, (iou, g) = "bad localisation", own
    else:
        reason, iou, g = "background", max(own[0], other[0]), -1
    nearest = objects[g] if g >= 0 else None
    near = _class(truth, nearest) if nearest is not None else ""
    return FalsePositive(image, row, _class(truth, row), reason, iou, nearest, near)


def _iou(
    truth: GroundTruth, image: Any, rows: list[Mapping[str, Any]], objects: list[dict[str, Any]]
) -> torch.Tensor:
    crowd = [o["iscrowd"] for o in objects]
    if not rows or not objects:
        return torch.zeros(len(rows), len(objects), dtype=torch.float64)
    if truth.kind == "box":
        return _C.coco_box_iou([r["bbox"] for r in rows], [o["bbox"] for o in objects], crowd)
    found = truth.masks(image, rows, "detection")
    return _C.coco_mask_iou(found, truth.masks(image, objects, "annotation"), crowd)


def _class(truth: GroundTruth, row: Mapping[str, Any]) -> str:
    return truth.class_names[truth.label[row["category_id"]]]
