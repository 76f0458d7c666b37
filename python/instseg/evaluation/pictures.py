# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a model gets wrong: galleries of mistakes and precision-recall curves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from instseg import MaskTargets, read_image
from instseg._C import Rle, rle_decode
from instseg.data.draw import font_of, printable
from instseg.evaluation._truth import Detection, Source
from instseg.evaluation.mistakes import FalseNegative, FalsePositive, Mistakes, find_mistakes
from instseg.evaluation.results import CocoResult

TILE = 200  # px, sides of a crop in a gallery
COLUMNS = 6
CAPTION = 30  # px below a crop: two lines
GAP = 8
HEADER = 24

WRONG = (230, 70, 50)  # outline of a false positive
MISSED = (250, 200, 40)  # of an object that was not found
NEAREST = (60, 200, 90)  # of the object that a false positive comes closest to
PAPER, INK, GRID = (255, 255, 255), (40, 40, 40), (222, 222, 222)

# IoU of a curve (None: the mean over all), its colour.
CURVES: tuple[tuple[float | None, tuple[int, int, int]], ...] = (
    (0.5, (40, 110, 200)),
    (0.75, (220, 120, 30)),
    (None, (60, 60, 60)),
)


def write_pictures(
    folder: str | os.PathLike[str],
    result: CocoResult,
    ground_truth: Source,
    detections: str | os.PathLike[str] | Sequence[Detection],
    images: str | os.PathLike[str] | None = None,
    *,
    min_score: float = 0.3,
    most: int = 60,
) -> list[Path]:
    """Writes KIND_precision_recall.png and, given the images, KIND_false_positives.png and
    KIND_false_negatives.png.

    Args:
        folder: where to; created when missing.
        result: of evaluate() or compare_detections(); its kind is drawn.
        ground_truth, detections: what was compared.
        images: folder that ``file_name`` of each image is relative to; None: no galleries.
        min_score: detections below it are not there for the galleries.
        most: mistakes in a gallery; false positives the most confident first, false negatives the largest.

    Returns the files. A gallery without mistakes is not written. Raises OSError when a file cannot be
    written; an image that cannot be read is drawn grey.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{result.kind}_precision_recall.png"]
    precision_recall_plot(result).save(written[0])
    if images is None:
        return written
    mistakes = find_mistakes(ground_truth, detections, kind=result.kind, min_score=min_score)
    for name, gallery in (
        ("false_positives", false_positive_gallery(mistakes, images, most)),
        ("false_negatives", false_negative_gallery(mistakes, images, most)),
    ):
        if gallery is not None:
            written.append(folder / f"{result.kind}_{name}.png")
            gallery.save(written[-1])
    return written


def false_positive_gallery(
    mistakes: Mistakes, images: str | os.PathLike[str], most: int = 60
) -> Image.Image | None:
    """Crops around the most confident wrong detections, with reason, IoU and nearest object."""
    shown = mistakes.false_positives[:most]
    counts: dict[str, int] = {}
    for mistake in mistakes.false_positives:
        counts[mistake.reason] = counts.get(mistake.reason, 0) + 1
    parts = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))
    title = (
        f"{len(mistakes.false_positives)} false positives ({parts}), the {len(shown)} most confident; "
        "red: detection, green: object"
    )
    return _gallery(mistakes, shown, images, title)


def false_negative_gallery(
    mistakes: Mistakes, images: str | os.PathLike[str], most: int = 60
) -> Image.Image | None:
    """Crops around the largest objects that were not found."""
    shown = mistakes.false_negatives[:most]
    total = mistakes.found + len(mistakes.false_negatives)
    title = f"{len(mistakes.false_negatives)} of {total} objects not found, the {len(shown)} largest"
    return _gallery(mistakes, shown, images, title)


def precision_recall_plot(result: CocoResult) -> Image.Image:
    """Precision over recall at IoU 0.5, 0.75 and the mean over 0.5 to 0.95; mean over the classes."""
    scale, width, height = 2, 520, 420  # drawn twice as large, then smoothed
    left, top, right, bottom = 52, 34, 500, 370
    canvas = Image.new("RGB", (scale * width, scale * height), PAPER)
    draw = ImageDraw.Draw(canvas)
    big = font_of(11 * scale)

    def place(recall: float, precision: float) -> tuple[float, float]:
        return scale * (left + recall * (right - left)), scale * (bottom - precision * (bottom - top))

    for i in range(6):
        tick = i / 5
        for line in ((place(tick, 0), place(tick, 1)), (place(0, tick), place(1, tick))):
            draw.line(line, fill=GRID, width=scale)
        x, y = place(tick, 0)
        draw.text((x, y + 5 * scale), f"{tick:.1f}", fill=INK, font=big, anchor="mt")
        x, y = place(0, tick)
        draw.text((x - 6 * scale, y), f"{tick:.1f}", fill=INK, font=big, anchor="rm")
    draw.rectangle((*place(0, 1), *place(1, 0)), outline=INK, width=scale)
    draw.text((scale * (left + right) / 2, scale * (height - 22)), "recall", fill=INK, font=big, anchor="mt")
    draw.text((scale * left, scale * 10), f"precision ({result.kind})", fill=INK, font=big, anchor="lt")
    for i, (iou, colour) in enumerate(CURVES):
        curve = result.curve(iou)
        name = "IoU 0.50:0.95" if iou is None else f"IoU {iou:.2f}"
        area = f"AP {curve.mean():.3f}" if curve[0] >= 0 else "no objects"
        if curve[0] >= 0:
            points = [place(r / 100, p) for r, p in enumerate(curve.tolist())]
            draw.line(points, fill=colour, width=2 * scale, joint="curve")
        y = scale * (top + 14 + 16 * i)
        draw.line((scale * (right - 168), y, scale * (right - 144), y), fill=colour, width=2 * scale)
        draw.text((scale * (right - 138), y), f"{name}: {area}", fill=INK, font=big, anchor="lm")
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def _gallery(
    mistakes: Mistakes,
    shown: Sequence[FalsePositive] | Sequence[FalseNegative],
    images: str | os.PathLike[str],
    title: str,
) -> Image.Image | None:
    if not shown:
        return None
    columns = min(COLUMNS, max(3, len(shown)))
    rows = -(-len(shown) // columns)
    size = (
        GAP + columns * (TILE + GAP),
        HEADER + rows * (TILE + CAPTION + GAP),
    )
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    _write(draw, (GAP, 6), title, 12, size[0] - 2 * GAP)
    # Of an image at a time: those that are large are decoded once.
    order = sorted(range(len(shown)), key=lambda i: str(shown[i].image_id))
    name, pixels = "", None
    for i in order:
        mistake = shown[i]
        if mistakes.file_names[mistake.image_id] != name or pixels is None:
            name = mistakes.file_names[mistake.image_id]
            pixels = _pixels(Path(images) / name, mistakes.sizes[mistake.image_id])
        x = GAP + i % columns * (TILE + GAP)
        y = HEADER + i // columns * (TILE + CAPTION + GAP)
        canvas.paste(_tile(pixels, mistakes.kind, mistake), (x, y))
        for line, text in enumerate(_caption(mistake)):
            _write(draw, (x, y + TILE + 2 + 14 * line), text, 11, TILE)
    return canvas


def _caption(mistake: FalsePositive | FalseNegative) -> tuple[str, str]:
    image = f"image {mistake.image_id}"
    if isinstance(mistake, FalseNegative):
        return f"{mistake.class_name}, {mistake.row['area']:.0f} px", image
    reason = mistake.reason + (f": {mistake.nearest_class}" if mistake.reason == "wrong class" else "")
    first = f"{mistake.class_name} {mistake.row['score']:.2f} - {reason}"
    return first, f"{image}, IoU {mistake.iou:.2f}"


def _tile(pixels: npt.NDArray[np.uint8], kind: str, mistake: FalsePositive | FalseNegative) -> Image.Image:
    """A square crop around the mistake with its outlines."""
    height, width = pixels.shape[:2]
    outlines: list[tuple[Mapping[str, Any], tuple[int, int, int]]] = []
    if isinstance(mistake, FalseNegative):
        outlines.append((mistake.row, MISSED))
    else:
        if mistake.nearest is not None:
            outlines.append((mistake.nearest, NEAREST))
        outlines.append((mistake.row, WRONG))
    masks = [_bitmap(row, (height, width)) if kind == "mask" else None for row, _ in outlines]
    boxes = [_box(row, mask) for (row, _), mask in zip(outlines, masks, strict=True)]
    x0, y0 = (min(box[i] for box in boxes) for i in (0, 1))
    x1, y1 = (max(box[i] for box in boxes) for i in (2, 3))
    side = max(32.0, 1.4 * max(x1 - x0, y1 - y0))
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    window = (left, top, left + side, top + side)
    tile = _cut(Image.fromarray(pixels), window, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(tile)
    for box, mask, (_, colour) in zip(boxes, masks, outlines, strict=True):
        if mask is None:
            corners = [(v - (left, top)[i % 2]) * TILE / side for i, v in enumerate(box)]
            draw.rectangle(corners, outline=colour, width=2)
        else:
            inside = (
                np.asarray(_cut(Image.fromarray(mask * np.uint8(255)), window, Image.Resampling.NEAREST)) > 0
            )
            tile.paste(colour, mask=Image.fromarray(_edge(inside)))
    return tile


def _cut(
    image: Image.Image, window: tuple[float, float, float, float], filter: Image.Resampling
) -> Image.Image:
    """The window, which may reach beyond the image, as a tile."""
    scale = TILE / (window[2] - window[0])
    inside = (
        max(0, int(window[0])),
        max(0, int(window[1])),
        min(image.width, int(window[2]) + 1),
        min(image.height, int(window[3]) + 1),
    )
    tile = Image.new(image.mode, (TILE, TILE), 0 if image.mode == "L" else (128, 128, 128))
    if inside[0] < inside[2] and inside[1] < inside[3]:
        part = image.crop(inside)
        size = max(1, round(part.width * scale)), max(1, round(part.height * scale))
        place = round((inside[0] - window[0]) * scale), round((inside[1] - window[1]) * scale)
        tile.paste(part.resize(size, filter), place)
    return tile


def _edge(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """255 on the two outermost pixels of a mask, 0 elsewhere."""
    core = inside
    for _ in range(2):
        padded = np.pad(core, 1)
        core = core & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return (inside & ~core).astype(np.uint8) * np.uint8(255)


def _bitmap(row: Mapping[str, Any], size: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    try:
        rle = MaskTargets.from_coco([row["segmentation"]], size).rle()[0]
    except (ValueError, TypeError):  # the picture has another size than the annotations say
        return None
    bitmap: npt.NDArray[np.uint8] = rle_decode(Rle.from_compressed(rle["counts"], size)).numpy()
    return bitmap


def _box(row: Mapping[str, Any], mask: npt.NDArray[np.uint8] | None) -> tuple[float, float, float, float]:
    """Corners around the mask, or of the box."""
    if mask is not None and mask.any():
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1
    x, y, w, h = (float(v) for v in row.get("bbox") or (0, 0, 32, 32))
    return x, y, x + w, y + h


def _pixels(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    try:
        return np.asarray(read_image(path))
    except (OSError, ValueError):
        return np.full((*size, 3), 128, np.uint8)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, room: int) -> None:
    """One line of text, cut where the room ends."""
    font = font_of(size)
    text = printable(text)
    if draw.textlength(text, font=font) > room:
        while text and draw.textlength(text + "...", font=font) > room:
            text = text[:-1]
        text += "..."
    draw.text(place, text, fill=INK, font=font)
