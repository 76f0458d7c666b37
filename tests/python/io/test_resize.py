# SPDX-License-Identifier: Apache-2.0
"""Resize kernels against Pillow, OpenCV and torch, size rules against recorded sizes, make_batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from instseg import InputConfig, ops

Array = npt.NDArray[np.uint8]
UNITS = Path(__file__).parents[2] / "data" / "parity" / "units"


def noise(rng: np.random.Generator, height: int, width: int) -> Array:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def resize(image: Array, height: int, width: int, kernel: str) -> npt.NDArray[np.generic]:
    return ops.resize_image(image, (height, width), kernel).numpy()


def pillow(image: Array, height: int, width: int) -> Array:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def random_sizes(rng: np.random.Generator, count: int, largest: int) -> list[tuple[int, int, int, int]]:
    return [tuple(int(side) for side in rng.integers(1, largest, 4)) for _ in range(count)]  # type: ignore[misc]


def test_pillow_along_one_axis() -> None:
    rng = np.random.default_rng(0)
    for height, width, new_height, new_width in random_sizes(rng, 150, 300):
        image = noise(rng, height, width)
        for size in [(height, new_width), (new_height, width), (height, width)]:
            np.testing.assert_array_equal(resize(image, *size, "pillow"), pillow(image, *size))


def test_pillow_along_both_axes() -> None:
    """Columns first. Pillow 13 sometimes takes rows first; two calls fix the order in every version."""
    rng = np.random.default_rng(1)
    for height, width, new_height, new_width in random_sizes(rng, 150, 300):
        image = noise(rng, height, width)
        expected = pillow(pillow(image, height, new_width), new_height, new_width)
        np.testing.assert_array_equal(resize(image, new_height, new_width, "pillow"), expected)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (427, 640), (150, 211), (333, 500), (612, 612)])
@pytest.mark.parametrize("short_side", [200, 512, 800])
def test_pillow_at_network_size(height: int, width: int, short_side: int) -> None:
    """One direct call, as the detectron2 family makes it."""
    image = noise(np.random.default_rng(height + short_side), height, width)
    size = ops.network_size((height, width), InputConfig(short_side=short_side, long_side=1333))
    np.testing.assert_array_equal(resize(image, *size, "pillow"), pillow(image, *size))


def test_opencv() -> None:
    """At most one grey level, on few pixels: OpenCV's own builds differ from each other by as much."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(2)
    different = total = 0
    for height, width, new_height, new_width in random_sizes(rng, 100, 300):
        image = noise(rng, height, width)
        expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        difference = np.abs(resize(image, new_height, new_width, "opencv").astype(int) - expected)
        assert difference.max() <= 1
        different += np.count_nonzero(difference)
        total += difference.size
    assert different < 0.01 * total


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_opencv_is_exact_for_whole_ratios(factor: int) -> None:
    cv2 = pytest.importorskip("cv2")
    image = noise(np.random.default_rng(factor), 24 * factor, 37 * factor)
    expected = cv2.resize(image, (37, 24), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize(image, 24, 37, "opencv"), expected)


@pytest.mark.parametrize(
    ("source", "name"), [("masks", "s4"), ("masks", "s8"), ("masks", "s16"), ("odd", "odd_s4")]
)
def test_opencv_on_recorded_masks(source: str, name: str) -> None:
    data = np.load(UNITS / "imrescale.npz")
    masks, expected = data[source], data[name]
    if masks.ndim == 2:
        masks, expected = masks[None], expected[None]
    for mask, small in zip(masks.astype(np.uint8), expected, strict=True):
        result = resize(np.repeat(mask[:, :, None], 3, axis=2), *small.shape, "opencv")
        np.testing.assert_array_equal(result, np.repeat(small[:, :, None], 3, axis=2))


