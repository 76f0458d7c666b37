# SPDX-License-Identifier: Apache-2.0
"""Masks to tensors, against pycocotools, Pillow and the recorded originals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from unit_files import load, tensor

from instseg import MaskTargets, ops

Bitmaps = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
SHAPES = ("inside", "crossing", "tiny", "whole", "fifths", "line", "repeated", "fine")


def polygon(rng: np.random.Generator, shape: str, height: int, width: int) -> list[float]:
    """A polygon of the named kind; most of them cross themselves."""
    size, count = np.array([width, height]), int(rng.integers(3, 14))
    if shape == "inside":
        points = rng.uniform(0, 1, (count, 2)) * size
    elif shape == "crossing":
        points = rng.uniform(-1, 2, (count, 2)) * size
    elif shape == "tiny":
        points = rng.uniform(0, 1, 2) * size + rng.uniform(-1.5, 1.5, (count, 2))
    elif shape == "whole":
        points = np.round(rng.uniform(-0.3, 1.3, (count, 2)) * size)
    elif shape == "fifths":
        points = np.round(rng.uniform(-0.3, 1.3, (count, 2)) * size * 5) / 5 + rng.choice([0, 0.1, 0.5])
    elif shape == "line":
        start, end = rng.uniform(-10, 10, 2), size + rng.uniform(-10, 10, 2)
        points = start + (end - start) * rng.uniform(0, 1, (count, 1))
    elif shape == "repeated":
        points = np.repeat(rng.uniform(-5, 5, (count, 2)) + rng.uniform(0, 1, (count, 2)) * size, 2, axis=0)
    else:
        angle = np.sort(rng.uniform(0, 2 * np.pi, 5 * count))
        radius = rng.uniform(1, max(height, width))
        points = rng.uniform(-10, size + 10) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return points.ravel().tolist()  # type: ignore[no-any-return]


def by_coco(parts: list[list[float]], height: int, width: int) -> dict[str, object]:
    """pycocotools' run lengths of the union of polygons."""
    merged = coco.merge(coco.frPyObjects(parts, height, width))
    return {"size": merged["size"], "counts": merged["counts"].decode()}


def bitmaps_of(masks: MaskTargets, canvas: tuple[int, int] | None = None) -> Bitmaps:
    height, width = canvas or masks.image_size
    if not len(masks):
        return np.zeros((0, height, width), np.uint8)
    return np.stack([coco.decode(rle) for rle in masks.rle(canvas)])


def mixed_masks(seed: int, height: int, width: int, count: int = 12) -> MaskTargets:
    """Polygons and run lengths of random blocks, in turn."""
    rng = np.random.default_rng(seed)
    items: list[object] = []
    for i in range(count):
        if i % 2:
            items.append([polygon(rng, SHAPES[i % len(SHAPES)], height, width) for _ in range(1 + i % 3)])
            continue
        bitmap = np.zeros((height, width), np.uint8, order="F")
        for _ in range(3):
            y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
            bitmap[y : y + int(rng.integers(1, height)), x : x + int(rng.integers(1, width))] ^= 1
        items.append({"size": [height, width], "counts": coco.encode(bitmap)["counts"]})
    return MaskTargets.from_coco(items, (height, width))


@pytest.mark.parametrize("shape", SHAPES)
def test_polygons_equal_the_coco_api_bit_for_bit(shape: str) -> None:
    rng = np.random.default_rng(SHAPES.index(shape))
    seen = 0
    for _ in range(600):
        height, width = (int(v) for v in rng.integers(1, 120, 2))
        parts = [polygon(rng, shape, height, width) for _ in range(int(rng.integers(1, 4)))]
        masks = MaskTargets.from_coco([parts], (height, width))
        (found,) = masks.rle()
        assert found == by_coco(parts, height, width), (height, width, parts)
        seen += masks.areas()[0]
    assert seen > 0


def test_polygons_of_large_images_equal_the_coco_api() -> None:
    rng = np.random.default_rng(5)
    for shape in SHAPES:
        parts = [polygon(rng, shape, 2100, 3300)]
        assert MaskTargets.from_coco([parts], (2100, 3300)).rle() == [by_coco(parts, 2100, 3300)]


