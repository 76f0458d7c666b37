# SPDX-License-Identifier: Apache-2.0
"""How much faster is matrix NMS on packed masks than the product of a matrix of float masks?

    python benchmarks/matrix_nms.py [--threads 2] [--repeats 20] [--json FILE]

500 soft masks of 200x336 (stride 4 of 800x1344) around 30 objects, as SOLO has before suppression. The dense
formulation is that of the paper: flatten the binary masks to floats, one matrix product, IoU, decay, minimum.
Three rows, each with one class for all masks (the worst case) and with 12 classes:

    soft        thresholding, area and sum of the probabilities included; ours: pack_masks + matrix_nms
    binary      dense starts from float 0/1 masks and their areas, ours from the same: pack_masks + matrix_nms
    given       dense as in `binary`; ours from masks that are packed already, as in SOLO, which packs them
                anyhow for area and maskness: matrix_nms alone

All take turns in one run and must agree.
"""

from __future__ import annotations

import argparse
import sys

import timing
import torch

from instseg import ops

MASKS, HEIGHT, WIDTH, OBJECTS, SIGMA = 500, 200, 336, 30, 2.0
MIN_RATIO = 8.0
MAX_DIFFERENCE = 1e-5


def soft_masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Ellipses, several guesses of each object: maps [N, h, w] and the object of each [N]."""
    objects = torch.randint(OBJECTS, (MASKS,))
    extent = torch.tensor([HEIGHT, WIDTH])
    center, radius = torch.rand(OBJECTS, 2) * extent, 6 * torch.exp(2.5 * torch.rand(OBJECTS, 2))
    center = (center[objects] + torch.randn(MASKS, 2) * radius[objects] * 0.15)[:, :, None, None]
    radius = (radius[objects] * torch.exp(0.15 * torch.randn(MASKS, 2)))[:, :, None, None]
    y, x = torch.arange(HEIGHT)[None, :, None], torch.arange(WIDTH)[None, None, :]
    distance = torch.hypot((y - center[:, 0]) / radius[:, 0], (x - center[:, 1]) / radius[:, 1])
    return torch.sigmoid(8 * (1 - distance)), objects


def dense_nms(
    masks: torch.Tensor, areas: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """From float 0/1 masks [N, h, w]."""
    flat = masks.flatten(1)
    common = torch.mm(flat, flat.T)
    union = areas[:, None] + areas[None] - common
    same_label = (labels[:, None] == labels[None]).float().triu(1)
    iou = (common / union).triu(1) * same_label
    covered = iou.max(0).values[:, None]
    decay = torch.exp(-SIGMA * iou**2) / torch.exp(-SIGMA * covered**2)
    return scores * decay.min(0).values


def dense_from_soft(
    maps: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    masks = (maps > 0.5).float()
    areas = masks.sum((1, 2))
    mass = (maps * masks).sum((1, 2))
    return dense_nms(masks, areas, scores, labels), mass


def packed_from_soft(
    maps: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    packed = ops.pack_masks(maps)
    return ops.matrix_nms(packed, scores, labels, "gaussian", SIGMA), packed.mass


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    maps, objects = soft_masks()
    scores = torch.rand(MASKS).sort(descending=True).values
    masks = (maps > 0.5).float()
    areas, packed = masks.sum((1, 2)), ops.pack_masks(maps)
    print(f"{MASKS} masks of {HEIGHT}x{WIDTH}, {timing.machine()}")
    print(f"{'ms, median':24}{'dense':>10}{'instseg':>10}{'ratio':>8}")
    result: dict[str, dict[str, float]] = {}
    largest = 0.0
    for classes in (1, 12):
        labels = objects % classes
        times = timing.measure(
            {
                "soft dense": lambda labels=labels: dense_from_soft(maps, scores, labels),
                "soft": lambda labels=labels: packed_from_soft(maps, scores, labels),
                "dense": lambda labels=labels: dense_nms(masks, areas, scores, labels),
                "binary": lambda labels=labels: packed_from_soft(masks, scores, labels),
                "given": lambda labels=labels: ops.matrix_nms(packed, scores, labels, "gaussian", SIGMA),
            },
            args.repeats,
        )
        for row, against in (("soft", "soft dense"), ("binary", "dense"), ("given", "dense")):
            theirs, ours = timing.median(times[against]), timing.median(times[row])
            name = f"{row}, {classes} classes"
            result[name] = {"dense": theirs, "instseg": ours, "ratio": theirs / ours}
            print(f"{name:24}{theirs:10.2f}{ours:10.2f}{theirs / ours:8.1f}")
        expected, mass = dense_from_soft(maps, scores, labels)
        found, found_mass = packed_from_soft(maps, scores, labels)
        largest = max(
            largest,
            (found - expected).abs().max().item(),
            ((found_mass - mass).abs() / mass).max().item(),
        )
    passed = {
        f"{name}: {row['ratio']:.1f} >= {MIN_RATIO} times faster": row["ratio"] >= MIN_RATIO
        for name, row in result.items()
    }
    passed[f"largest difference {largest:.1e} <= {MAX_DIFFERENCE}"] = largest <= MAX_DIFFERENCE
    for claim, holds in passed.items():
        print("PASS" if holds else "FAIL", claim)
    timing.save(args.json, {**result, "largest_difference": largest})
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
