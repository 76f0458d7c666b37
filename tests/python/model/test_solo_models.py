# SPDX-License-Identifier: Apache-2.0
"""SOLO, Decoupled SOLO and SOLOv2: small models train, whatever the objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mask_scene import NOTHING, OBJECTS, assert_all_gradients, scene, step, total
from solo_models import given, make, of_heads
from tiny_model import HEIGHT, WIDTH

from instseg import MaskTargets


@of_heads
def test_a_few_steps_lower_the_loss(head: str) -> None:
    model = make(head).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sums, masks = [], []
    for _ in range(12):
        optimizer.zero_grad()
        losses = model([scene(), scene()], [OBJECTS, NOTHING])
        assert isinstance(losses, dict) and list(losses) == ["loss_cls", "loss_mask"]
        loss = total(losses)
        loss.backward()
        assert_all_gradients(model)
        optimizer.step()
        sums.append(float(loss.detach()))
        masks.append(float(losses["loss_mask"].detach()))
    assert np.isfinite(sums).all() and sums[-1] < 0.8 * sums[0], sums
    assert masks[-1] < masks[0], masks


@of_heads
def test_images_without_objects(head: str) -> None:
    model = make(head)
    assert step(model, [OBJECTS, OBJECTS])["loss_mask"] > 0
    assert_all_gradients(model)
    losses = model([scene(), scene()], [NOTHING, NOTHING])
    assert isinstance(losses, dict)
    assert losses["loss_mask"].item() == 0 and losses["loss_mask"].requires_grad
    assert torch.isfinite(losses["loss_cls"]) and losses["loss_cls"] > 0
    model.zero_grad(set_to_none=True)
    total(losses).backward()
    assert_all_gradients(model)
    for name, parameter in model.named_parameters():
        of_masks = any(part in name for part in ("mask_", "x_", "y_", "head.kernel"))
        assert parameter.grad is not None and not (of_masks and parameter.grad.any()), name


@of_heads
def test_bf16_training_step(head: str) -> None:
    model = make(head).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([scene(), scene()], [OBJECTS, NOTHING])
    assert isinstance(losses, dict)
    total(losses).backward()
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert torch.isfinite(total(losses))
    assert_all_gradients(model)


@of_heads
def test_training_needs_masks(head: str) -> None:
    model = make(head).train()
    with pytest.raises(ValueError, match="mask"):
        model([scene()], [{"boxes": OBJECTS["boxes"], "labels": OBJECTS["labels"]}])
    with pytest.raises(ValueError, match="3"):
        model([scene()], [{**OBJECTS, "labels": [0, 3, 1]}])


def many(count: int, height: int, width: int) -> dict[str, Any]:
    """Rectangles of all sizes, on top of each other."""
    rng = np.random.default_rng(count)
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for mask in masks:
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        mask[y : y + h, x : x + w] = 1
    return given(masks)


def one_per_pixel(height: int, width: int) -> dict[str, Any]:
    return given(torch.eye(height * width, dtype=torch.uint8).reshape(-1, height, width))


@of_heads
@pytest.mark.parametrize("kind", ["a pixel each", "1000", "tiny image", "vanishing masks", "whole image"])
def test_odd_objects(head: str, kind: str) -> None:
    model = make(head).train()
    image = scene()
    if kind == "a pixel each":
        image, target = np.ascontiguousarray(image[:8, :12]), one_per_pixel(8, 12)
    elif kind == "1000":
        target = many(1000, HEIGHT, WIDTH)
    elif kind == "tiny image":
        image, target = np.ascontiguousarray(image[:3, :5]), many(2, 3, 5)
    elif kind == "vanishing masks":
        masks = torch.zeros(4, HEIGHT, WIDTH, dtype=torch.uint8)
        masks[0, 0, 0] = masks[1, 31, 47] = masks[2, -1, -1] = 1  # no cell of stride 4 sees them
        masks[3, ::4] = 1
        target = given(masks)
    else:
        target = given(torch.ones(1, HEIGHT, WIDTH, dtype=torch.uint8))
    losses = model([image, image], [target, NOTHING])
    assert isinstance(losses, dict)
    assert all(torch.isfinite(value) for value in losses.values())
    assert 0 < losses["loss_mask"] <= 3.0 + 1e-6  # a dice loss is at most 1, its weight 3
    total(losses).backward()
    assert_all_gradients(model)


@of_heads
def test_empty_masks_train_nothing(head: str) -> None:
    model = make(head)
    target = {
        "boxes": [[4.0, 4.0, 40.0, 40.0]],
        "labels": [1],
        "masks": MaskTargets.from_bitmaps(torch.zeros(1, HEIGHT, WIDTH, dtype=torch.uint8)),
    }
    assert step(model, [target]) == step(model, [NOTHING])