def test_coordinates_far_away_do_not_take_time_or_memory() -> None:
    far = [[-1e8, 10.0, 1e8, 10.0, 1e8, 30.0, -1e8, 30.0], [3.0, -1e300, 7.0, -1e300, 7.0, 1e300, 3.0, 1e300]]
    masks = MaskTargets.from_coco([[part] for part in far], (50, 40))
    expected = np.zeros((2, 50, 40), np.uint8)
    expected[0, 10:30] = 1
    expected[1, :, 3:7] = 1
    assert np.array_equal(bitmaps_of(masks), expected)


@pytest.mark.parametrize(("stride", "offset"), [(4, 2), (8, 4), (1, 0), (3, 5), (7, 100)])
def test_samples_centers_and_areas_are_those_of_the_bitmaps(stride: int, offset: int) -> None:
    masks, canvas = mixed_masks(1, 61, 83), (64, 96)
    plain = bitmaps_of(masks, canvas)
    found = ops.rasterize(masks, canvas, stride, offset)
    assert found.sampled.dtype == torch.uint8
    assert np.array_equal(found.sampled.numpy(), plain[:, offset::stride, offset::stride])
    assert found.areas.tolist() == plain.sum((1, 2)).tolist()
    for center, bitmap in zip(found.centers, plain, strict=True):
        y, x = np.nonzero(bitmap)
        expected = [x.mean(), y.mean()] if len(x) else [0.0, 0.0]
        torch.testing.assert_close(center, torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-6)


def test_polygons_reach_into_the_padding_and_run_lengths_do_not() -> None:
    box = [2.0, 3.0, 30.0, 3.0, 30.0, 30.0, 2.0, 30.0]
    full = {"size": [10, 20], "counts": [0, 200]}
    plain = bitmaps_of(MaskTargets.from_coco([[box], full], (10, 20)), (16, 24))
    assert plain[0, 3:, 2:].all() and plain[0].sum() == 13 * 22
    assert plain[1, :10, :20].all() and plain[1].sum() == 200


