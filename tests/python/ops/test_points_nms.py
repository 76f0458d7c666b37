# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from unit_files import load, tensor

from instseg import ops

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def dense(logits: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maximum pooling of all probabilities; cells, labels, scores."""
    p = logits.sigmoid()
    pooled = F.max_pool2d(p[None], 2, 1, 1)[0, :, :-1, :-1]
    kept = ((p == pooled) & (p > threshold)).flatten(1).T
    cells, labels = kept.nonzero().unbind(1)
    return cells, labels, p.flatten(1).T[kept]


def test_heat_of_the_original() -> None:
    unit = load("solo_nms")
    heat, expected = tensor(unit["heat"])[0], tensor(unit["heat_out"])[0]
    found = ops.points_nms(heat.double().logit().float(), 0.0)
    kept = torch.zeros_like(expected)
    kept.flatten(1)[found.labels, found.cells] = found.scores
    assert torch.equal(kept > 0, expected > 0) and (expected == 0).any()
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(80, 12, 12), (80, 40, 40), (1, 1, 1), (3, 5, 130)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_matches_maximum_pooling(shape: tuple[int, int, int], channels_last: bool, device: str) -> None:
    torch.manual_seed(shape[1])
    logits = (torch.randn(shape) * 8 - 6).round() / 4  # exact ties
    batch = logits[None].contiguous(
        memory_format=torch.channels_last if channels_last else torch.preserve_format
    )
    found = ops.points_nms(batch[0].to(device), 0.1)
    cells, labels, scores = dense(logits, 0.1)
    assert found.cells.tolist() == cells.tolist() and found.labels.tolist() == labels.tolist()
    torch.testing.assert_close(found.scores.cpu(), scores, rtol=0, atol=1e-6)
    assert found.scores.dtype == torch.float32


def test_nothing_above_the_threshold() -> None:
    found = ops.points_nms(torch.full((3, 6, 6), -4.6, requires_grad=True), 0.1)
    assert found.cells.shape == found.labels.shape == found.scores.shape == (0,)
    assert ops.points_nms(torch.zeros(3, 0, 0), 0.1).cells.shape == (0,)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[points_nms\] logits have shape \[1, 3, 6, 6\]"):
        ops.points_nms(torch.zeros(1, 3, 6, 6), 0.1)
    with pytest.raises(TypeError, match=r"\[points_nms\] logits is Half"):
        ops.points_nms(torch.zeros(3, 6, 6).half(), 0.1)
    with pytest.raises(ValueError, match=r"\[points_nms\] threshold is 2"):
        ops.points_nms(torch.zeros(3, 6, 6), 2)
