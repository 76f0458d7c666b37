# SPDX-License-Identifier: Apache-2.0
"""Training augmentation: shortest-edge resize, then horizontal flip (spec of the published recipes)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from instseg import InputConfig

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


@dataclass(frozen=True)
class Augmentation:
    """Random resize and flip, a pure function of image, targets and random generator.

    Args:
        input: resize kernel and rule of the model.
        short_sides: px; candidates ("choice") or the two inclusive bounds ("range") of the short side.
        long_side: px, upper bound of the long side.
        sampling: "choice" or "range".
        flip: probability of mirroring.
    """

    input: InputConfig
    short_sides: tuple[int, ...]
    long_side: int
    sampling: str = "choice"
    flip: float = 0.5

    def __call__(
        self, image: npt.NDArray[np.uint8], targets: Targets, generator: np.random.Generator
    ) -> tuple[torch.Tensor, Targets]:
        """Augments an RGB image, uint8 [H, W, 3]; returns it at network size with its targets.

        Objects whose box has no side or whose mask has no pixel left are dropped.
        """
        from instseg import ops

        # Both numbers are always drawn, so that one option does not change the other's randomness.
        short_side = self._short_side(generator)
        mirrored = generator.random() < self.flip
        config = copy.copy(self.input)
        config.short_side, config.long_side = short_side, self.long_side
        height, width = int(image.shape[0]), int(image.shape[1])
        new_height, new_width = (int(v) for v in ops.network_size((height, width), config))
        pixels = torch.as_tensor(np.ascontiguousarray(image))
        if (new_height, new_width) != (height, width):
            pixels = torch.as_tensor(ops.resize_image(pixels, (new_height, new_width), config.resize))
        if mirrored:
            pixels = pixels.flip(1)
        return pixels.contiguous(), _moved(targets, (height, width), (new_height, new_width), mirrored)

    def _short_side(self, generator: np.random.Generator) -> int:
        if self.sampling == "range":
            return int(generator.integers(self.short_sides[0], self.short_sides[1], endpoint=True))
        return int(self.short_sides[generator.integers(len(self.short_sides))])


def _moved(targets: Targets, old: tuple[int, int], new: tuple[int, int], mirrored: bool) -> Targets:
    """Targets of an image resized from ``old`` to ``new`` (height, width) and then perhaps mirrored."""
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
        keep &= torch.tensor(masks.areas(), dtype=torch.int64) > 0
        out["masks"] = masks.select(keep.nonzero()[:, 0].tolist())
    semantic: torch.Tensor | None = targets.get("semantic")
    if semantic is not None:
        semantic = ops.resize_nearest(semantic, new)
        out["semantic"] = semantic.flip(1) if mirrored else semantic
    return {"boxes": boxes[keep], "labels": targets["labels"][keep], **out}
