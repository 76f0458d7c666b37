# SPDX-License-Identifier: Apache-2.0
"""The tables that ``instseg eval`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# (key, line of the table) of the twelve COCO numbers, in pycocotools' order.
ROWS = (
    ("AP", "AP    IoU 0.50:0.95"),
    ("AP50", "AP50  IoU 0.50"),
    ("AP75", "AP75  IoU 0.75"),
    ("APs", "APs   small objects"),
    ("APm", "APm   medium objects"),
    ("APl", "APl   large objects"),
    ("AR1", "AR    1 detection an image"),
    ("AR10", "AR    10 detections an image"),
    ("AR100", "AR    100 detections an image"),
    ("ARs", "ARs   small objects"),
    ("ARm", "ARm   medium objects"),
    ("ARl", "ARl   large objects"),
)

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


def rows_of(numbers: Mapping[str, float]) -> dict[str, float]:
    """The twelve COCO numbers, in pycocotools' order."""
    return {key: float(numbers[key]) for key, _ in ROWS}


def format_numbers(numbers: Mapping[str, float]) -> str:
    """The twelve numbers as a table; a dash where the data set has no such object."""
    return "\n".join(f"{text:<32}{_number(numbers[key]):>8}" for key, text in ROWS)


def format_classes(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each class, the names as they are in the data set."""
    width = max(5, *(len(row["name"]) for row in rows))
    lines = [f"{'class':<{width}}" + "".join(f"{name:>8}" for name in COLUMNS) + f"{'objects':>9}"]
    for row in rows:
        numbers = "".join(f"{_number(row[name]):>8}" for name in COLUMNS)
        lines.append(f"{row['name']:<{width}}{numbers}{row['objects']:>9}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.4f}" if value >= 0 else "-"
