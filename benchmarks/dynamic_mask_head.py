# SPDX-License-Identifier: Apache-2.0
"""How much faster are CondInst's dynamic mask heads than one grouped convolution per layer?

    python benchmarks/dynamic_mask_head.py [--threads 2] [--repeats 20] [--json FILE]

The contestant is the formulation of the paper in plain PyTorch: the relative coordinates and features of
every instance are put side by side into [1, N * (C + 2), H, W]; each layer is a convolution with N groups.
Both take the same tensors and must give the same logits. Extra memory is the growth of the resident set
during one call, output included, each in a process of its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import timing
import torch
import torch.nn.functional as F

from instseg import ops

INSTANCES, CHANNELS, HEIGHT, WIDTH = 100, 8, 100, 168
HEAD = ops.DynamicHead(depth=3, width=8)
MIN_RATIO, MAX_MEGABYTES = 8.0, 30.0

Arguments = tuple[torch.Tensor, ...]
Head = Callable[..., torch.Tensor]


def arguments(height: int = HEIGHT, width: int = WIDTH) -> Arguments:
    """Features, parameters, images, locations and scales."""
    random = torch.Generator().manual_seed(0)
    extent = torch.tensor([width, height]) * HEAD.stride
    return (
        torch.randn(1, CHANNELS, height, width, generator=random),
        torch.randn(INSTANCES, HEAD.parameters(CHANNELS), generator=random) * 0.3,
        torch.zeros(INSTANCES, dtype=torch.int64),
        torch.rand(INSTANCES, 2, generator=random) * extent,
        2.0 ** torch.randint(6, 11, (INSTANCES,), generator=random),
    )


def grouped_convolutions(
    features: torch.Tensor,
    parameters: torch.Tensor,
    images: torch.Tensor,
    locations: torch.Tensor,
    scales: torch.Tensor,
) -> torch.Tensor:
    n, width = len(images), HEAD.width
    height, columns = features.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(columns), indexing="ij")
    pixels = torch.stack([x, y]).float() * HEAD.stride + HEAD.stride // 2
    coordinates = (locations[:, :, None, None] - pixels) / scales[:, None, None, None]
    inputs = CHANNELS + 2
    counts = [inputs * width, width * width, width, width, width, 1]
    w1, w2, w3, b1, b2, b3 = parameters.split(counts, dim=1)
    out = torch.cat([coordinates, features[images]], 1).reshape(1, n * inputs, height, columns)
    out = F.conv2d(out, w1.reshape(-1, inputs, 1, 1), b1.reshape(-1), groups=n).relu()
    out = F.conv2d(out, w2.reshape(-1, width, 1, 1), b2.reshape(-1), groups=n).relu()
    return F.conv2d(out, w3.reshape(-1, width, 1, 1), b3.reshape(-1), groups=n)[0]


def dynamic_mask_head(*operands: torch.Tensor) -> torch.Tensor:
    return ops.dynamic_mask_head(*operands, HEAD)


HEADS: dict[str, Head] = {"grouped": grouped_convolutions, "instseg": dynamic_mask_head}


def forward(head: Head, operands: Arguments) -> Callable[[], object]:
    def run() -> torch.Tensor:
        with torch.no_grad():
            return head(*operands)

    return run


def forward_backward(head: Head, operands: Arguments) -> Callable[[], object]:
    features, parameters = (t.clone().requires_grad_() for t in operands[:2])
    size = (len(parameters), *features.shape[-2:])
    slopes = torch.randn(size, generator=torch.Generator().manual_seed(1))

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(head(features, parameters, *operands[2:]), (features, parameters), slopes)

    return run


def status(field: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at most."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def probe(name: str, backward: bool) -> float:
    """Growth of the resident set in one call; code and threads are warmed up on a small one."""
    kind = forward_backward if backward else forward
    kind(HEADS[name], arguments(10, 16))()
    run = kind(HEADS[name], arguments())
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def extra_memory(name: str, backward: bool, threads: int) -> float:
    command = [sys.executable, __file__, "--threads", str(threads), "--probe", name]
    command += ["--backward"] if backward else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--probe", choices=HEADS, help=argparse.SUPPRESS)
    parser.add_argument("--backward", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.probe:
        print(probe(args.probe, args.backward))
        return 0

    operands = arguments()
    expected, logits = (forward(HEADS[name], operands)() for name in HEADS)
    error = ((logits - expected).abs().max() / expected.abs().max()).item()
    rows = {}
    for row, make in {"forward": forward, "forward_backward": forward_backward}.items():
        times = timing.measure({name: make(head, operands) for name, head in HEADS.items()}, args.repeats)
        memory = {name: extra_memory(name, row != "forward", args.threads) for name in HEADS}
        medians = {name: timing.median(values) for name, values in times.items()}
        rows[row] = {
            "ms": medians,
            "spread": {name: timing.spread(values) for name, values in times.items()},
            "ratio": medians["grouped"] / medians["instseg"],
            "extra_megabytes": memory,
        }
    print(
        f"{INSTANCES} heads, depth {HEAD.depth}, width {HEAD.width}, on {CHANNELS}x{HEIGHT}x{WIDTH} features"
    )
    print(timing.machine())
    print(f"{'':18}{'grouped':>30}{'instseg':>26}{'ratio':>8}{'extra MB':>18}")
    for row, figures in rows.items():
        grouped, ours = figures["spread"].values()
        memory = "{:.1f} -> {:.1f}".format(*figures["extra_megabytes"].values())
        print(f"{row:18}{grouped:>30}{ours:>26}{figures['ratio']:8.1f}{memory:>18}")
    ratio, memory = rows["forward"]["ratio"], rows["forward"]["extra_megabytes"]["instseg"]
    passed = {
        f"forward {ratio:.1f} times as fast >= {MIN_RATIO:.0f}": ratio >= MIN_RATIO,
        f"forward extra memory {memory:.1f} MB < {MAX_MEGABYTES:.0f}": memory < MAX_MEGABYTES,
        f"same logits: error {error:.1e} <= 1e-5 of the largest": error <= 1e-5,
    }
    for claim, holds in passed.items():
        print("PASS" if holds else "FAIL", claim)
    timing.save(args.json, {"rows": rows, "relative_error": error})
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
