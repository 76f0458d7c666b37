# SPDX-License-Identifier: Apache-2.0
"""The crop of the published recipes with deformable layers: where it lies, and exact targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from instseg import InputConfig, MaskTargets
from instseg.data import Augmentation, Crop
from instseg.data.transforms import crop_boxes
from instseg.recipe import parse_recipe

HEIGHT, WIDTH = 60, 90


def bitmap_of(masks: MaskTargets, i: int = 0) -> np.ndarray:
    return coco.decode(masks.rle()[i])


def inside(polygon, x, y):
    """Even-odd rule, by the crossings of a ray to the right."""
    hits = False
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            hits = not hits
    return hits


def area_of(rings) -> float:
    total = 0.0
    for ring in rings:
        x, y = np.reshape(ring, (-1, 2)).T
        total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return total


def distance(point, start, end) -> float:
    """Of a point from an edge."""
    along = np.clip(np.dot(point - start, end - start) / np.dot(end - start, end - start), 0, 1)
    return float(np.linalg.norm(start + along * (end - start) - point))


def rings_of(masks: MaskTargets, i: int = 0):
    layout, points, _ = (np.frombuffer(part, kind) for part, kind in zip(
        masks.__reduce_ex__(2)[2][1:], (np.int64, np.float64, np.uint32), strict=True))  # fmt: skip
    assert i == 0 and layout[0] > 0
    ends = np.cumsum(layout[1 : 1 + layout[0]])
    return [points[end - size : end] for end, size in zip(ends, layout[1:], strict=False)]


@pytest.mark.parametrize("seed", range(40))
def test_polygons_are_intersected_exactly(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * math.pi, 12))
    radius = rng.uniform(4, 45, 12)  # a star: concave, and not crossing itself
    star = np.stack([45 + radius * np.cos(angles), 30 + radius * np.sin(angles)], 1)
    x, y, w, h = 20 + seed % 7, 13, 31, 24
    masks = MaskTargets.from_coco([[star.ravel()]], (HEIGHT, WIDTH)).cropped(x, y, (h, w))
    assert masks.image_size == (h, w)
    rings = rings_of(masks)
    for ring in rings:
        points = np.reshape(ring, (-1, 2))
        assert (points >= 0).all() and (points <= [w, h]).all()
        for px, py in points:  # no vertex outside of the old polygon
            edges = zip(star - [x, y], np.roll(star, -1, axis=0) - [x, y], strict=True)
            near = min(distance(np.array([px, py]), start, end) for start, end in edges)
            assert near < 1e-9 or inside(star, px + x, py + y)
    # Inside is what was inside; areas agree.
    fine = [(i + 0.37, j + 0.53) for i in range(w) for j in range(h)]
    for px, py in fine[:: 1 + seed % 3]:
        now = sum(inside(np.reshape(ring, (-1, 2)), px, py) for ring in rings)
        assert now == inside(star, px + x, py + y)
    tight = np.concatenate([np.reshape(ring, (-1, 2)) for ring in rings])
    assert masks.boxes()[0].tolist() == pytest.approx([*tight.min(0), *tight.max(0)], rel=1e-6)


def test_the_whole_image_leaves_masks_alone():
    polygon = [0.0, 0, 90, 0, 90, 60, 0, 60]
    masks = MaskTargets.from_coco([[polygon], [[5.5, 3, 20, 3, 20, 31.25]]], (HEIGHT, WIDTH))
    whole = masks.cropped(0, 0, (HEIGHT, WIDTH))
    assert whole.select([1]) == masks.select([1])
    assert area_of(rings_of(whole.select([0]))) == 90 * 60 and whole.areas() == masks.areas()


def test_self_crossing_polygons_follow_the_even_odd_rule():
    bow = np.array([[10, 10], [50, 40], [50, 10], [10, 40]], float)
    masks = MaskTargets.from_coco([[bow.ravel()]], (HEIGHT, WIDTH)).cropped(20, 12, (26, 25))
    for i in range(25):
        for j in range(26):
            px, py = i + 0.41, j + 0.29
            now = sum(inside(np.reshape(ring, (-1, 2)), px, py) for ring in rings_of(masks)) % 2
            assert now == inside(bow, px + 20, py + 12)


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_cut(seed):
    rng = np.random.default_rng(seed)
    bitmap = (rng.uniform(0, 1, (HEIGHT, WIDTH)) > 0.4).astype(np.uint8)
    masks = MaskTargets.from_bitmaps(torch.from_numpy(bitmap)[None])
    for x, y, h, w in [
        (0, 0, HEIGHT, WIDTH),
        (7, 5, 40, 50),
        (89, 59, 1, 1),
        (0, 20, 1, WIDTH),
        (33, 0, HEIGHT, 1),
    ]:
        part = masks.cropped(x, y, (h, w))
        expected = bitmap[y : y + h, x : x + w]
        assert np.array_equal(bitmap_of(part), expected) and part.areas() == [int(expected.sum())]
        if expected.any():
            rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
            assert part.boxes()[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_what_is_left_out_becomes_an_empty_mask():
    masks = MaskTargets.from_coco(
        [[[2, 2, 9, 2, 9, 9]], {"size": [HEIGHT, WIDTH], "counts": [0, 60, 60 * 89]}], (HEIGHT, WIDTH)
    )
    part = masks.cropped(30, 30, (20, 20))
    assert len(part) == 2 and part.areas() == [0, 0] and part.boxes().tolist() == [[0] * 4] * 2


@pytest.mark.parametrize(
    ("place", "size"),
    [((-1, 0), (5, 5)), ((0, 56), (5, 5)), ((0, 0), (0, 5)), ((86, 0), (5, 5)), ((2**62, 0), (5, 5))],
)
def test_parts_that_are_not_in_the_image(place, size):
    with pytest.raises(
        ValueError, match=r"\[MaskTargets.cropped\] the part of .* is not in the 90 x 60 image"
    ):
        MaskTargets((HEIGHT, WIDTH)).cropped(*place, size)


def test_where_a_crop_lies():
    """Sides and positions against the rule, and both ends of each range are reached."""
    crop, size = Crop(0.5, 0.8), (40, 50)
    boxes = torch.tensor([[3.0, 4, 8, 9], [41, 30, 50, 40]])
    rng = np.random.default_rng(0)
    found = [crop.place(size, boxes, rng) for _ in range(4000)]
    assert {h for _, _, (h, _) in found} == set(range(20, 33)) and {w for *_, (_, w) in found} == set(
        range(25, 41)
    )
    for left, top, (h, w) in found:
        allowed = [
            max(0, math.floor(cy) - h) <= top <= min(max(0, 40 - h), math.ceil(cy))
            and max(0, math.floor(cx) - w) <= left <= min(max(0, 50 - w), math.ceil(cx))
            for cx, cy in ((5.5, 6.5), (45.5, 35))
        ]
        assert any(allowed)
    assert {left for left, _, (_, w) in found if w == 30} == {*range(7), *range(15, 21)}
    assert {top for _, top, (h, _) in found if h == 25} == {*range(8), *range(10, 16)}


def test_a_crop_of_everything_and_without_objects():
    rng = np.random.default_rng(0)
    assert Crop(1.0, 1.0).place((7, 9), torch.tensor([[0.0, 0, 9, 7]]), rng) == (0, 0, (7, 9))
    found = [Crop(0.5, 0.5).place((10, 20), torch.zeros(0, 4), rng) for _ in range(400)]
    assert {(h, w) for *_, (h, w) in found} == {(5, 10)}
    assert {left for left, *_ in found} == set(range(11)) and {top for _, top, _ in found} == set(range(6))
    assert Crop(0.01, 0.01).place((3, 3), torch.zeros(0, 4), rng)[2] == (1, 1)


def augmentation(**options) -> Augmentation:
    return Augmentation(
        **{"input": InputConfig(), "short_sides": (HEIGHT,), "long_side": 500, "flip": 0.0, **options}
    )


def test_boxes_pixels_and_maps_move_together():
    """A crop of the image at its own size: everything is a slice."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    semantic = torch.from_numpy(rng.integers(0, 9, (HEIGHT, WIDTH), dtype=np.uint8))
    bitmaps = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    bitmaps[0, 10:30, 5:60], bitmaps[1, 50:60, 80:90] = 1, 1
    targets = {
        "boxes": torch.tensor([[4.0, 9, 61, 31], [79, 49, 90, 60]]),
        "labels": torch.tensor([3, 5]),
        "masks": MaskTargets.from_bitmaps(bitmaps),
        "semantic": semantic,
    }
    crop = Crop(0.6, 0.9)
    dropped = 0
    for seed in range(20):
        twin = np.random.default_rng(seed)
        twin.integers(1), twin.random()  # short side and flip come first
        left, top, (h, w) = crop.place((HEIGHT, WIDTH), targets["boxes"], twin)
        pixels, out = augmentation(short_sides=(min(h, w),), crop=crop)(
            image, targets, np.random.default_rng(seed)
        )
        part = np.s_[top : top + h, left : left + w]
        assert np.array_equal(pixels.numpy(), image[part])
        assert torch.equal(out["semantic"], semantic[part])
        kept = [i for i in range(2) if bitmaps[i][part].any()]
        dropped += 2 - len(kept)
        assert out["labels"].tolist() == [[3, 5][i] for i in kept]
        for row, i in enumerate(kept):
            expected = bitmaps[i][part].numpy()
            assert np.array_equal(bitmap_of(out["masks"], row), expected)
            rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert out["boxes"][row].tolist() == tight  # that of the mask, not of the annotation
    assert dropped > 0


