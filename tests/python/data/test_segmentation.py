# SPDX-License-Identifier: Apache-2.0
"""Masks of a COCO file: what is read, what is reported, what reaches training and evaluation."""

from __future__ import annotations

import contextlib
import io
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from instseg import InputConfig, MaskTargets
from instseg.data import Augmentation, CocoDataset, check_dataset, training_batches

HEIGHT, WIDTH = 64, 96  # of the first image of make_dataset
SQUARE = [10, 10, 40, 10, 40, 30, 10, 30]
TRIANGLE = [50.5, 5, 80, 40.25, 45, 50]
ROWS = [10 * 64, 640, 76 * 64]  # columns 10..19


def annotation(own, segmentation=None, **values):
    found = {"id": own, "image_id": 10, "category_id": 3, "bbox": [5, 5, 80, 50], **values}
    return found if segmentation is None else {**found, "segmentation": segmentation}


@pytest.fixture
def dataset(make_dataset):
    """Writes a dataset whose first image has the given annotations; returns JSON file and folder."""

    def make(*annotations):
        return make_dataset(edit=lambda document: document.update(annotations=list(annotations)))

    return make


def test_masks_are_read_when_asked_for(dataset):
    crowd = {"size": [64, 96], "counts": ROWS}
    files = dataset(
        annotation(1, [SQUARE, TRIANGLE], category_id=7),
        annotation(2, crowd, iscrowd=1),
        annotation(3, {"size": [64, 96], "counts": text_of(ROWS)}),
    )
    assert set(CocoDataset(*files).targets(0)) == {"boxes", "labels"} and not CocoDataset(*files).has_masks
    data = CocoDataset(*files, masks=True)
    targets = data.targets(0)
    assert data.problems == [] and data.has_masks and data.num_objects == 2
    assert targets["labels"].tolist() == [1, 0]
    assert targets["masks"].select([0]) == MaskTargets.from_coco([[SQUARE, TRIANGLE]], (64, 96))
    expected = coco.merge(coco.frPyObjects([SQUARE, TRIANGLE], 64, 96))
    assert targets["masks"].rle()[0]["counts"] == expected["counts"].decode()
    assert targets["masks"].areas()[1] == 640
    assert "semantic" not in targets
    assert len(data.targets(1)["masks"]) == 0 and data.targets(1)["masks"].image_size == (64, 96)


def text_of(counts):
    bitmap = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8).reshape(96, 64).T
    return coco.encode(np.asfortranarray(bitmap))["counts"].decode()


