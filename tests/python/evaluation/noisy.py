# SPDX-License-Identifier: Apache-2.0
"""Detections made from ground truth by seeded edits, and pycocotools called directly."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
from pycocotools import mask as coco_mask


def document(seed, images=6, classes=4, objects=12, crowds=True):
    """A COCO document of ellipses with holes cut off, of all sizes; the last class has no object."""
    rng = np.random.default_rng(seed)
    out = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3 * k + 2, "name": f"class {k}"} for k in range(classes)],
    }
    for i in range(images):
        image = {"id": 100 - 7 * i, "file_name": f"{i}.png", "height": 240 + 16 * i, "width": 330 - 10 * i}
        out["images"].append(image)
        for _ in range(0 if i == 1 else int(rng.integers(1, objects + 1))):
            radius = np.exp(rng.uniform(np.log(4), np.log(90), 2))
            bitmap = ellipse(rng, image, radius)
            rle = encode(bitmap)
            crowd = crowds and rng.random() < 0.12
            polygon = box_polygon(coco_mask.toBbox(rle)) if rng.random() < 0.3 and not crowd else None
            out["annotations"].append(
                {
                    "id": len(out["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": out["categories"][int(rng.integers(0, classes - 1))]["id"],
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    # Annotated areas are those of the outline, not of the pixels.
                    "area": float(coco_mask.area(rle)) * rng.uniform(0.9, 1.1),
                    "iscrowd": int(crowd),
                    "segmentation": polygon or (plain(bitmap) if crowd else rle),
                }
            )
    return out


def ellipse(rng, image, radius):
    y, x = np.mgrid[: image["height"], : image["width"]]
    cx, cy = rng.uniform(0, image["width"]), rng.uniform(0, image["height"])
    inside = ((x - cx) / radius[0]) ** 2 + ((y - cy) / radius[1]) ** 2 <= 1
    inside[int(cy) % image["height"], int(cx) % image["width"]] = True
    return inside & ~((x - cx > radius[0] * 0.4) & (y % 7 < 2))


def encode(bitmap):
    rle = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()}


def plain(bitmap):
    """Run lengths as a list of numbers."""
    flat = bitmap.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return {"size": list(bitmap.shape), "counts": [0, *counts] if flat[0] else counts}


def box_polygon(box):
    x, y, w, h = (float(v) for v in box)
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def decode(segmentation, image):
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return coco_mask.decode(segmentation).astype(bool)
    made = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    return coco_mask.decode(coco_mask.merge(made) if isinstance(made, list) else made).astype(bool)


def detections(truth, seed, per_image=30, levels=0, masks=True):
    """Moved, cut and grown objects, some of another class, and some out of nowhere, with boxes and masks.

    levels: scores are rounded to 1 / levels, so many are equal; 0: not rounded.
    """
    rng = np.random.default_rng(seed)
    categories = [row["id"] for row in truth["categories"]]
    rows = []
    for image in truth["images"]:
        mine = [row for row in truth["annotations"] if row["image_id"] == image["id"]]
        shapes = [decode(row["segmentation"], image) for row in mine] if masks else [None] * len(mine)
        for _ in range(per_image):
            known = mine and rng.random() < 0.8
            k = int(rng.integers(0, len(mine))) if known else -1
            category = mine[k]["category_id"] if known and rng.random() < 0.85 else rng.choice(categories)
            score = rng.random()
            row = {
                "image_id": image["id"],
                "category_id": int(category),
                "score": round(score * levels) / levels if levels else score,
                "bbox": moved_box(rng, mine[k]["bbox"] if known else None, image),
            }
            if masks:
                row["segmentation"] = encode(moved_mask(rng, shapes[k] if known else None, image))
            rows.append(row)
    order = rng.permutation(len(rows))
    return [rows[i] for i in order]


def moved_box(rng, box, image):
    if box is None:
        x, y = rng.uniform(0, image["width"] - 5), rng.uniform(0, image["height"] - 5)
        return [x, y, rng.uniform(1, image["width"] - x), rng.uniform(1, image["height"] - y)]
    x, y, w, h = box
    if rng.random() < 0.2:
        return [x, y, w, h]
    dx, dy, dw, dh = rng.normal(0, 0.12, 4)
    return [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)]


def moved_mask(rng, shape, image):
    if shape is None:
        return ellipse(rng, image, rng.uniform(2, 60, 2))
    if rng.random() < 0.2:
        return shape
    out = np.roll(shape, rng.integers(-5, 6, 2), (0, 1))
    kind = rng.random()
    if kind < 0.3:
        return out & (rng.random(out.shape) < 0.95)
    if kind < 0.6:
        return out | np.roll(out, int(rng.integers(1, 5)), 1)
    return np.zeros_like(out) if kind > 0.98 else out


def reference(truth, rows, kind, limits):
    """COCOeval after accumulate() and, for the usual limits, summarize()."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    keys = ("image_id", "category_id", "score", "bbox" if kind == "box" else "segmentation")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy({"info": {}, **truth})
        coco.createIndex()
        found = coco.loadRes([copy.deepcopy({key: row[key] for key in keys}) for row in rows])
        run = COCOeval(coco, found, "bbox" if kind == "box" else "segm")
        run.params.maxDets = list(limits)
        run.evaluate()
        run.accumulate()
        if list(limits) == [1, 10, 100]:
            run.summarize()
    return run
