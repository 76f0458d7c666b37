# SPDX-License-Identifier: Apache-2.0
"""Run lengths against pycocotools."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from instseg import Rle, ops


def bitmaps() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 7), (7, 1), (5, 6), (64, 65), (37, 200), (300, 400)]
    masks = [rng.random(size) < share for size in sizes for share in (0, 0.02, 0.5, 0.98, 1)]
    large = np.zeros((300, 400), bool)  # long runs: numbers of several characters
    large[3:290, 5:380] = True
    large[100:200, 17] = False
    return [*masks, large]


@pytest.mark.parametrize("index", range(len(bitmaps())))
def test_text_is_that_of_pycocotools(index: int) -> None:
    bitmap = bitmaps()[index]
    theirs = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    rle = ops.rle_encode(torch.from_numpy(bitmap))
    assert rle.size == tuple(theirs["size"])
    assert rle.compressed() == theirs["counts"].decode()
    assert rle.area() == coco.area(theirs) == bitmap.sum()
    again = Rle.from_compressed(theirs["counts"].decode(), bitmap.shape)
    assert again == rle and again.counts == rle.counts
    assert np.array_equal(ops.rle_decode(again).numpy(), bitmap)
    assert ops.rle_decode(again).dtype == torch.uint8


def test_kinds_of_bitmaps() -> None:
    values = torch.tensor([[0, 3, 0], [255, 0, 1]], dtype=torch.uint8)
    assert ops.rle_encode(values).counts == [1, 2, 2, 1]
    assert ops.rle_encode(values.bool()).counts == [1, 2, 2, 1]
    assert ops.rle_encode(values.t()).counts == [1, 1, 1, 1, 1, 1]
    with pytest.raises(TypeError, match=r"\[rle_encode\] the bitmap is Float"):
        ops.rle_encode(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\[rle_encode\] the bitmap is of shape \[2\]; expected \[H, W\]"):
        ops.rle_encode(torch.zeros(2, dtype=torch.uint8))


def test_empty_images() -> None:
    for size in ((0, 0), (0, 5), (5, 0)):
        rle = ops.rle_encode(torch.zeros(size, dtype=torch.bool))
        assert rle.counts == [0] and rle.area() == 0
        assert ops.rle_decode(rle).shape == size


def test_runs_of_no_length() -> None:
    rle = Rle((2, 3), [0, 2, 0, 1, 3])
    assert rle.area() == 3
    assert ops.rle_decode(rle).tolist() == [[1, 1, 0], [1, 0, 0]]
    assert Rle.from_compressed(rle.compressed(), (2, 3)) == rle


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "cover 0 pixels, the image of 4x5 has 20"),
        ("6", "cover 6 pixels"),
        ("e0", "run 0 of 21 pixels does not fit into the 20 left of an image of 4x5"),
        ("d0 ", "character 2 is not one of"),
        ("d0\x7f", "character 2 is not one of"),
        ("d", "ends within a number"),
        ("oooooooo0", "is too large"),
        ("O", "run 0 of -1 pixels does not fit"),
        ("1234L", "run 4 of -1 pixels"),
    ],
)
def test_malformed_texts(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        Rle.from_compressed(text, (4, 5))
    assert str(error.value).startswith("[Rle.from_compressed] ") and "\n" not in str(error.value)


def test_random_texts_are_read_or_refused() -> None:
    rng = np.random.default_rng(1)
    read = 0
    for _ in range(3000):
        text = bytes(rng.integers(48, 112, rng.integers(1, 8), dtype=np.uint8)).decode()
        try:
            rle = Rle.from_compressed(text, (3, 4))
        except ValueError:
            continue
        read += 1
        assert sum(rle.counts) == 12
    assert read > 0


def test_counts_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\[Rle\] the run lengths cover 5 pixels, the image of 2x3 has 6"):
        Rle((2, 3), [1, 4])
    with pytest.raises(ValueError, match="size -1x3"):
        Rle((-1, 3), [])
    with pytest.raises(ValueError, match="size 100000x100000"):
        Rle((100000, 100000), [])


def test_pickle() -> None:
    rle = Rle((2, 3), [1, 5])
    assert pickle.loads(pickle.dumps(rle)) == rle and rle != Rle((2, 3), [2, 4])
