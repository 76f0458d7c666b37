# SPDX-License-Identifier: Apache-2.0
"""CocoDataset: classes, boxes, filtering, lenient loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instseg.data import CocoDataset


def test_classes_follow_ascending_category_ids(make_dataset):
    data = CocoDataset(*make_dataset())
    assert data.category_ids == [3, 7]
    assert data.class_names == ["square", "round"]
    assert len(data) == 4 and data.num_objects == 8 and data.problems == []


def test_targets_are_corners_with_labels(make_dataset):
    def edit(document):
        document["annotations"] = [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1.5, 2, 30, 4]},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 5, 6], "iscrowd": 1},
            {"id": 3, "image_id": 10, "category_id": 3, "bbox": [5, 6, 7, 8], "iscrowd": 0},
        ]

    targets = CocoDataset(*make_dataset(edit=edit)).targets(0)
    assert targets["boxes"].tolist() == [[1.5, 2, 31.5, 6], [5, 6, 12, 14]]
    assert targets["labels"].tolist() == [1, 0]


def test_images_without_objects_are_kept_or_filtered(make_dataset):
    def edit(document):
        document["annotations"] = [
            {"id": 1, "image_id": 11, "category_id": 7, "bbox": [1, 2, 30, 4], "iscrowd": 1},
            {"id": 2, "image_id": 12, "category_id": 3, "bbox": [0, 0, 5, 6], "iscrowd": 0},
        ]

    files = make_dataset(edit=edit)
    everything = CocoDataset(*files)
    assert [image.id for image in everything.images] == [10, 11, 12, 13]
    assert everything.targets(0)["boxes"].shape == (0, 4)
    assert everything.targets(0)["labels"].shape == (0,)
    assert [image.id for image in CocoDataset(*files, filter_empty=True).images] == [12]


def test_boxes_beyond_the_image_are_clipped_in_targets_only(make_dataset):
    def edit(document):
        document["annotations"] = [{"id": 1, "image_id": 10, "category_id": 7, "bbox": [-4, 50, 20, 30]}]

    data = CocoDataset(*make_dataset(edit=edit))
    assert data.targets(0)["boxes"].tolist() == [[0, 50, 16, 64]]
    assert data.ground_truth()["annotations"][0]["bbox"] == [-4, 50, 20, 30]


def test_ground_truth_can_be_restricted(make_dataset):
    truth = CocoDataset(*make_dataset()).ground_truth({11})
    assert [image["id"] for image in truth["images"]] == [11]
    assert {a["image_id"] for a in truth["annotations"]} == {11}
    assert [c["id"] for c in truth["categories"]] == [3, 7]


def test_broken_records_are_skipped_and_listed(make_dataset):
    def edit(document):
        document["annotations"][0]["category_id"] = 99
        document["images"].append({"id": 50, "file_name": "x.png"})
        document["annotations"].append({"id": 60, "image_id": 50, "category_id": 3, "bbox": [0, 0, 1, 1]})

    data = CocoDataset(*make_dataset(edit=edit))
    assert len(data) == 4 and data.num_objects == 7
    assert [problem.kind for problem in data.problems] == ["missing_key", "unknown_category"]


def test_read_checks_the_size(make_dataset):
    annotations, folder = make_dataset()
    data = CocoDataset(annotations, folder)
    assert data.read(0).shape == (64, 96, 3) and data.read(0).dtype == np.uint8
    Image.new("RGB", (10, 12)).save(folder / "0.png")
    with pytest.raises(ValueError, match=r"0\.png' is 10 x 12, the annotations say 96 x 64"):
        data.read(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds a list"),
        ('{"images": [], "annotations": []}', "has no 'categories'"),
        ('{"images": 3, "annotations": [], "categories": []}', "has a wrong 'images'"),
    ],
)
def test_documents_that_are_not_coco(tmp_path: Path, content: str, message: str):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        CocoDataset(path, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path, make_dataset):
    annotations, folder = make_dataset()
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        CocoDataset(tmp_path / "none.json", folder)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CocoDataset(annotations, tmp_path / "nowhere")
