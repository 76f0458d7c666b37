# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from unit_files import load, tensor

from instseg import ops


def twin(
    bases: torch.Tensor,
    boxes: torch.Tensor,
    images: torch.Tensor,
    attention: torch.Tensor,
    cells: int = 14,
    size: int = 56,
    scale: float = 0.25,
) -> torch.Tensor:
    """Aligned RoIAlign by grid_sample, interpolation, softmax and sum, in float64."""
    bases, boxes, attention = bases.double(), boxes.double(), attention.double()
    extent = torch.tensor([bases.shape[3], bases.shape[2]], dtype=torch.float64)
    bins = torch.arange(size, dtype=torch.float64) + 0.5
    place = (boxes[:, None, :2] * scale - 0.5) + bins[:, None] * (
        (boxes[:, None, 2:] - boxes[:, None, :2]) * scale / size
    )
    inside = (place >= -1) & (place <= extent)
    x, y = ((2 * place + 1) / extent - 1).unbind(2)
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[..., None].expand(-1, -1, size)], 3)
    samples = F.grid_sample(bases[images], grid, padding_mode="border", align_corners=False)
    samples = samples * (inside[:, None, :, 0] & inside[:, :, None, 1])[:, None]
    maps = attention.view(len(boxes), bases.shape[1], cells, cells)
    weights = F.interpolate(maps, (size, size), mode="bilinear", align_corners=False).softmax(1)
    return (samples * weights).sum(1)


def random_inputs(count: int, channels: int, cells: int = 14) -> list[torch.Tensor]:
    center, half = torch.rand(count, 2) * 160 - 10, torch.exp(torch.rand(count, 2) * 4.5)
    return [
        torch.randn(2, channels, 31, 40),
        torch.cat([center - half, center + half], 1),
        torch.randint(2, (count,)),
        torch.randn(count, channels * cells * cells) * 2,
    ]


def test_matches_the_original() -> None:
    unit = {name: tensor(array) for name, array in load("blender").items()}
    images = torch.zeros(4, dtype=torch.long)
    logits = ops.blend(unit["bases"], unit["boxes"], images, unit["attns"])
    expected = unit["merged_logits"].view(4, 56, 56)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert (expected == 0).any() and torch.equal(logits == 0, expected == 0)  # samples outside of the map


@pytest.mark.parametrize("basis", range(4))
def test_reads_the_bases_as_the_original(basis: int) -> None:
    unit = {name: tensor(array) for name, array in load("blender").items()}
    attention = torch.zeros(2, 4, 14 * 14)
    attention[:, basis] = 200  # a softmax that picks one
    images = torch.zeros(2, dtype=torch.long)
    samples = ops.blend(unit["bases"], unit["boxes"][:2], images, attention.flatten(1))
    torch.testing.assert_close(samples, unit["rois_first2"][:, basis], rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels, cells, size", [(4, 14, 56), (1, 14, 56), (5, 7, 30), (4, 9, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_matches_twin(channels: int, cells: int, size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(channels)
    bases, boxes, images, attention = random_inputs(25, channels, cells)
    ours = [bases.to(dtype).requires_grad_(), attention.clone().requires_grad_()]
    exact = [ours[0].detach().double().requires_grad_(), attention.double().requires_grad_()]
    logits = ops.blend(ours[0], boxes, images, ours[1], cells, size)
    expected = twin(exact[0], boxes, images, exact[1], cells, size)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=5e-5)
    grad = torch.randn_like(logits)
    logits.backward(grad)
    expected.backward(grad.double())
    rounding = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    for mine, theirs, tolerance in zip(ours, exact, (rounding, 1e-5), strict=True):
        largest = theirs.grad.abs().max().item()
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=0, atol=tolerance * (1 + largest))


def test_keeps_nothing_of_the_size_of_all_masks() -> None:
    bases, boxes, images, attention = random_inputs(50, 4)
    kept: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        ops.blend(bases.requires_grad_(), boxes, images, attention.requires_grad_())
    assert kept and max(x.numel() for x in kept) <= max(bases.numel(), attention.numel())


def test_no_instances() -> None:
    bases, boxes, images, attention = random_inputs(0, 4)
    logits = ops.blend(bases.requires_grad_(), boxes, images, attention.requires_grad_())
    assert logits.shape == (0, 56, 56)
    logits.sum().backward()
    assert bases.grad is not None and not bases.grad.any()
    assert attention.grad is not None and attention.grad.shape == (0, 784)


def test_wrong_arguments_are_named() -> None:
    bases, boxes, images, attention = random_inputs(3, 4)
    with pytest.raises(ValueError, match=r"\[blend\] attention has shape \[3, 784\]; expected \[3, 196\]"):
        ops.blend(bases, boxes, images, attention, attention_size=7)
    with pytest.raises(ValueError, match=r"\[blend\] images\[1\] is 2; the batch has 2 images"):
        ops.blend(bases, boxes, torch.tensor([0, 2, 1]), attention)
    with pytest.raises(TypeError, match=r"\[blend\] attention is Half"):
        ops.blend(bases, boxes, images, attention.half())
