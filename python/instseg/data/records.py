# SPDX-License-Identifier: Apache-2.0
"""Reads a COCO JSON document leniently: sound records are indexed, the rest becomes a list of problems."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from instseg.data.segmentation import Segmentation, parse_segmentation

# Annotation tools round box edges to whole pixels, so one pixel outside is not worth a report.
BOX_TOLERANCE = 1.0

# Image formats count pixels in 31 bits at most; ids become 64 bit integers.
MAX_SIZE = 2**31 - 1
MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    ``kind`` is one of unreadable_json, missing_key, bad_value, duplicate_id, duplicate_name,
    unknown_category, unknown_image, bad_box, empty_box, box_outside_image, mask_missing, bad_polygon,
    bad_rle, empty_mask, image_missing, image_unreadable, image_size.
    """

    kind: str
    message: str
    image_id: int | None = None
    annotation_id: int | None = None

    def __str__(self) -> str:
        where = [f"image {self.image_id}"] if self.image_id is not None else []
        where += [f"annotation {self.annotation_id}"] if self.annotation_id is not None else []
        return f"{', '.join(where)}: {self.message}" if where else self.message


@dataclass(frozen=True)
class ImageRecord:
    """One entry of ``images``; ``width`` and ``height`` in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class Annotation:
    """One entry of ``annotations``.

    ``bbox`` is that of the file, ``box`` clipped corners x1, y1, x2, y2 (px). ``segmentation`` is there when
    masks are read and it is sound, ``has_mask`` says that it also covers pixels of the image.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Segmentation | None = field(default=None, repr=False, compare=False)
    has_mask: bool = False


@dataclass
class Index:
    """The sound part of a document, in file order, and what is wrong with the rest."""

    categories: dict[int, str] = field(default_factory=dict)
    images: list[ImageRecord] = field(default_factory=list)
    annotations: dict[int, list[Annotation]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises OSError when the file cannot be read and ValueError when it is not a COCO document.
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        content = file.read()
    if not content.strip():
        raise ValueError(f"[CocoDataset] '{name}' is empty")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[CocoDataset] '{name}' is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"[CocoDataset] '{name}' holds a {type(document).__name__}, not a COCO object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            state = "has no" if key not in document else "has a wrong"
            raise ValueError(f"[CocoDataset] '{name}' {state} '{key}'; a COCO file needs a list of that name")
    return document


def index_document(document: dict[str, Any], masks: bool = False) -> Index:
    """Indexes a document of read_document(), with its masks if asked for. Never raises on its content."""
    index = Index()
    _index_categories(document["categories"], index)
    known, broken = _index_images(document["images"], index)
    _index_annotations(document["annotations"], known, broken, index, masks)
    return index


def has_segmentations(document: dict[str, Any]) -> bool:
    """Whether any annotation comes with a segmentation; a file of boxes has none."""
    return any(isinstance(record, dict) and record.get("segmentation") for record in document["annotations"])


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: object) -> bool:
    return _is_int(value) and abs(value) <= MAX_ID  # type: ignore[arg-type]


def _is_size(value: object) -> bool:
    return _is_int(value) and 0 < value <= MAX_SIZE  # type: ignore[operator]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


Box = tuple[float, float, float, float]
Rule = tuple[Callable[[object], bool], str]

_ID: Rule = (_is_id, "an integer of 64 bits")
_SIZE: Rule = (_is_size, f"a positive integer up to {MAX_SIZE}")
_CATEGORY: dict[str, Rule] = {"id": _ID, "name": (_is_name, "a text")}
_IMAGE: dict[str, Rule] = {
    "id": _ID,
    "file_name": (_is_name, "a text"),
    "width": _SIZE,
    "height": _SIZE,
}
_ANNOTATION: dict[str, Rule] = {
    "id": _ID,
    "image_id": _ID,
    "category_id": _ID,
    "bbox": (lambda value: isinstance(value, list), "a list"),
}


def _fault(record: object, rules: dict[str, Rule], what: str) -> tuple[str, str] | None:
    """Kind and message of the first missing or mistyped key, None for a sound record."""
    if not isinstance(record, dict):
        return "bad_value", f"{what} is a {type(record).__name__}, not an object"
    for key, (sound, expected) in rules.items():
        if key not in record:
            return "missing_key", f"{what} has no '{key}'"
        if not sound(record[key]):
            return "bad_value", f"'{key}' of {what} is {_short(record[key])}, not {expected}"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _id_of(record: object, key: str = "id") -> int | None:
    value = record.get(key) if isinstance(record, dict) else None
    return value if _is_id(value) else None


def _index_categories(records: list[Any], index: Index) -> None:
    first: dict[str, int] = {}
    for position, record in enumerate(records):
        what = f"category {_id_of(record)}" if _id_of(record) is not None else f"categories[{position}]"
        fault = _fault(record, _CATEGORY, what)
        if fault is not None:
            index.problems.append(Problem(*fault))
        elif record["id"] in index.categories:
            index.problems.append(Problem("duplicate_id", f"category id {record['id']} is used twice"))
        else:
            category_id, name = record["id"], record["name"]
            index.categories[category_id] = name
            # Published label maps fill the gaps of their numbering with "N/A", which models accept.
            if name != "N/A" and first.setdefault(name, category_id) != category_id:
                message = f"categories {first[name]} and {category_id} are both named {_short(name)}"
                index.problems.append(Problem("duplicate_name", f"{message}; training needs different names"))


