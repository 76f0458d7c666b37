# SPDX-License-Identifier: Apache-2.0
"""Training augmentation of the published recipes: crop, shortest-edge resize, horizontal flip."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from instseg import InputConfig
    from instseg.recipe import DataRecipe

# boxes [G, 4] float32, labels [G] int64, and where wanted masks (MaskTargets) and semantic [H, W].
Targets = dict[str, Any]

# Boxes whose side falls below this after resizing carry no object (px).
MIN_BOX_SIDE = 1e-5


def resize_boxes(boxes: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Boxes [G, 4] xyxy of an image of size ``old`` (height, width) after it is resized to ``new``."""
    scale = torch.tensor([new[1] / old[1], new[0] / old[0]] * 2, dtype=torch.float64)
    return (boxes.double() * scale).float()


def flip_boxes(boxes: torch.Tensor, width: int) -> torch.Tensor:
    """Boxes [G, 4] xyxy after mirroring an image of ``width`` pixels: x' = width - x."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def crop_boxes(boxes: torch.Tensor, left: int, top: int, size: tuple[int, int]) -> torch.Tensor:
    """Boxes [G, 4] xyxy in the part of ``size`` (height, width) at ``left``, ``top``, clipped to it."""
    offset = torch.tensor([left, top] * 2, dtype=torch.float32)
    limit = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    return (boxes - offset).clamp(min=0).minimum(limit)


@dataclass(frozen=True)
class Crop:
    """A random part of an image that touches a random object (BlendMask's models with deformable layers).

    Args:
        min_fraction: smallest part of the height, and of the width, that is kept.
        max_fraction: largest part.
    """

    min_fraction: float = 0.9
    max_fraction: float = 1.0

    def place(
        self, size: tuple[int, int], boxes: torch.Tensor, generator: np.random.Generator
    ) -> tuple[int, int, tuple[int, int]]:
        """Left column, top row and size (height, width) of the part of an image of ``size``.

        The part reaches to within a pixel of the middle of one of ``boxes`` [G, 4]; without boxes it
        lies anywhere.
        """
        part = tuple(
            min(max(int(side * generator.uniform(self.min_fraction, self.max_fraction) + 0.5), 1), side)
            for side in size
        )
        low, high = [0, 0], [whole - kept for whole, kept in zip(size, part, strict=True)]
        if len(boxes):
            x1, y1, x2, y2 = boxes[int(generator.integers(len(boxes)))].tolist()
            for axis, center in enumerate((0.5 * (y1 + y2), 0.5 * (x1 + x2))):
                low[axis] = max(0, math.floor(center) - part[axis])
                high[axis] = min(max(0, high[axis]), math.ceil(center))
        top, left = (int(generator.integers(a, b, endpoint=True)) for a, b in zip(low, high, strict=True))
        return left, top, (part[0], part[1])


@dataclass(frozen=True)
class Augmentation:
    """Random crop, resize and flip, a pure function of image, targets and random generator.

    Args:
        input: resize kernel and rule of the model.
        short_sides: px; candidates ("choice") or the two inclusive bounds ("range") of the short side.
        long_side: px, upper bound of the long side.
        sampling: "choice" or "range".
        flip: probability of mirroring.
        crop: the part of the image to take first; None: all of it. Boxes are then those of the masks, where
            there are masks.
    """

    input: InputConfig
    short_sides: tuple[int, ...]
    long_side: int
    sampling: str = "choice"
    flip: float = 0.5
    crop: Crop | None = None

    @classmethod
    def of(cls, data: DataRecipe, input: InputConfig) -> Augmentation:
        """What the ``data`` section of a recipe says, for a model with this ``input``."""
        crop = Crop(data.crop.min_fraction, data.crop.max_fraction) if data.crop.enabled else None
        return cls(input, tuple(data.short_sides), data.long_side, data.short_side_sampling, data.flip, crop)

    def __call__(
        self, image: npt.NDArray[np.uint8], targets: Targets, generator: np.random.Generator
    ) -> tuple[torch.Tensor, Targets]:
        """Augments an RGB image, uint8 [H, W, 3]; returns it at network size with its targets.

        Objects whose box has no side or whose mask has no pixel left are dropped.
        """
        from instseg import ops

        # Both numbers are always drawn, and those of the crop last, so that one option does not change the
        # other's randomness.
        short_side = self._short_side(generator)
        mirrored = generator.random() < self.flip
        if self.crop is not None:
            left, top, size = self.crop.place(image.shape[:2], targets["boxes"], generator)
            image = image[top : top + size[0], left : left + size[1]]
            targets = _cropped(targets, left, top, size)
        config = copy.copy(self.input)
        config.short_side, config.long_side = short_side, self.long_side
        height, width = int(image.shape[0]), int(image.shape[1])
        new_height, new_width = (int(v) for v in ops.network_size((height, width), config))
        pixels = torch.as_tensor(np.ascontiguousarray(image))
        if (new_height, new_width) != (height, width):
            pixels = torch.as_tensor(ops.resize_image(pixels, (new_height, new_width), config.resize))
        if mirrored:
            pixels = pixels.flip(1)
        tight = self.crop is not None
        moved = _moved(targets, (height, width), (new_height, new_width), mirrored, tight)
        return pixels.contiguous(), moved

    def _short_side(self, generator: np.random.Generator) -> int:
        if self.sampling == "range":
            return int(generator.integers(self.short_sides[0], self.short_sides[1], endpoint=True))
        return int(self.short_sides[generator.integers(len(self.short_sides))])


def _cropped(targets: Targets, left: int, top: int, size: tuple[int, int]) -> Targets:
    """Targets of the part of ``size`` (height, width) at ``left``, ``top``; as many objects as before."""
    out = {**targets, "boxes": crop_boxes(targets["boxes"], left, top, size)}
    if targets.get("masks") is not None:
        out["masks"] = targets["masks"].cropped(left, top, size)
    if targets.get("semantic") is not None:
        out["semantic"] = targets["semantic"][top : top + size[0], left : left + size[1]].contiguous()
    return out


def _moved(
    targets: Targets, old: tuple[int, int], new: tuple[int, int], mirrored: bool, tight: bool
) -> Targets:
    """Targets of an image resized from ``old`` to ``new`` (height, width) and then perhaps mirrored.

    tight: boxes are those of the masks.
    """
    from instseg import MaskTargets, ops

    boxes = resize_boxes(targets["boxes"], old, new)
    if mirrored:
        boxes = flip_boxes(boxes, new[1])
    keep = ((boxes[:, 2:] - boxes[:, :2]) > MIN_BOX_SIDE).all(dim=1)
    out: Targets = {}
    masks: MaskTargets | None = targets.get("masks")
    if masks is not None:
        masks = masks.resized(new)
        masks = masks.flipped() if mirrored else masks
        if tight:
            boxes = masks.boxes()
            keep = ((boxes[:, 2:] - boxes[:, :2]) > MIN_BOX_SIDE).all(dim=1)
        keep &= torch.tensor(masks.areas(), dtype=torch.int64) > 0
        out["masks"] = masks.select(keep.nonzero()[:, 0].tolist())
    semantic: torch.Tensor | None = targets.get("semantic")
    if semantic is not None:
        semantic = ops.resize_nearest(semantic, new)
        out["semantic"] = semantic.flip(1) if mirrored else semantic
    return {"boxes": boxes[keep], "labels": targets["labels"][keep], **out}
