# SPDX-License-Identifier: Apache-2.0
"""Targets of SOLO, against the recorded originals and a twin over full bitmaps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from solo_target_twin import NUM_CLASSES, STRIDES, Bitmaps, Size, check_twin, image_of, random_image
from unit_files import load, tensor

from instseg import MaskTargets, ops
from instseg._C import SoloConfig

ALL_SCALES = {"min_scales": [0.0] * 5, "max_scales": [2048.0] * 5}


def unpack(bits: Bitmaps, size: Iterable[int]) -> Bitmaps:
    height, width = (int(side) for side in size)
    return np.unpackbits(bits, axis=1)[:, : height * width].reshape(-1, height, width)


@pytest.mark.parametrize(
    "name, head", [("SOLO", "solo"), ("DecoupledSOLO", "decoupled"), ("SOLOv2", "solov2")]
)
def test_assigns_what_the_original_assigns(name: str, head: str) -> None:
    unit = load(f"targets_{name}Head")
    height, width = unit["hw"].tolist()
    image = image_of(unpack(unit["masks_bits"], (height, width)), unit["boxes"], unit["classes"].tolist())
    levels = ops.solo_targets([image], [(height, width)], (height, width), NUM_CLASSES, SoloConfig(head=head))
    for i, (level, grid) in enumerate(zip(levels, SoloConfig().grids, strict=True)):
        recorded = unit[f"cate_{i}"].astype(np.int64) - 1
        assert torch.equal(level.labels[0], tensor(np.where(recorded < 0, NUM_CLASSES, recorded)))
        if head == "decoupled":
            cells = unit[f"yx_{i}"] @ [grid, 1]
        else:
            cells = unit[f"grid_order_{i}" if head == "solov2" else f"ind_{i}"]
        assert level.cells.tolist() == cells.tolist()
        assert level.images.tolist() == [0] * len(cells)
        distinct = unpack(unit[f"ins_unique_bits_{i}"], unit[f"ins_hw_{i}"])
        assert level.masks.shape == distinct.shape
        assert torch.equal(level.masks[level.mask_of], tensor(distinct[unit[f"ins_index_{i}"]]))
    if head == "solov2":
        assert sorted(unit["grid_order_1"]) != sorted(set(unit["grid_order_1"]))  # a cell of two objects


def test_reduces_masks_as_the_original() -> None:
    unit = load("imrescale")
    size = unit["masks"].shape[1:]
    config = SoloConfig(**ALL_SCALES)
    images = [image_of(mask[None]) for mask in unit["masks"]]
    levels = ops.solo_targets(images, [size] * 3, size, NUM_CLASSES, config)
    for level, name in zip(levels, ("s4", "s4", "s8", "s16", "s16"), strict=True):
        assert torch.equal(level.masks, tensor(unit[name]))
    config = SoloConfig(head="solov2", mask_frame="image", **ALL_SCALES)
    odd = ops.solo_targets([image_of(unit["odd"][None])], [(75, 101)], (96, 128), NUM_CLASSES, config)
    for level in odd:
        assert torch.equal(level.masks[0, :19, :25], tensor(unit["odd_s4"]))
        assert level.masks.sum() == unit["odd_s4"].sum()


@pytest.mark.parametrize("head", ["solo", "decoupled", "decoupled_light", "solov2"])
@pytest.mark.parametrize("frame", ["padded", "image"])
def test_matches_twin(head: str, frame: str) -> None:
    rng = np.random.default_rng(5)
    config = SoloConfig(head=head, mask_frame=frame)
    shapes = ((20, 203, 317), (0, 64, 64), (7, 191, 90), (12, 224, 320))
    images = [random_image(rng, *shape) for shape in shapes]
    levels = check_twin(images, (224, 320), config)
    assert all(len(level.cells) > 20 for level in levels[:3])
    wide = SoloConfig(head=head, mask_frame=frame, center_region=0.9, **ALL_SCALES)
    check_twin([random_image(rng, 6, 97, 64)], (128, 64), wide)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 30), (32, 3), (31, 9)])
@pytest.mark.parametrize("frame", ["padded", "image"])
def test_images_smaller_than_a_cell(size: Size, frame: str) -> None:
    rng = np.random.default_rng(6)
    for head in STRIDES:
        config = SoloConfig(head=head, mask_frame=frame, **ALL_SCALES)
        check_twin([random_image(rng, 8, *size)], (32, 32), config)


def test_one_object_per_pixel_and_borders_between_cells() -> None:
    height, width = 32, 320  # a border of 40 cells at every eighth column
    bitmaps = np.eye(height * width, dtype=np.uint8)[::5].reshape(-1, height, width)
    boxes = np.tile(np.array([[0, 0, 9, 4]], np.float32), (len(bitmaps), 1))
    labels = [i % NUM_CLASSES for i in range(len(bitmaps))]
    levels = check_twin([(bitmaps, boxes, labels)], (height, width), SoloConfig(head="solov2"))
    assert levels[0].masks.sum() == 0  # single pixels vanish
    assert len(levels[0].masks) == len(bitmaps)


@pytest.mark.parametrize("cells", [40, 36, 24, 16, 12, 10])
def test_cell_is_the_floor_division_in_float32(cells: int) -> None:
    width = cells * 16 * (32 // np.gcd(cells * 16, 32))
    step = width // cells
    positions = [i * step + offset for i in range(cells) for offset in (0, step - 1)]
    bitmaps = np.zeros((len(positions), 32, width), np.uint8)
    bitmaps[range(len(positions)), 0, positions] = 1
    config = SoloConfig(
        head="solov2", grids=[cells] * 5, center_region=0.0, min_scales=[0.0] * 5, max_scales=[2048.0] * 5
    )
    level = ops.solo_targets([image_of(bitmaps)], [(32, width)], (32, width), NUM_CLASSES, config)[0]
    expected = [int(np.float32(p / width) // np.float32(1 / cells)) for p in positions]
    assert level.cells.tolist() == expected
    if cells in (40, 36, 24):  # where the plain quotient would land in another cell
        assert expected != [p * cells // width for p in positions]


def test_crowd_of_a_thousand() -> None:
    rng = np.random.default_rng(8)
    bitmaps, boxes = np.zeros((1000, 160, 224), np.uint8), np.zeros((1000, 4), np.float32)
    for bitmap, box in zip(bitmaps, boxes, strict=True):
        y, x = int(rng.integers(0, 150)), int(rng.integers(0, 210))
        h, w = (int(side) for side in rng.integers(1, 60, 2))
        bitmap[y : y + h, x : x + w] = rng.integers(0, 2, bitmap[y : y + h, x : x + w].shape)
        box[:] = x, y, x + w, y + h
    image = (bitmaps, boxes, rng.integers(0, NUM_CLASSES, 1000).tolist())
    for head in STRIDES:
        levels = check_twin([image], (160, 224), SoloConfig(head=head))
        assert (len(levels[0].masks) < 700) is (head == "solo")  # many lose all of their cells


def lone(size: float, config: SoloConfig) -> list[bool]:
    """Which levels take an object with a box of `size` x `size` px."""
    bitmap = np.zeros((1, 64, 64), np.uint8)
    bitmap[0, 20:40, 20:40] = 1
    image = image_of(bitmap, np.array([[0, 0, size, size]], np.float32))
    return [len(level.cells) > 0 for level in ops.solo_targets([image], [(64, 64)], (64, 64), 80, config)]


def test_scales_include_both_ends() -> None:
    config = SoloConfig()
    assert lone(96, config) == [True, True, True, False, False]
    assert lone(96.01, config) == [False, True, True, False, False]
    assert lone(95.99, config) == [True, True, False, False, False]
    assert lone(384, config) == [False, False, True, True, True]
    assert lone(2048.5, config) == [False] * 5
    assert lone(0.5, config) == [False] * 5
    assert lone(1, config) == [True, False, False, False, False]


def test_later_object_takes_a_cell_or_shares_it() -> None:
    bitmaps = np.zeros((3, 64, 96), np.uint8)
    bitmaps[0, 8:24, 8:24] = 1
    bitmaps[1, 40:56, 60:90] = 1
    bitmaps[2, 8:24, 8:23] = 1  # hides the first
    image = image_of(
        bitmaps, np.array([[8, 8, 10, 10], [60, 40, 61, 41], [8, 8, 10, 10]], np.float32), [5, 6, 7]
    )
    grids = [12] * 5
    last = ops.solo_targets([image], [(64, 96)], (64, 96), 80, SoloConfig(grids=grids))[0]
    assert last.labels[0, 2, 1] == 7
    assert last.cells.tolist() == [2 * 12 + 1, 8 * 12 + 9]
    assert last.masks.shape[0] == 2 and last.mask_of.tolist() == [1, 0]
    assert last.masks.sum((1, 2)).tolist() == [32, 16]
    config = SoloConfig(head="solov2", grids=grids)
    shared = ops.solo_targets([image], [(64, 96)], (64, 96), 80, config)[0]
    assert shared.labels[0, 2, 1] == 7 and (shared.labels != 80).sum() == 2
    assert shared.cells.tolist() == [2 * 12 + 1, 8 * 12 + 9, 2 * 12 + 1]
    assert shared.mask_of.tolist() == [0, 1, 2]


def test_vanishing_mask_is_a_positive_and_an_empty_one_is_not() -> None:
    bitmaps = np.zeros((2, 64, 64), np.uint8)
    bitmaps[0, 0, 0] = 1
    boxes = np.array([[0, 0, 9, 9], [30, 30, 60, 60]], np.float32)
    for head in STRIDES:
        level = ops.solo_targets([image_of(bitmaps, boxes)], [(64, 64)], (64, 64), 80, SoloConfig(head=head))[
            0
        ]
        assert level.cells.tolist() == [0] and level.labels[0, 0, 0] == 0
        assert (level.labels != 80).sum() == 1
        assert level.masks.shape == (1, 16, 16) and level.masks.sum() == 0


def test_polygons_end_with_the_image() -> None:
    polygon = [[4.0, 4.0, 90.0, 4.0, 90.0, 70.0, 4.0, 70.0]]
    masks = MaskTargets.from_coco([polygon], (50, 60))
    image = ops.Targets(torch.tensor([[4.0, 4.0, 60.0, 50.0]]), torch.tensor([3]), masks)
    bitmap = np.zeros((1, 50, 60), np.uint8)
    bitmap[0, 4:, 4:] = 1
    plain = image_of(bitmap, np.array([[4, 4, 60, 50]], np.float32), [3])
    for head in STRIDES:
        a, b = (
            ops.solo_targets([one], [(50, 60)], (64, 96), 80, SoloConfig(head=head))[0]
            for one in (image, plain)
        )
        assert torch.equal(a.labels, b.labels) and torch.equal(a.cells, b.cells)
        assert torch.equal(a.masks, b.masks) and a.masks.sum() > 0


def test_no_objects() -> None:
    nothing = ops.Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for images in ([], [nothing], [nothing, nothing]):
        for frame in ("padded", "image"):
            sizes: list[Size] = [(50, 60)] * len(images)
            config = SoloConfig(mask_frame=frame)
            for level, grid in zip(
                ops.solo_targets(images, sizes, (64, 96), 3, config), config.grids, strict=True
            ):
                assert level.labels.shape == (len(images), grid, grid) and (level.labels == 3).all()
                assert level.images.shape == level.cells.shape == level.mask_of.shape == (0,)
                assert level.masks.shape[0] == 0 and level.masks.dtype == torch.uint8


def test_boxes_that_are_no_boxes() -> None:
    bitmaps = np.ones((5, 32, 32), np.uint8)
    inf, nan = float("inf"), float("nan")
    boxes = np.array(
        [[9, 0, 0, 9], [nan, 0, 9, 9], [0, 0, inf, 9], [-3e38, 0, 3e38, 9], [0, 0, 9, 9]], np.float32
    )
    levels = ops.solo_targets(
        [image_of(bitmaps, boxes)], [(32, 32)], (32, 32), 80, SoloConfig(max_scales=[1e300] * 5)
    )
    assert {int(label) for label in levels[0].labels.unique()} == {4, 80}


MEMORY = """
import resource, torch
from instseg import MaskTargets, ops
from instseg._C import SoloConfig

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

