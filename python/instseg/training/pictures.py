# SPDX-License-Identifier: Apache-2.0
"""Pictures of a training run: batches with their targets, predictions beside annotations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from instseg import Instances, ModelConfig, Predictor
    from instseg.data import Batch, CocoDataset
    from instseg.image import Array

LONG_SIDE = 512  # px of one image in a picture
MAX_IMAGES = 8  # of a batch
MAX_OBJECTS = 100  # of an image, the largest ones
_GAP = 4  # px, white


def batch_picture(batch: Batch, config: ModelConfig, long_side: int = LONG_SIDE) -> Array:
    """The first images of a batch side by side, with the boxes, masks and names they are trained on."""
    drawn = [
        draw_targets(image, targets, config.class_names, long_side)
        for image, targets in zip(batch.images[:MAX_IMAGES], batch.targets, strict=False)
    ]
    columns = math.ceil(math.sqrt(len(drawn)))
    return grid([drawn[i : i + columns] for i in range(0, len(drawn), columns)])


def validation_pictures(
    predictor: Predictor, dataset: CocoDataset, count: int = 4, long_side: int = LONG_SIDE
) -> Iterator[Array]:
    """Of each of the first ``count`` readable images: annotations left, predictions right."""
    for i in range(len(dataset)):
        if count == 0:
            return
        try:
            pixels = dataset.read(i)
        except (OSError, ValueError):  # the evaluation has said so
            continue
        count -= 1
        image = torch.from_numpy(np.ascontiguousarray(pixels))
        # The model numbers its classes in its own way: the annotations have the dataset's names.
        truth = draw_targets(image, dataset.targets(i), dataset.class_names, long_side)
        found = predictor(pixels).plot(pixels)
        yield grid([[truth, _shrunk(torch.from_numpy(found), long_side).numpy()]])


def draw_targets(
    image: torch.Tensor, targets: Mapping[str, Any], class_names: Sequence[str], long_side: int = LONG_SIDE
) -> Array:
    """``image``, RGB uint8 [H, W, 3], with training targets in its pixels drawn, shrunk to ``long_side``."""
    small = _shrunk(image, long_side)
    found = target_instances(targets, image.shape[:2], small.shape[:2], class_names)
    return found.plot(small, labels=len(class_names) > 1)  # the only name would hide the objects


def target_instances(
    targets: Mapping[str, Any],
    size: Sequence[int],
    drawn_size: Sequence[int],
    class_names: Sequence[str],
) -> Instances:
    """Targets of an image of ``size`` (height, width) as detections of score 1 in one of ``drawn_size``."""
    from instseg import Instances

    boxes, labels, masks = targets["boxes"], targets["labels"], targets.get("masks")
    if len(labels) > MAX_OBJECTS:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        keep = areas.topk(MAX_OBJECTS).indices.sort().values
        boxes, labels = boxes[keep], labels[keep]
        masks = None if masks is None else masks.select(keep.tolist())
    (height, width), (new_height, new_width) = size, drawn_size
    scale = torch.tensor([new_width / width, new_height / height] * 2)
    return Instances(
        boxes * scale,
        torch.ones(len(labels)),
        labels,
        (new_height, new_width),
        list(class_names),
        masks=None if masks is None or not len(labels) else _masks(masks, (new_height, new_width)),
    )


def _masks(masks: Any, size: tuple[int, int]) -> Any:
    """MaskTargets as the masks of detections in an image of ``size``."""
    from instseg import Masks, Rle, ops

    runs = [Rle.from_compressed(_text(rle["counts"]), size) for rle in masks.resized(size).rle()]
    bitmaps = torch.stack([ops.rle_decode(run) for run in runs])
    return Masks(bitmaps.float(), size, network_size=size, stride=1)


def _text(counts: str | bytes) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def _shrunk(image: torch.Tensor, long_side: int) -> torch.Tensor:
    from instseg import ops

    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return image
    return ops.resize_image(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def grid(rows: Sequence[Sequence[Array]]) -> Array:
    """Pictures in rows with white gaps, each at the upper left of its cell."""
    columns = max(len(row) for row in rows)
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    canvas = np.full(
        (sum(heights) + _GAP * (len(rows) - 1), sum(widths) + _GAP * (columns - 1), 3), 255, np.uint8
    )
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for picture, width in zip(row, widths, strict=False):
            canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            x += width + _GAP
        y += height + _GAP
    return canvas
