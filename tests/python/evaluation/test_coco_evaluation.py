# SPDX-License-Identifier: Apache-2.0
"""COCO numbers against pycocotools called directly."""

from __future__ import annotations

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instseg import Instances
from instseg.data import CocoDataset
from instseg.evaluation import evaluate, evaluate_detections, summary_line

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


class Perfect:
    """A predictor that reads the answers, moved by ``jitter`` pixels and with scores from a generator."""

    def __init__(self, dataset, jitter=0.0, names=("square", "round"), max_detections=100, extra=0):
        post = SimpleNamespace(max_detections=max_detections)
        self.config = SimpleNamespace(class_names=list(names), num_classes=2, post=post)
        self.dataset, self.jitter, self.extra = dataset, jitter, extra
        self.rng = np.random.default_rng(0)
        self.sizes = {}

    def __call__(self, pixels):
        i = next(i for i in range(len(self.dataset)) if self._same(i, pixels))
        targets = self.dataset.targets(i)
        boxes = (
            targets["boxes"]
            + torch.from_numpy(self.rng.normal(0, 1, (len(targets["boxes"]), 4))) * self.jitter
        )
        labels = targets["labels"]
        if self.extra:
            noise = self.rng.uniform(0, 30, (self.extra, 2))
            boxes = torch.cat([boxes, torch.from_numpy(np.hstack([noise, noise + 20]))])
            labels = torch.cat([labels, torch.from_numpy(self.rng.integers(0, 2, self.extra))])
        if self.config.class_names == ["round", "square"]:
            labels = 1 - labels
        scores = torch.from_numpy(self.rng.uniform(0.05, 1, len(boxes)))
        return Instances(boxes.float(), scores.float(), labels, pixels.shape[:2])

    def _same(self, i, pixels):
        try:
            return np.array_equal(self.dataset.read(i), pixels)
        except (OSError, ValueError):
            return False


def direct(truth, rows, limits=(1, 10, 100)):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(row) for row in rows]), "bbox")
        run.params.maxDets = list(limits)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(NAMES, run.stats.tolist(), strict=True))


SIZES = [(200, 300)] * 5


def test_perfect_detections_score_one(make_dataset, capsys):
    dataset = CocoDataset(*make_dataset(sizes=SIZES, objects=3))
    result = evaluate(Perfect(dataset), dataset)
    assert result["AP"] == result["AP50"] == result["AP75"] == result["AR10"] == pytest.approx(1.0)
    assert result["APl"] == -1.0  # no object is that large
    assert (result["images"], result["problems"], result["max_detections"]) == (5, [], 100)
    assert len(result["detections"]) == 15
    assert capsys.readouterr().out == ""


def test_numbers_equal_pycocotools(make_dataset):
    dataset = CocoDataset(*make_dataset(sizes=SIZES, objects=5))
    result = evaluate(Perfect(dataset, jitter=2.5, extra=8), dataset)
    expected = direct(json.loads(dataset.annotations_path.read_text()), result["detections"])
    assert {name: result[name] for name in NAMES} == pytest.approx(expected, abs=1e-12)
    assert 0.05 < result["AP"] < 0.95
    text = json.dumps(result["detections"])
    path = dataset.annotations_path.with_name("found.json")
    path.write_text(text)
    assert evaluate_detections(dataset.annotations_path, path) == {name: result[name] for name in NAMES}


