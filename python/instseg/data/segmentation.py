# SPDX-License-Identifier: Apache-2.0
"""Reads the ``segmentation`` of COCO annotations: sound masks in a compact form, the rest as problems."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from instseg._C import MaskTargets

# Pixels; the COCO API counts fifths of a pixel in 32 bits.
MAX_COORDINATE = 1e8

_SHOWN = 60  # characters of a value that a message shows

# Kind and message, as in Problem.
Trouble = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A mask as in the file: ``polygons``, each a flat array x0, y0, x1, ..., or run lengths.

    ``counts`` is COCO's text, or an array of plain run lengths; ``size`` is (height, width).
    """

    polygons: tuple[npt.NDArray[np.float64], ...] = ()
    size: tuple[int, int] = (0, 0)
    counts: str | npt.NDArray[np.int64] = ""

    def to_coco(self) -> list[list[float]] | dict[str, Any]:
        """What the annotation file holds, without polygons that cannot be used."""
        if self.polygons:
            return [polygon.tolist() for polygon in self.polygons]
        counts = self.counts if isinstance(self.counts, str) else self.counts.tolist()
        return {"size": list(self.size), "counts": counts}

    def to_targets(self) -> Sequence[npt.NDArray[np.float64]] | dict[str, Any]:
        """The same for MaskTargets.from_coco, without a copy."""
        return self.polygons or {"size": self.size, "counts": self.counts}


def parse_segmentation(
    value: object, size: tuple[int, int]
) -> tuple[Segmentation | None, bool, list[Trouble]]:
    """A mask of an image of ``size`` (height, width).

    Returns: the mask, None when there is none to use; whether it covers any pixel; what is wrong.
    """
    found, troubles = _segmentation(value, size)
    if found is None:
        return None, False, troubles
    try:
        covers = MaskTargets.from_coco([found.to_targets()], size).areas()[0] > 0
    except (ValueError, TypeError) as error:
        kind = "bad_value" if found.polygons else "bad_rle"  # polygons: an image too large for a mask
        return None, False, [*troubles, (kind, re.sub(r"^\[[^\]]*\] (segmentation 0: )?", "", str(error)))]
    if not covers:
        message = f"the segmentation covers no pixel of the {size[1]} x {size[0]} image"
        troubles.append(("empty_mask", message))
    return found, covers, troubles


def _segmentation(value: object, size: tuple[int, int]) -> tuple[Segmentation | None, list[Trouble]]:
    if value is None or value == [] or value == {}:
        return None, [("mask_missing", "the annotation has no segmentation")]
    if isinstance(value, dict):
        fault = _run_lengths_fault(value, size)
        if fault is not None:
            return None, [("bad_rle", fault)]
        counts = value["counts"]
        return Segmentation(
            size=size, counts=counts if isinstance(counts, str) else np.asarray(counts, np.int64)
        ), []
    if isinstance(value, list):
        return _polygons(value)
    return None, [("bad_polygon", f"segmentation {_short(value)} is neither polygons nor run lengths")]


def _polygons(parts: list[Any]) -> tuple[Segmentation | None, list[Trouble]]:
    if all(isinstance(part, (int, float)) for part in parts):
        return None, [("bad_polygon", "segmentation is one list of numbers, not a list of polygons")]
    polygons: list[npt.NDArray[np.float64]] = []
    faults: list[str] = []
    for position, part in enumerate(parts):
        polygon = _polygon(part)
        if isinstance(polygon, str):
            faults.append(f"polygon {position} {polygon}")
        else:
            polygons.append(polygon)
    rest = "; the others are kept" if polygons else ""
    troubles = [("bad_polygon", f"{fault}{rest}") for fault in faults]
    return (Segmentation(tuple(polygons)) if polygons else None), troubles


def _polygon(part: object) -> npt.NDArray[np.float64] | str:
    """One polygon, or what is wrong with it."""
    if not isinstance(part, list):
        return f"is {_short(part)}, not a list of numbers"
    try:
        values = np.asarray(part)
    except ValueError:  # lists of different lengths inside
        values = np.empty(0, dtype=object)
    if values.ndim != 1 or (part and values.dtype.kind not in "iuf"):
        return f"is {_short(part)}, not a list of numbers"
    if len(part) % 2:
        return f"has {len(part)} coordinates, an odd number"
    if len(part) < 6:
        return f"has {len(part) // 2} points, fewer than three"
    polygon: npt.NDArray[np.float64] = values.astype(np.float64, copy=False)
    if (np.abs(polygon) <= MAX_COORDINATE).all():
        return polygon
    if np.isfinite(polygon).all():
        return f"has a coordinate beyond {MAX_COORDINATE:g} px"
    return "has a coordinate that is not finite"


def _run_lengths_fault(value: dict[str, Any], size: tuple[int, int]) -> str | None:
    """What is wrong with run lengths, apart from the numbers themselves."""
    counts, given = value.get("counts"), value.get("size")
    if not isinstance(counts, (str, list)) or not isinstance(given, list):
        return f"run lengths {_short(value)} have no 'size' and 'counts'"
    if given != list(size):
        return (
            f"the size of the run lengths is {_short(given)}, that of the image {list(size)} (height, width)"
        )
    if isinstance(counts, str):
        return None if counts.isascii() else f"counts {_short(counts)} are not COCO's text of run lengths"
    sound = all(type(count) is int and abs(count) < 2**63 for count in counts)
    return None if sound else f"counts {_short(counts)} are not integers"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
