# SPDX-License-Identifier: Apache-2.0
"""Ground truth and detections of an evaluation: read, checked, handed to C++ image by image."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from instseg import _C
from instseg.data import CocoDataset

# image_id, category_id, score, bbox [x, y, width, height] and, with masks, segmentation {size, counts}
Detection = dict[str, Any]
Source = str | os.PathLike[str] | Mapping[str, Any] | CocoDataset

#: What is compared -> field of annotations and detections.
FIELDS = {"box": "bbox", "mask": "segmentation"}


class GroundTruth:
    """Annotations of one kind by image, in ascending order of the image ids.

    Annotations of images or categories that are not listed are left out, as pycocotools does.

    Raises OSError when a file cannot be read, and ValueError, in one line beginning with ``[function]``, on
    anything that cannot be evaluated.
    """

    def __init__(self, source: Source, kind: str, function: str) -> None:
        if kind not in FIELDS:
            raise ValueError(f"[{function}] kind must be box or mask, got {kind!r}")
        self.kind, self.function = kind, function
        document = read_document(source, kind, function)
        self.image_records = _by_id(document["images"], "image", function)
        categories = _by_id(document["categories"], "category", function)
        if not categories:
            raise ValueError(f"[{function}] the ground truth has no category")
        self.image_ids: list[Any] = _ascending(self.image_records, "image", function)
        self.category_ids: list[Any] = _ascending(categories, "category", function)
        self.class_names = [str(categories[i].get("name", i)) for i in self.category_ids]
        self.position = {image: i for i, image in enumerate(self.image_ids)}
        self.label = {category: i for i, category in enumerate(self.category_ids)}
        self.annotations: dict[Any, list[dict[str, Any]]] = {}
        self._index(document["annotations"])

    def _index(self, records: Sequence[Any]) -> None:
        bare: list[Any] = []
        for i, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise ValueError(f"[{self.function}] annotation {i} of the ground truth is not an object")
            what = f"annotation {record.get('id', i)} of the ground truth"
            for key in ("image_id", "category_id"):
                if key not in record:
                    raise ValueError(f"[{self.function}] {what} has no '{key}'")
            image, category = record["image_id"], record["category_id"]
            if not _is_key(image, self.position) or not _is_key(category, self.label):
                continue
            if self.kind == "mask" and not record.get("segmentation"):
                bare.append(record.get("id"))
                continue
            self.annotations.setdefault(image, []).append(self._entry(record, what))
        if bare:
            raise ValueError(
                f"[{self.function}] {len(bare)} annotations of the ground truth have no 'segmentation', the "
                f"first is {bare[0]}; evaluate boxes, or open the dataset with masks=True"
            )

    def _entry(self, record: Mapping[str, Any], what: str) -> dict[str, Any]:
        box = record.get("bbox")
        if self.kind == "box" or (box is not None and record.get("area") is None):
            _check_box(box, f"[{self.function}] {what}")
        area = record.get("area")
        if area is None:
            if box is None:
                raise ValueError(f"[{self.function}] {what} has no 'area'")
            area = box[2] * box[3]
        if not _is_finite(area):
            raise ValueError(f"[{self.function}] 'area' of {what} is {area!r}, not a number")
        return {
            "image_id": record["image_id"],
            "category_id": record["category_id"],
            "area": area,
            "iscrowd": int(record.get("iscrowd") in (1, True)),
            FIELDS[self.kind]: record[FIELDS[self.kind]],
        }

    def size(self, image: Any) -> tuple[int, int]:
        """Height and width of an image."""
        record = self.image_records[image]
        size = record.get("height"), record.get("width")
        if not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"[{self.function}] image {image} of the ground truth has no height and width")
        return size  # type: ignore[return-value]

    def objects(self, image: Any, found: bool = True) -> _C.CocoObjects:
        """Annotations of an image; without their masks when there is nothing to compare them with."""
        rows = self.annotations.get(image, [])
        labels = [self.label[row["category_id"]] for row in rows]
        areas, crowd = [row["area"] for row in rows], [row["iscrowd"] for row in rows]
        if self.kind == "box":
            return _C.CocoObjects(labels, areas, crowd, boxes=[row["bbox"] for row in rows])
        if not found:
            return _C.CocoObjects(labels, areas, crowd)
        return _C.CocoObjects(labels, areas, crowd, masks=self.masks(image, rows, "annotation"))

    def detections(self, image: Any, rows: Sequence[Mapping[str, Any]]) -> _C.CocoDetections:
        """Checked rows of an image; those of categories that the ground truth has not are left out."""
        rows = [row for row in rows if _is_key(row["category_id"], self.label)]
        labels = [self.label[row["category_id"]] for row in rows]
        scores = [row["score"] for row in rows]
        if self.kind == "box":
            return _C.CocoDetections(labels, scores, boxes=[row["bbox"] for row in rows])
        return _C.CocoDetections(labels, scores, masks=self.masks(image, rows, "detection"))

    def masks(self, image: Any, rows: Sequence[Mapping[str, Any]], what: str) -> _C.MaskTargets:
        """Masks of rows of an image; ValueError names the row that cannot be used."""
        if not rows:
            return _C.MaskTargets((1, 1))
        size = self.size(image)
        try:
            return _C.MaskTargets.from_coco([row["segmentation"] for row in rows], size)
        except (ValueError, TypeError):
            for i, row in enumerate(rows):
                try:
                    _C.MaskTargets.from_coco([row["segmentation"]], size)
                except (ValueError, TypeError) as error:
                    text = re.sub(r"^\[[^\]]*\] (segmentation 0(: )?)?", "", str(error)).strip()
                    message = f"segmentation of {what} {i} of image {image}: {text}"
                    raise ValueError(f"[{self.function}] {message}") from None
            raise


def read_detections(
    source: str | os.PathLike[str] | Iterable[Detection], function: str
) -> list[Mapping[str, Any]]:
    """The rows of a COCO result file, or of a sequence."""
    rows = _read_json(source, function) if isinstance(source, (str, os.PathLike)) else list(source)
    if not isinstance(rows, list):
        name = f"'{os.fspath(source)}' holds" if isinstance(source, (str, os.PathLike)) else "got"
        raise ValueError(
            f"[{function}] detections must be a list of COCO results, {name} a {type(rows).__name__}"
        )
    return rows


def check_rows(rows: Sequence[Any], kinds: Sequence[str], function: str) -> None:
    """ValueError that names the first detection which lacks something or holds what is no number."""
    fields = ["image_id", "category_id", *(FIELDS[kind] for kind in kinds), "score"]
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"[{function}] detection {i} is a {type(row).__name__}, not an object")
        for key in fields:
            if key not in row:
                raise ValueError(f"[{function}] detection {i} has no '{key}'")
        if not _is_finite(row["score"]):
            raise ValueError(f"[{function}] score of detection {i} is {row['score']!r}, not a number")
        if "box" in kinds:
            _check_box(row["bbox"], f"[{function}] detection {i}")


def rows_by_image(
    rows: Iterable[Mapping[str, Any]], truth: GroundTruth
) -> dict[Any, list[Mapping[str, Any]]]:
    """Rows in the order given; ValueError when one is of an image that the ground truth has not."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if not _is_key(row["image_id"], truth.position):
            raise ValueError(
                f"[{truth.function}] detections of image {row['image_id']} which is not in the ground truth"
            )
        found.setdefault(row["image_id"], []).append(row)
    return found


