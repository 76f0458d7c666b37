# SPDX-License-Identifier: Apache-2.0
"""One picture that shows the masks of ground truth, Python and native program side by side."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco

from instseg.data import CocoDataset

CELL = 360  # px, width of a column
MARGIN = 14
CAPTION = 30
OPACITY = 0.5


def varied_images(dataset: CocoDataset, count: int = 4) -> list[int]:
    """Entries of ``dataset`` that differ much: up to half of them in colour, sparse to crowded."""
    usable = [i for i in range(len(dataset)) if len(dataset.targets(i)["labels"]) > 0]
    colored = [i for i in usable if _is_colored(dataset.read(i))]
    grey = [i for i in usable if i not in colored]
    wanted = min(len(colored), count // 2)
    chosen = _spread(dataset, grey, count - wanted) + _spread(dataset, colored, wanted)
    return chosen


def _is_colored(image: np.ndarray) -> bool:
    means = image.reshape(-1, 3).mean(axis=0)
    return bool(means.max() - means.min() > 8)


def _spread(dataset: CocoDataset, entries: list[int], count: int) -> list[int]:
    """``count`` of ``entries``, evenly spaced in number of objects but without the two extremes."""
    ordered = sorted(entries, key=lambda i: len(dataset.targets(i)["labels"]))
    count = min(count, len(ordered))
    return [ordered[(2 * k + 1) * len(ordered) // (2 * count)] for k in range(count)]


def contact_sheet(
    dataset: CocoDataset, chosen: list[int], documents: dict[str, dict[str, Any]]
) -> Image.Image:
    """Rows: the ``chosen`` images. Columns: ground truth, then each document (docs/cli.md) by its title."""
    rows = []
    for i in chosen:
        image, truth = dataset.read(i), dataset.targets(i)["masks"].rle()
        row = [_cell(_draw(image, truth), f"ground truth: {len(truth)}")]
        for title, document in documents.items():
            found = _masks(document, dataset.path(i).name)
            row.append(_cell(_draw(image, found), f"{title}: {len(found)}"))
        rows.append(row)
    return _grid(rows)


def _masks(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entry = next(image for image in document["images"] if Path(image["file"]).name == name)
    return [detection["mask"] for detection in entry["detections"]]


def _draw(image: np.ndarray, masks: list[dict[str, Any]]) -> Image.Image:
    """The image with a colour and an outline for each mask."""
    picture = image.astype(np.float32)
    for k, rle in enumerate(masks):
        mask = coco.decode({**rle, "counts": rle["counts"].encode()}).astype(bool)
        color = 255 * np.array(colorsys.hsv_to_rgb(k * 0.618 % 1, 0.9, 1.0), dtype=np.float32)
        picture[mask] += OPACITY * (color - picture[mask])
        inner = mask.copy()
        for axis in (0, 1):
            for shift in (-1, 1):
                inner &= np.roll(mask, shift, axis)
        picture[mask & ~inner] = color
    height = round(image.shape[0] * CELL / image.shape[1])
    return Image.fromarray(picture.astype(np.uint8)).resize((CELL, height), Image.Resampling.LANCZOS)


def _cell(picture: Image.Image, caption: str) -> Image.Image:
    cell = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    cell.paste(picture, (0, CAPTION))
    ImageDraw.Draw(cell).text((2, 4), caption, fill="black", font=ImageFont.load_default(size=18))
    return cell


def _grid(rows: list[list[Image.Image]]) -> Image.Image:
    width = max(len(row) for row in rows) * (CELL + MARGIN) + MARGIN
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (width, sum(heights) + MARGIN * (len(rows) + 1)), "white")
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (MARGIN + column * (CELL + MARGIN), top))
        top += height + MARGIN
    return sheet
