# SPDX-License-Identifier: Apache-2.0
"""The same numbers by pycocotools, the reference."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instseg.evaluation._truth import FIELDS, GroundTruth
from instseg.evaluation.results import CocoResult, limits_of

_TYPES = {"box": "bbox", "mask": "segm"}


def run_pycocotools(truth: GroundTruth, rows: Sequence[Mapping[str, Any]], max_detections: int) -> CocoResult:
    """The result of COCOeval on checked rows."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        coco = COCO()
        coco.dataset = _document(truth)
        coco.createIndex()
        run = COCOeval(coco, _detections(COCO, coco, truth, rows), _TYPES[truth.kind])
        run.params.maxDets = limits_of(max_detections)
        run.evaluate()
        run.accumulate()
    return CocoResult(
        truth.kind,
        run.eval["precision"],
        run.eval["recall"],
        run.eval["scores"],
        _objects(truth, run.params.areaRng),
        truth.class_names,
        truth.category_ids,
        max_detections,
    )


def _document(truth: GroundTruth) -> dict[str, Any]:
    rows = [dict(row) for found in truth.annotations.values() for row in found]
    for i, row in enumerate(rows):
        row["id"] = i + 1  # a match with the id 0 would count as none
    categories = zip(truth.category_ids, truth.class_names, strict=True)
    return {
        "info": {},
        "images": [dict(truth.image_records[i]) for i in truth.image_ids],
        "annotations": rows,
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


def _detections(coco: Any, truth_index: Any, truth: GroundTruth, rows: Sequence[Mapping[str, Any]]) -> Any:
    if not rows:
        empty = coco()
        empty.dataset = {**truth_index.dataset, "annotations": []}
        empty.createIndex()
        return empty
    # A box beside a mask would decide the size of the detection.
    keys = ("image_id", "category_id", FIELDS[truth.kind], "score")
    found = [{key: row[key] for key in keys} for row in rows]
    for row in found:
        if truth.kind == "mask":
            row["segmentation"] = _compressed(row["segmentation"], truth.size(row["image_id"]))
        else:
            row["bbox"] = list(row["bbox"])
    return truth_index.loadRes(found)


def _compressed(segmentation: Any, size: tuple[int, int]) -> Any:
    from pycocotools import mask

    if isinstance(segmentation, Mapping) and isinstance(segmentation["counts"], (str, bytes)):
        return segmentation
    made = mask.frPyObjects(segmentation, *size)
    return mask.merge(made) if isinstance(made, list) else made


def _objects(truth: GroundTruth, ranges: Sequence[Sequence[float]]) -> Any:
    """[class, area] annotations that count."""
    counts = np.zeros((len(truth.category_ids), len(ranges)), np.int64)
    for rows in truth.annotations.values():
        for row in rows:
            for a, (low, high) in enumerate(ranges):
                inside = not row["iscrowd"] and low <= row["area"] <= high
                counts[truth.label[row["category_id"]], a] += inside
    return counts
