# SPDX-License-Identifier: Apache-2.0
"""The machine's own best convolution time for a network's shapes.

Each convolution is measured alone, with packed weights and fresh output memory; a program that reuses its
memory can come in slightly below.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int, int, int, int]  # in, out, kernel, stride, height, width of the input


def convolutions(network: nn.Module, pixels: Tensor) -> Counter[Shape]:
    """How often each convolution shape runs in one forward pass of `network`."""
    seen: Counter[Shape] = Counter()

    def record(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        assert isinstance(module, nn.Conv2d)
        height, width = inputs[0].shape[-2:]
        stride, kernel = module.stride[0], module.kernel_size[0]
        seen[(module.in_channels, module.out_channels, kernel, stride, height, width)] += 1

    hooks = [m.register_forward_hook(record) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network(pixels)
    for hook in hooks:
        hook.remove()
    return seen


def giga_operations(shapes: Counter[Shape]) -> float:
    """Multiply-adds times two, in 1e9."""
    total = 0.0
    for (i, o, k, s, h, w), count in shapes.items():
        total += 2e-9 * count * i * o * k * k * -(-h // s) * -(-w // s)
    return total


@torch.no_grad()
def ceiling(shapes: Counter[Shape], dtype: torch.dtype, repeats: int = 5) -> float:
    """Milliseconds: every shape's best time with pre-packed oneDNN weights, channels-last."""
    total = 0.0
    for (i, o, k, s, h, w), count in shapes.items():
        geometry = ([k // 2] * 2, [s] * 2, [1] * 2, 1)
        x = torch.randn(1, i, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            torch.randn(o, i, k, k).to(dtype), *geometry, [1, i, h, w]
        )
        bias = torch.zeros(o, dtype=dtype)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, "relu", [], "")
            best = min(best, time.perf_counter() - start)
        total += count * best * 1e3
    return total