def _index_images(records: list[Any], index: Index) -> tuple[dict[int, ImageRecord], set[Hashable]]:
    """Fills index.images; returns them by id, and the ids of records that were refused."""
    known: dict[int, ImageRecord] = {}
    broken: set[Hashable] = set()
    for position, record in enumerate(records):
        image_id = _id_of(record)
        what = "the image" if image_id is not None else f"images[{position}]"
        fault = _fault(record, _IMAGE, what)
        if fault is not None:
            index.problems.append(Problem(*fault, image_id=image_id))
            broken.add(image_id)
        elif record["id"] in known:
            message = f"image id {image_id} is used twice; '{record['file_name']}' is left out"
            index.problems.append(Problem("duplicate_id", message, image_id))
        else:
            image = ImageRecord(record["id"], record["file_name"], record["width"], record["height"])
            known[image.id] = image
            index.images.append(image)
    return known, broken - set(known)


def _index_annotations(
    records: list[Any], known: dict[int, ImageRecord], broken: set[Hashable], index: Index, masks: bool
) -> None:
    seen: set[int] = set()
    for position, record in enumerate(records):
        own = _id_of(record)
        what = "the annotation" if own is not None else f"annotations[{position}]"
        fault = _fault(record, _ANNOTATION, what)
        if fault is not None:
            index.problems.append(Problem(*fault, _id_of(record, "image_id"), own))
            continue
        image_id, category_id = record["image_id"], record["category_id"]
        if image_id in broken:  # already reported with its image
            continue
        problem: tuple[str, str] | None = None
        if record["id"] in seen:
            problem = "duplicate_id", f"annotation id {own} is used twice"
        elif image_id not in known:
            problem = "unknown_image", f"image id {image_id} is not in 'images'"
        elif category_id not in index.categories:
            problem = "unknown_category", f"category id {category_id} is not in 'categories'"
        seen.add(record["id"])
        if problem is not None:
            index.problems.append(Problem(*problem, image_id, own))
            continue
        box, trouble = _box(record["bbox"], known[image_id])
        if trouble is not None:
            index.problems.append(Problem(*trouble, image_id, own))
        if box is not None:
            found = _annotation(record, box, known[image_id], index, masks)
            index.annotations.setdefault(image_id, []).append(found)


def _annotation(
    record: dict[str, Any], box: Box, image: ImageRecord, index: Index, masks: bool
) -> Annotation:
    """The annotation of a sound record with the clipped box ``box``."""
    own = record["id"]
    area = _area(record.get("area"))
    if area is None:
        area = (box[2] - box[0]) * (box[3] - box[1])
        if record.get("area") is not None:
            message = f"'area' {_short(record['area'])} is no area; that of the box is taken"
            index.problems.append(Problem("bad_value", message, image.id, own))
    segmentation, covers = None, False
    if masks:
        size = image.height, image.width
        segmentation, covers, troubles = parse_segmentation(record.get("segmentation"), size)
        index.problems += [Problem(*trouble, image.id, own) for trouble in troubles]
    crowd = record.get("iscrowd") in (1, True)
    x, y, width, height = (float(v) for v in record["bbox"])
    bbox = x, y, width, height
    return Annotation(own, image.id, record["category_id"], bbox, box, area, crowd, segmentation, covers)


def _area(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        area = float(value)
    except OverflowError:
        return None
    return area if math.isfinite(area) and area >= 0 else None


def _box(value: list[Any], image: ImageRecord) -> tuple[Box | None, tuple[str, str] | None]:
    """Clipped corners of an x, y, width, height box (None when unusable) and what is wrong with it."""
    if len(value) != 4 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
        return None, ("bad_box", f"bbox {_short(value)} is not four numbers x, y, width, height")
    try:
        x, y, width, height = (float(v) for v in value)
    except OverflowError:
        return None, ("bad_box", f"bbox {_short(value)} is too large")
    if not all(math.isfinite(v) for v in (x, y, width, height, x + width, y + height)):
        return None, ("bad_box", f"bbox {value} is not finite")
    if width <= 0 or height <= 0:
        return None, ("empty_box", f"bbox {value} has no area")
    box = (
        min(max(x, 0.0), image.width),
        min(max(y, 0.0), image.height),
        min(max(x + width, 0.0), image.width),
        min(max(y + height, 0.0), image.height),
    )
    size = f"the {image.width} x {image.height} image"
    if box[2] <= box[0] or box[3] <= box[1]:
        return None, ("box_outside_image", f"bbox {value} lies outside {size}")
    excess = max(-x, -y, x + width - image.width, y + height - image.height)
    if excess > BOX_TOLERANCE:
        return box, ("box_outside_image", f"bbox {value} reaches {excess:g} px outside {size}; it is clipped")
    return box, None
