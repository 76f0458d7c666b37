# SPDX-License-Identifier: Apache-2.0
"""Brings annotations of LVIS and Cityscapes into COCO form."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError

from instseg.data.records import index_document, read_document

# Cityscapes' classes with instances, by label id (https://www.cityscapes-dataset.com, class definitions).
CITYSCAPES_CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
# Its other labels, which cover what is behind them; instances of trailers and caravans are not evaluated.
_COVERING = frozenset(
    ["unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
     "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel",
     "pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "caravan",
     "caravangroup", "trailer", "trailergroup"]
)  # fmt: skip
_TRANSPARENT = frozenset(["license plate"])  # of a car, which it does not hide
_GROUP = "group"
_INSTANCES = 1000  # an id from here on is label * 1000 + instance, one below a label

Progress = Callable[[int, int], None]
IdMap = npt.NDArray[np.int64]


def convert_lvis(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes an LVIS file (v0.5 or v1) as a COCO file.

    ``file_name`` becomes the last two parts of ``coco_url``, e.g. train2017/000000000009.jpg, as LVIS mixes
    COCO's train and val images. Everything else is kept, also ``neg_category_ids``,
    ``not_exhaustive_category_ids`` and ``frequency``, which training and evaluation here ignore. Annotations
    that cannot be used are left out.

    Returns: images, annotations, categories; frequency: categories of each; not_exhaustive: images with
        classes that are not completely annotated; dropped: annotations left out, by kind of problem.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the file is no LVIS document.
    """
    document = read_document(source)
    if Path(output).resolve() == Path(source).resolve():
        raise ValueError(f"[convert_lvis] '{output}' is the file to read; choose another output")
    for i, image in enumerate(document["images"]):
        if not isinstance(image, dict):
            raise ValueError(f"[convert_lvis] images[{i}] of '{source}' is no object")
        url = image.get("coco_url")
        if isinstance(url, str) and url:
            image["file_name"] = "/".join(urlsplit(url).path.split("/")[-2:])
        elif not image.get("file_name"):
            raise ValueError(
                f"[convert_lvis] images[{i}] of '{source}' has neither 'coco_url' nor 'file_name'"
            )
    for annotation in document["annotations"]:
        if isinstance(annotation, dict):
            annotation.setdefault("iscrowd", 0)
    dropped = _clean(document)
    _write(document, output)
    frequency = Counter(str(row.get("frequency", "?")) for row in document["categories"])
    return {
        "images": len(document["images"]),
        "annotations": len(document["annotations"]),
        "categories": len(document["categories"]),
        "frequency": dict(sorted(frequency.items())),
        "not_exhaustive": sum(bool(m.get("not_exhaustive_category_ids")) for m in document["images"]),
        "dropped": dropped,
    }