@pytest.mark.parametrize(
    ("segmentation", "kind", "message"),
    [
        (None, "mask_missing", "has no segmentation"),
        ([], "mask_missing", "has no segmentation"),
        ([[1, 2, 3, 4]], "bad_polygon", "polygon 0 has 2 points, fewer than three"),
        ([[]], "bad_polygon", "polygon 0 has 0 points, fewer than three"),
        ([[1, 2, 3, 4, 5, 6, 7]], "bad_polygon", "polygon 0 has 7 coordinates, an odd number"),
        ([[1, 2, 3, 4, 5, float("nan")]], "bad_polygon", "polygon 0 has a coordinate that is not finite"),
        ([[1, 2, 3, 4, 5, float("inf")]], "bad_polygon", "polygon 0 has a coordinate that is not finite"),
        ([[1, 2, 3, 4, 5, 1e300]], "bad_polygon", "polygon 0 has a coordinate beyond 1e+08 px"),
        ([[1, 2, 3, 4, 5, 10**400]], "bad_polygon", "polygon 0 is [1, 2, 3, 4, 5, 1000"),
        ([[1, 2, 3, 4, 5, "6"]], "bad_polygon", "not a list of numbers"),
        ([[1, 2, 3, 4, 5, [6]]], "bad_polygon", "not a list of numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], "bad_polygon", "not a list of numbers"),
        (["text"], "bad_polygon", "polygon 0 is 'text', not a list of numbers"),
        (SQUARE, "bad_polygon", "is one list of numbers, not a list of polygons"),
        ("text", "bad_polygon", "'text' is neither polygons nor run lengths"),
        (7, "bad_polygon", "7 is neither polygons nor run lengths"),
        ([[1, 1, 9, 1, 5, 1]], "empty_mask", "covers no pixel of the 96 x 64 image"),
        ([[200, 1, 290, 1, 250, 10]], "empty_mask", "covers no pixel"),
        ([[-20, -20, -9, -1, -15, -10]], "empty_mask", "covers no pixel"),
        ({"size": [64, 96], "counts": [64 * 96]}, "empty_mask", "covers no pixel"),
        ({"size": [64, 96], "counts": [64 * 96 - 1]}, "bad_rle", "cover 6143 pixels"),
        ({"size": [64, 96], "counts": [0, 64 * 96 + 1]}, "bad_rle", "cover 6145 pixels"),
        ({"size": [64, 96], "counts": [-1, 64 * 96 + 1]}, "bad_rle", "run length -1"),
        ({"size": [64, 96], "counts": [0.5, 5]}, "bad_rle", "counts [0.5, 5] are not integers"),
        ({"size": [64, 96], "counts": [10**30]}, "bad_rle", "are not integers"),
        ({"size": [64, 96], "counts": "~"}, "bad_rle", "is not one of compressed run lengths"),
        ({"size": [64, 96], "counts": "P"}, "bad_rle", "cut off"),
        ({"size": [64, 96], "counts": "\ud800"}, "bad_rle", "are not COCO's text"),
        ({"size": [64, 96], "counts": ""}, "bad_rle", "cover 0 pixels"),
        ({"size": [96, 64], "counts": ROWS}, "bad_rle", "is [96, 64], that of the image [64, 96]"),
        ({"size": "big", "counts": ROWS}, "bad_rle", "have no 'size' and 'counts'"),
        ({"counts": ROWS}, "bad_rle", "have no 'size' and 'counts'"),
    ],
)
def test_a_bad_mask_is_named_and_left_out_of_training(dataset, segmentation, kind, message):
    files = dataset(annotation(5, segmentation), annotation(6, [SQUARE]))
    (problem,) = check_dataset(*files)
    assert (problem.kind, problem.image_id, problem.annotation_id) == (kind, 10, 5)
    assert message in problem.message and "\n" not in str(problem)

    data = CocoDataset(*files, masks=True, semantic=True)
    assert data.problems == [problem]
    targets = data.targets(0)
    assert len(targets["boxes"]) == len(targets["labels"]) == len(targets["masks"]) == 1
    assert data.num_objects == 1
    # It does not disturb a model of boxes.
    plain = CocoDataset(*files)
    assert plain.problems == [] and len(plain.targets(0)["boxes"]) == 2


def test_bad_polygons_among_good_ones_are_dropped(dataset):
    files = dataset(annotation(5, [[1, 2], SQUARE, [1, 2, 3, 4, 5]]))
    data = CocoDataset(*files, masks=True)
    assert [(p.kind, p.message) for p in data.problems] == [
        ("bad_polygon", "polygon 0 has 1 points, fewer than three; the others are kept"),
        ("bad_polygon", "polygon 2 has 5 coordinates, an odd number; the others are kept"),
    ]
    assert data.targets(0)["masks"] == MaskTargets.from_coco([[SQUARE]], (64, 96))
    assert data.ground_truth()["annotations"][0]["segmentation"] == [SQUARE]


def test_whether_a_file_needs_masks(make_dataset):
    files = make_dataset()
    assert check_dataset(*files) == [] == check_dataset(*files, masks=False)
    assert [p.kind for p in check_dataset(*files, masks=True)] == ["mask_missing"] * 8
    document = json.loads(files[0].read_text())
    document["annotations"][3]["segmentation"] = [SQUARE]
    files[0].write_text(json.dumps(document))
    assert [p.annotation_id for p in check_dataset(*files)] == [1, 2, 3, 5, 6, 7, 8]
    assert check_dataset(*files, masks=False) == []


def test_images_without_a_usable_mask_are_filtered(dataset):
    files = dataset(annotation(1), annotation(2, [SQUARE], image_id=11), annotation(3, [], image_id=12))
    assert [m.id for m in CocoDataset(*files, masks=True, filter_empty=True).images] == [11]
    assert [m.id for m in CocoDataset(*files, filter_empty=True).images] == [10, 11, 12]


def test_crowds_alone_are_no_masks(dataset):
    files = dataset(annotation(1, {"size": [64, 96], "counts": ROWS}, iscrowd=1))
    assert not CocoDataset(*files, masks=True).has_masks


def test_an_image_too_large_for_run_lengths_is_a_problem(make_dataset):
    def edit(document):
        document["images"][0].update(width=2**31 - 1, height=2**31 - 1)
        document["annotations"] = [annotation(1, [SQUARE])]

    files = make_dataset(edit=edit)
    problems = check_dataset(*files, decode=False)
    assert [(p.kind, p.annotation_id) for p in problems] == [("bad_value", 1)]


def test_semantic_map_in_the_order_of_the_file_with_crowds(dataset):
    crowd = {"size": [64, 96], "counts": ROWS}
    files = dataset(
        annotation(1, [SQUARE], category_id=7),
        annotation(2, crowd, category_id=3, iscrowd=1),
        annotation(3, [[15, 15, 25, 15, 25, 25, 15, 25]], category_id=7),
        annotation(4, [[1, 1, 2, 1]], category_id=7),
    )
    expected = np.zeros((64, 96), np.uint8)
    expected[10:30, 10:40] = 2
    expected[:, 10:20] = 1
    expected[15:25, 15:25] = 2
    semantic = CocoDataset(*files, semantic=True).targets(0)["semantic"]
    assert semantic.dtype == torch.uint8 and np.array_equal(semantic.numpy(), expected)
    assert not CocoDataset(*files, semantic=True).targets(1)["semantic"].any()


def test_ground_truth_keeps_the_segmentations_for_pycocotools(dataset):
    crowd = {"size": [64, 96], "counts": ROWS}
    polygons = [[float(v) for v in SQUARE], [float(v) for v in TRIANGLE]]
    text = {"size": [64, 96], "counts": text_of(ROWS)}
    files = dataset(
        annotation(1, polygons), annotation(2, crowd, iscrowd=1), annotation(3, text), annotation(4)
    )
    data = CocoDataset(*files, masks=True)
    truth = data.ground_truth()
    assert [a["segmentation"] for a in truth["annotations"]] == [polygons, crowd, text]
    boxes = data.ground_truth(masks=False)["annotations"]
    assert [a["id"] for a in boxes] == [1, 2, 3, 4] and "segmentation" not in boxes[0]
    assert json.loads(json.dumps(truth)) == truth

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = [
        {"image_id": 10, "category_id": 3, "score": 0.9, "segmentation": rle}
        for rle in data.targets(0)["masks"].rle()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {"info": {}, **truth}
        reference.createIndex()
        run = COCOeval(reference, reference.loadRes(rows), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    assert run.stats[0] == pytest.approx(1.0)


def augmentation(**options):
    return Augmentation(InputConfig(), (48,), 200, **{"flip": 0.0, **options})


def moved(segmentations, semantic=None, flip=0.0):
    """Targets of a 64 x 96 image after resizing to 48 x 72 and mirroring."""
    targets = {
        "boxes": torch.tensor([[5.0, 5, 85, 55]] * len(segmentations)),
        "labels": torch.arange(len(segmentations)),
        "masks": MaskTargets.from_coco(segmentations, (64, 96)),
    }
    if semantic is not None:
        targets["semantic"] = torch.from_numpy(semantic)
    image = np.zeros((64, 96, 3), np.uint8)
    return augmentation(flip=flip)(image, targets, np.random.default_rng(0))[1]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_augmentation_moves_polygons_exactly_and_bitmaps_by_nearest(flip):
    rng = np.random.default_rng(1)
    bitmap = (rng.uniform(0, 1, (64, 96)) > 0.5).astype(np.uint8)
    rle = coco.encode(np.asfortranarray(bitmap))
    semantic = rng.integers(0, 81, (64, 96), dtype=np.uint8)
    out = moved([[TRIANGLE], {"size": [64, 96], "counts": rle["counts"].decode()}], semantic, flip)

    points = np.reshape(TRIANGLE, (-1, 2)) * [72 / 96, 48 / 64]
    small = np.asarray(Image.fromarray(bitmap).resize((72, 48), Image.Resampling.NEAREST))
    classes = np.asarray(Image.fromarray(semantic).resize((72, 48), Image.Resampling.NEAREST))
    if flip:
        points[:, 0] = 72 - points[:, 0]
        small, classes = small[:, ::-1], classes[:, ::-1]
    assert out["masks"].select([0]) == MaskTargets.from_coco([[points.ravel()]], (48, 72))
    assert np.array_equal(coco.decode(out["masks"].rle()[1]), small)
    assert np.array_equal(out["semantic"].numpy(), classes)


def test_augmentation_drops_objects_without_a_pixel():
    dot = [[20.0, 20, 20.6, 20, 20.6, 20.6, 20, 20.6]]  # a pixel at 64 x 96, none at 48 x 72
    assert MaskTargets.from_coco([dot], (64, 96)).areas() == [1]
    out = moved([[SQUARE], dot, [TRIANGLE]])
    assert out["labels"].tolist() == [0, 2] and len(out["boxes"]) == 2
    assert out["masks"] == MaskTargets.from_coco([[SQUARE], [TRIANGLE]], (64, 96)).resized((48, 72))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_carry_masks_and_original_sizes(dataset, workers):
    files = dataset(
        *(annotation(1 + i, [SQUARE], image_id=10 + i, bbox=[10, 10, 30, 20]) for i in range(4)),
        annotation(9, {"size": [64, 96], "counts": ROWS}, bbox=[10, 0, 10, 64]),
    )
    data = CocoDataset(*files, masks=True, semantic=True)
    batches = list(
        training_batches(data, augmentation(flip=0.5), batch_size=2, seed=1, start=0, stop=4, workers=workers)
    )
    assert {m for batch in batches for m in batch.image_ids} == {10, 11, 12, 13}
    for batch in batches:
        for image, targets, own, size in zip(
            batch.images, batch.targets, batch.image_ids, batch.original_sizes, strict=True
        ):
            assert size == ((64, 96) if own < 12 else (96, 64))
            assert targets["masks"].image_size == tuple(image.shape[:2]) == tuple(targets["semantic"].shape)
            assert len(targets["masks"]) == len(targets["boxes"]) == (2 if own == 10 else 1)
            box = targets["boxes"][0]
            y, x = np.nonzero(coco.decode(targets["masks"].rle()[0]))
            assert abs(x.min() - box[0]) <= 1 and abs(y.max() + 1 - box[3]) <= 1


def test_random_damage_of_masks_never_raises(make_dataset):
    junk = [None, True, -1, 10**30, 10**400, float("nan"), "", "x", "P:P", [], [None], [[]], {}, {"size": 3}]
    generator = random.Random(2)
    files = make_dataset()
    document = json.loads(files[0].read_text())
    for _ in range(300):
        for found in document["annotations"]:
            size = [64, 96] if found["image_id"] < 12 else [96, 64]
            found["segmentation"] = generator.choice(
                [[list(SQUARE), list(TRIANGLE)], {"size": size, "counts": list(ROWS)}]
            )
            value = found["segmentation"]
            for _ in range(generator.randrange(3)):
                place = generator.choice(list(value) if isinstance(value, dict) else range(len(value)))
                if isinstance(value[place], list) and generator.random() < 0.5:
                    value = value[place]
                    continue
                value[place] = generator.choice(junk)
                break
        files[0].write_text(json.dumps(document))
        for problem in check_dataset(*files, decode=False):
            assert problem.message
        data = CocoDataset(*files, masks=True, semantic=True)
        for i in range(len(data)):
            assert len(data.targets(i)["masks"]) == len(data.targets(i)["boxes"])
        data.ground_truth()
