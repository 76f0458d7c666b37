# SPDX-License-Identifier: Apache-2.0
"""Targets of SOLO from full bitmaps, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from instseg import MaskTargets, ops
from instseg._C import SoloConfig

Bitmaps = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Image = tuple[Bitmaps, Floats, list[int]]  # masks, boxes, labels
Size = tuple[int, int]

NUM_CLASSES = 80
STRIDES = {"solo": (4, 4, 8, 16, 16), "solov2": (4, 4, 4, 4, 4)}


def image_of(
    bitmaps: Bitmaps, boxes: Floats | None = None, labels: Sequence[int] | None = None
) -> ops.Targets:
    """Objects of bitmaps [G, H, W]; the boxes around them and labels 0, 1, ... unless given."""
    count = len(bitmaps)
    if boxes is None:
        boxes = np.zeros((count, 4), np.float32)
        for box, bitmap in zip(boxes, bitmaps, strict=True):
            y, x = np.nonzero(bitmap)
            if len(x):
                box[:] = x.min(), y.min(), x.max() + 1, y.max() + 1
    if labels is None:
        labels = [i % NUM_CLASSES for i in range(count)]
    masks = MaskTargets.from_bitmaps(torch.from_numpy(np.ascontiguousarray(bitmaps)))
    return ops.Targets(
        torch.from_numpy(np.ascontiguousarray(boxes)), torch.tensor(labels, dtype=torch.int64), masks
    )


def whole_masks(level: ops.SoloTargets) -> list[list[int]]:
    """The mask of every positive, as lists that compare."""
    return level.masks[level.mask_of].flatten(1).tolist()  # type: ignore[no-any-return]


def small(bitmap: Bitmaps, factor: int) -> Bitmaps:
    """A bitmap reduced by OpenCV's bilinear rule for uint8: 11-bit weights, two roundings on the way."""

    def axis(size: int) -> tuple[Any, ...]:
        count = int(size / factor + 0.5)
        at = ((np.arange(count) + 0.5) * (size / max(count, 1)) - 0.5).astype(np.float32)
        low = np.floor(at).astype(np.int64)
        part = at - low.astype(np.float32)
        part[low >= size - 1] = 0
        low = low.clip(0, size - 1)
        return (
            low,
            (low + 1).clip(max=size - 1),
            *(np.rint(w * 2048).astype(np.int64) for w in (1 - part, part)),
        )

    (y0, y1, top, bottom), (x0, x1, left, right) = axis(bitmap.shape[0]), axis(bitmap.shape[1])
    rows = (bitmap[:, x0].astype(np.int64) * left + bitmap[:, x1].astype(np.int64) * right) // 16
    mixed = top[:, None] * rows[y0] // 65536 + bottom[:, None] * rows[y1] // 65536
    return ((mixed + 2) // 4).astype(np.uint8)


def of_blocks(bitmap: Bitmaps, factor: int) -> Bitmaps:
    """The same where the ratio is exact: two pixels in the middle of a block's four must be inside."""
    height, width = bitmap.shape[0] // factor, bitmap.shape[1] // factor
    blocks = bitmap.reshape(height, factor, width, factor)
    middle = slice(factor // 2 - 1, factor // 2 + 1)
    return (blocks[:, middle, :, middle].sum((1, 3)) >= 2).astype(np.uint8)


def cell(position: torch.Tensor, size: int, grid: int) -> int:
    return int(torch.floor_divide(position.float() / size, 1.0 / grid))


def twin(images: Sequence[Image], canvas: Size, config: SoloConfig) -> list[dict[str, Any]]:
    """Labels, positives (image, cell) and their masks by level, from full bitmaps."""
    shared = config.head == "solov2"
    out = []
    for level in range(5):
        grid, stride = config.grids[level], STRIDES["solov2" if shared else "solo"][level]
        labels = np.full((len(images), grid, grid), NUM_CLASSES)
        positives: list[tuple[int, int]] = []
        masks: list[Bitmaps] = []
        owned: dict[tuple[int, int], Bitmaps] = {}
        for number, (bitmaps, boxes, classes) in enumerate(images):
            for bitmap, box, label in zip(bitmaps, torch.from_numpy(boxes), classes, strict=True):
                width, height = box[2] - box[0], box[3] - box[1]
                scale = (width * height).sqrt()
                if not (config.min_scales[level] <= scale <= config.max_scales[level] and bitmap.any()):
                    continue
                y, x = (torch.tensor(float(axis.mean()), dtype=torch.float32) for axis in np.nonzero(bitmap))
                ranges = []
                for center, side, size in ((y, height, canvas[0]), (x, width, canvas[1])):
                    half = 0.5 * side * config.center_region
                    middle = cell(center, size, grid)
                    first = max(0, cell(center - half, size, grid), middle - 1)
                    last = min(grid - 1, cell(center + half, size, grid), middle + 1)
                    ranges.append(range(first, last + 1))
                target = np.zeros((canvas[0] // stride, canvas[1] // stride), np.uint8)
                if config.mask_frame == "padded":
                    rest = (canvas[0] - bitmap.shape[0], canvas[1] - bitmap.shape[1])
                    target = of_blocks(np.pad(bitmap, ((0, rest[0]), (0, rest[1]))), stride)
                else:
                    part = small(bitmap, stride)
                    target[: part.shape[0], : part.shape[1]] = part
                for row in ranges[0]:
                    for column in ranges[1]:
                        labels[number, row, column] = label
                        positives.append((number, row * grid + column))
                        masks.append(target)
                        owned[positives[-1]] = target
        if not shared:
            positives = sorted(owned)
            masks = [owned[key] for key in positives]
        out.append({"labels": labels, "positives": positives, "masks": masks})
    return out


def check_twin(images: Sequence[Image], canvas: Size, config: SoloConfig) -> list[ops.SoloTargets]:
    targets = [image_of(*image) for image in images]
    sizes: list[Size] = [image[0].shape[1:] for image in images]
    levels = ops.solo_targets(targets, sizes, canvas, NUM_CLASSES, config)
    for level, expected in zip(levels, twin(images, canvas, config), strict=True):
        assert torch.equal(level.labels, torch.from_numpy(expected["labels"]))
        positives = list(zip(level.images.tolist(), level.cells.tolist(), strict=True))
        assert positives == expected["positives"]
        assert whole_masks(level) == [mask.ravel().tolist() for mask in expected["masks"]]
        assert len(level.masks) == len(level.mask_of.unique())  # none without a cell
    return levels


def random_image(rng: np.random.Generator, count: int, height: int, width: int) -> Image:
    """Ellipses with holes and noise at their borders; boxes are those of the ellipses before cutting."""
    y, x = np.mgrid[:height, :width]
    bitmaps, boxes = [], []
    for _ in range(count):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(0.5, height * 0.6), rng.uniform(0.5, width * 0.6)
        distance = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 + rng.uniform(-0.2, 0.2, (height, width))
        bitmaps.append((distance < 1) & (distance > rng.choice([-1, 0.3])))
        boxes.append([cx - rx, cy - ry, cx + rx, cy + ry])
    labels = rng.integers(0, NUM_CLASSES, count).tolist()
    masks = np.array(bitmaps).reshape(count, height, width).astype(np.uint8)
    return masks, np.array(boxes, np.float32).reshape(-1, 4), labels
