# SPDX-License-Identifier: Apache-2.0
"""Numbers of a dataset against counting by hand, and what they suggest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from instseg.data import dataset_stats
from instseg.data.stats import recommendations, summary

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def files(make_dataset):
    def edit(document):
        def row(own, image, category, box, **more):
            return {"id": own, "image_id": image, "category_id": category, "bbox": box, **more}

        x, y, w, h = 10, 5, 40, 20
        mask = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        document["categories"].append({"id": 9, "name": "never"})
        document["annotations"] = [
            row(1, 10, 3, [x, y, w, h], segmentation=mask, area=800),
            row(2, 10, 7, [0, 0, 96, 64], area=6144),
            row(3, 10, 3, [50, 50, 90, 90], iscrowd=1, area=9),
            row(4, 11, 3, [0, 0, 10, 40], area=9216),
            row(5, 13, 3, [5, 5, 30, 30], iscrowd=1, area=900),
            row(6, 12, 99, [5, 5, 30, 30]),
        ]

    return make_dataset(edit=edit)


def test_counts(files):
    found = dataset_stats(*files)
    assert (found["images"], found["empty_images"], found["objects"], found["crowds"]) == (4, 2, 3, 2)
    assert (found["masks"], found["problems"], found["missing_files"]) == (1, 2, 0)
    assert found["areas"] == {"small": 1, "medium": 1, "large": 1}
    assert found["classes"] == [
        {"id": 3, "name": "square", "objects": 2, "images": 2},
        {"id": 7, "name": "round", "objects": 1, "images": 1},
        {"id": 9, "name": "never", "objects": 0, "images": 0},
    ]
    assert found["objects_per_image"] == summary([2, 1, 0, 0])
    assert found["box_width"] == summary([40, 96, 10]) and found["box_height"] == summary([20, 64, 40])
    assert found["box_size"] == summary([800**0.5, 6144**0.5, 20])
    assert found["aspect_ratio"] == summary([2, 1.5, 0.25])
    assert found["image_width"] == summary([96, 96, 64, 64])
    assert json.loads(json.dumps(found)) == found
    (files[1] / "2.png").unlink()
    assert dataset_stats(*files)["missing_files"] == 1 and dataset_stats(files[0])["missing_files"] is None


def test_summary():
    values = np.arange(101.0)
    assert summary(values) == {
        "min": 0, "p5": 5, "p25": 25, "median": 50, "mean": 50, "p75": 75, "p95": 95, "max": 100
    }  # fmt: skip
    assert summary([]) is None


def test_nothing_to_count(make_dataset):
    files = make_dataset(edit=lambda document: document.update(annotations=[]))
    found = dataset_stats(*files)
    assert (found["objects"], found["empty_images"], found["box_width"]) == (0, 4, None)
    assert found["advice"]["notes"] == ["no objects"] and found["advice"]["settings"] == []
    files = make_dataset(edit=lambda document: document.update(annotations=[], images=[]), name="none")
    assert dataset_stats(*files)["image_width"] is None


def test_recommended_sizes():
    # All objects are a tenth of the short side: 16 px large at 160, but no image is that small.
    advice = recommendations(np.full((50, 2), 0.1), 3)
    assert advice["short_side"] == 256 and advice["sizes_of_interest"] == [32, 64]
    # A fortieth: 16 px at 640.
    advice = recommendations(np.full((50, 2), 1 / 40), 130)
    assert advice["short_side"] == 640 and advice["sizes_of_interest"] == [16, 32]
    assert "model.post.max_detections=150" in advice["settings"] and advice["notes"] == []
    # Too small for any.
    advice = recommendations(np.full((50, 2), 1 / 400), 3)
    assert advice["short_side"] == 1024 and "cut the images into tiles" in advice["notes"][0]
    # Large ones need more levels.
    relative = np.concatenate([np.full((50, 2), 0.05), np.full((10, 2), 1.0)])
    advice = recommendations(relative, 3)
    assert advice["short_side"] == 320 and advice["sizes_of_interest"] == [16, 32, 64, 128]
    assert "model.neck.max_level=7" in advice["settings"]


def test_recommended_settings_are_those_of_a_recipe():
    from instseg.recipe import load_recipe

    relative = np.concatenate([np.full((50, 2), 0.05), np.full((10, 2), 1.0)])
    recipe = load_recipe("nuclei_condinst_lite0", recommendations(relative, 130)["settings"])
    config = recipe.model_settings()
    assert config.targets.sizes_of_interest == [16, 32, 64, 128] and config.neck.max_level == 7
    assert (config.input.short_side, recipe.data.short_sides, config.post.max_detections) == (320, [320], 150)


def test_rare_classes_are_named():
    rows = [{"name": "a", "objects": 0}, {"name": "b", "objects": 19}, {"name": "c", "objects": 20}]
    notes = recommendations(np.full((5, 2), 0.1), 3, rows)["notes"]
    assert notes == ["classes with no object: a", "classes with fewer than 20 objects: b"]


def test_real_data_of_coco():
    path = SHARED / "coco" / "instances_train.json"
    if not path.is_file():
        pytest.skip("the COCO subset is not here")
    found = dataset_stats(path, cache=False)
    document = json.loads(path.read_text())
    objects = [row for row in document["annotations"] if not row["iscrowd"]]
    assert (found["images"], found["objects"]) == (len(document["images"]), len(objects))
    assert found["crowds"] == len(document["annotations"]) - len(objects) == 29
    assert found["areas"]["small"] == sum(row["area"] < 32**2 for row in objects)
    assert found["areas"]["large"] == sum(row["area"] >= 96**2 for row in objects)
    people = [row for row in objects if row["category_id"] == 1]
    expected = {
        "id": 1,
        "name": "person",
        "objects": len(people),
        "images": len({r["image_id"] for r in people}),
    }
    assert found["classes"][0] == expected
