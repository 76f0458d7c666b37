# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from unit_files import load, tensor

from instseg import ops


def test_ious_of_the_original() -> None:
    unit = load("ious")
    pred, target = tensor(unit["pred"]), tensor(unit["target"])
    torch.testing.assert_close(ops.box_iou(pred, target), tensor(unit["iou"]), rtol=0, atol=2e-7)
    torch.testing.assert_close(ops.centerness_of(target), tensor(unit["ctr"]), rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    "kind, key", [("iou", "loss_iou"), ("linear_iou", "loss_linear"), ("giou", "loss_giou")]
)
def test_losses_of_the_original(kind: str, key: str) -> None:
    unit = load("ious")
    pred, target = tensor(unit["pred"]), tensor(unit["target"])
    weight = target[:, 0] if kind == "giou" else None
    loss = ops.box_loss(pred, target, weight, kind)
    torch.testing.assert_close(loss, tensor(unit[key]).reshape(()), rtol=1e-6, atol=0)


def test_gradient_is_that_of_autograd() -> None:
    unit = load("ious")
    target = tensor(unit["target"])
    pred = tensor(unit["pred"]).requires_grad_()
    ops.box_loss(pred, target).backward()

    twin = tensor(unit["pred"]).double().requires_grad_()
    low, high = torch.minimum(twin, target), torch.maximum(twin, target)
    area = [(b[:, 0] + b[:, 2]) * (b[:, 1] + b[:, 3]) for b in (low, high, twin, target)]
    union = area[2] + area[3] - area[0]
    (1 - (area[0] + 1) / (union + 1) + (area[1] - union) / area[1]).sum().backward()
    torch.testing.assert_close(pred.grad.double(), twin.grad, rtol=1e-5, atol=1e-7)
