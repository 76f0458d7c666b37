# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from instseg import ops

SIZES = [(13, 20), (7, 10), (4, 5)]


def twin(
    maps: list[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor,
    levels: torch.Tensor,
    images: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    whole = [F.conv2d(x, weight, bias, padding=1).flatten(2) for x in maps]
    rows = [whole[level][b, :, p] for level, b, p in zip(levels, images, positions, strict=True)]
    return torch.stack(rows)


def random_cells(count: int) -> list[torch.Tensor]:
    levels = torch.randint(len(SIZES), (count,))
    cells = torch.tensor([h * w for h, w in SIZES])[levels]
    return [levels, torch.randint(2, (count,)), (torch.rand(count) * cells).long()]


@pytest.mark.parametrize("channels_last", [False, True])
def test_matches_convolution(channels_last: bool) -> None:
    torch.manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    tensors = [torch.randn(2, 24, *size).contiguous(memory_format=memory_format) for size in SIZES]
    tensors += [torch.randn(10, 24, 3, 3), torch.randn(10)]
    ours = [x.clone().requires_grad_() for x in tensors]
    exact = [x.double().requires_grad_() for x in tensors]
    cells = random_cells(40)
    result = ops.conv_at(ours[:3], *ours[3:], *cells)
    expected = twin(exact[:3], *exact[3:], *cells)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(result)
    result.backward(grad)
    expected.backward(grad.double())
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-5, atol=5e-5)


def test_stays_float32_under_autocast() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 24, *size).bfloat16() for size in SIZES]
    weight, bias, cells = torch.randn(10, 24, 3, 3), torch.randn(10), random_cells(30)
    plain = ops.conv_at(maps, weight, bias, *cells)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ops.conv_at(maps, weight, bias, *cells)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, plain, rtol=0, atol=0)


def test_no_cells_still_reach_every_parameter() -> None:
    none = torch.empty(0, dtype=torch.long)
    leaves = [torch.randn(2, 24, *size, requires_grad=True) for size in SIZES]
    weight, bias = torch.randn(10, 24, 3, 3, requires_grad=True), torch.randn(10, requires_grad=True)
    result = ops.conv_at(leaves, weight, bias, none, none, none)
    assert result.shape == (0, 10)
    result.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in [*leaves, weight, bias])


def test_wrong_arguments_are_named() -> None:
    maps, weight, bias = [torch.zeros(1, 8, 3, 4)], torch.zeros(5, 8, 3, 3), torch.zeros(5)
    zero = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"\[conv_at\] levels\[0\] is 1; there are 1 maps"):
        ops.conv_at(maps, weight, bias, zero + 1, zero, zero)
    with pytest.raises(ValueError, match=r"\[conv_at\] weight has shape \[5, 8, 1, 1\]"):
        ops.conv_at(maps, weight[:, :, :1, :1], bias, zero, zero, zero)
    with pytest.raises(TypeError, match=r"\[conv_at\] positions is Int"):
        ops.conv_at(maps, weight, bias, zero, zero, zero.int())
