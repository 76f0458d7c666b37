# SPDX-License-Identifier: Apache-2.0
"""How much faster is the COCO evaluator of the C++ core than pycocotools, and are its numbers the same?

    python benchmarks/coco_evaluation.py [--annotations ../shared/data/coco/instances_val.json]
        [--detections 100] [--repeats 5] [--threads 1] [--json FILE]

Detections are made by seeded edits of the annotations: moved, cut, grown, of another class, or out of
nowhere. Both start from the parsed documents and end with precision, recall and scores of all classes, sizes
and limits; they take turns in one process. The documents are copied before each run, outside the time. Times
are those of the process on the CPU (of all its threads), so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from pycocotools import mask as coco_mask

from instseg.evaluation import CocoResult, compare_detections

DEFAULT = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "coco" / "instances_val.json"
MIN_RATIO = {"box": 1.0, "mask": 5.0}
ARRAYS = ("precision", "recall", "scores")


def bitmap_of(segmentation: Any, height: int, width: int) -> np.ndarray:
    made = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(coco_mask.merge(made) if isinstance(made, list) else made)


def moved(rng: np.random.Generator, bitmap: np.ndarray) -> np.ndarray:
    """Shifted by some pixels, then one pixel thinner or thicker, or with a part cut off."""
    reach = max(1, int(np.sqrt(bitmap.sum()) * 0.12))
    out = np.roll(bitmap, rng.integers(-reach, reach + 1, 2), (0, 1))
    kind = rng.random()
    if kind < 0.3:
        return out & np.roll(out, 1, 0) & np.roll(out, 1, 1)
    if kind < 0.6:
        return out | np.roll(out, 1, 0) | np.roll(out, 1, 1)
    if kind < 0.8:
        rows = np.flatnonzero(out.any(1))
        if rows.size:
            out[: rows[0] + rng.integers(0, rows.size // 3 + 1)] = 0
    return out


def noisy_detections(truth: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """COCO results with boxes and masks, ``count`` of each image."""
    rng = np.random.default_rng(0)
    categories = [row["id"] for row in truth["categories"]]
    rows = []
    for image in truth["images"]:
        mine = [row for row in truth["annotations"] if row["image_id"] == image["id"]]
        size = image["height"], image["width"]
        bitmaps = [bitmap_of(row["segmentation"], *size) for row in mine]
        for _ in range(count):
            if mine and rng.random() < 0.85:
                k = int(rng.integers(0, len(mine)))
                bitmap, category = moved(rng, bitmaps[k]), mine[k]["category_id"]
            else:
                y, x = np.ogrid[: size[0], : size[1]]
                radius = rng.uniform(4, 80, 2)
                cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
                bitmap = ((y - cy) / radius[0]) ** 2 + ((x - cx) / radius[1]) ** 2 <= 1
                category = categories[int(rng.integers(0, len(categories)))]
            if rng.random() < 0.1:
                category = categories[int(rng.integers(0, len(categories)))]
            rle = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
            rows.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "score": round(float(rng.random()), 3),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return rows


def by_pycocotools(truth: dict[str, Any], rows: list[dict[str, Any]], kind: str) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(rows), "bbox" if kind == "box" else "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def compare(
    truth: dict[str, Any], rows: list[dict[str, Any]], kind: str, repeats: int
) -> tuple[dict[str, list[float]], float, bool]:
    """CPU milliseconds of both, largest difference of the twelve numbers, whether all arrays are equal."""
    dropped = "segmentation" if kind == "box" else "bbox"
    rows = [{key: value for key, value in row.items() if key != dropped} for row in rows]
    times: dict[str, list[float]] = {"pycocotools": [], "instseg": []}
    theirs: Any = None
    ours: CocoResult | None = None
    for repeat in range(repeats + 1):  # the first warms up
        for name, spent in times.items():
            copies = copy.deepcopy({"info": {}, **truth}), copy.deepcopy(rows)
            start = time.process_time()
            if name == "instseg":
                ours = compare_detections(*copies, kind=kind)
            else:
                theirs = by_pycocotools(*copies, kind)
            if repeat > 0:
                spent.append((time.process_time() - start) * 1e3)
    assert ours is not None
    equal = all(np.array_equal(getattr(ours, name), theirs.eval[name]) for name in ARRAYS)
    difference = float(np.abs(np.array(list(ours.numbers.values())) - theirs.stats).max())
    return times, difference, equal


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotations", default=str(DEFAULT))
    parser.add_argument("--detections", type=int, default=100, help="detections an image")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    truth = json.loads(Path(args.annotations).read_text())
    rows = noisy_detections(truth, args.detections)
    result: dict[str, Any] = {
        "images": len(truth["images"]),
        "objects": len(truth["annotations"]),
        "detections": len(rows),
    }
    print(f"{result['images']} images, {result['objects']} objects, {result['detections']} detections")
    passed: dict[str, bool] = {}
    for kind, least in MIN_RATIO.items():
        times, difference, equal = compare(truth, rows, kind, args.repeats)
        medians = {name: timing.median(spent) for name, spent in times.items()}
        ratio = medians["pycocotools"] / medians["instseg"]
        for name, spent in times.items():
            print(f"{kind:6}{name:14}{timing.spread(spent)}")
        best = {f"{name} best": min(spent) for name, spent in times.items()}
        result[kind] = {
            **medians,
            **best,
            "ratio": ratio,
            "largest_difference": difference,
            "arrays_equal": equal,
        }
        passed[f"{kind}: {ratio:.1f} >= {least} times faster"] = ratio >= least
        passed[f"{kind}: largest difference of the twelve numbers {difference:.1e} <= 1e-6"] = (
            difference <= 1e-6
        )
        passed[f"{kind}: precision, recall and scores are equal bit for bit"] = equal
    for claim, holds in passed.items():
        print("PASS" if holds else "FAIL", claim)
    timing.save(args.json, result)
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
