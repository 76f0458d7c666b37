# SPDX-License-Identifier: Apache-2.0
"""Instances and the images they are drawn on."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import instseg
from instseg.image import to_tensor
from instseg.results import detections_document

HEIGHT, WIDTH = 48, 80


def some(names: bool = True) -> instseg.Instances:
    return instseg.Instances(
        boxes=torch.tensor([[10.0, 8.0, 40.5, 30.0], [50.0, 5.0, 70.0, 45.0], [1.0, 1.0, 6.0, 9.0]]),
        scores=torch.tensor([0.9, 0.5, 0.25]),
        labels=torch.tensor([1, 0, 1]),
        image_size=(HEIGHT, WIDTH),
        class_names=["cat", "dog"] if names else [],
        category_ids=[17, 18] if names else [],
    )


def none() -> instseg.Instances:
    return instseg.Instances(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (HEIGHT, WIDTH), ["cat"]
    )


def grey() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def test_fields() -> None:
    found = some()
    assert len(found) == 3 and found.names == ["dog", "cat", "dog"]
    assert some(names=False).names == ["1", "0", "1"]
    assert repr(found) == "<Instances 2 dog, 1 cat in 80x48>"
    assert len(none()) == 0 and none().names == [] and repr(none()) == "<Instances nothing in 80x48>"


def test_above() -> None:
    found = some().above(0.5)
    assert torch.equal(found.scores, torch.tensor([0.9, 0.5]))
    assert found.labels.tolist() == [1, 0] and found.boxes.shape == (2, 4)
    assert found.class_names == ["cat", "dog"] and found.image_size == (HEIGHT, WIDTH)
    assert len(some().above(0.95)) == 0 and len(none().above(0)) == 0


def test_to_device() -> None:
    found = some().to("meta")
    assert found.boxes.is_meta and found.scores.is_meta and found.labels.is_meta


def test_to_coco() -> None:
    entries = some().to_coco(42)
    assert entries[0] == {
        "image_id": 42,
        "category_id": 18,
        "bbox": [10.0, 8.0, 30.5, 22.0],
        "score": pytest.approx(0.9),
    }
    assert [entry["category_id"] for entry in some(names=False).to_coco(1)] == [1, 0, 1]
    assert none().to_coco(1) == []
    json.dumps(entries)


def test_to_coco_is_read_by_pycocotools() -> None:
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = {"images": [{"id": 42}], "categories": [{"id": 17}, {"id": 18}], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(some().to_coco(42)).anns) == 3


def test_json() -> None:
    entry = json.loads(some().to_json("a.png"))
    assert list(entry) == ["file", "width", "height", "detections"]
    assert (entry["file"], entry["width"], entry["height"]) == ("a.png", WIDTH, HEIGHT)
    assert entry["detections"][0] == {
        "class": "dog",
        "label": 1,
        "category_id": 18,
        "score": pytest.approx(0.9),
        "box": [10.0, 8.0, 40.5, 30.0],
    }
    assert list(none().to_dict()) == ["width", "height", "detections"]
    document = detections_document("m.safetensors", [entry], [{"file": "b.png", "error": "empty"}])
    assert document == {
        "model": "m.safetensors",
        "images": [entry],
        "errors": [{"file": "b.png", "error": "empty"}],
    }


def test_pickle_and_copy() -> None:
    for again in (pickle.loads(pickle.dumps(some())), copy.deepcopy(some())):
        assert torch.equal(again.boxes, some().boxes) and again.to_dict() == some().to_dict()


def test_plot() -> None:
    image = grey()
    drawn = some().plot(image)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 128).all()
    changed = (drawn != 128).any(axis=2)
    assert changed[8:31, 10:13].any() and changed[5:45, 50:53].any()
    # 0.25 is below the threshold; without labels nothing is drawn outside the boxes.
    bare = (some().plot(image, labels=False) != 128).any(axis=2)
    assert not bare[:5, :8].any() and not bare[:, 75:].any() and bare[8:31, 10:13].any()
    all_drawn = (some().plot(image, 0.2, labels=False) != 128).any(axis=2)
    assert all_drawn[:10, :8].any()
    assert (none().plot(image) == 128).all()


def test_plot_colours_follow_the_label() -> None:
    one, two = some().plot(grey(), labels=False), some(names=False).plot(grey(), labels=False)
    assert (one == two).all()
    assert (one[20, 10] != one[20, 50]).any()


def test_plot_of_another_image() -> None:
    with pytest.raises(ValueError, match="80x48 image, got one of 48x80"):
        some().plot(np.zeros((80, 48, 3), np.uint8))


def test_save_plot(tmp_path: Path) -> None:
    some().save_plot(tmp_path / "plot.png", grey())
    assert (instseg.read_image(tmp_path / "plot.png") == some().plot(grey())).all()
    with pytest.raises(ValueError, match="plot"):
        some().save_plot(tmp_path / "plot.xyz", grey())


# ---- Masks ----


def masked() -> instseg.Instances:
    """Three of one class, with rectangles as masks; the last one empty."""
    maps = torch.zeros(3, HEIGHT, WIDTH)
    maps[0, 8:30, 10:40] = 1
    maps[0, 15:20, 20:30] = 0
    maps[1, 5:45, 35:70] = 1
    found = some()
    found.labels = torch.tensor([1, 1, 1])
    found.masks = instseg.Masks(maps, (HEIGHT, WIDTH), stride=1, network_size=(HEIGHT, WIDTH))
    return found


def test_forms_of_masks() -> None:
    found = masked()
    bitmaps = found.bitmaps()
    assert bitmaps.dtype == torch.bool and bitmaps.shape == (3, HEIGHT, WIDTH)
    assert found.masks is not None and torch.equal(bitmaps, found.masks.probabilities > 0.5)
    assert found.area().tolist() == [22 * 30 - 50, 40 * 35, 0]
    x, y, crop = found.crops()[0]
    assert (x, y) == (10, 8) and crop.dtype == torch.bool and torch.equal(crop, bitmaps[0, 8:30, 10:40])
    assert found.crops()[2][2].shape == (0, 0)
    assert [len(parts) for parts in found.polygons()] == [1, 1, 0]


def test_rle_is_read_by_pycocotools() -> None:
    from pycocotools import mask as coco

    found = masked()
    assert np.array_equal(coco.decode(found.rle()).transpose(2, 0, 1), found.bitmaps().numpy())
    for entry, rle in zip(found.to_coco(3), found.rle(), strict=True):
        assert entry["segmentation"] == rle and rle["size"] == [HEIGHT, WIDTH]
    assert "segmentation" not in some().to_coco(3)[0]
    json.dumps(found.to_coco(3))


@pytest.mark.parametrize("method", ["bitmaps", "rle", "polygons", "area", "crops"])
def test_models_without_masks(method: str) -> None:
    with pytest.raises(ValueError, match=rf"^\[Instances.{method}\] the model predicts no masks$"):
        getattr(some(), method)()


def test_masks_follow_the_instances() -> None:
    found = masked().above(0.5)
    assert len(found) == 2 and torch.equal(found.bitmaps(), masked().bitmaps()[:2])
    assert len(masked().above(0.95).bitmaps()) == 0
    moved = masked().to("meta")
    assert moved.masks is not None and moved.masks.probabilities.is_meta
    for again in (pickle.loads(pickle.dumps(masked())), copy.deepcopy(masked())):
        assert again.to_dict() == masked().to_dict()


def test_masks_in_json() -> None:
    maps = torch.zeros(1, 3, 4)
    maps[0, 1:3, 1:3] = 1
    found = instseg.Instances(
        torch.tensor([[10.5, 8, 40, 30]]),
        torch.tensor([0.5]),
        torch.tensor([1]),
        (3, 4),
        ["cat", "dog"],
        [17, 18],
        instseg.Masks(maps, (3, 4), stride=1, network_size=(3, 4)),
    )
    # The native program's text: tests/cpp/apps/report_test.cpp.
    plain = (
        '{"file":"a.png","width":4,"height":3,"detections":[{"class":"dog","label":1,"category_id":18,'
        '"score":0.5,"box":[10.5,8.0,40.0,30.0]}]}'
    )
    mask = ',"mask":{"size":[3,4],"counts":"42102"},"area":4'
    compact = (",", ":")
    assert json.dumps(found.to_dict("a.png", masks=False), separators=compact) == plain
    assert json.dumps(found.to_dict("a.png"), separators=compact) == plain[:-3] + mask + plain[-3:]
    assert json.loads(found.to_json("a.png")) == found.to_dict("a.png")
    assert "mask" not in found.to_json("a.png", masks=False)


def test_plot_of_masks() -> None:
    found, image = masked(), grey()
    drawn = found.plot(image, labels=False, boxes=False)
    changed = (drawn != image).any(axis=2)
    assert np.array_equal(changed, found.bitmaps()[:2].any(0).numpy())
    assert (drawn[25, 15] != drawn[25, 60]).any(), "instances of a class differ"
    assert (drawn[8, 10] != drawn[10, 14]).any(), "the contour stands out"
    # Without masks the picture is that of the boxes, in the colour of the label.
    boxes = copy.copy(found)
    boxes.masks = None
    assert np.array_equal(found.plot(image, masks=False), boxes.plot(image))


# ---- Images ----


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp", "gif"])
def test_read_image_formats(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((6, 9, 3), np.uint8)
    pixels[:, 4:] = (200, 100, 50)
    path = tmp_path / f"image.{kind}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if kind == "webp" else {}))
    read = instseg.read_image(path)
    assert read.dtype == np.uint8 and np.array_equal(read, pixels)


@pytest.mark.parametrize("kind", ["jpeg", "tiff", "webp"])
def test_read_image_turns_by_exif(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8] = 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "image", kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    read = instseg.read_image(tmp_path / "image")
    assert read.shape == (32, 16, 3)
    assert read[:, 10:].min() > 240 and read[:, :6].max() < 15


def test_read_image_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        instseg.read_image(tmp_path / "absent.png")
    for name, content in {"empty.png": b"", "text.png": b"no image", "cut.bmp": b"BM\x00\x00"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            instseg.read_image(tmp_path / name)
    for kind in ("png", "bmp", "tiff"):
        path = tmp_path / f"large.{kind}"
        Image.new("RGB", (40, 30)).save(path)
        instseg.read_image(path, pixel_limit=1200)
        with pytest.raises(ValueError, match="large"):
            instseg.read_image(path, pixel_limit=1199)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=path.name):
            instseg.read_image(path)


def test_write_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    instseg.write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), pixels)
    with pytest.raises(OSError, match="nowhere"):
        instseg.write_image(tmp_path / "nowhere" / "a.png", pixels)


def test_to_tensor_kinds() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for image in (pixels, frozen, torch.from_numpy(pixels), Image.fromarray(pixels)):
        assert np.array_equal(to_tensor(image).numpy(), pixels)
    assert np.array_equal(to_tensor(pixels[..., ::-1]).numpy(), pixels[..., ::-1])
    assert np.array_equal(to_tensor(Image.new("L", (5, 7), 9)).numpy(), np.full((7, 5, 3), 9))


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((4, 4, 3)), ValueError, r"uint8 \[H, W, 3\], got float64 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), ValueError, r"got uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"got uint8 \[4, 4, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ValueError, "channels last"),
        (torch.zeros(4, 4, 3), ValueError, r"got torch.float32 \[4, 4, 3\]"),
        (3, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_to_tensor_refuses(image: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        to_tensor(image)  # type: ignore[arg-type]
