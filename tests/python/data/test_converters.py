# SPDX-License-Identifier: Apache-2.0
"""LVIS and Cityscapes in miniature become sound COCO files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from instseg.data import CocoDataset, check_dataset, convert_cityscapes, convert_lvis

HEIGHT, WIDTH = 40, 60
SQUARE = [10.0, 10, 30, 10, 30, 25, 10, 25]


def lvis(**changes: Any) -> dict[str, Any]:
    url = "http://images.cocodataset.org/train2017/000000000009.jpg"
    image = {"id": 9, "coco_url": url, "height": HEIGHT, "width": WIDTH, "neg_category_ids": [4],
             "not_exhaustive_category_ids": [3]}  # fmt: skip
    annotation = {"id": 1, "image_id": 9, "category_id": 3, "bbox": [10, 10, 20, 15], "area": 300,
                  "segmentation": [SQUARE]}  # fmt: skip
    categories = [
        {"id": 3, "name": "alarm_clock", "frequency": "c", "synset": "alarm_clock.n.01"},
        {"id": 4, "name": "alcohol", "frequency": "f"},
    ]
    return {"images": [image], "annotations": [annotation], "categories": categories, "info": {}} | changes


def convert(folder: Path, document: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    (folder / "lvis.json").write_text(document if isinstance(document, str) else json.dumps(document))
    report = convert_lvis(folder / "lvis.json", folder / "coco.json")
    return report, json.loads((folder / "coco.json").read_text())


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 90, 90)).save(path)


def test_lvis(tmp_path):
    report, document = convert(tmp_path, lvis())
    (image,), (annotation,) = document["images"], document["annotations"]
    assert image["file_name"] == "train2017/000000000009.jpg"
    assert image["neg_category_ids"] == [4] and image["not_exhaustive_category_ids"] == [3]
    assert annotation == {**lvis()["annotations"][0], "iscrowd": 0}
    assert document["categories"] == lvis()["categories"]
    assert report == {
        "images": 1, "annotations": 1, "categories": 2, "frequency": {"c": 1, "f": 1}, "not_exhaustive": 1,
        "dropped": {},
    }  # fmt: skip
    picture(tmp_path / "coco" / "train2017" / "000000000009.jpg")
    assert check_dataset(tmp_path / "coco.json", tmp_path / "coco") == []
    data = CocoDataset(tmp_path / "coco.json", tmp_path / "coco", masks=True)
    assert data.class_names == ["alarm_clock", "alcohol"] and data.targets(0)["masks"].areas() == [300]


def test_lvis_with_file_names(tmp_path):
    image = {"id": 9, "file_name": "COCO_val2014_000000000009.jpg", "height": HEIGHT, "width": WIDTH}
    _, document = convert(tmp_path, lvis(images=[image]))
    assert document["images"] == [image]


def test_annotations_of_lvis_that_cannot_be_used_are_left_out(tmp_path):
    def row(own, **changes):
        return {**lvis()["annotations"][0], "id": own, **changes}

    rows = [
        row(1), row(2, segmentation=[[1, 2, 3, 4]]), row(3, category_id=99), row(4, bbox=[10, 10, 0, 5]),
        row(5, segmentation=[SQUARE, [1, 2]]), row(6, bbox=[50, 10, 90, 10]), row(1),
        row(7, segmentation=[[1, 1, 9, 1, 5, 1]]), row(8, image_id=77),
    ]  # fmt: skip
    report, document = convert(tmp_path, lvis(annotations=rows))
    assert [a["id"] for a in document["annotations"]] == [1, 5, 6]
    assert document["annotations"][1]["segmentation"] == [SQUARE]
    assert document["annotations"][2]["bbox"] == [50, 10, 10, 10]
    assert sum(report["dropped"].values()) == 6
    assert report["dropped"]["bad_polygon"] == 1 and report["dropped"]["unknown_category"] == 1
    picture(tmp_path / "train2017" / "000000000009.jpg")
    assert check_dataset(tmp_path / "coco.json", tmp_path) == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ({"images": []}, "has no 'annotations'"),
        (lvis(images=[3]), r"images\[0\] of .* is no object"),
        (lvis(images=[{"id": 1, "width": 4, "height": 4}]), "has neither 'coco_url' nor 'file_name'"),
        (lvis(images=[{"id": 1, "file_name": "a.jpg", "width": 0, "height": 4}]), "'width' of"),
        (lvis(annotations=[{"image_id": 9}]), r"annotations\[0\] has no 'id'"),
        (lvis(annotations=[None]), r"annotations\[0\] is a NoneType"),
        (lvis(categories=[{"id": 3}]), "has no 'name'"),
    ],
)
def test_files_that_are_not_lvis(tmp_path, document, message):
    with pytest.raises(ValueError, match=message) as caught:
        convert(tmp_path, document)
    assert "\n" not in str(caught.value) and not (tmp_path / "coco.json").exists()


def test_lvis_is_not_written_over_itself(tmp_path):
    (tmp_path / "lvis.json").write_text(json.dumps(lvis()))
    with pytest.raises(ValueError, match="choose another output"):
        convert_lvis(tmp_path / "lvis.json", tmp_path / "lvis.json")
    assert json.loads((tmp_path / "lvis.json").read_text()) == lvis()


# A car behind a person, a group of cars, a plate on the car, a trailer over the person, and a deleted bus.
OBJECTS = [
    {"label": "road", "polygon": [[0, 0], [59, 0], [59, 39], [0, 39]]},
    {"label": "car", "polygon": [[5, 5], [34, 5], [34, 24], [5, 24]]},
    {"label": "license plate", "polygon": [[8, 8], [12, 8], [12, 10], [8, 10]]},
    {"label": "cargroup", "polygon": [[40, 2], [55, 2], [55, 9], [40, 9]]},
    {"label": "person", "polygon": [[20, 10], [29, 10], [29, 34], [20, 34]]},
    {"label": "car", "polygon": [[40, 20], [49, 20], [49, 29], [40, 29]]},
    {"label": "trailer", "polygon": [[20, 30], [29, 30], [29, 34], [20, 34]]},
    {"label": "bus", "polygon": [[0, 0], [59, 0], [59, 39], [0, 39]], "deleted": 1},
    {"label": "traffic sign", "polygon": [[40, 20], [40, 25], [40, 20]]},
]


def id_map() -> np.ndarray:
    ids = np.full((HEIGHT, WIDTH), 7, np.int32)
    ids[5:25, 5:35] = 26000
    ids[2:10, 40:56] = 26
    ids[10:35, 20:30] = 24000
    ids[20:30, 40:50] = 26001
    ids[30:35, 20:30] = 30  # a group of trailers
    ids[20:26, 40:41] = 20
    return ids


@pytest.fixture
def root(tmp_path):
    """Cityscapes with one image as ids and another as polygons."""
    base = tmp_path / "cityscapes"
    for city, name in (("aachen", "aachen_000000_000019"), ("bonn", "bonn_000003_000019")):
        picture(base / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit.png")
        (base / "gtFine" / "train" / city).mkdir(parents=True)
    document = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": OBJECTS}
    polygons(base).write_text(json.dumps(document))
    Image.fromarray(id_map().astype(np.uint16)).save(ids(base))
    return base


def polygons(base: Path) -> Path:
    return base / "gtFine" / "train" / "bonn" / "bonn_000003_000019_gtFine_polygons.json"


def ids(base: Path) -> Path:
    return base / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_instanceIds.png"


def test_cityscapes(root, tmp_path):
    seen = []
    report = convert_cityscapes(root, tmp_path / "out.json", progress=lambda *found: seen.append(found))
    assert report == {"images": 2, "annotations": 8, "crowds": 2, "categories": 8} and seen == [
        (1, 2),
        (2, 2),
    ]
    document = json.loads((tmp_path / "out.json").read_text())
    assert [m["file_name"] for m in document["images"]] == [
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "leftImg8bit/train/bonn/bonn_000003_000019_leftImg8bit.png",
    ]
    assert [c["name"] for c in document["categories"]] == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"
    ]  # fmt: skip
    of_ids = [a for a in document["annotations"] if a["image_id"] == 1]
    of_polygons = [a for a in document["annotations"] if a["image_id"] == 2]
    for found, value in zip(of_ids, (26, 24000, 26000, 26001), strict=True):
        assert np.array_equal(coco.decode(found["segmentation"]), id_map() == value)
        assert found["area"] == (id_map() == value).sum() and found["iscrowd"] == (value < 1000)
        assert found["category_id"] == (24 if value == 24000 else 26)
        y, x = np.nonzero(id_map() == value)
        assert found["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
    # The drawn polygons are those of the map: occlusion, plate and all.
    strip = [{k: v for k, v in a.items() if k not in ("id", "image_id")} for a in of_ids]
    assert [{k: v for k, v in a.items() if k not in ("id", "image_id")} for a in of_polygons] == strip
    assert check_dataset(tmp_path / "out.json", root) == []
    data = CocoDataset(tmp_path / "out.json", root, masks=True)
    assert data.num_objects == 6


def test_ids_are_preferred_to_polygons(root, tmp_path):
    polygons(root).rename(ids(root).with_name("aachen_000000_000019_gtFine_polygons.json"))
    path = ids(root).with_name("aachen_000000_000019_gtFine_polygons.json")
    path.write_text("broken")
    assert convert_cityscapes(root, tmp_path / "out.json")["images"] == 1


def test_images_without_instances_are_kept(root, tmp_path):
    polygons(root).write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": OBJECTS[:1]}))
    assert convert_cityscapes(root, tmp_path / "out.json") == {
        "images": 2, "annotations": 4, "crowds": 1, "categories": 8
    }  # fmt: skip


def test_missing_parts_of_cityscapes(root, tmp_path):
    out = tmp_path / "out.json"
    with pytest.raises(FileNotFoundError, match=r"gtFine/nothing' does not exist; splits are train"):
        convert_cityscapes(root, out, "nothing")
    with pytest.raises(FileNotFoundError, match="unpack gtFine_trainvaltest"):
        convert_cityscapes(tmp_path / "nowhere", out)
    picture(root / "leftImg8bit" / "train" / "bonn" / "bonn_000003_000019_leftImg8bit.png", 61)
    with pytest.raises(
        ValueError, match=r"polygons.json' is of a 60 x 40 image, .*leftImg8bit.png' is 61 x 40"
    ):
        convert_cityscapes(root, out)
    (root / "leftImg8bit" / "train" / "bonn" / "bonn_000003_000019_leftImg8bit.png").write_text("x")
    with pytest.raises(ValueError, match=r"leftImg8bit.png' is no image"):
        convert_cityscapes(root, out)
    (root / "leftImg8bit" / "train" / "bonn" / "bonn_000003_000019_leftImg8bit.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"the image .*leftImg8bit.png' of .* does not exist"):
        convert_cityscapes(root, out)
    polygons(root).unlink()
    ids(root).unlink()
    with pytest.raises(ValueError, match=r"no \*_gtFine_instanceIds.png and no"):
        convert_cityscapes(root, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is no Cityscapes document: JSONDecodeError"),
        ("[]", "is no Cityscapes document: TypeError"),
        ({"imgHeight": 4, "objects": []}, "is no Cityscapes document: KeyError 'imgWidth'"),
        ({"imgHeight": 4, "imgWidth": "many", "objects": []}, "is no Cityscapes document: ValueError"),
        ({"imgHeight": 0, "imgWidth": 5, "objects": []}, r"the image size \(5, 0\) is none"),
        ({"imgHeight": 10**9, "imgWidth": 10**9, "objects": []}, "is none"),
        ([{"label": "tank", "polygon": OBJECTS[0]["polygon"]}], "the label 'tank' is not one of Cityscapes"),
        ([{"label": "car"}], "the polygon None is not three or more points"),
        ([{"label": "car", "polygon": [[1, 2], [3, 4]]}], "is not three or more points"),
        ([{"label": "car", "polygon": [[1, 2], [3, 4], [5]]}], "is not three or more points"),
        ([{"label": "car", "polygon": [[1, 2], [3, 4], [5, None]]}], "is not three or more points"),
        ([{"polygon": [[1, 2], [3, 4], [5, 6]]}], "KeyError 'label'"),
    ],
)
def test_malformed_polygons(root, tmp_path, change, message):
    if isinstance(change, list):
        change = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": change}
    polygons(root).write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(ValueError, match=message) as caught:
        convert_cityscapes(root, tmp_path / "out.json")
    assert "\n" not in str(caught.value) and str(polygons(root)) in str(caught.value)


def test_malformed_ids(root, tmp_path):
    path = ids(root)
    whole = path.read_bytes()
    path.write_bytes(b"not a PNG")
    with pytest.raises(ValueError, match="is no PNG image"):
        convert_cityscapes(root, tmp_path / "out.json")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((OSError, ValueError), match="aachen_000000_000019_gtFine_instanceIds"):
        convert_cityscapes(root, tmp_path / "out.json")
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    with pytest.raises(ValueError, match="has mode RGB; expected one channel of 16 bits"):
        convert_cityscapes(root, tmp_path / "out.json")
