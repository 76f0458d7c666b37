# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from unit_files import load, tensor

from instseg import ops


def twin(x: torch.Tensor, factor: int) -> torch.Tensor:
    height, width = x.shape[2] * factor, x.shape[3] * factor
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(height + 1, width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[:, :, :height, :width]


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_outputs_of_the_original(factor: int) -> None:
    unit = load("aligned_bilinear")
    x, expected = tensor(unit["x"]), tensor(unit[f"f{factor}"])
    torch.testing.assert_close(ops.aligned_bilinear(x, factor), expected, rtol=0, atol=5e-7)
    rows = ops.aligned_bilinear(x.to(memory_format=torch.channels_last), factor)
    torch.testing.assert_close(rows, expected, rtol=0, atol=5e-7)
    torch.testing.assert_close(ops.aligned_bilinear(x[0], factor), expected[0], rtol=0, atol=5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_matches_twin(factor: int, layout: torch.memory_format, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 9).to(dtype).to(memory_format=layout).requires_grad_()
    exact = x.detach().double().requires_grad_()
    out, expected = ops.aligned_bilinear(x, factor), twin(exact, factor)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    weight = torch.randint(-4, 5, out.shape) / 4
    (out * weight.to(dtype)).sum().backward()
    (expected * weight).sum().backward()
    tolerance = 1e-6 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    assert x.grad is not None and exact.grad is not None
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=tolerance, atol=4 * tolerance)


def test_errors_are_pythons() -> None:
    with pytest.raises(ValueError, match=r"^\[aligned_bilinear\] factor is 0; use a value >= 1$"):
        ops.aligned_bilinear(torch.zeros(1, 1, 2, 2), 0)
    with pytest.raises(TypeError, match="x is Double"):
        ops.aligned_bilinear(torch.zeros(1, 1, 2, 2).double(), factor=2)
