# SPDX-License-Identifier: Apache-2.0
"""How much faster and smaller are SOLO's targets than a map for every cell in plain PyTorch?

    python benchmarks/solo_targets.py [--head solo|solov2|both] [--images 16] [--objects 20] [--json FILE]

The reference has the masks as bitmaps already; solo_targets rasterises polygons first. Each contestant's peak
is that of a process of its own, above what it holds before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import measure, median, save, spread

from instseg import MaskTargets, ops
from instseg._C import SoloConfig

CANVAS = (800, 1344)
CLASSES = 80
FASTER, SMALLER = 3.0, 5.0  # claims
STRIDES = {"solo": (4, 4, 8, 16, 16), "solov2": (4, 4, 4, 4, 4)}


def images_of(count: int, objects: int) -> list[ops.Targets]:
    """Round objects of 8 to 300 px radius, 40 points each, mostly small."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    images = []
    for _ in range(count):
        polygons, boxes = [], []
        for _ in range(objects):
            center, radius = rng.uniform([0, 0], [CANVAS[1], CANVAS[0]]), 8 * (300 / 8) ** rng.uniform()
            radii = radius * (1 + 0.1 * rng.uniform(-1, 1, angle.size))
            points = center + np.stack([np.cos(angle), np.sin(angle)], 1) * radii[:, None]
            points = points.clip([0, 0], [CANVAS[1], CANVAS[0]])
            polygons.append([points.ravel().tolist()])
            boxes.append([*points.min(0), *points.max(0)])
        labels = torch.from_numpy(rng.integers(0, CLASSES, objects))
        masks = MaskTargets.from_coco(polygons, CANVAS)
        images.append(ops.Targets(torch.tensor(boxes, dtype=torch.float32), labels, masks))
    return images


def cells_of(
    bitmap: torch.Tensor, side: torch.Tensor, grid: int, config: SoloConfig
) -> list[tuple[int, int]]:
    """Row and column of each cell around the center of mass."""
    ranges = []
    counts = (bitmap.sum(1), bitmap.sum(0))
    area = counts[0].sum()
    for axis, count in enumerate(counts):
        size = CANVAS[axis]
        position = (count * torch.arange(size)).sum() / area
        half = 0.5 * side[1 - axis] * config.center_region
        middle, low, high = (
            int(torch.floor_divide(v / size, 1.0 / grid))
            for v in (position, position - half, position + half)
        )
        ranges.append(range(max(0, low, middle - 1), min(grid - 1, high, middle + 1) + 1))
    return [(row, column) for row in ranges[0] for column in ranges[1]]


def reduced(bitmap: torch.Tensor, stride: int) -> torch.Tensor:
    """Whether two of the middle four pixels of a block are inside."""
    low, high = stride // 2 - 1, stride // 2
    rows = bitmap[low::stride] + bitmap[high::stride]
    return (rows[:, low::stride] + rows[:, high::stride] >= 2).to(torch.uint8)


def dense_image(
    image: ops.Targets, bitmaps: torch.Tensor, level: int, config: SoloConfig, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells of the positives and their masks; writes `labels` [S, S]."""
    grid, stride, shared = config.grids[level], STRIDES[config.head][level], config.head == "solov2"
    side = image.boxes[:, 2:] - image.boxes[:, :2]
    scale = side.prod(1).sqrt()
    fits = (scale >= config.min_scales[level]) & (scale <= config.max_scales[level])
    shape = (CANVAS[0] // stride, CANVAS[1] // stride)
    maps = torch.zeros((0 if shared else grid * grid, *shape), dtype=torch.uint8)
    order, appended = [], []
    for i in fits.nonzero()[:, 0].tolist():
        target = reduced(bitmaps[i], stride)
        for row, column in cells_of(bitmaps[i].float(), side[i], grid, config):
            labels[row, column] = image.labels[i]
            order.append(row * grid + column)
            if shared:
                appended.append(target)
            else:
                maps[order[-1]] = target
    cells = torch.tensor(order, dtype=torch.int64)
    if shared:
        return cells, torch.stack(appended) if appended else maps
    cells = cells.unique()
    return cells, maps[cells]


def dense(
    images: list[ops.Targets], bitmaps: list[torch.Tensor], config: SoloConfig
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Labels, cells and masks of every level. "solo" fills masks of all S x S cells of one image at a time
    and keeps those of the positives; "solov2" appends one for each positive."""
    out = []
    for level, grid in enumerate(config.grids):
        labels = torch.full((len(images), grid, grid), CLASSES)
        parts = [
            dense_image(image, pixels, level, config, own)
            for image, pixels, own in zip(images, bitmaps, labels, strict=True)
        ]
        out.append(
            (labels, torch.cat([cells for cells, _ in parts]), torch.cat([masks for _, masks in parts]))
        )
    return out


def rasterized(images: list[ops.Targets]) -> list[torch.Tensor]:
    return [ops.rasterize(image.masks, CANVAS, 1, 0).sampled for image in images if image.masks]


def ours(images: list[ops.Targets], config: SoloConfig) -> list[ops.SoloTargets]:
    return ops.solo_targets(images, [CANVAS] * len(images), CANVAS, CLASSES, config)


def status(field: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def peak_of(contestant: str, images: list[ops.Targets], config: SoloConfig) -> int:
    bitmaps = rasterized(images) if contestant == "dense" else []
    ours(images[:1], config)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    if contestant == "dense":
        dense(images, bitmaps, config)
    else:
        ours(images, config)
    return status("VmHWM") - before


def compare(head: str, arguments: argparse.Namespace) -> dict[str, Any]:
    config = SoloConfig(head=head)
    images = images_of(arguments.images, arguments.objects)
    bitmaps = rasterized(images)
    for level, (labels, cells, masks) in zip(
        ours(images, config), dense(images, bitmaps, config), strict=True
    ):
        assert torch.equal(level.labels, labels) and torch.equal(level.cells, cells)
        assert torch.equal(level.masks[level.mask_of], masks)
    times = measure(
        {"dense": lambda: dense(images, bitmaps, config), "solo_targets": lambda: ours(images, config)},
        repeats=3,
        warmup=1,
    )
    peaks = {}
    for name in times:
        command = [sys.executable, __file__, "--peak", name, "--head", head]
        command += ["--images", str(arguments.images), "--objects", str(arguments.objects)]
        peaks[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{head:7s} {name:13s} {spread(times[name]):32s} peak {peaks[name] / 1e6:8.1f} MB")
    return {"ms": times, "peak_bytes": peaks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--head", choices=("solo", "solov2", "both"), default="both")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--json")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        images = images_of(arguments.images, arguments.objects)
        print(peak_of(arguments.peak, images, SoloConfig(head=arguments.head)))
        return 0
    heads = ("solo", "solov2") if arguments.head == "both" else (arguments.head,)
    results = {head: compare(head, arguments) for head in heads}
    save(
        arguments.json,
        {"images": arguments.images, "objects": arguments.objects, "canvas": CANVAS, **results},
    )
    failed = []
    for head, result in results.items():
        ms, peak = result["ms"], result["peak_bytes"]
        faster = median(ms["dense"]) / median(ms["solo_targets"])
        smaller = peak["dense"] / peak["solo_targets"]
        print(f"{head}: {faster:.1f} times faster, {smaller:.1f} times less memory")
        # SOLOv2 has no map per cell in either form.
        if faster < FASTER or (head == "solo" and smaller < SMALLER):
            failed.append(head)
    for head in failed:
        print(f"{head}: less than {FASTER:g} times faster or {SMALLER:g} times less memory")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
