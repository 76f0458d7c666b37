# SPDX-License-Identifier: Apache-2.0
"""Training images with outlined objects: what a data loader hands to a training step."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from models import photo

from instseg import MaskTargets

CLASSES = 80


class Scene(NamedTuple):
    """One image at network size and its objects."""

    image: torch.Tensor  # [H, W, 3] uint8, RGB
    polygons: list[list[float]]  # x, y of each object's outline, px
    boxes: torch.Tensor  # [G, 4] float32
    labels: torch.Tensor  # [G] int64

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def targets(self) -> dict[str, Any]:
        """What instseg.Model.losses takes."""
        masks = MaskTargets.from_coco([[polygon] for polygon in self.polygons], self.size)
        return {"boxes": self.boxes, "labels": self.labels, "masks": masks}


def outline(generator: np.random.Generator, height: int, width: int) -> list[float]:
    """A wobbly closed outline of 24 to 60 points; radius 1/25 to 1/3 of the image's short side."""
    short = min(height, width)
    radius = short * np.exp(generator.uniform(np.log(1 / 25), np.log(1 / 3)))
    center = generator.uniform(0.1, 0.9, 2) * (width, height)
    angle = np.linspace(0, 2 * np.pi, int(generator.integers(24, 61)), endpoint=False)
    waves = [
        generator.uniform(0, 0.3 / k) * np.sin(k * angle + generator.uniform(0, 2 * np.pi))
        for k in (1, 2, 3, 5)
    ]
    radii = radius * (1 + sum(waves))
    stretch = np.exp(generator.uniform(-0.5, 0.5))
    points = center + np.stack([np.cos(angle) * radii * stretch, np.sin(angle) * radii / stretch], 1)
    points = np.clip(points, 0, (width, height))
    return [float(value) for value in points.ravel().round(2)]


@lru_cache
def pixels(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(photo(height, width))


def scene(height: int, width: int, objects: int, seed: int) -> Scene:
    generator = np.random.default_rng(seed)
    polygons = [outline(generator, height, width) for _ in range(objects)]
    boxes = [[min(p[::2]), min(p[1::2]), max(p[::2]), max(p[1::2])] for p in polygons]
    return Scene(
        pixels(height, width),
        polygons,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.from_numpy(generator.integers(0, CLASSES, objects)),
    )
