# SPDX-License-Identifier: Apache-2.0
"""How much faster do masks of network size become COCO run lengths than by pasting them in plain PyTorch?

    python benchmarks/paste_rle.py [--threads 2] [--repeats 10] [--masks 100] [--json FILE]

One run times both placements of masks on one 800x1333 image, taking turns: the reference enlarges all maps to
the size of the image (F.interpolate), or samples them in their boxes (F.grid_sample), compares with the
threshold and encodes with pycocotools; instseg.Masks.rle() finds the runs from the small maps. Checks that
the masks are the same and that 300 masks of a 4000x3000 image need little memory (a process of its own).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
import torch.nn.functional as F
from pycocotools import mask as coco

import instseg

HEIGHT, WIDTH = 800, 1333
MIN_SPEEDUP = 5.0
MAX_MEGABYTES = 200.0  # a single full-size float map of each of 300 masks would be 14400


def objects(count: int, height: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lobed objects: x, y of the centre, radius and phase [N, 4], and boxes around them [N, 4]."""
    rng = np.random.default_rng(seed)
    radius = np.exp(rng.uniform(np.log(0.02), np.log(0.35), count)) * min(height, width)
    centers = rng.uniform(0, 1, (count, 2)) * (width, height)
    rows = np.stack([centers[:, 0], centers[:, 1], radius, rng.uniform(0, 6, count)], 1)
    shapes = torch.from_numpy(rows.astype(np.float32))
    reach = shapes[:, 2:3] * 1.4
    corners = torch.cat([shapes[:, :2] - reach, shapes[:, :2] + reach], 1)
    corners[:, 0::2].clamp_(0, width)
    corners[:, 1::2].clamp_(0, height)
    return shapes, corners