def convert_cityscapes(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    split: str = "train",
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the fine annotations of a split of Cityscapes as a COCO file: eight classes with instances.

    Masks are run lengths of what is visible: from ``*_gtFine_instanceIds.png`` where it exists, else from
    ``*_gtFine_polygons.json``, whose later objects cover earlier ones. Groups, whose members are not told
    apart, become crowds. ``file_name`` starts at ``root``.

    Args:
        root: folder with ``gtFine/SPLIT/CITY`` and ``leftImg8bit/SPLIT/CITY``.
        progress: called with (files done, files in all).

    Returns: images, annotations, crowds, categories.

    Raises:
        OSError: a folder or an image is missing, or a file cannot be read or written.
        ValueError: a file is malformed; the message names it.
    """
    base = Path(root)
    files = _cityscapes_files(base, split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for done, (name, path) in enumerate(files, 1):
        ids = _read_ids(path) if path.suffix == ".png" else _paint_polygons(path)
        height, width = ids.shape
        picture = base / name
        if not picture.is_file():
            raise FileNotFoundError(f"[convert_cityscapes] the image '{picture}' of '{path}' does not exist")
        if _size_of(picture) != (width, height):
            w, h = _size_of(picture)
            raise ValueError(
                f"[convert_cityscapes] '{path}' is of a {width} x {height} image, '{picture}' is {w} x {h}"
            )
        images.append({"id": done, "file_name": name, "width": width, "height": height})
        for annotation in _instances(ids):
            annotations.append({"id": len(annotations) + 1, "image_id": done, **annotation})
        if progress is not None:
            progress(done, len(files))
    categories = [{"id": label, "name": name} for label, name in CITYSCAPES_CLASSES.items()]
    _write({"images": images, "annotations": annotations, "categories": categories}, output)
    return {
        "images": len(images),
        "annotations": len(annotations),
        "crowds": sum(a["iscrowd"] for a in annotations),
        "categories": len(categories),
    }


def _clean(document: dict[str, Any]) -> dict[str, int]:
    """Leaves out the annotations that `data check` would name, in place; how many of each kind."""
    index = index_document(document, masks=True)
    for problem in index.problems:
        if problem.annotation_id is None:
            raise ValueError(f"[convert_lvis] {problem}")
    sound = {a.id: a for found in index.annotations.values() for a in found if a.has_mask}
    kinds = {p.annotation_id: p.kind for p in reversed(index.problems)}
    dropped: Counter[str] = Counter()
    kept, seen = [], set()
    for record in document["annotations"]:
        own = record["id"]
        if own not in sound or own in seen:
            dropped[kinds.get(own, "bad_value")] += 1
            continue
        seen.add(own)
        a = sound[own]
        if own in kinds:
            x1, y1, x2, y2 = a.box
            record.update(bbox=[x1, y1, x2 - x1, y2 - y1], area=a.area)
            record["segmentation"] = a.segmentation.to_coco() if a.segmentation is not None else []
        kept.append(record)
    document["annotations"] = kept
    return dict(dropped)


def _write(document: dict[str, Any], output: str | os.PathLike[str]) -> None:
    path = Path(output)
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        temporary.write_text(json.dumps(document), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _cityscapes_files(base: Path, split: str) -> list[tuple[str, Path]]:
    """Name of each image of a split relative to ``base``, and the file with its instances."""
    folder = base / "gtFine" / split
    if not folder.is_dir():
        found = sorted(path.name for path in (base / "gtFine").glob("*") if path.is_dir())
        hint = f"splits are {', '.join(found)}" if found else "unpack gtFine_trainvaltest.zip there"
        raise FileNotFoundError(f"[convert_cityscapes] the folder '{folder}' does not exist; {hint}")
    files: dict[str, Path] = {}
    for suffix in ("_gtFine_polygons.json", "_gtFine_instanceIds.png"):  # the latter wins
        for path in folder.glob(f"*/*{suffix}"):
            name = f"{path.name.removesuffix(suffix)}_leftImg8bit.png"
            files[f"leftImg8bit/{split}/{path.parent.name}/{name}"] = path
    if not files:
        raise ValueError(
            f"[convert_cityscapes] no *_gtFine_instanceIds.png and no *_gtFine_polygons.json in '{folder}/*'"
        )
    return sorted(files.items())


def _size_of(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except UnidentifiedImageError:
        raise ValueError(f"[convert_cityscapes] '{path}' is no image") from None


def _read_ids(path: Path) -> IdMap:
    try:
        with Image.open(path) as image:
            if image.mode not in ("I", "I;16", "I;16B", "L"):
                raise ValueError(
                    f"[convert_cityscapes] '{path}' has mode {image.mode}; expected one channel of 16 bits"
                )
            return np.array(image).astype(np.int64)
    except (UnidentifiedImageError, SyntaxError):
        raise ValueError(f"[convert_cityscapes] '{path}' is no PNG image") from None
    except OSError as error:
        raise OSError(f"[convert_cityscapes] '{path}': {error}") from None


def _paint_polygons(path: Path) -> IdMap:
    """Ids as in Cityscapes' instanceIds.png: objects are painted in the order of the file."""
    try:
        document = json.loads(path.read_bytes())
        size = int(document["imgWidth"]), int(document["imgHeight"])
        objects = [(str(entry["label"]), entry) for entry in document["objects"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"[convert_cityscapes] '{path}' is no Cityscapes document: {type(error).__name__} {error}"
        ) from None
    if min(size) < 1 or size[0] * size[1] > Image.MAX_IMAGE_PIXELS * 2:  # type: ignore[operator]
        raise ValueError(f"[convert_cityscapes] '{path}': the image size {size} is none")
    image = Image.new("I", size, 0)
    pen = ImageDraw.Draw(image)
    label_ids = {name: label for label, name in CITYSCAPES_CLASSES.items()}
    instances: Counter[int] = Counter()
    for label, entry in objects:
        if entry.get("deleted") or label in _TRANSPARENT:
            continue
        color = label_ids.get(label.removesuffix(_GROUP), 0)
        if not color and label not in _COVERING:
            raise ValueError(f"[convert_cityscapes] '{path}': the label '{label}' is not one of Cityscapes")
        if color and not label.endswith(_GROUP):
            instances[color] += 1
            color = color * _INSTANCES + instances[color] - 1
        pen.polygon(_points(path, entry.get("polygon")), fill=color)
    return np.array(image).astype(np.int64)


def _points(path: Path, polygon: object) -> list[tuple[float, float]]:
    try:
        points = np.asarray(polygon, np.float64)
    except (ValueError, TypeError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) < 3 or not np.isfinite(points).all():
        text = repr(polygon)[:40]
        raise ValueError(
            f"[convert_cityscapes] '{path}': the polygon {text} is not three or more points x, y"
        )
    return [(x, y) for x, y in points.tolist()]


def _instances(ids: IdMap) -> Iterator[dict[str, Any]]:
    """COCO annotations, without ids, of a map of instance ids; in the order of the ids."""
    from instseg import MaskTargets

    for value in np.unique(ids).tolist():
        crowd = value < _INSTANCES
        label = value if crowd else value // _INSTANCES
        if label not in CITYSCAPES_CLASSES:
            continue
        bitmap = ids == value
        rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
        x, y = int(columns[0]), int(rows[0])
        masks = MaskTargets.from_bitmaps(torch.from_numpy(bitmap)[None])
        yield {
            "category_id": label,
            "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
            "area": int(bitmap.sum()),
            "segmentation": masks.rle()[0],
            "iscrowd": int(crowd),
        }
