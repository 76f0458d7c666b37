# SPDX-License-Identifier: Apache-2.0
"""The C++ evaluator against pycocotools, bit for bit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import noisy
import numpy as np
import pytest

from instseg import _C
from instseg.evaluation import CocoEvaluator, compare_detections, evaluate_detections

COCO_VAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco" / "instances_val.json"


def expect_equal(truth, rows, kind, limit=100):
    ours = compare_detections(truth, rows, kind=kind, max_detections=limit)
    theirs = noisy.reference(truth, rows, kind, ours.limits)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(getattr(ours, name), theirs.eval[name])
    if limit == 100:
        assert list(ours.numbers.values()) == [float(value) for value in theirs.stats]
    return ours


def test_thresholds_and_recall_points_are_numpys():
    assert _C.coco_iou_thresholds() == np.linspace(0.5, 0.95, 10).tolist()
    assert _C.coco_recall_points() == np.linspace(0.0, 1.0, 101).tolist()


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize(("per_image", "levels"), [(1, 0), (15, 0), (40, 4), (40, 1)])
def test_noisy_detections(kind, per_image, levels):
    truth = noisy.document(per_image)
    result = expect_equal(truth, noisy.detections(truth, 5, per_image, levels), kind)
    numbers = result.numbers
    assert all(numbers[name] >= 0 for name in numbers)  # every size is there
    assert numbers["AP"] < 0.95 and (per_image == 1 or numbers["AP"] > 0.02)
    assert (result.precision[:, :, -1] == -1).all()  # a class without objects
    assert result.objects[-1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("limit", [1, 10, 100, 500])
def test_hundreds_of_detections_an_image(limit):
    truth = noisy.document(3, images=3, classes=2)
    rows = noisy.detections(truth, 1, 500, 50, masks=False)
    ours = expect_equal(truth, rows, "box", limit)
    assert f"AR{limit}" in ours.numbers


@pytest.mark.parametrize("limit", [1, 10, 100, 500])
def test_hundreds_of_masks_an_image(limit):
    truth = noisy.document(3, images=2, classes=2)
    expect_equal(truth, noisy.detections(truth, 1, 250, 30), "mask", limit)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_without_crowds_and_without_detections(kind):
    truth = noisy.document(4, crowds=False)
    rows = noisy.detections(truth, 2, 10)
    expect_equal(truth, rows, kind)
    expect_equal(truth, rows[:1], kind)
    numbers = evaluate_detections(truth, [], kind=kind)
    assert numbers["AP"] == numbers["AR100"] == 0.0
    assert numbers == evaluate_detections(truth, [], kind=kind, evaluator="pycocotools")


def test_areas_on_the_borders_count_on_both_sides():
    truth = noisy.document(6)
    for row in truth["annotations"]:
        row["area"] = (1024, 9216)[row["id"] % 2]
    for row in (rows := noisy.detections(truth, 3, 20)):
        row["bbox"][2:] = [32, 32] if row["score"] < 0.5 else [96, 96]
    expect_equal(truth, rows, "box")


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_real_annotations(kind):
    if not COCO_VAL.is_file():
        pytest.skip(f"no COCO data at {COCO_VAL}")
    truth = json.loads(COCO_VAL.read_text())
    kept = truth["images"][:60]
    ids = {image["id"] for image in kept}
    truth = {
        "images": kept,
        "annotations": [row for row in truth["annotations"] if row["image_id"] in ids],
        "categories": truth["categories"],
    }
    assert any(row["iscrowd"] for row in truth["annotations"])
    rows = noisy.detections(truth, 0, 25, 200, masks=kind == "mask")
    numbers = expect_equal(truth, rows, kind).numbers
    assert numbers["AP"] > 0.05 and numbers["APs"] > 0 and numbers["APl"] > 0


def test_both_evaluators_of_the_package_agree():
    truth = noisy.document(8)
    for i, row in enumerate(truth["annotations"]):
        row["id"] = i  # pycocotools by itself takes a match with the id 0 for none
        if i % 3 == 0 and row["iscrowd"] == 0:
            del row["iscrowd"]
    rows = noisy.detections(truth, 4, 20)
    rows[0]["segmentation"] = noisy.box_polygon([5, 5, 30, 30])
    rows[1]["segmentation"] = noisy.plain(noisy.decode(rows[1]["segmentation"], None))
    for kind in ("box", "mask"):
        ours = compare_detections(truth, rows, kind=kind)
        theirs = compare_detections(truth, rows, kind=kind, evaluator="pycocotools")
        assert ours.numbers == theirs.numbers
        assert ours.per_class() == theirs.per_class()


# ---- by hand ----

HAND = {
    "images": [{"id": 1, "height": 100, "width": 100}, {"id": 2, "height": 100, "width": 100}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 40, 40]},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [0, 0, 40, 40]},
    ],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}],
}


def found(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_numbers_by_hand():
    rows = [
        found(1, 1, [0, 0, 10, 6], 0.9),  # IoU 0.6
        found(1, 1, [50, 50, 10, 10], 0.8),  # nothing there
        found(2, 1, [0, 0, 40, 40], 0.7),
    ]
    result = compare_detections(HAND, rows)
    a, b, c = result.per_class()
    assert (a["name"], a["objects"], b["objects"], c["objects"]) == ("a", 2, 1, 0)
    # Found at the first and the third detection: precision 1 up to recall 0.5, then 2/3.
    assert a["AP50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    # Above IoU 0.6 the first is wrong, too: precision 1/3 up to recall 0.5.
    assert a["AP75"] == pytest.approx(51 / 3 / 101)
    assert a["AP"] == pytest.approx((3 * a["AP50"] + 7 * a["AP75"]) / 10)
    assert (a["AR100"], a["APl"]) == (pytest.approx((3 * 1 + 7 * 0.5) / 10), -1)
    # Of the medium object a small false positive takes nothing.
    assert a["APm"] == pytest.approx(1.0)
    assert b["AP"] == b["AR100"] == 0 and c["AP"] == -1
    assert result.numbers["AP"] == pytest.approx(a["AP"] / 2)
    assert result.curve(0.5, 0).tolist() == pytest.approx([1.0] * 51 + [2 / 3] * 50)
    assert result.curve(0.5)[0] == pytest.approx(0.5)  # the mean with class b
    assert result.curve(0.5, 2).tolist() == [-1] * 101
    assert result.curve().mean() == pytest.approx(result.numbers["AP"])
    with pytest.raises(ValueError, match=r"IoU must be one of 0\.5, .* got 0\.52"):
        result.curve(0.52)


def test_the_first_of_equal_scores_counts():
    rows = [found(1, 1, [50, 50, 10, 10], 0.5), found(1, 1, [0, 0, 10, 10], 0.5)]
    first = compare_detections(HAND, rows, max_detections=1).numbers
    second = compare_detections(HAND, rows[::-1], max_detections=1).numbers
    assert first["AP"] == 0 and second["AP"] > 0


# ---- in parts ----


def add_all(evaluator, truth, rows, images):
    for image in images:
        evaluator.add(image, [row for row in rows if row["image_id"] == image])


def test_parts_make_the_whole():
    truth = noisy.document(9)
    rows = noisy.detections(truth, 6, 25, 10)
    images = [image["id"] for image in truth["images"]]
    whole, left, right = (CocoEvaluator(truth, max_detections=20) for _ in range(3))
    add_all(whole, truth, rows, images)
    add_all(left, truth, rows, images[::2])
    add_all(right, truth, rows, images[1::2][::-1])
    left.merge(pickle.loads(pickle.dumps(right.state())))
    numbers = whole.compute()
    assert left.compute() == numbers and left.image_ids == sorted(images)
    for kind, prefix in (("box", ""), ("mask", "mask_")):
        direct = evaluate_detections(truth, rows, kind=kind, max_detections=20)
        assert {name: numbers[prefix + name] for name in direct} == direct
    state = pickle.dumps(right.state())
    assert len(state) < 200 * 25 * 3 * 2  # no masks in it
    with pytest.raises(ValueError, match=r"image \d+ is in both parts"):
        left.merge(right.state())
    with pytest.raises(ValueError, match="compares box, not box, mask"):
        left.merge(CocoEvaluator(truth, ["box"], max_detections=20).state())
    with pytest.raises(ValueError, match="counts 100 detections an image, this one 20"):
        left.merge(CocoEvaluator(truth).state())


def test_images_that_were_not_added():
    truth = noisy.document(9)
    rows = noisy.detections(truth, 6, 25, 10)
    images = [image["id"] for image in truth["images"]]
    evaluator = CocoEvaluator(truth)
    add_all(evaluator, truth, rows, images[:3])
    kept = [row for row in rows if row["image_id"] in images[:3]]
    assert evaluator.compute()["AP"] == evaluate_detections(truth, kept)["AP"]
    part = {**truth, "images": truth["images"][:3]}  # its other annotations belong to no image
    assert evaluator.compute(only_added=True)["mask_AP"] == evaluate_detections(part, kept, kind="mask")["AP"]


def test_a_refused_image_changes_nothing():
    truth = noisy.document(10)
    rows = noisy.detections(truth, 6, 5)
    image = truth["images"][0]["id"]
    mine = [row for row in rows if row["image_id"] == image]
    evaluator = CocoEvaluator(truth)
    state = evaluator.state()
    small = {"size": [4, 4], "counts": [16]}
    for bad, text in [
        ([*mine, {**mine[0], "segmentation": small}], r"detection 5 of image 100: run lengths of size 4x4"),
        ([*mine, {**mine[0], "segmentation": {"size": [240, 330], "counts": "!"}}], "detection 5 of image"),
        ([*mine, {**mine[0], "score": float("nan")}], "score of detection 5 is nan, not a number"),
        ([*mine, {**mine[0], "score": "high"}], "score of detection 5 is 'high', not a number"),
        ([*mine, {**mine[0], "score": 10**400}], "score of detection 5 is 1000"),
        ([*mine, {**mine[0], "bbox": [1, 2, 3]}], r"detection 5 has bbox \[1, 2, 3\], not four numbers"),
        ([*mine, {**mine[0], "bbox": [1, 2, -3, 4]}], "of negative size"),
        ([*mine, {**mine[0], "image_id": 7}], "detection 5 is of image 7, not of 100"),
        ([*mine, [1, 2]], "detection 5 is a list, not an object"),
    ]:
        with pytest.raises(ValueError, match=text) as caught:
            evaluator.add(image, bad)
        assert "\n" not in str(caught.value)
        assert evaluator.state() == state
    with pytest.raises(ValueError, match="image 12345 is not in the ground truth"):
        evaluator.add(12345, [])
    evaluator.add(image, mine)
    with pytest.raises(ValueError, match=f"image {image} was added before"):
        evaluator.add(image, mine)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda d: d.pop("categories"), "it has no list 'categories'"),
        (lambda d: d["categories"].clear(), "no category"),
        (lambda d: d["images"].append({"file_name": "a"}), "image 6 of the ground truth has no 'id'"),
        (
            lambda d: d["images"].append(dict(d["images"][0])),
            "image id 100 of the ground truth is used twice",
        ),
        (lambda d: d["annotations"][0].pop("image_id"), "annotation 1 of the ground truth has no 'image_id'"),
        (lambda d: d["annotations"][0].update(bbox=None), "annotation 1 of the ground truth has bbox None"),
        (lambda d: d["annotations"][0].update(area="x"), "'area' of annotation 1 of the ground truth is 'x'"),
        (lambda d: d["annotations"].append(3), "is not an object"),
    ],
)
def test_bad_ground_truth(edit, text):
    truth = noisy.document(11)
    edit(truth)
    with pytest.raises(ValueError, match=text):
        CocoEvaluator(truth, ["box"])


def test_bad_settings():
    truth = noisy.document(11)
    with pytest.raises(ValueError, match="kind must be box or mask, got 'segm'"):
        CocoEvaluator(truth, ["segm"])
    with pytest.raises(ValueError, match="max_detections must be positive, got 0"):
        CocoEvaluator(truth, max_detections=0)
    with pytest.raises(ValueError, match="evaluator must be instseg or pycocotools, got 'coco'"):
        evaluate_detections(truth, [], evaluator="coco")
