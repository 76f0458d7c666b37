# SPDX-License-Identifier: Apache-2.0
"""Pictures of batches and validation images show objects where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_helpers import MODEL, with_segmentations

from instseg import MaskTargets, Model, ModelConfig, Predictor
from instseg.data import Batch, CocoDataset
from instseg.training.pictures import (
    MAX_OBJECTS,
    batch_picture,
    draw_targets,
    grid,
    target_instances,
    validation_pictures,
)


def targets_of(boxes: list[list[float]], size: tuple[int, int], masks: bool = True) -> dict:
    polygons = [[[x, y, X, y, X, Y, x, Y]] for x, y, X, Y in boxes]
    targets = {"boxes": torch.tensor(boxes), "labels": torch.zeros(len(boxes), dtype=torch.int64)}
    return {**targets, "masks": MaskTargets.from_coco(polygons, size)} if masks else targets


@pytest.mark.parametrize(("long_side", "size"), [(512, (60, 80)), (40, (30, 40))])
def test_masks_and_boxes_are_those_of_the_targets(long_side, size):
    targets = targets_of([[10.0, 20, 30, 40], [50, 0, 80, 10]], (60, 80))
    found = target_instances(targets, (60, 80), size, ["cell"])
    scale = size[0] / 60
    assert torch.equal(found.boxes, targets["boxes"] * scale) and found.names == ["cell", "cell"]
    expected = torch.zeros(2, *size, dtype=torch.bool)
    for mask, box in zip(expected, targets["boxes"].tolist(), strict=True):
        x, y, X, Y = (round(value * scale) for value in box)
        mask[y:Y, x:X] = True
    assert torch.equal(found.bitmaps(), expected)


def test_drawing_changes_the_object_and_leaves_the_rest():
    image = torch.full((60, 80, 3), 50, dtype=torch.uint8)
    drawn = draw_targets(image, targets_of([[10.0, 30, 30, 50]], (60, 80)), ["c"])
    assert drawn.shape == (60, 80, 3) and (drawn[32:48, 12:28] != 50).any(axis=2).all()
    assert (drawn[54:] == 50).all() and (drawn[:, 50:] == 50).all() and bool((image == 50).all())
    boxes = draw_targets(image, targets_of([[10.0, 30, 30, 50]], (60, 80), masks=False), ["c"])
    assert (boxes[36:44, 16:24] == 50).all() and (boxes != 50).any()
    none = draw_targets(image, targets_of([], (60, 80), masks=False) | {"boxes": torch.zeros(0, 4)}, ["c"])
    assert (none == 50).all()


def test_large_images_are_shrunk_and_the_largest_objects_drawn():
    count = MAX_OBJECTS + 5
    boxes = [[0.0, 0, 1 + i, 2] for i in range(count)]
    found = target_instances(targets_of(boxes, (200, 200)), (200, 200), (100, 100), ["c"])
    assert len(found) == len(found.masks) == MAX_OBJECTS
    assert found.boxes[0].tolist() == [0, 0, 3, 1]  # the five smallest are left out
    image = torch.zeros(1000, 2000, 3, dtype=torch.uint8)
    assert draw_targets(image, targets_of([[0.0, 0, 9, 9]], (1000, 2000)), ["c"]).shape == (256, 512, 3)


def test_a_batch_is_a_grid():
    images = [torch.full((30, 40, 3), 10 * i, dtype=torch.uint8) for i in range(5)]
    targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 5
    config = ModelConfig.from_dict({"num_classes": 1, "class_names": ["c"]})
    picture = batch_picture(Batch(0, images, targets, [1, 2, 3, 4, 5]), config)
    assert picture.shape == (2 * 30 + 4, 3 * 40 + 8, 3)
    assert (picture[:30, 88:] == 20).all() and (picture[34:, 44:84] == 40).all()
    assert (picture[30:34] == 255).all() and (picture[34:, 88:] == 255).all()


def test_cells_of_a_grid_fit_their_pictures():
    wide, high = np.zeros((2, 9, 3), np.uint8), np.zeros((7, 3, 3), np.uint8)
    picture = grid([[wide, high], [high]])
    assert picture.shape == (7 + 4 + 7, 9 + 4 + 3, 3)
    assert (picture[:7, 13:16] == 0).all() and (picture[2:7, :9] == 255).all()


def test_validation_images_have_annotations_left_and_predictions_right(make_dataset):
    files = make_dataset()
    with_segmentations(files)
    (files[1] / "1.png").write_bytes(b"broken")
    dataset = CocoDataset(*files, masks=True)
    torch.manual_seed(0)
    config = {**MODEL, "num_classes": 2, "class_names": ["square", "round"]}
    preset = config.pop("preset")
    from instseg import find_preset

    values = find_preset(str(preset)).config.to_dict()
    for key, value in config.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    values["category_ids"] = []
    predictor = Predictor(Model(values), score_threshold=1.0)  # finds nothing
    pictures = list(validation_pictures(predictor, dataset, count=2))
    assert [picture.shape for picture in pictures] == [(64, 2 * 96 + 4, 3), (96, 2 * 64 + 4, 3)]
    pixels = dataset.read(0)
    left, right = pictures[0][:, :96], pictures[0][:, 100:]
    assert np.array_equal(right, pixels)
    expected = draw_targets(torch.from_numpy(pixels), dataset.targets(0), dataset.class_names)
    assert np.array_equal(left, expected) and not np.array_equal(left, pixels)
