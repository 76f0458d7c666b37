# SPDX-License-Identifier: Apache-2.0
"""check_dataset: each kind of problem is found, named, and nothing raises."""

from __future__ import annotations

import json
import math

import pytest
from PIL import Image

from instseg.data import check_dataset


def test_a_sound_dataset_has_no_problems(make_dataset):
    seen = []
    assert check_dataset(*make_dataset(), progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def _set(kind, position, **values):
    return lambda document: document[kind][position].update(values)


def _drop(kind, position, key):
    return lambda document: document[kind][position].pop(key)


def _append(kind, record):
    return lambda document: document[kind].append(record)


@pytest.mark.parametrize(
    ("edit", "kind", "image_id", "annotation_id", "message"),
    [
        (_drop("annotations", 2, "bbox"), "missing_key", 11, 3, "has no 'bbox'"),
        (_drop("annotations", 2, "id"), "missing_key", 11, None, "annotations[2] has no 'id'"),
        (_drop("annotations", 2, "image_id"), "missing_key", None, 3, "has no 'image_id'"),
        (_drop("annotations", 2, "category_id"), "missing_key", 11, 3, "has no 'category_id'"),
        (_drop("images", 1, "width"), "missing_key", 11, None, "has no 'width'"),
        (_drop("images", 1, "file_name"), "missing_key", 11, None, "has no 'file_name'"),
        (_drop("categories", 0, "name"), "missing_key", None, None, "category 7 has no 'name'"),
        (_set("images", 1, height="64"), "bad_value", 11, None, "'height' of the image is '64'"),
        (_set("images", 1, width=0), "bad_value", 11, None, "not a positive integer"),
        (_set("images", 1, width=10**400), "bad_value", 11, None, "not a positive integer up to 2147483647"),
        (_set("images", 1, height=2**31), "bad_value", 11, None, "not a positive integer up to 2147483647"),
        (_set("images", 1, id=10**400), "bad_value", None, None, "not an integer of 64 bits"),
        (_set("categories", 0, id=2**63), "bad_value", None, None, "not an integer of 64 bits"),
        (_set("annotations", 2, area=10**400), "bad_value", 11, 3, "that of the box is taken"),
        (_set("annotations", 2, area=-1), "bad_value", 11, 3, "'area' -1 is no area"),
        (_set("annotations", 2, area="12"), "bad_value", 11, 3, "'area' '12' is no area"),
        (
            _set("categories", 1, name="round"),
            "duplicate_name",
            None,
            None,
            "categories 7 and 3 are both named",
        ),
        (_append("annotations", 5), "bad_value", None, None, "annotations[8] is a int"),
        (_append("images", None), "bad_value", None, None, "images[4] is a NoneType"),
        (_set("annotations", 2, category_id=4), "unknown_category", 11, 3, "category id 4"),
        (_set("annotations", 2, image_id=77), "unknown_image", 77, 3, "image id 77"),
        (_set("annotations", 2, bbox=[200, 0, 5, 5]), "box_outside_image", 11, 3, "lies outside the 96 x 64"),
        (_set("annotations", 2, bbox=[-9, 0, 50, 5]), "box_outside_image", 11, 3, "reaches 9 px outside"),
        (_set("annotations", 2, bbox=[1, 2, 0, 5]), "empty_box", 11, 3, "has no area"),
        (_set("annotations", 2, bbox=[1, 2, 3, -5]), "empty_box", 11, 3, "has no area"),
        (_set("annotations", 2, bbox=[math.nan, 2, 3, 5]), "bad_box", 11, 3, "is not finite"),
        (_set("annotations", 2, bbox=[1, 2, 3, math.inf]), "bad_box", 11, 3, "is not finite"),
        (_set("annotations", 2, bbox=[1, 2, 3]), "bad_box", 11, 3, "is not four numbers"),
        (_set("annotations", 2, bbox=[1, 2, 3, "x"]), "bad_box", 11, 3, "is not four numbers"),
        (_set("annotations", 2, bbox=[1, 2, 3, 10**400]), "bad_box", 11, 3, "is too large"),
        (_set("annotations", 2, id=1), "duplicate_id", 11, 1, "annotation id 1 is used twice"),
        (_set("images", 1, id=10), "duplicate_id", 10, None, "image id 10 is used twice"),
        (
            _append("categories", {"id": 3, "name": "again"}),
            "duplicate_id",
            None,
            None,
            "category id 3 is used twice",
        ),
    ],
)
def test_each_problem_of_the_json(make_dataset, edit, kind, image_id, annotation_id, message):
    problems = [p for p in check_dataset(*make_dataset(edit=edit)) if p.kind == kind]
    assert problems and message in problems[0].message
    assert (problems[0].image_id, problems[0].annotation_id) == (image_id, annotation_id)
    assert "\n" not in str(problems[0])


def test_annotations_of_a_refused_image_are_not_reported_again(make_dataset):
    problems = check_dataset(*make_dataset(edit=_drop("images", 1, "width")))
    assert len(problems) == 1


def test_one_pixel_outside_is_rounding(make_dataset):
    edit = _set("annotations", 2, bbox=[-1, 0, 98, 65])
    assert check_dataset(*make_dataset(edit=edit)) == []


def test_problems_of_image_files(make_dataset):
    annotations, folder = make_dataset(sizes=[(20, 30)] * 5, objects=0)
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:90])
    (folder / "2.png").write_bytes(b"")
    (folder / "3.png").write_text("no image at all")
    Image.new("RGB", (31, 20)).save(folder / "4.png")
    problems = check_dataset(annotations, folder)
    assert [(p.kind, p.image_id) for p in problems] == [
        ("image_missing", 10),
        ("image_unreadable", 11),
        ("image_unreadable", 12),
        ("image_unreadable", 13),
        ("image_size", 14),
    ]
    assert "31 x 20" in problems[4].message
    assert "annotation" not in problems[0].message
    assert [p.kind for p in check_dataset(annotations, folder, decode=False)] == ["image_missing"]