def test_float_equals_torch() -> None:
    rng = np.random.default_rng(3)
    for height, width, new_height, new_width in random_sizes(rng, 100, 300):
        image = noise(rng, height, width)
        result = ops.resize_image(image, (new_height, new_width), "float")
        assert result.dtype == torch.float32
        planes = torch.from_numpy(image).permute(2, 0, 1).contiguous().float()[None]
        expected = torch.nn.functional.interpolate(
            planes, size=(new_height, new_width), mode="bilinear", align_corners=False
        )
        # Three roundings of values up to 255.
        torch.testing.assert_close(result, expected[0].permute(1, 2, 0), rtol=0, atol=5e-5)


@pytest.mark.parametrize("kernel", ["pillow", "opencv", "float"])
def test_same_size_is_identity(kernel: str) -> None:
    image = noise(np.random.default_rng(4), 21, 34)
    np.testing.assert_array_equal(resize(image, 21, 34, kernel), image)


def test_recorded_sizes_of_the_shortest_edge_rule() -> None:
    rows = np.load(UNITS / "resize_rules.npz")["detectron2_h_w_short_max_newh_neww"]
    assert len(rows) > 20
    for height, width, short_side, long_side, *expected in rows.tolist():
        config = InputConfig(resize="pillow", short_side=short_side, long_side=long_side)
        assert list(ops.network_size((height, width), config)) == expected


def test_recorded_sizes_of_the_mmdetection_rule() -> None:
    rows = np.load(UNITS / "resize_rules.npz")["mmcv_h_w_long_short_newh_neww"]
    assert len(rows) > 20
    for height, width, long_side, short_side, *expected in rows.tolist():
        config = InputConfig(resize="opencv", short_side=short_side, long_side=long_side)
        assert list(ops.network_size((height, width), config)) == expected


def test_sizes_of_the_torchvision_rule() -> None:
    config = InputConfig(resize="float", short_side=800, long_side=1333)
    for height, width in [(480, 640), (640, 427), (300, 1000), (1, 5000), (799, 801)]:
        factor = min(800 / min(height, width), 1333 / max(height, width))
        expected = (max(1, int(height * factor)), max(1, int(width * factor)))
        assert tuple(ops.network_size((height, width), config)) == expected


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_make_batch_equals_torch(order: str, dtype: torch.dtype) -> None:
    config = InputConfig(channel_order=order, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    rng = np.random.default_rng(5)
    images = [torch.from_numpy(noise(rng, *size)).to(dtype) for size in [(40, 65), (33, 70)]]
    batch = ops.make_batch(images, config)
    assert batch.pixels.shape == (2, 3, 64, 96)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert [tuple(size) for size in batch.sizes] == [(40, 65), (33, 70)]
    expected = torch.zeros(2, 3, 64, 96)
    for slot, image in zip(expected, images, strict=True):
        channels = image.flip(2) if order == "bgr" else image
        pixels = (channels.float() - torch.tensor(config.mean)) / torch.tensor(config.std)
        slot[:, : image.shape[0], : image.shape[1]] = pixels.permute(2, 0, 1)
    assert torch.equal(batch.pixels, expected)


def test_preprocess_is_resize_then_batch() -> None:
    config = InputConfig(short_side=96, long_side=160)
    image = noise(np.random.default_rng(6), 75, 140)
    batch = ops.preprocess([image], config)
    size = ops.network_size((75, 140), config)
    expected = ops.make_batch([ops.resize_image(image, size, "pillow")], config)
    assert torch.equal(batch.pixels, expected.pixels)
    assert [tuple(size) for size in batch.original_sizes] == [(75, 140)]


def test_bad_arguments() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="cubic"):
        ops.resize_image(image, (3, 3), "cubic")
    with pytest.raises(ValueError, match="at least 1x1, got 0x3"):
        ops.resize_image(image, (0, 3))
    with pytest.raises(ValueError, match="at least one image"):
        ops.make_batch([], InputConfig())
    with pytest.raises(ValueError, match="2 original sizes"):
        ops.make_batch([image], InputConfig(), [(1, 1), (2, 2)])
