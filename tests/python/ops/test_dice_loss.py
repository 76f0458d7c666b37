# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from instseg import ops

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def twin(maps: torch.Tensor, masks: torch.Tensor, eps: float, logits: bool) -> torch.Tensor:
    p, g = (maps.sigmoid() if logits else maps).flatten(1), masks.to(maps.dtype).flatten(1)
    return 1 - 2 * (p * g).sum(1) / ((p * p).sum(1) + (g * g).sum(1) + eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("logits, eps", [(True, 1e-5), (False, 2e-3)])
def test_matches_twin(logits: bool, eps: float, device: str) -> None:
    torch.manual_seed(0)
    masks, index = torch.rand(3, 17, 70) < 0.3, torch.tensor([1, 0, 2, 2, 1])
    maps = torch.rand(5, 17, 70) if not logits else torch.randn(5, 17, 70) * 4
    exact, ours = maps.double().requires_grad_(), maps.to(device).requires_grad_()
    losses = ops.dice_loss(ours, masks.to(device), index.to(device), eps, logits)
    expected = twin(exact, masks[index], eps, logits)
    weight = torch.linspace(0.5, 2, 5)
    (losses * weight.to(device)).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(losses.cpu().double(), expected, rtol=0, atol=1e-6)
    assert ours.grad is not None and exact.grad is not None
    scale = float(exact.grad.abs().max())
    torch.testing.assert_close(ours.grad.cpu().double(), exact.grad, rtol=0, atol=2e-6 * scale)


def test_pairs_without_index() -> None:
    maps, masks = torch.randn(4, 9), torch.randint(0, 2, (4, 9), dtype=torch.uint8)
    assert torch.equal(ops.dice_loss(maps, masks), ops.dice_loss(maps, masks, torch.arange(4)))


def test_allocates_nothing_of_the_maps_size_but_their_gradient() -> None:
    maps, masks = torch.randn(64, 80, 120, requires_grad=True), torch.ones(8, 80, 120, dtype=torch.uint8)
    index = torch.arange(64) % 8
    with torch.profiler.profile(profile_memory=True) as profile:
        ops.dice_loss(maps, masks, index).sum().backward()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    gradient = maps.numel() * 4
    assert max(sizes) == gradient
    assert sum(size for size in sizes if size > 0) < 1.01 * gradient


def test_errors_are_pythons() -> None:
    maps, masks = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^\[dice_loss\] eps is 0; use a value > 0$"):
        ops.dice_loss(maps, masks, eps=0)
    with pytest.raises(TypeError, match="masks are Float"):
        ops.dice_loss(maps, maps)