def probabilities(shapes: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of each object at its own pixels x [N, w], y [N, h]: [N, h, w]."""
    dx = x[:, None, :] - shapes[:, 0, None, None]
    dy = y[:, :, None] - shapes[:, 1, None, None]
    wave = 0.25 * torch.sin(5 * torch.atan2(dy, dx) + shapes[:, 3, None, None])
    return torch.sigmoid((shapes[:, 2, None, None] * (1 + wave) - torch.hypot(dx, dy)) / 3)


def image_masks(count: int, height: int, width: int) -> instseg.Masks:
    """Maps of the padded network image at stride 4, as CondInst predicts them."""
    shapes, _ = objects(count, height, width, 0)
    cells_y, cells_x = (-(-side // 32) * 8 for side in (height, width))
    x = (torch.arange(cells_x) * 4.0 + 2).expand(count, -1)
    y = (torch.arange(cells_y) * 4.0 + 2).expand(count, -1)
    maps = probabilities(shapes, x, y)
    return instseg.Masks(maps, (height, width), stride=4, network_size=(height, width))


def box_masks(count: int, height: int, width: int) -> instseg.Masks:
    """56x56 maps of boxes, as BlendMask predicts them."""
    shapes, boxes = objects(count, height, width, 1)
    steps = (torch.arange(56) + 0.5) / 56
    x = boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps
    y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps
    return instseg.Masks(
        probabilities(shapes, x, y), (height, width), placement="box", boxes=boxes, inclusive=True
    )


def enlarged_image(masks: instseg.Masks) -> torch.Tensor:
    maps, f = masks.probabilities[:, None], masks.stride
    height, width = maps.shape[-2:]
    x = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, (f * height + 1, f * width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (f // 2, 0, f // 2, 0), mode="replicate")
    x = x[:, :, : masks.network_size[0], : masks.network_size[1]]
    if masks.network_size != masks.image_size:
        x = F.interpolate(x, masks.image_size, mode="bilinear", align_corners=False)
    return x[:, 0]


def bitmaps_image(masks: instseg.Masks) -> torch.Tensor:
    return (enlarged_image(masks) > masks.threshold).to(torch.uint8)


def bitmaps_box(masks: instseg.Masks) -> torch.Tensor:
    """Samples each map in the pixels of its box alone."""
    assert masks.boxes is not None
    height, width = masks.image_size
    bitmaps = torch.zeros(len(masks), height, width, dtype=torch.uint8)
    for bitmap, values, box in zip(bitmaps, masks.probabilities, masks.boxes, strict=True):
        x1, y1, x2, y2 = box.tolist()
        left, right = max(int(x1) - 1, 0), min(int(np.ceil(x2)) + 1, width)
        top, bottom = max(int(y1) - 1, 0), min(int(np.ceil(y2)) + 1, height)
        x = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)[None]
        pasted = F.grid_sample(values[None, None], grid, align_corners=False)[0, 0]
        bitmap[top:bottom, left:right] = pasted >= masks.threshold
    return bitmaps


def reference(masks: instseg.Masks) -> list[dict[str, Any]]:
    bitmaps = bitmaps_image(masks) if masks.placement == "image" else bitmaps_box(masks)
    return [coco.encode(np.asfortranarray(bitmap)) for bitmap in bitmaps.numpy()]


def ours(masks: instseg.Masks) -> list[dict[str, Any]]:
    return [{"size": list(rle.size), "counts": rle.compressed()} for rle in masks.rle()]


def differing_pixels(masks: instseg.Masks) -> int:
    """Pixels that differ, of all masks together."""
    total = 0
    for mine, theirs in zip(ours(masks), reference(masks), strict=True):
        total += int((coco.decode(mine) != coco.decode(theirs)).sum())
    return total


def peak_megabytes(count: int, height: int, width: int) -> dict[str, float]:
    """Memory that rle() adds in a fresh process, beyond the maps and the results."""
    code = f"""
import json, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, paste_rle
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
found = {{}}
for kind in ("image", "box"):
    masks = getattr(paste_rle, kind + "_masks")({count}, {height}, {width})
    masks.select(torch.arange(2)).rle()
    before, peak, done = resident(), 0, False
    def watch():
        global peak
        while not done:
            peak = max(peak, resident())
            time.sleep(0.0005)
    thread = threading.Thread(target=watch)
    thread.start()
    rles = masks.rle()
    peak, done = max(peak, resident()), True
    thread.join()
    found[kind] = (peak - before) / 2**20
print(json.dumps(found))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    result: dict[str, float] = json.loads(output)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    contestants = {
        "image": image_masks(args.masks, HEIGHT, WIDTH),
        "box": box_masks(args.masks, HEIGHT, WIDTH),
    }
    passed: dict[str, bool] = {}
    figures: dict[str, Any] = {}
    print(f"{args.masks} masks at {HEIGHT}x{WIDTH}, {timing.machine()}")
    for placement, masks in contestants.items():
        functions = {
            "reference": lambda masks=masks: reference(masks),
            "instseg": lambda masks=masks: ours(masks),
            "bitmaps": masks.bitmaps,
        }
        times = timing.measure(functions, args.repeats, warmup=2)
        medians = {name: timing.median(values) for name, values in times.items()}
        speedup = medians["reference"] / medians["instseg"]
        for name, values in times.items():
            print(f"{placement:6} {name:10} {timing.spread(values)}")
        different = differing_pixels(masks)
        figures[placement] = {**medians, "speedup": speedup, "differing_pixels": different}
        passed[f"{placement}: {speedup:.1f} times as fast, at least {MIN_SPEEDUP}"] = speedup >= MIN_SPEEDUP
        most = args.masks * HEIGHT * WIDTH // 1_000_000  # ties at the threshold, decided by rounding
        passed[f"{placement}: {different} pixels differ, at most {most}"] = different <= most
    peak = peak_megabytes(300, 3000, 4000)
    figures["peak_megabytes_300_masks_4000x3000"] = peak
    for placement, megabytes in peak.items():
        claim = f"{placement}: {megabytes:.1f} MiB more for 300 masks at 4000x3000, at most {MAX_MEGABYTES}"
        passed[claim] = megabytes <= MAX_MEGABYTES
    for claim, holds in passed.items():
        print("PASS" if holds else "FAIL", claim)
    timing.save(args.json, figures)
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