def test_centers_and_masks_of_the_original() -> None:
    unit = load("fcos_targets_center_masks")
    height, width = unit["hw"].tolist()
    expected = np.unpackbits(unit["masks_bits"], axis=1)[:, : height * width].reshape(-1, height, width)
    masks = MaskTargets.from_coco(unit_polygons(unit), (height, width))
    assert np.array_equal(bitmaps_of(masks), expected)
    found = ops.rasterize(masks, (height, width), 4, 2)
    assert np.array_equal(found.sampled.numpy(), expected[:, 2::4, 2::4])
    levels = []
    for i, (lower, upper) in enumerate(unit["soi"].tolist()):
        stride = 8 << i
        grid = ops.LocationGrid(-(-height // stride), -(-width // stride), stride, stride, stride // 2)
        levels.append(ops.TargetLevel(grid, stride, lower, upper))
    from instseg import TargetConfig

    image = ops.Targets(tensor(unit["boxes"]), tensor(unit["classes"]), masks)
    targets = ops.fcos_targets(levels, [image], 80, TargetConfig(), [found.centers])
    assert targets.labels.tolist() == unit["labels"].tolist()


def unit_polygons(unit: dict[str, np.ndarray]) -> list[list[list[float]]]:
    """One polygon an instance, with the two decimals they were made with."""
    flat, polygons = np.round(unit["poly_flat"].astype(np.float64), 2), []
    for length in unit["poly_len"].tolist():
        polygons.append([flat[:length].tolist()])
        flat = flat[length:]
    return polygons


def test_masks_in_boxes_equal_the_original() -> None:
    unit = load("crop_and_resize56")
    height, width = unit["hw"].tolist()
    boxes = tensor(unit["boxes"])

    def expected(name: str) -> Bitmaps:
        return np.unpackbits(unit[name], axis=1)[:, : 56 * 56].reshape(-1, 56, 56)

    masks = MaskTargets.from_coco(unit_polygons(unit), (height, width))
    assert np.array_equal(ops.rasterize_in_boxes(masks, boxes, 56).numpy(), expected("bits"))
    bits = load("fcos_targets_center")["masks_bits"]
    bitmaps = np.unpackbits(bits, axis=1)[:, : height * width].reshape(-1, height, width)
    masks = MaskTargets.from_bitmaps(torch.from_numpy(bitmaps))
    found = ops.rasterize_in_boxes(masks, boxes, 56).numpy()
    assert np.array_equal(found, expected("bitmask_roialign_bits"))


def test_polygons_in_boxes_equal_the_coco_api() -> None:
    rng = np.random.default_rng(3)
    parts = [[polygon(rng, shape, 90, 120) for _ in range(2)] for shape in SHAPES]
    low = rng.uniform(-20, 60, (len(parts), 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 80, (len(parts), 2))], 1).astype(np.float32)
    boxes[0, 2] = boxes[0, 0]  # no width: 0.1 px
    found = ops.rasterize_in_boxes(MaskTargets.from_coco(parts, (90, 120)), tensor(boxes), 28)
    for item, box, bitmap in zip(parts, boxes.astype(np.float64), found.numpy(), strict=True):
        scale = 28 / np.maximum(box[2:] - box[:2], 0.1)
        moved = [((np.reshape(part, (-1, 2)) - box[:2]) * scale).ravel().tolist() for part in item]
        assert np.array_equal(bitmap, coco.decode(coco.merge(coco.frPyObjects(moved, 28, 28))))


def align(
    bitmap: npt.NDArray[np.float64], box: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.float64]:
    """Mean of the bilinear samples of each bin, in float64."""
    (height, width), out = bitmap.shape, np.zeros((size, size))
    counts = np.ceil((box[2:] - box[:2]) / size).astype(int)
    steps = (box[2:] - box[:2]) / size / np.maximum(counts, 1)

    def taps(position: float, pixels: int) -> list[tuple[int, float]]:
        if position < -1 or position > pixels:
            return []
        position = min(max(position, 0.0), pixels - 1.0)
        low = min(int(position), pixels - 1)
        return [(low, 1 - position + low), (min(low + 1, pixels - 1), position - low)]

    for i, j in np.ndindex(size, size):
        samples = [
            sum(a * b * bitmap[y, x] for y, a in taps(v, height) for x, b in taps(u, width))
            for v in box[1] - 0.5 + (i * counts[1] + np.arange(counts[1]) + 0.5) * steps[1]
            for u in box[0] - 0.5 + (j * counts[0] + np.arange(counts[0]) + 0.5) * steps[0]
        ]
        out[i, j] = np.mean(samples) if samples else 0.0
    return out


def test_run_lengths_in_boxes_are_means_of_samples() -> None:
    rng = np.random.default_rng(9)
    boxes = np.array(
        [[3, 4, 40, 30], [-8, -9, 20, 60], [30, 20, 90, 80], [10, 10, 12, 11], [5, 5, 5, 9], [70, 70, 99, 99],
         [-20, -20, 130, 120]]
    ) + rng.uniform(0, 1, (7, 4))  # fmt: skip
    boxes[4, 2] = boxes[4, 0]
    boxes = boxes.astype(np.float32).astype(np.float64)
    bitmaps = (rng.uniform(0, 1, (7, 9, 11)) > 0.4).astype(np.uint8).repeat(6, 1).repeat(6, 2)
    masks = MaskTargets.from_bitmaps(torch.from_numpy(bitmaps))
    found = ops.rasterize_in_boxes(masks, tensor(boxes.astype(np.float32)), 14).numpy()
    for bitmap, box, out in zip(bitmaps, boxes, found, strict=True):
        mean = align(bitmap.astype(np.float64), box, 14)
        sure = np.abs(mean - 0.5) > 1e-5
        assert np.array_equal(out[sure], (mean >= 0.5)[sure])
    assert 0.1 < found.mean() < 0.9 and not found[4].any() and not found[5].any()


def test_a_box_far_larger_than_the_image_takes_no_time() -> None:
    masks = MaskTargets.from_bitmaps(torch.ones(1, 30, 40, dtype=torch.bool))
    for far in (1e6, 1e30, 3e38):
        boxes = torch.tensor([[-far, -far, far, far]])
        assert not ops.rasterize_in_boxes(masks, boxes, 14).any()


def test_smallest_mask_gives_the_class() -> None:
    masks, canvas = mixed_masks(4, 61, 83), (64, 96)
    labels = torch.arange(len(masks)) % 5
    plain = bitmaps_of(masks, canvas)
    areas = np.where(plain > 0, plain.sum((1, 2), keepdims=True), 10**9)
    expected = np.where(plain.any(0), labels.numpy()[areas.argmin(0)], -1)
    found = ops.smallest_class_map(masks, labels, canvas, 8, 4)
    assert found.dtype == torch.int64 and np.array_equal(found.numpy(), expected[4::8, 4::8])
    assert len(np.unique(expected)) > 3


def test_of_equal_masks_the_first_gives_the_class() -> None:
    masks = MaskTargets.from_bitmaps(torch.ones(3, 4, 5, dtype=torch.bool))
    found = ops.smallest_class_map(masks, torch.tensor([7, 2, 9]), (4, 5), 1, 0)
    assert (found == 7).all()


@pytest.mark.parametrize(("largest", "dtype"), [(254, torch.uint8), (255, torch.int64)])
def test_last_mask_gives_the_class(largest: int, dtype: torch.dtype) -> None:
    masks = mixed_masks(6, 40, 50)
    labels = torch.arange(len(masks)) % 4
    labels[3] = largest
    expected = np.zeros((40, 50), np.int64)
    for bitmap, label in zip(bitmaps_of(masks), labels.tolist(), strict=True):
        expected[bitmap > 0] = label + 1
    found = ops.class_map(masks, labels)
    assert found.dtype == dtype and np.array_equal(found.numpy(), expected)


def test_nothing_to_rasterise() -> None:
    none = MaskTargets((20, 30))
    labels = torch.zeros(0, dtype=torch.int64)
    found = ops.rasterize(none, (32, 32), 4, 2)
    assert found.sampled.shape == (0, 8, 8) and found.centers.shape == (0, 2) and found.areas.shape == (0,)
    assert ops.rasterize_in_boxes(none, torch.zeros(0, 4), 56).shape == (0, 56, 56)
    assert (ops.smallest_class_map(none, labels, (32, 32), 8, 4) == -1).all()
    assert ops.class_map(none, labels).shape == (20, 30)
    empty = MaskTargets.from_coco([[[1.1, 1.1, 1.2, 1.1, 1.1, 1.2]]], (20, 30))
    assert empty.areas() == [0] and ops.rasterize(empty, (20, 30), 1, 0).centers.tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32, torch.bool])
