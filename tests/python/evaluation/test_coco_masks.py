# SPDX-License-Identifier: Apache-2.0
"""COCO numbers of masks against pycocotools called directly."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instseg import Instances, Masks, ops
from instseg.data import CocoDataset
from instseg.evaluation import MASK_PREFIX, evaluate, evaluate_detections, summary_line

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
SIZES = [(200, 300)] * 4


def polygon(box, cut=0.0):
    """The rectangle x, y, width, height with its first corner cut off by ``cut`` of its sides."""
    x, y, w, h = box
    return [[x + cut * w, y, x + w, y, x + w, y + h, x, y + h, x, y + cut * h]]


def with_masks(document):
    """Polygons for all objects, the first of which becomes a crowd with run lengths."""
    from pycocotools import mask

    for annotation in document["annotations"]:
        annotation["segmentation"] = polygon(annotation["bbox"], 0.3)
        annotation["area"] = 0.95 * annotation["area"]
    crowd = document["annotations"][0]
    bitmap = np.zeros(SIZES[0], np.uint8, order="F")
    bitmap[20:120, 30:200] = 1
    runs = mask.encode(bitmap)
    crowd.update(
        iscrowd=1,
        bbox=[30, 20, 170, 100],
        area=17000,
        segmentation={"size": list(SIZES[0]), "counts": runs["counts"].decode()},
    )


@pytest.fixture
def dataset(make_dataset):
    return CocoDataset(*make_dataset(sizes=SIZES, objects=6, edit=with_masks), masks=True)


def noisy_rows(dataset, seed=0):
    """Masks that miss and exceed the objects, inside and outside the crowd, with boxes far too large."""
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    rows = []

    def add(image, box, category, score):
        (runs,) = mask.frPyObjects(polygon(box, 0.2), image.height, image.width)
        rows.append(
            {
                "image_id": image.id,
                "category_id": category,
                "bbox": [0.0, 0.0, 299.0, 199.0],
                "score": score,
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
            }
        )

    for image in dataset.images:
        for found in dataset.annotations(image.id):
            moved = (np.asarray(found.bbox) + rng.normal(0, 1.5, 4)).tolist()
            other = bool(rng.uniform() < 0.2)
            add(image, moved, 10 - found.category_id if other else found.category_id, rng.uniform(0.05, 1))
        for _ in range(5):
            add(image, (*rng.uniform(30, 180, 2), *rng.uniform(8, 40, 2)), 3, rng.uniform(0.05, 1))
    for _ in range(8):  # within the crowd and of its class
        add(dataset.images[0], (*rng.uniform(35, 90, 2), *rng.uniform(8, 25, 2)), 7, rng.uniform(0.6, 1))
    return rows


def direct(truth, rows, limits=(1, 10, 100)):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy({"info": {}, **truth})
        coco.createIndex()
        bare = [{key: value for key, value in row.items() if key != "bbox"} for row in rows]
        run = COCOeval(coco, coco.loadRes(bare), "segm")
        run.params.maxDets = list(limits)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(NAMES, run.stats.tolist(), strict=True))


def test_numbers_equal_pycocotools(dataset, tmp_path):
    truth, rows = json.loads(dataset.annotations_path.read_text()), noisy_rows(dataset)
    numbers = evaluate_detections(dataset.annotations_path, rows, kind="mask")
    assert numbers == pytest.approx(direct(truth, rows), abs=1e-12)
    assert 0.1 < numbers["AP"] < 0.9 and numbers["APs"] > 0
    # The clean copy of the document says the same, and so does a file of detections.
    assert evaluate_detections(dataset.ground_truth(), rows, kind="mask") == numbers
    (tmp_path / "found.json").write_text(json.dumps(rows))
    found = evaluate_detections(dataset.annotations_path, tmp_path / "found.json", kind="mask")
    assert found == numbers
    few = evaluate_detections(truth, rows, kind="mask", max_detections=3)
    assert few["AR3"] < numbers["AR10"] and few["AP"] < numbers["AP"]


def test_the_crowd_is_an_ignored_region(dataset):
    rows = noisy_rows(dataset)
    numbers = evaluate_detections(dataset.ground_truth(), rows, kind="mask")
    document = dataset.ground_truth()
    document["annotations"] = [row for row in document["annotations"] if not row["iscrowd"]]
    assert evaluate_detections(document, rows, kind="mask")["AP"] < numbers["AP"]


def test_boxes_of_detections_do_not_decide_sizes(dataset):
    rows = noisy_rows(dataset)
    assert all(row["bbox"][2] * row["bbox"][3] > 96**2 for row in rows)  # "large", their masks are not
    numbers = evaluate_detections(dataset.ground_truth(), rows, kind="mask")
    bare = [{key: value for key, value in row.items() if key != "bbox"} for row in rows]
    assert evaluate_detections(dataset.ground_truth(), bare, kind="mask") == numbers
    # A mask of medium size is no false positive among small objects.
    small = {row["id"] for row in dataset.ground_truth()["annotations"] if row["area"] < 32**2}
    assert small and numbers["APs"] != numbers["AP"]
    assert rows[0].keys() >= {"bbox", "segmentation"}  # what was passed is left as it was


def test_masks_do_not_decide_sizes_of_boxes(dataset):
    truth, rows = dataset.ground_truth(masks=False), noisy_rows(dataset)
    bare = [{key: value for key, value in row.items() if key != "segmentation"} for row in rows]
    assert evaluate_detections(truth, rows) == evaluate_detections(truth, bare)


def test_no_detections(dataset):
    numbers = evaluate_detections(dataset.ground_truth(), [], kind="mask")
    assert numbers["AP"] == 0.0 and numbers["AR100"] == 0.0 and numbers["APl"] == -1.0


def test_missing_masks_and_unknown_kinds(dataset):
    truth, rows = dataset.ground_truth(), noisy_rows(dataset)
    with pytest.raises(ValueError, match=r"kind must be box or mask, got 'segm'"):
        evaluate_detections(truth, rows, kind="segm")
    bare = [rows[0], {key: value for key, value in rows[1].items() if key != "segmentation"}]
    with pytest.raises(ValueError, match="detection 1 has no 'segmentation'"):
        evaluate_detections(truth, bare, kind="mask")
    with pytest.raises(ValueError, match=r"24 annotations .* no 'segmentation', the first is 1;.*masks=True"):
        evaluate_detections(dataset.ground_truth(masks=False), rows, kind="mask")
    boxes = CocoDataset(dataset.annotations_path, dataset.image_dir)
    with pytest.raises(ValueError, match="was opened without masks; evaluate boxes, or open"):
        evaluate_detections(boxes, rows, kind="mask")
    del truth["annotations"][3]["segmentation"]
    with pytest.raises(ValueError, match=r"1 annotations .*the first is 4;"):
        evaluate_detections(truth, rows, kind="mask")


class Masked:
    """A predictor that reads the answers; ``shrink`` rows of each mask are missing."""

    def __init__(self, dataset, shrink=0):
        post = SimpleNamespace(max_detections=100)
        self.config = SimpleNamespace(class_names=["square", "round"], num_classes=2, post=post)
        self.dataset, self.shrink = dataset, shrink
        self.rng = np.random.default_rng(0)

    def __call__(self, pixels):
        i = next(i for i in range(len(self.dataset)) if np.array_equal(self.dataset.read(i), pixels))
        targets = self.dataset.targets(i)
        size = pixels.shape[:2]
        bitmaps = ops.rasterize(targets["masks"], size, 1, 0).sampled
        for bitmap in bitmaps:
            rows = bitmap.any(1).nonzero()
            bitmap[rows[-1].item() - self.shrink + 1 :] = 0
        masks = Masks(bitmaps.float(), size, stride=1, network_size=size)
        scores = torch.from_numpy(self.rng.uniform(0.05, 1, len(bitmaps))).float()
        return Instances(targets["boxes"].float(), scores, targets["labels"], size, masks=masks)


def test_evaluate_adds_the_numbers_of_masks(dataset):
    result = evaluate(Masked(dataset), dataset)
    assert result["AP"] == result["mask_AP"] == result["mask_AR10"] == pytest.approx(1.0)
    assert {name for name in result if name.startswith(MASK_PREFIX)} == {MASK_PREFIX + n for n in NAMES}

    result = evaluate(Masked(dataset, shrink=5), dataset)
    assert result["AP"] == pytest.approx(1.0) and 0.1 < result["mask_AP"] < 0.9
    truth = json.loads(dataset.annotations_path.read_text())
    of_masks = {name: result[MASK_PREFIX + name] for name in NAMES}
    assert of_masks == pytest.approx(direct(truth, result["detections"]), abs=1e-12)
    boxes = summary_line({name: result[name] for name in NAMES})
    assert summary_line(result) == f"box {boxes}  mask {summary_line(of_masks)}"
    assert summary_line(of_masks).startswith(f"AP {of_masks['AP']:.3f}  AP50 ")


def test_masks_count_only_where_both_sides_have_them(dataset):
    boxes_only = CocoDataset(dataset.annotations_path, dataset.image_dir)
    predictor = Masked(dataset)
    result = evaluate(predictor, boxes_only)
    assert "mask_AP" not in result and result["AP"] == pytest.approx(1.0)
    assert "mask" not in summary_line(result)

    class Boxes(Masked):
        def __call__(self, pixels):
            found = super().__call__(pixels)
            return Instances(found.boxes, found.scores, found.labels, found.image_size)

    assert "mask_AP" not in evaluate(Boxes(dataset), dataset)


def test_objects_without_a_mask_count_for_boxes_alone(make_dataset):
    def edit(document):
        for annotation in document["annotations"][1::2]:
            annotation["segmentation"] = polygon(annotation["bbox"])

    dataset = CocoDataset(*make_dataset(sizes=SIZES, objects=2, edit=edit), masks=True)
    result = evaluate(Masked(dataset), dataset)
    assert result["mask_AP"] == pytest.approx(1.0)
    assert result["AP"] < 1.0  # the predictor read only objects with masks