def read_document(source: Source, kind: str, function: str) -> Mapping[str, Any]:
    """The COCO document of a source, with its three lists; of a CocoDataset what ``kind`` compares."""
    if isinstance(source, CocoDataset):
        if kind == "mask" and not (source.masks or source.semantic):
            raise ValueError(
                f"[{function}] '{source.annotations_path}' was opened without masks; evaluate boxes, or open "
                "the dataset with masks=True"
            )
        return source.ground_truth(masks=kind == "mask")
    document = source if isinstance(source, Mapping) else _read_json(source, function)
    name = "the ground truth" if isinstance(source, Mapping) else f"'{os.fspath(source)}'"
    if not isinstance(document, Mapping):
        raise ValueError(f"[{function}] {name} is not a COCO document")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), (list, tuple)):
            raise ValueError(f"[{function}] {name} is not a COCO document: it has no list '{key}'")
    return document


def _read_json(path: str | os.PathLike[str], function: str) -> Any:
    with open(path, "rb") as file:
        content = file.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[{function}] '{os.fspath(path)}' is not JSON: {error}") from None


def _by_id(records: Sequence[Any], what: str, function: str) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or not isinstance(record.get("id"), (int, str)):
            raise ValueError(f"[{function}] {what} {i} of the ground truth has no 'id'")
        if record["id"] in found:
            raise ValueError(f"[{function}] {what} id {record['id']} of the ground truth is used twice")
        found[record["id"]] = record
    return found


def _ascending(ids: Iterable[Any], what: str, function: str) -> list[Any]:
    try:
        return sorted(ids)
    except TypeError:
        raise ValueError(f"[{function}] {what} ids of the ground truth mix numbers and texts") from None


def _is_key(value: Any, known: Mapping[Any, Any]) -> bool:
    try:
        return value in known
    except TypeError:  # a list, for example
        return False


def _is_finite(value: Any) -> bool:
    if type(value) is not float:  # the usual case is not worth a look at abstract classes
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        try:
            value = float(value)
        except OverflowError:
            return False
    return math.isfinite(value)


def _check_box(box: Any, what: str) -> None:
    if not hasattr(box, "__len__") or len(box) != 4 or not all(map(_is_finite, box)):
        raise ValueError(f"{what} has bbox {str(box)[:60]}, not four numbers x, y, width, height")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"{what} has bbox {str(box)[:60]} of negative size")