def test_a_missing_image_names_its_annotations(make_dataset):
    annotations, folder = make_dataset(objects=2)
    (folder / "1.png").unlink()
    (problem,) = check_dataset(annotations, folder)
    assert problem.message.endswith("1.png' does not exist, needed by annotations 3, 4")
    annotations, folder = make_dataset(sizes=[(64, 96)], objects=37, name="many")
    (folder / "0.png").unlink()
    (problem,) = check_dataset(annotations, folder)
    assert problem.message.endswith("needed by annotations 1, 2, 3, 4, 5, 6, 7, 8, ... (37)")
    annotations, folder = make_dataset(sizes=[(64, 96)], objects=1, name="one")
    (folder / "0.png").write_bytes(b"")
    (problem,) = check_dataset(annotations, folder)
    assert problem.message.endswith("needed by annotation 1")


def test_categories_without_a_name_of_their_own(make_dataset):
    """Models accept "N/A" any number of times."""

    def edit(document):
        for category in document["categories"]:
            category["name"] = "N/A"

    assert check_dataset(*make_dataset(edit=edit)) == []


@pytest.mark.parametrize("name", ["bad\0name.png", "x" * 5000, "../images"])
def test_odd_file_names(make_dataset, name):
    problems = check_dataset(*make_dataset(edit=_set("images", 0, file_name=name)))
    assert [p.image_id for p in problems] == [10]


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"images": []}), "\xff\xfe"])
def test_unreadable_json_is_a_problem(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    assert [p.kind for p in check_dataset(path, tmp_path)] == ["unreadable_json"]
    assert [p.kind for p in check_dataset(tmp_path / "none.json", tmp_path)] == ["unreadable_json"]


def test_random_damage_never_raises(make_dataset):
    import random

    annotations, folder = make_dataset()
    original = json.loads(annotations.read_text())
    junk = [None, True, -1, 10**30, 10**400, math.nan, "", "x", [], [None], {}, {"id": {}}]
    generator = random.Random(1)
    for _ in range(500):
        document = json.loads(json.dumps(original))
        kind = generator.choice(list(document))
        position = generator.randrange(len(document[kind]))
        if generator.random() < 0.1:
            document[kind][position] = generator.choice(junk)
        else:
            key = generator.choice(list(document[kind][position]))
            document[kind][position][key] = generator.choice(junk)
        annotations.write_text(json.dumps(document))
        for problem in check_dataset(annotations, folder, decode=False):
            assert problem.message