def test_boxes_without_masks_are_clipped():
    boxes = torch.tensor([[4.0, 9, 61, 31], [0, 0, 5, 5]])
    assert crop_boxes(boxes, 10, 12, (30, 40)).tolist() == [[0, 0, 40, 19], [0, 0, 0, 0]]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    targets = {"boxes": torch.tensor([[4.0, 9, 61, 31]]), "labels": torch.tensor([0])}
    pixels, out = augmentation(crop=Crop(0.5, 0.5), flip=1.0)(image, targets, np.random.default_rng(1))
    assert pixels.shape[0] == HEIGHT
    if len(out["boxes"]):
        x1, y1, x2, y2 = out["boxes"][0].tolist()
        assert 0 <= x1 < x2 <= pixels.shape[1] and 0 <= y1 < y2 <= pixels.shape[0]


def test_a_crop_comes_before_resizing_and_flipping():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[20:40, 30:60] = 255
    square = [30.0, 20, 60, 20, 60, 40, 30, 40]
    targets = {
        "boxes": torch.tensor([[30.0, 20, 60, 40]]),
        "labels": torch.tensor([0]),
        "masks": MaskTargets.from_coco([[square]], (HEIGHT, WIDTH)),
    }
    for seed in range(10):
        augment = augmentation(short_sides=(120,), flip=0.5, crop=Crop(0.9, 1.0))
        pixels, out = augment(image, targets, np.random.default_rng(seed))
        assert min(pixels.shape[:2]) == 120
        ys, xs = np.nonzero(pixels.numpy()[..., 0] > 127)
        bounds = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        assert (out["boxes"][0] - bounds).abs().max() <= 1


def test_the_crop_does_not_change_sizes_and_flips():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, : WIDTH // 2] = 255
    targets = {"boxes": torch.tensor([[40.0, 25, 50, 35]]), "labels": torch.tensor([0])}
    for seed in range(10):
        results = [
            augmentation(short_sides=(40, 50, 64), flip=0.5, crop=crop)(
                image, targets, np.random.default_rng(seed)
            )[0]
            for crop in (None, Crop(0.95, 1.0))
        ]
        assert min(results[0].shape[:2]) == min(results[1].shape[:2])
        assert results[0][0, 0, 0] == results[1][0, 0, 0]


def test_of_a_recipe():
    data = parse_recipe(
        {"data": {"short_sides": [64, 90], "short_side_sampling": "range", "long_side": 200, "crop": True}}
    ).data
    config = InputConfig()
    assert Augmentation.of(data, config) == Augmentation(config, (64, 90), 200, "range", 0.5, Crop(0.9, 1.0))
    data = parse_recipe({"data": {"flip": 0, "crop": {"enabled": False, "min_fraction": 0.5}}}).data
    assert Augmentation.of(data, config) == Augmentation(config, (800,), 1333, "choice", 0.0, None)
