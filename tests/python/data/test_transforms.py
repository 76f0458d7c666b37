# SPDX-License-Identifier: Apache-2.0
"""Augmentation against simple twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from instseg import InputConfig
from instseg.data import Augmentation
from instseg.data.transforms import flip_boxes, resize_boxes


def image_and_targets(height=60, width=90, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = rng.uniform(0, 1, (6, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    return image, {"boxes": torch.from_numpy(boxes), "labels": torch.arange(6)}


def augmentation(**options):
    values = {"short_sides": (48,), "long_side": 200, "flip": 0.0, "input": InputConfig(), **options}
    return Augmentation(**values)


def test_resize_matches_pillow_and_scales_each_axis():
    image, targets = image_and_targets(60, 91)
    pixels, out = augmentation(short_sides=(48,))(image, targets, np.random.default_rng(0))
    height, width = 48, int(91 * 48 / 60 + 0.5)
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels.numpy(), expected)
    for row, (x1, y1, x2, y2) in zip(out["boxes"].tolist(), targets["boxes"].tolist(), strict=True):
        sx, sy = width / 91, height / 60
        assert row == pytest.approx([x1 * sx, y1 * sy, x2 * sx, y2 * sy], rel=1e-6)
    assert torch.equal(out["labels"], targets["labels"])


def test_flip_mirrors_pixels_and_boxes():
    image, targets = image_and_targets()
    pixels, out = augmentation(short_sides=(60,), flip=1.0)(image, targets, np.random.default_rng(0))
    assert np.array_equal(pixels.numpy(), image[:, ::-1])
    for row, (x1, y1, x2, y2) in zip(out["boxes"].tolist(), targets["boxes"].tolist(), strict=True):
        assert row == pytest.approx([90 - x2, y1, 90 - x1, y2], abs=1e-4)


def test_a_marked_rectangle_stays_inside_its_box():
    image = np.zeros((64, 96, 3), np.uint8)
    image[8:24, 16:48] = 255
    targets = {"boxes": torch.tensor([[16.0, 8, 48, 24]]), "labels": torch.tensor([0])}
    pixels, out = augmentation(short_sides=(128,), flip=1.0)(image, targets, np.random.default_rng(0))
    ys, xs = np.nonzero(pixels.numpy()[..., 0] > 127)
    assert out["boxes"].tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]


def test_box_helpers_are_inverse():
    boxes = torch.tensor([[1.0, 2, 30, 40]])
    assert torch.equal(flip_boxes(flip_boxes(boxes, 100), 100), boxes)
    assert torch.equal(resize_boxes(resize_boxes(boxes, (50, 100), (100, 200)), (100, 200), (50, 100)), boxes)


def test_long_side_caps():
    image, targets = image_and_targets(20, 100)
    pixels, _ = augmentation(short_sides=(40,), long_side=120)(image, targets, np.random.default_rng(0))
    assert tuple(pixels.shape) == (24, 120, 3)


def test_same_generator_state_same_result():
    image, targets = image_and_targets()
    augment = augmentation(short_sides=(32, 40, 48), flip=0.5)
    for seed in range(5):
        first, second = (augment(image, targets, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1]["boxes"], second[1]["boxes"])


@pytest.mark.parametrize(
    ("sampling", "sides", "expected"),
    [("choice", (32, 40, 48), {32, 40, 48}), ("range", (32, 36), {32, 33, 34, 35, 36})],
)
def test_short_sides_and_flips_are_drawn(sampling, sides, expected):
    image, targets = image_and_targets()
    augment = augmentation(short_sides=sides, sampling=sampling, flip=0.5)
    rng = np.random.default_rng(3)
    results = [augment(image, targets, rng) for _ in range(200)]
    assert {min(pixels.shape[:2]) for pixels, _ in results} == expected
    scaled = targets["boxes"][0, 0] / 90
    unflipped = sum(abs(float(t["boxes"][0, 0]) / p.shape[1] - scaled) < 1e-4 for p, t in results)
    assert 70 <= unflipped <= 130


def test_flip_option_does_not_change_the_sizes():
    image, targets = image_and_targets()
    sizes = [
        [augmentation(short_sides=(30, 40), flip=p)(image, targets, np.random.default_rng(s))[0].shape
         for s in range(10)]
        for p in (0.0, 1.0)
    ]  # fmt: skip
    assert sizes[0] == sizes[1]


def test_no_objects_and_vanishing_boxes():
    image, _ = image_and_targets()
    targets = {"boxes": torch.tensor([[5.0, 5, 5 + 1e-6, 9]]), "labels": torch.tensor([1])}
    _, out = augmentation()(image, targets, np.random.default_rng(0))
    assert out["boxes"].shape == (0, 4) and out["labels"].shape == (0,)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    _, out = augmentation(flip=1.0)(image, empty, np.random.default_rng(0))
    assert out["boxes"].shape == (0, 4)


@pytest.mark.parametrize("kernel", ["pillow", "opencv"])
def test_kernel_of_the_model_is_used(kernel):
    from instseg import ops

    image, targets = image_and_targets()
    pixels, _ = augmentation(input=InputConfig(resize=kernel))(image, targets, np.random.default_rng(0))
    assert torch.equal(pixels, ops.resize_image(image, (48, 72), kernel))