side = 1344
polygons = [[[10., 10., 900., 20., 1300., 1330.]], [[10., 10., 70., 20., 60., 80.]]]
masks = MaskTargets.from_coco(polygons, (side, side))
boxes = torch.tensor([[10., 10., 1300., 1330.], [10., 10., 70., 80.]])
image = ops.Targets(boxes, torch.tensor([0, 1]), masks)
def run(count, head):
    return ops.solo_targets([image] * count, [(side, side)] * count, (side, side), 2, SoloConfig(head=head))
run(1, "solo")
before = peak()
for head in ("solo", "solov2"):
    assert sum(len(level.masks) for level in run(8, head)) >= 16
print(peak() - before)
"""


def test_memory_is_that_of_the_objects() -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    # A map for every cell of the finest level would be 8 * 1600 * 336 * 336 bytes, 1.4 GB.
    assert int(run.stdout) < 40e6


def test_rejects_bad_input() -> None:
    bitmap = np.zeros((1, 40, 50), np.uint8)
    bitmap[0, 10:20, 10:20] = 1
    good = image_of(bitmap)
    config = SoloConfig()

    def call(
        image: ops.Targets = good, size: Size = (40, 50), canvas: Size = (64, 64), **fields: Any
    ) -> list[ops.SoloTargets]:
        return ops.solo_targets([image], [size], canvas, 80, SoloConfig(**fields))

    def image(boxes: torch.Tensor, labels: torch.Tensor, masks: MaskTargets | None) -> ops.Targets:
        return ops.Targets(boxes, labels, masks)

    call()
    with pytest.raises(ValueError, match="image 0 of 40 x 50 does not fit the canvas of 32 x 64"):
        call(canvas=(32, 64))
    with pytest.raises(ValueError, match="canvas 64 x 70 is not a positive multiple of 32"):
        call(canvas=(64, 70))
    with pytest.raises(ValueError, match="canvas 0 x 32 is not a positive multiple"):
        call(canvas=(0, 32))
    with pytest.raises(ValueError, match="masks of image 0 are of a 40 x 50 image, the network sees 41 x 50"):
        call(size=(41, 50))
    with pytest.raises(ValueError, match="image 0 of 0 x 50 does not fit"):
        call(size=(0, 50))
    with pytest.raises(ValueError, match="2 sizes for 1 images"):
        ops.solo_targets([good], [(40, 50)] * 2, (64, 64), 80, config)
    with pytest.raises(ValueError, match="num_classes is 0"):
        ops.solo_targets([good], [(40, 50)], (64, 64), 0, config)
    with pytest.raises(ValueError, match="grids: has 4 values, expected 5"):
        call(grids=[40, 36, 24, 16])
    with pytest.raises(ValueError, match="max_scales"):
        call(max_scales=[96.0] * 6)
    with pytest.raises(ValueError, match="mask_frame"):
        call(mask_frame="box")
    with pytest.raises(ValueError, match="targets of image 0 have no masks"):
        call(image(good.boxes, good.labels, None))
    with pytest.raises(ValueError, match="targets of image 0 have 1 masks for 2 boxes"):
        call(image(good.boxes.repeat(2, 1), good.labels.repeat(2), good.masks))
    with pytest.raises(ValueError, match=r"labels has shape \[2\]"):
        call(image(good.boxes, good.labels.repeat(2), good.masks))
    with pytest.raises(ValueError, match=r"boxes has shape \[4\]"):
        call(image(good.boxes[0], good.labels, good.masks))
    with pytest.raises(TypeError, match="boxes is Double"):
        call(image(good.boxes.double(), good.labels, good.masks))
    with pytest.raises(TypeError, match="labels is Int"):
        call(image(good.boxes, good.labels.int(), good.masks))
    for label in (-1, 80):
        with pytest.raises(ValueError, match=f"label {label} of box 0 of image 0 is outside 0..79"):
            call(image(good.boxes, good.labels + label, good.masks))
