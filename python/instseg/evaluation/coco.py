# SPDX-License-Identifier: Apache-2.0
"""Box and mask AP and AR as pycocotools computes them (docs/evaluation.md)."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from instseg.data import CocoDataset, Problem

if TYPE_CHECKING:
    from instseg import Instances, ModelConfig, Predictor

# image_id, category_id, score, bbox [x, y, width, height] and, with masks, segmentation {size, counts}
Detection = dict[str, Any]

#: Prefix of the numbers of masks in the result of evaluate(); those of boxes have none.
MASK_PREFIX = "mask_"

# What is compared -> (pycocotools' name of it, field of the detections)
_KINDS = {"box": ("bbox", "bbox"), "mask": ("segm", "segmentation")}

# Detections an image that COCO counts at most.
COCO_MAX_DETECTIONS = 100


def predicts_masks(config: ModelConfig) -> bool:
    """Whether models of this configuration give their detections masks."""
    return config.family != "fcos"


def evaluate(
    predictor: Predictor,
    dataset: CocoDataset,
    *,
    max_detections: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Runs a predictor over a dataset and compares its boxes, and masks, with the annotations.

    Args:
        predictor: a Predictor; its classes are matched to the dataset's by name.
        dataset: ground truth; crowds are ignored regions. Masks are compared when the model predicts masks
            and the dataset was opened with ``masks=True`` and has some.
        max_detections: detections an image that count, the best ones first. Default: the model's
            ``post.max_detections``, at least 100 (the COCO protocol).
        progress: called with (images done, images in all).

    Returns:
        The numbers of evaluate_detections(), floats, those of masks as "mask_AP", "mask_AP50", ..., and
        besides: "max_detections" (int), "images" (int, those evaluated), "detections" (their COCO results)
        and "problems" (list of Problem: images that could not be read and do not count).

    Raises ValueError when the model knows none of the dataset's classes, or no image can be read.
    """
    config = predictor.config
    limit = max(COCO_MAX_DETECTIONS, config.post.max_detections) if max_detections is None else max_detections
    categories = _categories_of_labels(config.class_names, config.num_classes, dataset)
    detections: list[Detection] = []
    problems: list[Problem] = []
    evaluated: set[int] = set()
    masked = False
    for i, image in enumerate(dataset.images):
        try:
            pixels = dataset.read(i)
        except (OSError, ValueError) as error:
            problems.append(Problem("image_unreadable", str(error), image.id))
        else:
            found = predictor(pixels)
            masked = masked or found.masks is not None
            detections += _rows(found, image.id, categories)
            evaluated.add(image.id)
        if progress is not None:
            progress(i + 1, len(dataset.images))
    if not evaluated:
        reason = f"; {problems[0].message}" if problems else ""
        raise ValueError(f"[evaluate] no image of '{dataset.annotations_path}' could be read{reason}")
    truth = dataset.ground_truth(evaluated, masks=False)
    numbers = evaluate_detections(truth, detections, max_detections=limit)
    if masked and dataset.has_masks:
        truth = dataset.ground_truth(evaluated)
        of_masks = evaluate_detections(truth, detections, kind="mask", max_detections=limit)
        numbers |= {MASK_PREFIX + name: value for name, value in of_masks.items()}
    return {
        **numbers,
        "max_detections": limit,
        "images": len(evaluated),
        "detections": detections,
        "problems": problems,
    }


def evaluate_detections(
    ground_truth: str | os.PathLike[str] | Mapping[str, Any],
    detections: str | os.PathLike[str] | Sequence[Detection],
    *,
    kind: str = "box",
    max_detections: int = COCO_MAX_DETECTIONS,
) -> dict[str, float]:
    """COCO numbers of boxes or masks found elsewhere.

    Args:
        ground_truth: a COCO document or the path of one.
        detections: COCO results or the path of a JSON file with them.
        kind: "box", or "mask"; mask detections are sorted into sizes by their own area, boxes are not read.
        max_detections: N, detections an image that count for AP, APs, ARs, ...

    Returns:
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl and, unless N is 100, AR<N>: 0..1, or
        -1 where the dataset has no such object.

    Raises ValueError when a detection lacks a field or belongs to an image that is not in the ground truth,
    or an annotation has no mask to compare with.
    """
    if kind not in _KINDS:
        raise ValueError(f"[evaluate_detections] kind must be box or mask, got {kind!r}")
    name, field = _KINDS[kind]
    if max_detections < 1:
        raise ValueError(f"[evaluate_detections] max_detections must be positive, got {max_detections}")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO()
        truth.dataset = {"info": {}, **_document(ground_truth)}
        if kind == "mask":
            _check_masks(truth.dataset)
        truth.createIndex()
        found = _load_results(COCO, truth, _list(detections, field))
        run = COCOeval(truth, found, name)
        limits = sorted({1, 10, COCO_MAX_DETECTIONS, max_detections})
        run.params.maxDets = limits
        run.evaluate()
        run.accumulate()
    return _numbers(run.eval["precision"], run.eval["recall"], limits, max_detections)


