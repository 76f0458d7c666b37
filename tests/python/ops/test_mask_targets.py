# SPDX-License-Identifier: Apache-2.0
"""MaskTargets: a value that is built, moved, compared, copied and sent between processes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from test_rasterize import bitmaps_of, by_coco, mixed_masks

from instseg import MaskTargets

SQUARE = [2.0, 3.0, 9.0, 3.0, 9.0, 8.0, 2.0, 8.0]


def test_the_forms_of_a_segmentation_are_the_same_mask() -> None:
    rle = by_coco([SQUARE], 20, 30)
    plain = MaskTargets.from_bitmaps(torch.from_numpy(coco.decode(rle))[None])
    counts = [2 * 20 + 3, *([5, 15] * 6), 5, 20 * 21 + 12]
    items = [
        [SQUARE],
        [np.array(SQUARE)],
        (tuple(SQUARE),),
        rle,
        {**rle, "counts": str(rle["counts"]).encode()},
        {"size": (20, 30), "counts": counts},
        {"size": [20, 30], "counts": np.array(counts, np.uint32)},
    ]
    masks = MaskTargets.from_coco(items, (20, 30))
    assert len(masks) == 7 and masks.image_size == (20, 30)
    assert masks.rle() == [rle] * 7 and masks.areas() == [35] * 7
    assert plain.rle() == [rle]
    assert plain == MaskTargets.from_coco([rle], (20, 30))
    assert repr(masks) == "MaskTargets(7 masks of 20x30: 3 of polygons, 4 of run lengths)"


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ([], ValueError, "without a polygon"),
        ([[1, 2, 3, 4]], ValueError, "has 2 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], ValueError, "has 7 coordinates"),
        ([[1, 2, 3, 4, 5, float("nan")]], ValueError, "coordinate is nan"),
        ([SQUARE, "text"], TypeError, "segmentation 1: polygon 1 is not a list of numbers"),
        ([[SQUARE]], TypeError, "segmentation 1: polygon 0 is not a list of numbers"),
        (SQUARE, TypeError, "segmentation 1: polygon 0 is not a list of numbers"),
        (5, TypeError, "segmentation 1 is a int"),
        ({"counts": "abc"}, TypeError, "segmentation 1 has no 'size' and 'counts'"),
        ({"size": 5, "counts": [600]}, TypeError, "size is not height, width"),
        ({"size": [20, 30], "counts": [600.0]}, TypeError, "neither a text nor a list of integers"),
        ({"size": [20, 30], "counts": [-1, 601]}, ValueError, "run length -1"),
        ({"size": [20, 30], "counts": [599]}, ValueError, "cover 599 pixels"),
        ({"size": [20, 30], "counts": "~~"}, ValueError, "is not one of compressed run lengths"),
        ({"size": [30, 20], "counts": [600]}, ValueError, "run lengths of size 30x20 for an image of 20x30"),
    ],
)
def test_bad_segmentations_are_named(item: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        MaskTargets.from_coco([[SQUARE], item], (20, 30))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_bitmaps_must_be_a_stack_of_bits() -> None:
    with pytest.raises(ValueError, match=r"shape \[4, 5\]"):
        MaskTargets.from_bitmaps(torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(TypeError, match="bitmap is Float"):
        MaskTargets.from_bitmaps(torch.ones(1, 4, 5))
    assert len(MaskTargets.from_bitmaps(torch.zeros(0, 4, 5, dtype=torch.bool))) == 0


def test_run_lengths_are_resized_as_pillow_does() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        (height, width), size = rng.integers(1, 70, 2).tolist(), rng.integers(1, 140, 2).tolist()
        values = (rng.uniform(0, 1, (height, width)) > rng.choice([0.2, 0.5, 0.9])).astype(np.uint8)
        masks = MaskTargets.from_bitmaps(torch.from_numpy(values)[None]).resized(tuple(size))
        expected = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.NEAREST)
        assert masks.image_size == tuple(size)
        assert np.array_equal(bitmaps_of(masks)[0], np.asarray(expected))


def test_polygons_are_resized_and_flipped_in_double() -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform(-20, 120, (9, 2))
    masks = MaskTargets.from_coco([[points.ravel()]], (90, 110)).resized((71, 203)).flipped()
    moved = points * [203 / 110, 71 / 90]
    moved[:, 0] = 203 - moved[:, 0]
    assert masks == MaskTargets.from_coco([[moved.ravel()]], (71, 203))


def test_flipping_mirrors_run_lengths() -> None:
    masks = mixed_masks(3, 33, 47).select([0, 2, 4, 6])
    assert np.array_equal(bitmaps_of(masks.flipped()), bitmaps_of(masks)[:, :, ::-1])
    assert masks.flipped().flipped() == masks
    assert masks.resized((33, 47)) == masks


def test_select_takes_any_order() -> None:
    masks = mixed_masks(2, 20, 30)
    chosen = masks.select([5, 0, 5])
    assert np.array_equal(bitmaps_of(chosen), bitmaps_of(masks)[[5, 0, 5]])
    assert len(masks.select([])) == 0 and masks.select([]).image_size == (20, 30)
    for index in (-1, 12):
        with pytest.raises(ValueError, match=f"index {index} is outside"):
            masks.select([index])


def test_equality_copies_and_pickles() -> None:
    masks = mixed_masks(8, 40, 50)
    for other in (copy.copy(masks), copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
        assert other is not masks and other == masks and other.rle() == masks.rle()
    assert masks != masks.flipped() and masks != MaskTargets((40, 50)) and masks != 3
    assert MaskTargets((40, 50)) != MaskTargets((50, 40))
    assert pickle.loads(pickle.dumps(MaskTargets((7, 0)))) == MaskTargets((7, 0))
    with pytest.raises(TypeError, match="unhashable"):
        hash(masks)


def test_the_pickle_is_as_small_as_its_numbers() -> None:
    points = np.random.default_rng(0).uniform(0, 500, (300, 80))
    masks = MaskTargets.from_coco([[part] for part in points], (500, 500))
    assert len(pickle.dumps(masks)) < 8 * points.size + 16 * len(points) + 500


def test_a_damaged_pickle_is_refused() -> None:
    size, layout, coordinates, counts = mixed_masks(8, 40, 50).__getstate__()  # type: ignore[misc]
    for state in [
        (size, layout, coordinates[:-8], counts),
        (size, layout, coordinates, counts[:-4]),
        (size, layout[:-8], coordinates, counts),
        (size, np.array([2**62], np.int64).tobytes(), coordinates, counts),
        (size, np.array([-(2**63)], np.int64).tobytes(), coordinates, counts),
        ((40, 51), layout, coordinates, counts),
    ]:
        with pytest.raises(ValueError, match=r"MaskTargets|Rle"):
            MaskTargets.__new__(MaskTargets).__setstate__(state)  # type: ignore[attr-defined]


def test_resizing_needs_a_size() -> None:
    with pytest.raises(ValueError, match="at least 1x1, got 0x4"):
        MaskTargets((3, 4)).resized((0, 4))
    with pytest.raises(ValueError, match="canvas 3x3 is smaller"):
        MaskTargets((3, 4)).rle((3, 3))
