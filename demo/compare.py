# SPDX-License-Identifier: Apache-2.0
"""Differences between the results of two programs on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Difference:
    """Largest absolute differences; ``same_structure``: same files, counts and labels in the same order."""

    detections: int = 0
    other_detections: int = 0
    same_structure: bool = True
    box: float = 0.0  # px
    score: float = 0.0
    identical_masks: int = 0


@dataclass
class PictureDifference:
    """How many pictures have the same pixels."""

    identical: int
    total: int


def compare_documents(first: dict[str, Any], second: dict[str, Any]) -> Difference:
    """Compares two detection documents (docs/cli.md), detection by detection in their order."""
    result = Difference()
    a, b = first["images"], second["images"]
    result.same_structure = [i["file"] for i in a] == [i["file"] for i in b]
    result.detections = sum(len(i["detections"]) for i in a)
    result.other_detections = sum(len(i["detections"]) for i in b)
    for one, other in zip(a, b, strict=False):
        labels = [[d["label"] for d in entry["detections"]] for entry in (one, other)]
        if labels[0] != labels[1]:
            result.same_structure = False
            continue
        for d, e in zip(one["detections"], other["detections"], strict=True):
            result.box = max(result.box, *(abs(x - y) for x, y in zip(d["box"], e["box"], strict=True)))
            result.score = max(result.score, abs(d["score"] - e["score"]))
            result.identical_masks += d["mask"] == e["mask"]
    return result


def compare_pictures(first: Path, second: Path, names: list[str]) -> PictureDifference:
    """Compares the pixels of the pictures called ``names`` in two folders."""
    same = 0
    for name in names:
        with Image.open(first / name) as a, Image.open(second / name) as b:
            same += a.size == b.size and bool(np.array_equal(np.asarray(a), np.asarray(b)))
    return PictureDifference(same, len(names))