def summary_line(numbers: Mapping[str, float]) -> str:
    """AP, AP50, AP75 and AP by size in one line; those of masks, when there are any, after those of boxes."""
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")

    def line(prefix: str) -> str:
        values = ((n, numbers[prefix + n]) for n in names)
        return "  ".join(f"{n} {value:.3f}" if value >= 0 else f"{n} -" for n, value in values)

    return f"box {line('')}  mask {line(MASK_PREFIX)}" if f"{MASK_PREFIX}AP" in numbers else line("")


def _categories_of_labels(names: list[str], count: int, dataset: CocoDataset) -> list[int | None]:
    """Dataset category of each label of the model, None for classes the dataset has not."""
    if not names:
        if count != len(dataset.category_ids):
            raise ValueError(
                f"[evaluate] the model has {count} classes without names, "
                f"'{dataset.annotations_path}' has {len(dataset.category_ids)}"
            )
        return list(dataset.category_ids)
    known = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    categories = [known.get(name) for name in names]
    if all(category is None for category in categories):
        raise ValueError(
            f"[evaluate] none of the model's classes ({', '.join(names[:5])}) is in "
            f"'{dataset.annotations_path}' ({', '.join(dataset.class_names[:5])})"
        )
    return categories


def _rows(instances: Instances, image_id: int, categories: list[int | None]) -> list[Detection]:
    rows = instances.to_coco(image_id)
    for row, label in zip(rows, instances.labels.tolist(), strict=True):
        row["category_id"] = categories[label]
    return [row for row in rows if row["category_id"] is not None]


def _check_masks(truth: Mapping[str, Any]) -> None:
    bare = [row.get("id") for row in truth.get("annotations", []) if not row.get("segmentation")]
    if bare:
        raise ValueError(
            f"[evaluate_detections] {len(bare)} annotations of the ground truth have no 'segmentation', the "
            f"first is {bare[0]}; evaluate boxes, or open the dataset with masks=True"
        )


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise ValueError(f"[evaluate_detections] '{os.fspath(path)}' is not JSON: {error}") from None


def _document(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    document = _read_json(source)
    if not isinstance(document, dict):
        raise ValueError(f"[evaluate_detections] '{os.fspath(source)}' is not a COCO document")
    return document


def _list(source: str | os.PathLike[str] | Sequence[Detection], field: str) -> list[Detection]:
    rows = _read_json(source) if isinstance(source, (str, os.PathLike)) else list(source)
    if not isinstance(rows, list):
        raise ValueError("[evaluate_detections] detections must be a list of COCO results")
    for i, row in enumerate(rows):
        missing = [key for key in ("image_id", "category_id", field, "score") if key not in row]
        if missing:
            raise ValueError(f"[evaluate_detections] detection {i} has no '{missing[0]}'")
    # A box beside a mask would decide the size of the detection.
    keys = ("image_id", "category_id", field, "score")
    return [{key: row[key] for key in keys} for row in rows]


def _load_results(coco: Any, truth: Any, rows: list[Detection]) -> Any:
    unknown = {row["image_id"] for row in rows} - set(truth.imgs)
    if unknown:
        raise ValueError(
            f"[evaluate_detections] detections of image {min(unknown)} which is not in the ground truth"
        )
    if rows:
        return truth.loadRes(rows)
    empty = coco()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _numbers(
    precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64], limits: list[int], limit: int
) -> dict[str, float]:
    """Means over precision [iou, recall, class, area, limit] and recall [iou, class, area, limit]."""

    def mean(values: npt.NDArray[np.float64]) -> float:
        present = values[values > -1]
        return float(present.mean()) if present.size else -1.0

    at = limits.index(limit)
    everything, small, medium, large = range(4)
    numbers = {
        "AP": mean(precision[:, :, :, everything, at]),
        "AP50": mean(precision[0, :, :, everything, at]),
        "AP75": mean(precision[5, :, :, everything, at]),
        "APs": mean(precision[:, :, :, small, at]),
        "APm": mean(precision[:, :, :, medium, at]),
        "APl": mean(precision[:, :, :, large, at]),
    }
    for count in (1, 10, COCO_MAX_DETECTIONS):
        numbers[f"AR{count}"] = mean(recall[:, :, everything, limits.index(count)])
    numbers["ARs"] = mean(recall[:, :, small, at])
    numbers["ARm"] = mean(recall[:, :, medium, at])
    numbers["ARl"] = mean(recall[:, :, large, at])
    numbers[f"AR{limit}"] = mean(recall[:, :, everything, at])
    return numbers
