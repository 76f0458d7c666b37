# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from instseg import ops


def twin(logits: torch.Tensor, labels: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    hot = (labels[:, None] == torch.arange(logits.shape[1])).double()
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, hot, reduction="none")
    missing = 1 - (p * hot + (1 - p) * (1 - hot))
    return ((alpha * hot + (1 - alpha) * (1 - hot)) * missing**gamma * cross_entropy).sum()


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.5, 1.5)])
def test_matches_twin(alpha: float, gamma: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1000, 80) * 3 - 2, torch.randint(-1, 82, (1000,))
    ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, expected = ops.sigmoid_focal_loss(ours, labels, alpha, gamma), twin(exact, labels, alpha, gamma)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


def test_stable_for_large_logits() -> None:
    logits = torch.tensor([[120.0, -120.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 120 + 0.25 * 120)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))
