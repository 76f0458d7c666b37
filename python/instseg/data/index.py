# SPDX-License-Identifier: Apache-2.0
"""The sound part of a COCO file as flat arrays: small, and shared by processes without copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from instseg.data.records import Annotation, ImageRecord, Index, Problem
from instseg.data.segmentation import Segmentation

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(eq=False)
class PackedIndex:
    """What Index holds, in file order, with the annotations of an image side by side.

    Attributes:
        categories: name of each category id.
        problems: what is wrong with the rest of the file.
        arrays: of N images: image_id [N] int64, image_size [N, 2] int64 (height, width), names uint8 cut at
            name_start [N + 1], first [N + 1] the annotation each image begins with. Of A annotations:
            annotation_id, category [A] int64, bbox, box [A, 4] float64, area [A] float64, crowd, has_mask [A]
            bool. Of their masks: polygons ring_start[a] .. ring_start[a + 1], each of the coordinates
            point_start[r] .. point_start[r + 1]; plain run lengths counts cut at count_start [A + 1]; COCO's
            text cut at text_start [A + 1].
    """

    categories: dict[int, str]
    problems: list[Problem]
    arrays: Arrays
    _order: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._order = np.argsort(self.arrays["image_id"], kind="stable")

    def __len__(self) -> int:
        return len(self.arrays["image_id"])

    def position(self, image_id: int) -> int | None:
        """Where the image of this id is, None when it is not there."""
        ids = self.arrays["image_id"]
        at = int(np.searchsorted(ids, image_id, sorter=self._order))
        if at == len(ids) or ids[self._order[at]] != image_id:
            return None
        return int(self._order[at])

    def image(self, position: int) -> ImageRecord:
        """Record of the image at ``position``."""
        a = self.arrays
        height, width = a["image_size"][position].tolist()
        begin, end = a["name_start"][position : position + 2].tolist()
        # JSON may hold half of a surrogate pair, which UTF-8 alone cannot.
        name = a["names"][begin:end].tobytes().decode("utf-8", "surrogatepass")
        return ImageRecord(int(a["image_id"][position]), name, width, height)

    def annotations(self, position: int) -> list[Annotation]:
        """Annotations of the image at ``position``."""
        begin, end = self.arrays["first"][position : position + 2].tolist()
        return [self._annotation(row, position) for row in range(begin, end)]

    def _annotation(self, row: int, position: int) -> Annotation:
        a = self.arrays
        return Annotation(
            int(a["annotation_id"][row]),
            int(a["image_id"][position]),
            int(a["category"][row]),
            tuple(a["bbox"][row].tolist()),
            tuple(a["box"][row].tolist()),
            float(a["area"][row]),
            bool(a["crowd"][row]),
            self._segmentation(row, position),
            bool(a["has_mask"][row]),
        )

    def _segmentation(self, row: int, position: int) -> Segmentation | None:
        a = self.arrays
        begin, end = a["ring_start"][row : row + 2].tolist()
        if begin < end:
            starts = a["point_start"][begin : end + 1].tolist()
            points = a["points"]
            return Segmentation(tuple(points[i:j] for i, j in pairwise(starts)))
        height, width = a["image_size"][position].tolist()
        begin, end = a["count_start"][row : row + 2].tolist()
        if begin < end:
            return Segmentation(size=(height, width), counts=a["counts"][begin:end])
        begin, end = a["text_start"][row : row + 2].tolist()
        if begin < end:
            return Segmentation(size=(height, width), counts=a["text"][begin:end].tobytes().decode("ascii"))
        return None


class ImageTable(Sequence[ImageRecord]):
    """Records of the images at ``positions`` of an index, made when they are asked for."""

    def __init__(self, index: PackedIndex, positions: npt.NDArray[np.int64]) -> None:
        self._index = index
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, i: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, i: slice) -> ImageTable: ...
    def __getitem__(self, i: int | slice) -> ImageRecord | ImageTable:
        if isinstance(i, slice):
            return ImageTable(self._index, self.positions[i])
        return self._index.image(int(self.positions[i]))

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self._index.image(position) for position in self.positions.tolist())


def pack_index(index: Index) -> PackedIndex:
    """Flat arrays of an Index."""
    groups = [index.annotations.get(image.id, []) for image in index.images]
    rows = [annotation for group in groups for annotation in group]
    names = [image.file_name.encode("utf-8", "surrogatepass") for image in index.images]
    masks = [row.segmentation or _NO_MASK for row in rows]
    rings = [ring for mask in masks for ring in mask.polygons]
    counts = [_NO_COUNTS if isinstance(mask.counts, str) else mask.counts for mask in masks]
    texts = [mask.counts.encode("ascii") if isinstance(mask.counts, str) else b"" for mask in masks]
    arrays: Arrays = {
        "image_id": np.array([image.id for image in index.images], np.int64),
        "image_size": np.array([(image.height, image.width) for image in index.images], np.int64),
        "name_start": _starts(names),
        "names": np.frombuffer(b"".join(names), np.uint8),
        "first": _starts(groups),
        "annotation_id": np.array([row.id for row in rows], np.int64),
        "category": np.array([row.category_id for row in rows], np.int64),
        "bbox": np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        "box": np.array([row.box for row in rows], np.float64).reshape(-1, 4),
        "area": np.array([row.area for row in rows], np.float64),
        "crowd": np.array([row.crowd for row in rows], np.bool_),
        "has_mask": np.array([row.has_mask for row in rows], np.bool_),
        "ring_start": _starts([mask.polygons for mask in masks]),
        "point_start": _starts(rings),
        "points": np.concatenate([np.zeros(0), *rings]),
        "count_start": _starts(counts),
        "counts": np.concatenate([_NO_COUNTS, *counts]),
        "text_start": _starts(texts),
        "text": np.frombuffer(b"".join(texts), np.uint8),
    }
    arrays["image_size"] = arrays["image_size"].reshape(-1, 2)
    return PackedIndex(dict(index.categories), list(index.problems), arrays)


_NO_MASK = Segmentation()
_NO_COUNTS = np.zeros(0, np.int64)


def _starts(parts: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Where each of the parts begins when they are put one after the other, and the end of the last."""
    lengths = np.array([0, *map(len, parts)], np.int64)
    return np.cumsum(lengths)
