# SPDX-License-Identifier: Apache-2.0
"""Masks at the size of the image, against plain torch (mask_twins) and pycocotools."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mask_checks import SLACK, box_masks, check, image_masks
from mask_twins import blobs, values
from pycocotools import mask as coco
from unit_files import load, tensor

from instseg import Masks, Rle, ops


@pytest.mark.parametrize("enlarge", ["aligned", "half_pixel"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(
    ("network", "image"),
    [
        ((96, 128), (96, 128)),  # the same
        ((93, 121), (93, 121)),  # padding cut off
        ((93, 121), (200, 300)),  # enlarged, with changed proportions
        ((93, 121), (40, 33)),  # made smaller
        ((95, 127), (7, 500)),
        ((50, 20), (77, 31)),  # the network image fills little of the map
        ((93, 121), (1, 1)),
        ((1, 1), (30, 20)),
    ],
)
def test_image_placement(enlarge: str, stride: int, network: tuple[int, int], image: tuple[int, int]) -> None:
    maps = blobs(6, 96 // stride, -(-128 // stride), seed=stride)
    check(image_masks(maps, stride, network, image, enlarge=enlarge))
    check(image_masks(maps, stride, network, image, 0.3, True, enlarge))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (2, 2), (2, 3)])
def test_tiny_maps(size: tuple[int, int]) -> None:
    maps = torch.rand(20, *size, generator=torch.Generator().manual_seed(3))
    height, width = 4 * size[0], 4 * size[1]
    for enlarge in ("aligned", "half_pixel"):
        check(image_masks(maps, 4, (height, width), (height, width), enlarge=enlarge))
        check(image_masks(maps, 4, (height - 1, width - 2), (31, 17), enlarge=enlarge))
    check(box_masks(maps, [[1.3, 2.1, 9.4, 17.8]] * 20, (20, 15)))


def test_noise_and_many_columns() -> None:
    maps = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    check(image_masks(maps, 4, (190, 250), (400, 555)))
    check(image_masks(maps, 4, (192, 256), (192, 256), threshold=0.97))
    check(image_masks(maps, 4, (190, 250), (400, 555), enlarge="half_pixel"))
    check(image_masks(maps, 4, (192, 256), (192, 256), threshold=0.97, enlarge="half_pixel"))
    check(box_masks(maps, [[-20, -30, 90, 80], [5, 6, 30, 300], [0, 0, 120, 100]], (100, 120)))


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.2, 1.0, 1.5])
@pytest.mark.parametrize("inclusive", [False, True])
def test_thresholds(threshold: float, inclusive: bool) -> None:
    maps = blobs(4, 20, 24)
    maps[0], maps[1] = 0, 1
    check(image_masks(maps, 4, (80, 96), (100, 90), threshold, inclusive))
    boxes = [[3.0, 4, 30, 40], [10, 10, 20, 20], [-5, -5, 60, 60], [0, 0, 50, 50]]
    masks = box_masks(maps, boxes, (50, 50), threshold, inclusive)
    inside = Masks(maps, (50, 50), placement="box", boxes=masks.boxes, threshold=0.2).area()
    assert (masks.area() >= inside).all() if threshold < 0.2 else (masks.area() <= 2600).all()
    if threshold > 0:  # below, the twin fills the image, the masks only their box
        check(masks)


def test_negative_threshold_fills_the_box_range() -> None:
    bitmap = box_masks(torch.zeros(1, 5, 5), [[3.5, 4.0, 8.2, 9.0]], (20, 30), -1.0).bitmaps()[0]
    expected = torch.zeros(20, 30, dtype=torch.uint8)
    expected[3:10, 2:10] = 1  # floor(y1) - 1 to ceil(y2) + 1, the same in x
    assert torch.equal(bitmap, expected)


def test_plateaus_at_the_threshold_are_exact() -> None:
    maps = torch.full((2, 14, 14), 0.5)
    maps[1] = 0.3
    for image in ((56, 56), (81, 33), (20, 111)):
        for threshold in (0.5, float(maps[1, 0, 0])):
            full, plateaus = image[0] * image[1], maps[:, 0, 0].tolist()
            for enlarge in ("aligned", "half_pixel"):
                strict = image_masks(maps, 4, (56, 56), image, threshold, False, enlarge).area()
                inclusive = image_masks(maps, 4, (56, 56), image, threshold, True, enlarge).area()
                assert strict.tolist() == [full if value > threshold else 0 for value in plateaus]
                assert inclusive.tolist() == [full if value >= threshold else 0 for value in plateaus]


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_half_pixel_centers_are_not_aligned(stride: int) -> None:
    """The two ways to enlarge differ by half a cell less half a pixel, and not at all at stride 1."""
    maps = blobs(4, 24, 32)
    network, image = (24 * stride - 1, 32 * stride - stride // 2), (71, 113)
    half, aligned = (
        image_masks(maps, stride, network, image, enlarge=enlarge) for enlarge in ("half_pixel", "aligned")
    )
    check(half)
    check(aligned)
    assert torch.equal(half.bitmaps(), aligned.bitmaps()) == (stride == 1)
    assert half.select(torch.tensor([2])).enlarge == half.to(torch.device("meta")).enlarge == "half_pixel"
    assert torch.equal(half.select(torch.tensor([2])).bitmaps(), half.bitmaps()[2:3])


def test_half_pixel_as_interpolated_twice() -> None:
    """Odd sizes: cells to network pixels, padding cut off, network pixels to the image."""
    maps = blobs(5, 13, 19)
    large = F.interpolate(maps[None], scale_factor=4, mode="bilinear", align_corners=False)[:, :, :47, :73]
    for image in ((47, 73), (101, 155), (33, 29), (1, 73), (94, 146)):
        expected = F.interpolate(large, image, mode="bilinear", align_corners=False)[0]
        differs = image_masks(maps, 4, (47, 73), image, enlarge="half_pixel").bitmaps() != (expected > 0.5)
        assert not (differs & ((expected - 0.5).abs() > SLACK)).any()


def test_box_placement() -> None:
    maps = blobs(8, 56, 56)
    boxes = [
        [10.2, 20.7, 70.9, 88.1],
        [0, 0, 120, 100],  # all of the image
        [-30.5, -10, 50, 40.2],  # over the border
        [100, 90, 180.3, 140],
        [50.1, 50.2, 50.9, 50.7],  # less than a pixel
        [20, 30, 21, 31],  # one pixel
        [119.5, 10, 120, 90],
        [30.25, 0, 31.75, 100],  # thin
    ]
    check(box_masks(maps, boxes, (100, 120)))
    check(box_masks(maps, boxes, (100, 120), 0.5, inclusive=False))


def test_boxes_without_extent_are_empty() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = [
        [5, 5, 5, 9],
        [9, 5, 5, 9],
        [nan, 5, 9, 9],
        [5, 5, 9, nan],
        [5, -inf, 9, 9],
        [5, 5, inf, 9],
        [500, 500, 600, 600],
        [-90, -90, -20, -20],
    ]
    masks = box_masks(torch.ones(len(boxes), 7, 7), boxes, (40, 40))
    assert masks.area().tolist() == [0] * len(boxes)
    assert not masks.bitmaps().any() and [rle.counts for rle in masks.rle()] == [[1600]] * len(boxes)
    assert masks.polygons() == [[] for _ in boxes]
    # Far bounds are no reason for an overflow.
    assert box_masks(torch.ones(1, 7, 7), [[-1e20, -1e20, 1e20, 1e20]], (40, 40)).area().tolist() == [1600]


def test_as_the_original_pastes() -> None:
    unit = load("paste_masks")
    masks = box_masks(tensor(unit["raw"]).reshape(-1, 56, 56), unit["boxes"].tolist(), unit["out"].shape[1:])
    assert np.array_equal(masks.bitmaps().numpy(), unit["out"].astype(np.uint8))


def test_empty_and_full() -> None:
    maps = torch.stack([torch.zeros(10, 12), torch.ones(10, 12), blobs(1, 10, 12)[0]])
    bitmaps = check(image_masks(maps, 4, (40, 48), (50, 60)), allow_ties=False)
    assert not bitmaps[0].any() and bitmaps[1].all()
    rles = image_masks(maps, 4, (40, 48), (50, 60)).rle()
    assert rles[0].counts == [3000] and rles[1].counts == [0, 3000]


def test_no_masks() -> None:
    for masks in (
        image_masks(torch.zeros(0, 10, 12), 4, (40, 48), (50, 60)),
        image_masks(torch.zeros(0, 0, 0), 4, (0, 0), (50, 60)),
        box_masks(torch.zeros(0, 56, 56), [], (50, 60)),
    ):
        assert len(masks) == 0 and masks.bitmaps().shape == (0, 50, 60)
        assert masks.rle() == [] and masks.polygons() == [] and masks.crops() == []
        assert masks.area().shape == (0,) and masks.area().dtype == torch.int64


def test_image_without_pixels() -> None:
    masks = image_masks(torch.ones(2, 3, 3), 4, (12, 12), (0, 9))
    assert masks.bitmaps().shape == (2, 0, 9) and masks.area().tolist() == [0, 0]
    assert [rle.counts for rle in masks.rle()] == [[0], [0]] and masks.polygons() == [[], []]


def test_nan_is_outside() -> None:
    maps = torch.ones(2, 8, 8)
    maps[0] = float("nan")
    maps[1, 3:5, 2:4] = float("nan")
    bitmaps = image_masks(maps, 4, (32, 32), (32, 32)).bitmaps()
    assert not bitmaps[0].any()
    expected = values(image_masks(maps, 4, (32, 32), (32, 32)))[1] > 0.5
    assert torch.equal(bitmaps[1].bool(), expected) and expected.any() and not expected.all()


def test_values_beyond_1_compare_alike() -> None:
    maps = (blobs(4, 20, 24) - 0.5) * 80
    check(image_masks(maps, 4, (80, 96), (93, 77), 0.0))


def test_layouts_and_gradients_do_not_matter() -> None:
    maps = blobs(4, 24, 20)
    plain = image_masks(maps, 4, (96, 80), (96, 80)).bitmaps()
    turned = maps.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert torch.equal(image_masks(turned, 4, (96, 80), (96, 80)).bitmaps(), plain)


def test_select_and_to() -> None:
    maps = blobs(5, 20, 20)
    boxes = [[i, i, 30.0 + i, 40.0 + i] for i in range(5)]
    masks = box_masks(maps, boxes, (60, 60))
    some = masks.select(torch.tensor([3, 0]))
    assert torch.equal(some.bitmaps(), masks.bitmaps()[[3, 0]]) and some.inclusive
    flags = torch.tensor([True, False, False, True, False])
    assert torch.equal(masks.select(flags).bitmaps(), masks.bitmaps()[flags])
    assert len(masks.select(torch.zeros(0, dtype=torch.int64))) == 0
    moved = masks.to(torch.device("meta"))
    assert moved.probabilities.is_meta and moved.boxes is not None and moved.boxes.is_meta
    with pytest.raises(TypeError, match=r"\[Masks.select\] the index is Float"):
        masks.select(torch.zeros(2))
    with pytest.raises(ValueError, match=r"\[Masks.select\] 4 flags for 5 masks"):
        masks.select(torch.ones(4, dtype=torch.bool))


def test_pickle_and_copy() -> None:
    masks = box_masks(blobs(2, 9, 9), [[0, 0, 9, 9], [3, 3, 20, 30]], (40, 30), 0.4)
    for again in (pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks)):
        assert torch.equal(again.bitmaps(), masks.bitmaps())
        assert again.threshold == 0.4 and again.inclusive and again.placement == "box"
    masks = image_masks(blobs(2, 9, 9), 4, (33, 36), (40, 30), enlarge="half_pixel")
    for again in (pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks)):
        assert torch.equal(again.bitmaps(), masks.bitmaps())
        assert again.enlarge == "half_pixel" and again.network_size == (33, 36) and again.stride == 4


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"placement": "mask"}, ValueError, "placement 'mask' is not one of image, box"),
        ({"stride": 0}, ValueError, "stride is 0"),
        ({"enlarge": "nearest"}, ValueError, "enlarge 'nearest' is not one of aligned, half_pixel"),
        (
            {"network_size": (81, 80)},
            ValueError,
            "network_size 81x80 does not lie in maps of 20x20 cells of 4",
        ),
        ({"network_size": (0, 80)}, ValueError, "network_size 0x80"),
        ({"threshold": float("nan")}, ValueError, "threshold is nan"),
        ({"probabilities": torch.zeros(20, 20)}, ValueError, r"shape \[20, 20\]; expected \[N, h, w\]"),
        ({"probabilities": torch.zeros(2, 20, 20).half()}, TypeError, "probabilities is Half"),
        ({"probabilities": torch.zeros(2, 0, 20)}, ValueError, "at least one cell"),
        ({"image_size": (-1, 3)}, ValueError, "image_size is -1x3"),
        ({"image_size": (100000, 100000)}, ValueError, "image_size is 100000x100000"),
        ({"placement": "box"}, ValueError, "boxes is missing"),
        ({"placement": "box", "boxes": torch.zeros(3, 4)}, ValueError, "3 boxes for 2 masks"),
        ({"placement": "box", "boxes": torch.zeros(2, 4).double()}, TypeError, "boxes is Double"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, object], error: type[Exception], text: str) -> None:
    fields: dict[str, object] = {
        "probabilities": torch.zeros(2, 20, 20),
        "image_size": (80, 80),
        "network_size": (80, 80),
    }
    masks = Masks(**{**fields, **change})  # type: ignore[arg-type]
    for method in (masks.bitmaps, masks.rle, masks.area, masks.polygons, masks.crops):
        with pytest.raises(error, match=rf"^\[Masks.*{text}"):
            method()


# ---- Polygons ----


def filled(bitmap: np.ndarray) -> np.ndarray:
    """Without its holes: background that does not reach the border over edges or corners."""
    height, width = bitmap.shape
    outside = np.zeros((height + 2, width + 2), bool)
    outside[0, 0] = True
    free = np.pad(bitmap == 0, 1, constant_values=True)
    while True:
        grown = outside.copy()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                grown |= np.roll(outside, (dy, dx), (0, 1))
        grown &= free
        if (grown == outside).all():
            return ~outside[1:-1, 1:-1]
        outside = grown


def exact_masks(bitmaps: np.ndarray) -> Masks:
    """Masks whose bitmaps are these."""
    maps = torch.from_numpy(bitmaps.astype(np.float32))
    return image_masks(maps, 1, bitmaps.shape[1:], bitmaps.shape[1:])


def area_of(polygon: torch.Tensor) -> float:
    x, y = polygon.double().unbind(1)
    return float((x * y.roll(-1) - y * x.roll(-1)).sum() / 2)


def test_outline_of_shapes() -> None:
    bitmaps = np.zeros((4, 6, 7), np.uint8)
    bitmaps[0, 2, 3] = 1
    bitmaps[1, 1:4, 2:6] = 1
    bitmaps[1, 2, 3] = 0  # a hole
    bitmaps[2, 1, 1] = bitmaps[2, 2, 2] = 1  # touch at a corner: two parts
    bitmaps[3, 1:5, 1] = bitmaps[3, 4, 1:4] = 1  # L
    polygons = exact_masks(bitmaps).polygons()
    assert [[p.tolist() for p in parts] for parts in polygons] == [
        [[[3, 2], [4, 2], [4, 3], [3, 3]]],
        [[[2, 1], [6, 1], [6, 4], [2, 4]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2]], [[2, 2], [3, 2], [3, 3], [2, 3]]],
        [[[1, 1], [2, 1], [2, 4], [4, 4], [4, 5], [1, 5]]],
    ]
    assert all(p.dtype == torch.float32 for parts in polygons for p in parts)


def test_a_hole_open_at_a_corner_is_outside() -> None:
    bitmap = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)[None]
    (parts,) = exact_masks(bitmap).polygons()
    assert len(parts) == 1 and area_of(parts[0]) == 7


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9, 1.0])
def test_polygons_are_the_masks_without_holes(share: float) -> None:
    rng = np.random.default_rng(int(share * 10))
    bitmaps = (rng.random((6, 17, 23)) < share).astype(np.uint8)
    smooth = check(image_masks(blobs(6, 24, 30), 4, (96, 120), (96, 120))).numpy()
    for stack in (bitmaps, smooth):
        height, width = stack.shape[1:]
        for bitmap, parts in zip(stack, exact_masks(stack).polygons(), strict=True):
            flat = [part.flatten().tolist() for part in parts]
            drawn = coco.decode(coco.merge(coco.frPyObjects(flat, height, width)))
            without_holes = filled(bitmap)
            assert sum(area_of(part) for part in parts) >= bitmap.sum()
            union = (drawn | without_holes).sum()
            assert (drawn & without_holes).sum() == union, f"{union}"


def test_rle_class_is_shared() -> None:
    (rle,) = exact_masks(np.ones((1, 3, 2), np.uint8)).rle()
    assert isinstance(rle, Rle) and rle.size == (3, 2) and rle.counts == [0, 6]


def test_infinite_values() -> None:
    maps = torch.zeros(2, 6, 6)
    maps[0, 2:5, 2:5], maps[1] = float("inf"), float("-inf")
    masks = image_masks(maps, 4, (24, 24), (24, 24))
    bitmaps = masks.bitmaps()
    assert [rle == ops.rle_encode(bitmap) for rle, bitmap in zip(masks.rle(), bitmaps, strict=True)] == [
        True
    ] * 2
    assert not bitmaps[1].any()
