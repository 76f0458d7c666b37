# SPDX-License-Identifier: Apache-2.0
"""data.crop, data.cache and the classes of data.val reach a run."""

from __future__ import annotations

import json

import pytest
from training_helpers import log_of, recipe_of, run

from instseg.training import Trainer


def totals(folder):
    return [row["total"] for row in log_of(folder)]


def test_the_crop_of_a_recipe_is_used(make_dataset, tmp_path):
    files = make_dataset()
    for name, crop in (("none", False), ("again", False), ("crop", {"enabled": True, "min_fraction": 0.5})):
        run(recipe_of(files, data__crop=crop), tmp_path / name)
    plain = totals(tmp_path / "none")
    assert plain == totals(tmp_path / "again") and plain != totals(tmp_path / "crop")


def test_the_cache_folder_of_a_recipe_is_used(make_dataset, tmp_path):
    recipe = recipe_of(make_dataset(), data__cache=str(tmp_path / "cache"))
    Trainer(recipe, tmp_path / "run", quiet=True)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_other_classes_in_the_validation_data_are_refused(make_dataset, tmp_path):
    files, val = make_dataset(), make_dataset(name="val")
    split = {"annotations": str(val[0]), "images": str(val[1])}
    document = json.loads(val[0].read_text())
    swap = {3: 30, 7: 2}
    for row in document["annotations"]:
        row["category_id"] = swap[row["category_id"]]
    for row in document["categories"]:
        row["id"] = swap[row["id"]]
    val[0].write_text(json.dumps(document))
    Trainer(recipe_of(files, data__val=split), tmp_path / "ids", quiet=True)  # evaluation goes by name
    document["categories"][0]["name"] = "cube"
    val[0].write_text(json.dumps(document))
    with pytest.raises(ValueError) as caught:
        Trainer(recipe_of(files, data__val=split), tmp_path / "names", quiet=True)
    assert "data.val" in str(caught.value) and "\n" not in str(caught.value)
    assert "has other classes than" in str(caught.value) and "missing 'round', extra 'cube'" in str(
        caught.value
    )
