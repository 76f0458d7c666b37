# SPDX-License-Identifier: Apache-2.0
"""How much faster is `ops.blend` than RoIAlign, interpolation, softmax and sum in PyTorch?

    python benchmarks/blend.py [--threads 2] [--repeats 30] [--json FILE]

One 800x1088 image, 4 bases at stride 4, 100 instances with boxes of 16 to 600 px. The formulation in PyTorch
reads the bases with `grid_sample`, the fastest of its own operations that can (with N views of the bases, so
that it runs in parallel). Both take turns in one run and must agree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import timing
import torch
import torch.nn.functional as F

from instseg import ops

INSTANCES, BASES, CELLS, SIZE, SCALE = 100, 4, 14, 56, 0.25
HEIGHT, WIDTH = 800, 1088
MIN_RATIO = 4.0

Blend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def random_boxes() -> torch.Tensor:
    """Centers all over the image, sides from 16 to 600 px; some reach over the border."""
    center = torch.rand(INSTANCES, 2) * torch.tensor([WIDTH, HEIGHT])
    half = 8 * torch.exp(torch.rand(INSTANCES, 2) * torch.log(torch.tensor(600 / 16)))
    return torch.cat([center - half, center + half], 1)


def in_pytorch(boxes: torch.Tensor) -> Blend:
    def blend(bases: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        extent = torch.tensor([bases.shape[3], bases.shape[2]])
        bins = torch.arange(SIZE) + 0.5
        start, step = boxes[:, :2] * SCALE - 0.5, (boxes[:, 2:] - boxes[:, :2]) * (SCALE / SIZE)
        place = start[:, None] + bins[:, None] * step[:, None]  # [N, size, 2] x and y of the samples
        inside = (place >= -1) & (place <= extent)
        x, y = ((2 * place + 1) / extent - 1).unbind(2)
        grid = torch.stack([x[:, None].expand(-1, SIZE, -1), y[..., None].expand(-1, -1, SIZE)], 3)
        views = bases.expand(len(boxes), -1, -1, -1)
        samples = F.grid_sample(views, grid, padding_mode="border", align_corners=False)
        samples = samples * (inside[:, None, :, 0] & inside[:, :, None, 1])[:, None]
        maps = attention.view(-1, BASES, CELLS, CELLS)
        weights = F.interpolate(maps, (SIZE, SIZE), mode="bilinear", align_corners=False).softmax(1)
        return (samples * weights).sum(1)

    return blend


def in_instseg(boxes: torch.Tensor) -> Blend:
    images = torch.zeros(INSTANCES, dtype=torch.long)
    return lambda bases, attention: ops.blend(bases, boxes, images, attention, CELLS, SIZE, SCALE)


def with_backward(blend: Blend, bases: torch.Tensor, attention: torch.Tensor) -> Callable[[], None]:
    bases, attention = bases.clone().requires_grad_(), attention.clone().requires_grad_()
    grad = torch.randn(INSTANCES, SIZE, SIZE)

    def run() -> None:
        bases.grad = attention.grad = None
        blend(bases, attention).backward(grad)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    boxes = random_boxes()
    bases = torch.randn(1, BASES, HEIGHT // 4, WIDTH // 4)
    attention = torch.randn(INSTANCES, BASES * CELLS * CELLS)
    blends = {"pytorch": in_pytorch(boxes), "instseg": in_instseg(boxes)}
    with torch.no_grad():
        difference = (blends["pytorch"](bases, attention) - blends["instseg"](bases, attention)).abs().max()
        forward = timing.measure(
            {name: lambda blend=blend: blend(bases, attention) for name, blend in blends.items()},
            args.repeats,
        )
    training = timing.measure(
        {name: with_backward(blend, bases, attention) for name, blend in blends.items()}, args.repeats
    )

    print(f"{INSTANCES} instances, {BASES} bases of {HEIGHT // 4}x{WIDTH // 4}, {timing.machine()}")
    print(f"{'ms, median':20}{'pytorch':>10}{'instseg':>10}{'ratio':>8}")
    result = {}
    for row, times in {"forward": forward, "forward + backward": training}.items():
        theirs, ours = timing.median(times["pytorch"]), timing.median(times["instseg"])
        result[row] = {"pytorch": theirs, "instseg": ours, "ratio": theirs / ours}
        print(f"{row:20}{theirs:10.2f}{ours:10.2f}{theirs / ours:8.1f}")
    ratio = result["forward"]["ratio"]
    passed = {
        f"forward {ratio:.1f} >= {MIN_RATIO} times faster": ratio >= MIN_RATIO,
        f"largest difference {difference:.1e} <= 2e-4": bool(difference <= 2e-4),
    }
    for claim, holds in passed.items():
        print("PASS" if holds else "FAIL", claim)
    timing.save(args.json, {**result, "largest_difference": difference.item()})
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