def test_resize_nearest_equals_pillow(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        (height, width), (new_height, new_width) = rng.integers(1, 90, (2, 2)).tolist()
        values = rng.integers(0, 2 if dtype == torch.bool else 200, (height, width), dtype=np.uint8)
        size = (new_width, new_height)
        expected = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
        found = ops.resize_nearest(torch.from_numpy(values).to(dtype), (new_height, new_width))
        assert found.dtype == dtype and np.array_equal(found.to(torch.uint8).numpy(), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, b, n: ops.rasterize(m, (9, 30), 4, 2), ValueError, "canvas 9x30 is smaller"),
        (lambda m, b, n: ops.rasterize(m, (70000, 70000), 4, 2), ValueError, "70000x70000"),
        (lambda m, b, n: ops.rasterize(m, (32, 32), 0, 2), ValueError, "stride is 0"),
        (lambda m, b, n: ops.rasterize(m, (32, 32), 4, -1), ValueError, "offset is -1"),
        (lambda m, b, n: ops.rasterize_in_boxes(m, b[:1], 56), ValueError, "1 boxes for 2 masks"),
        (lambda m, b, n: ops.rasterize_in_boxes(m, b[:, :3], 56), ValueError, "shape [2, 3]"),
        (lambda m, b, n: ops.rasterize_in_boxes(m, b.double(), 56), TypeError, "boxes is Double"),
        (lambda m, b, n: ops.rasterize_in_boxes(m, b * float("nan"), 56), ValueError, "box 0 has the coord"),
        (lambda m, b, n: ops.rasterize_in_boxes(m, b, 0), ValueError, "size is 0"),
        (lambda m, b, n: ops.class_map(m, n[:1]), ValueError, "labels has shape [1]"),
        (lambda m, b, n: ops.class_map(m, n.int()), TypeError, "labels is Int"),
        (lambda m, b, n: ops.class_map(m, n - 5), ValueError, "label -5 of mask 0 is negative"),
        (lambda m, b, n: ops.smallest_class_map(m, n, (9, 9), 8, 4), ValueError, "canvas 9x9 is smaller"),
        (lambda m, b, n: ops.resize_nearest(b[0], (3, 3)), ValueError, "expected [H, W]"),
        (lambda m, b, n: ops.resize_nearest(b, (0, 3)), ValueError, "at least 1x1, got 0x3"),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], message: str) -> None:
    masks = MaskTargets.from_bitmaps(torch.ones(2, 20, 30, dtype=torch.bool))
    with pytest.raises(error) as caught:
        call(masks, torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))  # type: ignore[operator]
    assert message in str(caught.value) and "\n" not in str(caught.value)
