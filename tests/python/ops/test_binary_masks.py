# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from unit_files import load, tensor

from instseg import ops

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def random_maps(count: int, height: int, width: int) -> torch.Tensor:
    """Soft rectangles, many of them on top of each other."""
    y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    center = torch.rand(count, 2, 1, 1) * torch.tensor([height, width])[None, :, None, None]
    half = torch.rand(count, 2, 1, 1) * (0.4 * min(height, width)) + 1
    outside = torch.maximum((y - center[:, 0]).abs() - half[:, 0], (x - center[:, 1]).abs() - half[:, 1])
    return torch.sigmoid(-outside)


def dense_iou(masks: torch.Tensor) -> torch.Tensor:
    """All pairs by one matrix product, in float64."""
    flat = masks.flatten(1).double()
    common = flat @ flat.T
    union = flat.sum(1)[:, None] + flat.sum(1)[None] - common
    return torch.where(common > 0, common / union, 0.0)


def dense_matrix_nms(
    masks: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, kernel: str, sigma: float
) -> torch.Tensor:
    iou = (dense_iou(masks) * (labels[:, None] == labels[None])).triu(1)
    covered = iou.amax(0)[:, None]
    if kernel == "gaussian":
        ratio = torch.exp(-sigma * iou**2) / torch.exp(-sigma * covered**2)
    else:
        ratio = ((1 - iou) / (1 - covered)).nan_to_num(0.0)
    return scores * ratio.amin(0)


def dense_mask_nms(
    masks: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, threshold: float
) -> list[int]:
    iou, kept = dense_iou(masks).float().double(), list[int]()  # ties of float32, as documented
    for i in torch.argsort(scores, stable=True, descending=True).tolist():
        if not any(labels[i] == labels[k] and iou[i, k] > threshold for k in kept):
            kept.append(i)
    return kept


def test_matrix_nms_of_the_original() -> None:
    unit = {name: tensor(array) for name, array in load("solo_nms").items()}
    packed = ops.pack_masks(unit["masks"].float())
    assert packed.areas.tolist() == unit["masks"].sum((1, 2)).tolist()
    changed = 0
    for kernel in ("gaussian", "linear"):
        scores = ops.matrix_nms(packed, unit["scores"], unit["labels"], kernel, 2.0)
        torch.testing.assert_close(scores, unit[kernel], rtol=0, atol=1e-6)
        changed += int((unit[kernel] < unit["scores"]).sum())
    assert changed > 10


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("height, width", [(8, 8), (17, 23), (50, 84)])
@pytest.mark.parametrize("classes", [1, 3])
def test_matches_matrix_product(height: int, width: int, classes: int, device: str) -> None:
    torch.manual_seed(height)
    maps = random_maps(90, height, width)
    scores, labels = torch.rand(90).sort(descending=True).values, torch.randint(classes, (90,))
    packed = ops.pack_masks(maps.to(device))
    assert len(packed) == 90 and packed.bits.shape == (90, -(-height * width // 64))
    inside = maps > 0.5
    torch.testing.assert_close(
        packed.mass.cpu().double(), (maps.double() * inside).sum((1, 2)), rtol=1e-6, atol=0
    )
    iou = ops.mask_iou(packed, packed).cpu().double()
    torch.testing.assert_close(iou, dense_iou(inside), rtol=0, atol=1e-7)
    for kernel, tolerance in (("gaussian", 1e-6), ("linear", 1e-5)):
        ours = ops.matrix_nms(packed, scores.to(device), labels.to(device), kernel, 1.5).cpu().double()
        expected = dense_matrix_nms(inside, scores, labels, kernel, 1.5)
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
    order = torch.randperm(90)
    shuffled = packed.select(order.to(device))
    kept = ops.mask_nms(shuffled, scores[order].to(device), labels[order].to(device), 0.4)
    assert kept.tolist() == dense_mask_nms(inside[order], scores[order], labels[order], 0.4)


def test_defaults_are_the_published_ones() -> None:
    torch.manual_seed(0)
    maps, scores = random_maps(20, 30, 30), torch.linspace(1, 0.1, 20)
    packed, labels = ops.pack_masks(maps), torch.zeros(20, dtype=torch.long)
    assert torch.equal(packed.bits, ops.pack_masks(maps, threshold=0.5).bits)
    expected = ops.matrix_nms(packed, scores, labels, kernel="gaussian", sigma=2.0)
    assert torch.equal(ops.matrix_nms(packed, scores, labels), expected)
    assert not torch.equal(ops.matrix_nms(packed, scores, labels, sigma=1.0), expected)


def test_results_carry_no_gradient() -> None:
    maps = torch.rand(2, 9, 9, requires_grad=True)
    scores = torch.tensor([0.9, 0.8], requires_grad=True)
    packed = ops.pack_masks(maps)
    assert not packed.mass.requires_grad
    assert not ops.matrix_nms(packed, scores, torch.zeros(2, dtype=torch.long)).requires_grad


def test_no_masks() -> None:
    packed = ops.pack_masks(torch.zeros(0, 5, 5))
    none, labels = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert len(packed) == 0 and packed.bits.shape == (0, 1)
    assert ops.matrix_nms(packed, none, labels).shape == (0,)
    assert ops.mask_nms(packed, none, labels, 0.5).shape == (0,)
    assert ops.mask_iou(packed, packed).shape == (0, 0)


def test_wrong_arguments_are_named() -> None:
    packed = ops.pack_masks(torch.rand(2, 9, 9))
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"\[pack_masks\] probabilities have shape \[9, 9\]"):
        ops.pack_masks(torch.rand(9, 9))
    with pytest.raises(TypeError, match=r"\[pack_masks\] probabilities is Bool"):
        ops.pack_masks(torch.rand(2, 9, 9) > 0.5)
    with pytest.raises(ValueError, match=r"\[matrix_nms\] labels has shape \[3\]; expected \[2\]"):
        ops.matrix_nms(packed, scores, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[matrix_nms\] kernel is 'cubic'"):
        ops.matrix_nms(packed, scores, labels, "cubic")
    with pytest.raises(ValueError, match=r"\[matrix_nms\] scores\[1\] is 0.9 after 0.8"):
        ops.matrix_nms(packed, scores.flip(0), labels)
    with pytest.raises(ValueError, match=r"\[mask_nms\] iou_threshold is -1"):
        ops.mask_nms(packed, scores, labels, -1)
    with pytest.raises(AttributeError):
        packed.mass = scores  # type: ignore[misc]
