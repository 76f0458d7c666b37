# SPDX-License-Identifier: Apache-2.0
"""How long do the mask targets of a crowded training image take, compared with full bitmaps by pycocotools?

python benchmarks/mask_targets.py [--objects 375] [--json results/mask_targets.json]
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from pycocotools import mask as coco
from timing import measure, median, save, spread

from instseg import MaskTargets, ops

CANVAS = (800, 1344)
LIMIT = 50.0  # ms that masks may take of a training step of seconds


def outlines(count: int) -> list[list[float]]:
    """Round objects of 8 to 25 px radius, 40 points each."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    found = []
    for _ in range(count):
        center, radius = rng.uniform([0, 0], [CANVAS[1], CANVAS[0]]), rng.uniform(8, 25)
        radii = radius * (1 + 0.1 * rng.uniform(-1, 1, angle.size))
        found.append((center + np.stack([np.cos(angle), np.sin(angle)], 1) * radii[:, None]).ravel().tolist())
    return found


def by_bitmaps(polygons: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and centers through a bitmap of the image for each object."""
    samples, centers = [], []
    for polygon in polygons:
        bitmap = coco.decode(coco.merge(coco.frPyObjects([polygon], *CANVAS)))
        samples.append(torch.from_numpy(np.ascontiguousarray(bitmap[2::4, 2::4])))
        y, x = np.nonzero(bitmap)
        centers.append([x.mean(), y.mean()])
    return torch.stack(samples), torch.tensor(centers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objects", type=int, default=375)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    polygons = outlines(arguments.objects)
    masks = MaskTargets.from_coco([[polygon] for polygon in polygons], CANVAS)
    boxes = torch.tensor(
        [[min(p[0::2]), min(p[1::2]), max(p[0::2]), max(p[1::2])] for p in polygons], dtype=torch.float32
    )
    labels = torch.zeros(len(polygons), dtype=torch.int64)
    assert torch.equal(ops.rasterize(masks, CANVAS, 4, 2).sampled, by_bitmaps(polygons)[0])
    times = measure(
        {
            "pycocotools: bitmaps, samples, centers": lambda: by_bitmaps(polygons),
            "rasterize (CondInst)": lambda: ops.rasterize(masks, CANVAS, 4, 2),
            "rasterize_in_boxes (BlendMask)": lambda: ops.rasterize_in_boxes(masks, boxes, 56),
            "class_map (BlendMask)": lambda: ops.class_map(masks, labels),
            "smallest_class_map (CondInst)": lambda: ops.smallest_class_map(masks, labels, CANVAS, 8, 4),
            "from_coco": lambda: MaskTargets.from_coco([[polygon] for polygon in polygons], CANVAS),
            "resized, flipped, areas": lambda: masks.resized((790, 1320)).flipped().areas(),
        }
    )
    for name, values in times.items():
        print(f"{name:40s} {spread(values)}")
    save(arguments.json, {"objects": len(polygons), "canvas": CANVAS, "ms": times})
    slow = [name for name, values in times.items() if "pycocotools" not in name and median(values) > LIMIT]
    for name in slow:
        print(f"{name} takes more than {LIMIT:g} ms")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