def test_more_than_100_detections_an_image(make_dataset):
    dataset = CocoDataset(*make_dataset(sizes=SIZES, objects=5))
    predictor = Perfect(dataset, jitter=1.0, extra=150, max_detections=300)
    result = evaluate(predictor, dataset)
    assert result["max_detections"] == 300
    expected = direct(dataset.ground_truth(), result["detections"], (1, 10, 300))
    everything = {name: expected[name] for name in ("AR1", "AR10")}
    assert {name: result[name] for name in everything} == pytest.approx(everything, abs=1e-12)
    # The stock summary reads AP at 100, which this run has not; area rows are taken at the largest limit.
    assert result["APs"] == pytest.approx(expected["APs"], abs=1e-12)
    assert result["ARs"] == pytest.approx(expected["ARs"], abs=1e-12)
    assert result["AR300"] >= result["AR100"]
    capped = evaluate_detections(dataset.ground_truth(), result["detections"])
    assert capped["AR100"] == pytest.approx(direct(dataset.ground_truth(), result["detections"])["AR100"])
    assert "AR300" not in capped
    few = evaluate_detections(dataset.ground_truth(), result["detections"], max_detections=5)
    assert few["AR5"] < result["AR300"] and few["AP"] < result["AP"]


def test_crowds_are_ignored_regions(make_dataset):
    def edit(document):
        document["annotations"] = [
            {"id": 1, "image_id": 10, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [40, 0, 56, 60], "area": 3360, "iscrowd": 1},
        ]

    dataset = CocoDataset(*make_dataset(edit=edit))
    rows = [
        {"image_id": 10, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.5},
        {"image_id": 10, "category_id": 3, "bbox": [50, 10, 10, 10], "score": 0.9},
    ]
    assert evaluate_detections(dataset.ground_truth(), rows)["AP"] == pytest.approx(1.0)


def test_classes_are_matched_by_name(make_dataset):
    dataset = CocoDataset(*make_dataset(sizes=SIZES))
    assert evaluate(Perfect(dataset, names=("round", "square")), dataset)["AP"] == pytest.approx(1.0)
    assert evaluate(Perfect(dataset, names=()), dataset)["AP"] == pytest.approx(1.0)
    partly = evaluate(Perfect(dataset, names=("square", "other")), dataset)
    assert partly["AP"] == pytest.approx(0.5) and {d["category_id"] for d in partly["detections"]} == {3}
    with pytest.raises(ValueError, match=r"none of the model's classes \(cat, dog\)"):
        evaluate(Perfect(dataset, names=("cat", "dog")), dataset)


def test_a_broken_image_is_reported_and_the_rest_evaluated(make_dataset):
    annotations, folder = make_dataset(sizes=SIZES)
    (folder / "1.png").write_bytes(b"broken")
    (folder / "3.png").unlink()
    dataset = CocoDataset(annotations, folder)
    seen = []
    result = evaluate(Perfect(dataset), dataset, progress=lambda done, total: seen.append((done, total)))
    assert [problem.image_id for problem in result["problems"]] == [11, 13]
    assert result["images"] == 3 and result["AP"] == pytest.approx(1.0)
    assert {d["image_id"] for d in result["detections"]} == {10, 12, 14}
    assert seen[-1] == (5, 5)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="could be read"):
        evaluate(Perfect(dataset), dataset)


def test_no_detections_and_no_objects(make_dataset):
    dataset = CocoDataset(*make_dataset())
    nothing = evaluate_detections(dataset.ground_truth(), [])
    assert nothing["AP"] == 0.0 and nothing["AR100"] == 0.0
    empty = CocoDataset(*make_dataset(objects=0, name="empty"))
    assert evaluate_detections(empty.ground_truth(), [])["AP"] == -1.0
    assert summary_line(evaluate_detections(empty.ground_truth(), [])).startswith("AP -")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image_id": 10, "category_id": 3, "bbox": [0, 0, 1, 1]}], "detection 0 has no 'score'"),
        ([{"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1.0}], "detections of image 99"),
    ],
)
def test_wrong_detections(make_dataset, rows, message):
    with pytest.raises(ValueError, match=message):
        evaluate_detections(CocoDataset(*make_dataset()).ground_truth(), rows)


def test_wrong_files_and_limits(make_dataset, tmp_path):
    annotations, _ = make_dataset()
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json' is not JSON"):
        evaluate_detections(annotations, tmp_path / "x.json")
    with pytest.raises(ValueError, match="max_detections must be positive"):
        evaluate_detections(annotations, [], max_detections=0)
