# SPDX-License-Identifier: Apache-2.0
"""Mistakes sorted by hand, and their pictures."""

from __future__ import annotations

import noisy
import numpy as np
import pytest
from PIL import Image

from instseg.evaluation import compare_detections
from instseg.evaluation.mistakes import find_mistakes
from instseg.evaluation.pictures import NEAREST, WRONG, precision_recall_plot, write_pictures

TRUTH = {
    "images": [
        {"id": 1, "file_name": "1.png", "height": 100, "width": 120},
        {"id": 2, "file_name": "2.png", "height": 100, "width": 120},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [60, 10, 30, 30]},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [60, 60, 40, 30], "iscrowd": 1},
        {"id": 4, "image_id": 2, "category_id": 1, "bbox": [10, 10, 50, 50]},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def row(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


ROWS = [
    row(1, 1, [10, 10, 20, 20], 0.9),  # found
    row(1, 1, [11, 10, 20, 20], 0.8),  # again
    row(1, 1, [60, 10, 30, 30], 0.7),  # a dog
    row(1, 2, [75, 10, 30, 30], 0.6),  # IoU 1/3
    row(1, 2, [5, 70, 10, 10], 0.95),  # nothing there
    row(1, 1, [70, 65, 10, 10], 0.99),  # in the crowd
    row(2, 1, [10, 10, 50, 50], 0.1),  # right, but of low score
]


def test_reasons_by_hand():
    mistakes = find_mistakes(TRUTH, ROWS)
    found = [(m.row["score"], m.reason, m.class_name, m.nearest_class) for m in mistakes.false_positives]
    assert found == [
        (0.95, "background", "dog", ""),
        (0.8, "duplicate", "cat", "cat"),
        (0.7, "wrong class", "cat", "dog"),
        (0.6, "bad localisation", "dog", "dog"),
    ]
    assert [round(m.iou, 3) for m in mistakes.false_positives] == [0, round(19 / 21, 3), 1, round(1 / 3, 3)]
    assert [m.image_id for m in mistakes.false_negatives] == [2, 1]  # the larger one first
    assert mistakes.found == 1
    every = find_mistakes(TRUTH, ROWS, min_score=0)
    assert every.found == 2 and len(every.false_negatives) == 1


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_mistakes_agree_with_the_evaluation(kind):
    truth = noisy.document(21)
    rows = noisy.detections(truth, 3, 12)
    mistakes = find_mistakes(truth, rows, kind=kind, min_score=0)
    result = compare_detections(truth, rows, kind=kind)
    objects = result.objects[:, 0]
    recall = result.recall[0, :, 0, -1]
    assert mistakes.found == round(sum(n * r for n, r in zip(objects, recall, strict=True) if n))
    assert mistakes.found + len(mistakes.false_negatives) == objects.sum()


@pytest.fixture
def images(tmp_path):
    for i in (1, 2):
        Image.new("RGB", (120, 100), (90, 90, 90)).save(tmp_path / f"{i}.png")
    return tmp_path


def colours(path):
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}, image.size


def test_galleries(images, tmp_path):
    result = compare_detections(TRUTH, ROWS)
    written = write_pictures(tmp_path / "out", result, TRUTH, ROWS, images)
    assert [path.name for path in written] == [
        "box_precision_recall.png",
        "box_false_positives.png",
        "box_false_negatives.png",
    ]
    seen, size = colours(written[1])
    assert {WRONG, NEAREST, (90, 90, 90)} <= seen and size[0] > 4 * 200
    masked = [{**r, "segmentation": noisy.box_polygon(r["bbox"])} for r in ROWS]
    truth = {
        **TRUTH,
        "annotations": [{**a, "segmentation": noisy.box_polygon(a["bbox"])} for a in TRUTH["annotations"]],
    }
    of_masks = compare_detections(truth, masked, kind="mask")
    written = write_pictures(tmp_path / "out", of_masks, truth, masked, images)
    assert {WRONG, NEAREST} <= colours(written[1])[0]


def test_nothing_wrong_and_broken_images(images, tmp_path):
    rows = [
        row(a["image_id"], a["category_id"], a["bbox"], 0.9)
        for a in TRUTH["annotations"]
        if "iscrowd" not in a
    ]
    result = compare_detections(TRUTH, rows)
    written = write_pictures(tmp_path / "perfect", result, TRUTH, rows, images)
    assert [path.name for path in written] == ["box_precision_recall.png"]
    (images / "1.png").write_bytes(b"")
    (images / "2.png").unlink()
    assert len(write_pictures(tmp_path / "grey", result, TRUTH, ROWS, images)) == 3


def test_the_plot_shows_the_curves():
    ours = np.asarray(precision_recall_plot(compare_detections(TRUTH, ROWS)))
    assert ours.shape == (420, 520, 3)
    nothing = np.asarray(precision_recall_plot(compare_detections(TRUTH, [])))
    assert (ours != nothing).any()
    empty = {**TRUTH, "annotations": []}
    assert precision_recall_plot(compare_detections(empty, [])).size == (520, 420)
