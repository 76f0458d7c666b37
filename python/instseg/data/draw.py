# SPDX-License-Identifier: Apache-2.0
"""Pictures of a dataset: annotated images side by side, and bar charts of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from instseg.data.coco import CocoDataset
from instseg.data.records import Annotation
from instseg.data.transforms import resize_boxes

Pixels = npt.NDArray[np.uint8]

TILE = (360, 480)  # height and width that an image is fitted into (px)
_CAPTION = 20  # px below each image
_MARGIN = 8
_TOGETHER = 64  # masks that are drawn at a time, which bounds the memory
_STRIPES = 8  # px between the stripes of a crowd
_CHART = (300, 640)
_INK, _PAPER, _BAR, _CROWD = (40, 40, 40), (255, 255, 255), (70, 120, 180), (255, 255, 255)


def draw_annotations(dataset: CocoDataset, i: int, size: tuple[int, int] | None = None) -> Pixels:
    """Image ``i`` with its annotations: masks, boxes, class names; crowds as white stripes.

    Args:
        dataset: read with masks to have them drawn.
        size: height and width to draw at; None: those of the image.

    Returns: RGB uint8 [H, W, 3]. Raises OSError and ValueError as CocoDataset.read.
    """
    from instseg import ops

    image = dataset.read(i)
    old: tuple[int, int] = (image.shape[0], image.shape[1])
    new = size or old
    pixels = torch.as_tensor(image)
    if new != old:
        pixels = torch.as_tensor(ops.resize_image(pixels, new, "pillow"))
    found = dataset.annotations(dataset.images[i].id)
    crowds = [a for a in found if a.crowd]
    # The smallest last, hence on top.
    objects = sorted((a for a in found if not a.crowd), key=lambda a: -a.area)
    drawn = pixels.numpy().copy()
    for a in crowds:
        _stripe(drawn, a, old, new)
    for masked in (False, True):
        group = [a for a in objects if (a.segmentation is not None) == masked]
        for first in range(0, len(group), _TOGETHER):
            drawn = _draw(drawn, group[first : first + _TOGETHER], old)
    canvas = Image.fromarray(drawn)
    pen = ImageDraw.Draw(canvas)
    names = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    for a in [*crowds, *objects]:
        x1, y1, x2, y2 = _box(a, old, new)
        if a.crowd:
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_CROWD)
        _write(pen, x1, y1, f"crowd: {names[a.category_id]}" if a.crowd else names[a.category_id])
    return np.asarray(canvas)


def contact_sheet(dataset: CocoDataset, entries: Sequence[int], columns: int = 4) -> Pixels:
    """The images ``entries`` of a dataset with their annotations, ``columns`` side by side.

    Below each are its id, file name and number of objects; in place of one that cannot be read, why.
    """
    columns = max(1, min(columns, len(entries)))
    rows = -(-len(entries) // columns)
    step = (TILE[0] + _CAPTION + _MARGIN, TILE[1] + _MARGIN)
    sheet = Image.new("RGB", (columns * step[1] + _MARGIN, rows * step[0] + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, i in enumerate(entries):
        record = dataset.images[i]
        x, y = place % columns * step[1] + _MARGIN, place // columns * step[0] + _MARGIN
        scale = min(TILE[0] / record.height, TILE[1] / record.width)
        size = max(1, round(record.height * scale)), max(1, round(record.width * scale))
        try:
            sheet.paste(Image.fromarray(draw_annotations(dataset, i, size)), (x, y))
        except (OSError, ValueError) as error:
            pen.multiline_text((x, y), _folded(printable(str(error)), 60), fill=(200, 0, 0), font=font_of(12))
        found = dataset.annotations(record.id)
        crowds = sum(a.crowd for a in found)
        text = f"{record.id}  {record.file_name}  objects: {len(found) - crowds}"
        text += f", crowds: {crowds}" if crowds else ""
        pen.text((x, y + size[0] + 3), printable(text[:76]), fill=_INK, font=font_of(12))
    return np.asarray(sheet)


def dataset_charts(dataset: CocoDataset, classes: int = 24) -> dict[str, Pixels]:
    """Bar charts of a dataset by name: objects_per_image, box_sizes, aspect_ratios, classes.

    classes: how many, the most frequent ones.
    """
    found = [[a for a in dataset.annotations(m.id) if not a.crowd] for m in dataset.images]
    boxes = np.array([a.box for row in found for a in row], np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    names = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    counts = dict.fromkeys(dataset.category_ids, 0)
    for row in found:
        for a in row:
            counts[a.category_id] += 1
    most = sorted(counts, key=lambda category: (-counts[category], category))[:classes]
    per_image = np.array([len(row) for row in found])
    return {
        "objects_per_image": histogram("images by number of objects", per_image),
        "box_sizes": histogram("objects by sqrt(width * height), px", sides.prod(1) ** 0.5, logarithmic=True),
        "aspect_ratios": histogram("objects by width / height", sides[:, 0] / sides[:, 1], logarithmic=True),
        "classes": bar_chart(
            "objects by class",
            [printable(names[c]) for c in most],
            [counts[c] for c in most],
            upright=True,
        ),
    }


def bar_chart(title: str, labels: Sequence[str], values: Sequence[float], *, upright: bool = False) -> Pixels:
    """Bars of ``values``, uint8 [300, 640, 3]; labels that have no room are left out.

    upright: labels from bottom to top, in a higher picture.
    """
    below = 100 if upright else 44
    height, width = _CHART[0] + below - 44, _CHART[1]
    chart = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(chart), font_of(12)
    left, right, top, bottom = 70, width - 12, 34, height - below
    pen.text((left, 10), title, fill=_INK, font=font_of(14))
    most = max([*values, 1])
    for value in sorted({0, most / 2, most}):
        y = bottom - value / most * (bottom - top)
        pen.line((left, y, right, y), fill=(225, 225, 225))
        text = f"{value:.0f}" if most >= 10 else f"{value:g}"
        pen.text((left - 6 - pen.textlength(text, font), y - 7), text, fill=_INK, font=font)
    step = (right - left) / max(len(values), 1)
    room = left - 1.0
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        x = left + i * step
        y = bottom - value / most * (bottom - top)
        pen.rectangle((x + 0.1 * step, y, x + max(0.9 * step, 0.1 * step + 1), bottom), fill=_BAR)
        length = 14 if upright else pen.textlength(label, font)
        at = x + (step - length) / 2
        if at <= room or at + length > width:
            continue
        if upright:
            _write_upright(chart, round(at), bottom + 4, label)
        else:
            pen.text((at, bottom + 4), label, fill=_INK, font=font)
        room = at + length + (0 if upright else 6)
    pen.line((left, bottom, right, bottom), fill=_INK)
    return np.asarray(chart)


def histogram(title: str, values: npt.NDArray[Any], *, logarithmic: bool = False, bins: int = 24) -> Pixels:
    """A bar chart of how many ``values`` lie in each of equal intervals, with their lower bounds below.

    logarithmic: intervals of equal ratio, for positive values.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return bar_chart(title, [], [])
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        edges = np.geomspace(low, max(high, low * 1.01), bins + 1)
    elif (values == values.round()).all():  # whole numbers in each interval
        width = -(-(high + 1 - low) // bins)
        edges = np.arange(low, high + width + 0.5, width)
    else:
        edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    # The bounds are rounded, so that the extremes could fall outside.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    counts, _ = np.histogram(values, edges)
    return bar_chart(title, [f"{edge:.3g}" for edge in edges[:-1]], counts.tolist())


def _draw(pixels: Pixels, found: Sequence[Annotation], old: tuple[int, int]) -> Pixels:
    """Draws boxes, and masks if all or none have one, of annotations of an image of size ``old``."""
    from instseg import Instances, MaskTargets, ops
    from instseg._C import Masks

    new = (pixels.shape[0], pixels.shape[1])
    found = found[::-1]  # the first is drawn last
    boxes = torch.tensor([a.box for a in found])
    targets = [a.segmentation.to_targets() for a in found if a.segmentation is not None]
    masks = None
    if targets:
        moved = MaskTargets.from_coco(targets, old).resized(new)
        bitmaps = ops.rasterize(moved, new, 1, 0).sampled.float()
        masks = Masks(bitmaps, new, stride=1, network_size=new)
    instances = Instances(
        resize_boxes(boxes, old, new),
        torch.ones(len(found)),
        torch.tensor([a.category_id for a in found], dtype=torch.int64),
        new,
        masks=masks,
    )
    return np.asarray(instances.plot(pixels, 0.0, labels=False, line_width=1))


def _stripe(pixels: Pixels, a: Annotation, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Draws white stripes where the mask of a crowd is, or its box."""
    from instseg import MaskTargets, ops

    rows, columns = np.mgrid[: new[0], : new[1]]
    stripes = (rows + columns) % _STRIPES < _STRIPES // 4
    if a.segmentation is not None:
        moved = MaskTargets.from_coco([a.segmentation.to_targets()], old).resized(new)
        stripes &= ops.rasterize(moved, new, 1, 0).sampled[0].numpy() > 0
    else:
        x1, y1, x2, y2 = _box(a, old, new)
        stripes &= (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)
    pixels[stripes] = _CROWD


def _box(a: Annotation, old: tuple[int, int], new: tuple[int, int]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = resize_boxes(torch.tensor([a.box]), old, new)[0].tolist()
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str) -> None:
    font, text = font_of(11), printable(text)
    x = max(0.0, min(x, pen.im.size[0] - pen.textlength(text, font) - 2))
    y = y - 13 if y >= 13 else y
    pen.rectangle((x, y, x + pen.textlength(text, font) + 2, y + 12), fill=_INK)
    pen.text((x + 1, y), text, fill=_PAPER, font=font)


def font_of(size: int) -> Any:
    """Pillow's own font at ``size`` px."""
    return ImageFont.load_default(size)


def _write_upright(picture: Image.Image, x: int, y: int, text: str) -> None:
    font = font_of(12)
    width = int(ImageDraw.Draw(picture).textlength(text, font)) + 1
    line = Image.new("RGB", (width, 15), _PAPER)
    ImageDraw.Draw(line).text((0, 0), text, fill=_INK, font=font)
    picture.paste(line.rotate(90, expand=True), (x, y))


def printable(text: str) -> str:
    """One line, without halves of surrogate pairs, which JSON may hold and no font can draw."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _folded(text: str, width: int) -> str:
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))
