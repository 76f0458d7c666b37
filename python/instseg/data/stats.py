# SPDX-License-Identifier: Apache-2.0
"""Counts and sizes of a dataset, and what they suggest for a recipe."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instseg.data.cache import Cache, load_index
from instseg.data.index import PackedIndex

# Squared pixels: COCO's bounds of small, medium and large objects.
SMALL, MEDIUM = 32.0**2, 96.0**2

# An object's sqrt(width * height) in the network image below which detectors of stride 8 miss most (px).
SMALLEST_SIDE = 16
# Short sides that are suggested lie between these (px), in steps of the network's padding.
SHORT_SIDES = (256, 1024)
STEP = 32

_QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}

Values = npt.NDArray[np.float64]


def dataset_stats(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    cache: Cache = True,
) -> dict[str, Any]:
    """Numbers of a COCO JSON file. Objects are the annotations that are no crowd.

    Args:
        images: the image folder; files that are missing there are counted.
        cache: as CocoDataset.

    Returns:
        images, empty_images (without object), objects, crowds, masks (objects with one), problems,
        missing_files (None without ``images``), image_width, image_height, objects_per_image, box_width,
        box_height, box_size (sqrt(width * height)), aspect_ratio (width / height): each min, p5, p25, median,
        mean, p75, p95, max, or None; areas: objects small (area < 32^2 px), medium (< 96^2) and large;
        classes: id, name, objects, images of each; advice (see recommendations).

    Raises OSError and ValueError as CocoDataset.
    """
    index = load_index(Path(annotations), True, cache)
    a = index.arrays
    of_image = np.repeat(np.arange(len(index)), np.diff(a["first"]))
    objects = ~a["crowd"]
    per_image = np.bincount(of_image[objects], minlength=len(index))
    sides = (a["box"][:, 2:] - a["box"][:, :2])[objects]
    area = a["area"][objects]
    missing = None
    if images is not None:
        missing = sum(not (Path(images) / index.image(i).file_name).is_file() for i in range(len(index)))
    stats: dict[str, Any] = {
        "images": len(index),
        "empty_images": int((per_image == 0).sum()),
        "objects": int(objects.sum()),
        "crowds": int(a["crowd"].sum()),
        "masks": int((a["has_mask"] & objects).sum()),
        "problems": sum(problem.kind != "mask_missing" for problem in index.problems),
        "missing_files": missing,
        "image_width": summary(a["image_size"][:, 1]),
        "image_height": summary(a["image_size"][:, 0]),
        "objects_per_image": summary(per_image),
        "box_width": summary(sides[:, 0]),
        "box_height": summary(sides[:, 1]),
        "box_size": summary(np.sqrt(sides.prod(axis=1))),
        "aspect_ratio": summary(sides[:, 0] / sides[:, 1]),
        "areas": {
            "small": int((area < SMALL).sum()),
            "medium": int(((area >= SMALL) & (area < MEDIUM)).sum()),
            "large": int((area >= MEDIUM).sum()),
        },
        "classes": _classes(index, of_image),
    }
    relative = sides / a["image_size"].min(axis=1)[of_image[objects]][:, None]
    most = int(per_image.max()) if len(per_image) else 0
    stats["advice"] = recommendations(relative, most, stats["classes"])
    return stats


def summary(values: Sequence[float] | npt.NDArray[Any]) -> dict[str, float] | None:
    """min, p5, p25, median, mean, p75, p95 and max of numbers; None when there are none."""
    if not len(values):
        return None
    found = np.quantile(values, list(_QUANTILES.values())).tolist()
    named = dict(zip(_QUANTILES, found, strict=True))
    named |= {"min": float(np.min(values)), "mean": float(np.mean(values)), "max": float(np.max(values))}
    order = ("min", "p5", "p25", "median", "mean", "p75", "p95", "max")
    return {name: round(named[name], 3) for name in order}


def _classes(index: PackedIndex, of_image: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    a = index.arrays
    rows = []
    for category in sorted(index.categories):
        found = (a["category"] == category) & ~a["crowd"]
        rows.append(
            {
                "id": category,
                "name": index.categories[category],
                "objects": int(found.sum()),
                "images": len(np.unique(of_image[found])),
            }
        )
    return rows


def recommendations(
    relative: Values, most_objects: int, classes: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What the sizes of the objects suggest for a recipe; a starting point, no more.

    Args:
        relative: width and height [N, 2] of the boxes, in parts of their image's short side.
        most_objects: in one image.
        classes: with name and objects of each.

    Returns:
        short_side: at which 90 % of the objects are at least 16 px large (sqrt(width * height)), a multiple
        of 32 in 256 .. 1024; sizes_of_interest: of the levels of FCOS, so that about half of the objects are
        on the first one and the largest on the last; settings: these and others as "key=value" of a recipe;
        notes: what no setting mends. Empty without objects.
    """
    if not len(relative):
        return {"short_side": None, "sizes_of_interest": None, "settings": [], "notes": ["no objects"]}
    notes = []
    tenth = float(np.quantile(np.sqrt(relative.prod(axis=1)), 0.1))
    wanted = math.ceil(SMALLEST_SIDE / tenth / STEP) * STEP
    short_side = min(max(wanted, SHORT_SIDES[0]), SHORT_SIDES[1])
    if wanted > short_side:
        notes.append(
            f"a tenth of the objects is smaller than {tenth * short_side:.0f} px even at a short side of "
            f"{short_side}; cut the images into tiles"
        )
    longer = relative.max(axis=1) * short_side
    first = min(max(math.ceil(float(np.median(longer)) / 8) * 8, 16), 64)
    levels = [first, 2 * first]
    while len(levels) < 4 and float(np.quantile(longer, 0.95)) > 2 * levels[-1]:
        levels.append(2 * levels[-1])
    settings = [
        f"data.short_sides=[{short_side}]",
        f"data.long_side={2 * short_side}",
        f"model.input.short_side={short_side}",
        f"model.input.long_side={2 * short_side}",
        f"model.neck.max_level={3 + len(levels)}",
        f"model.targets.sizes_of_interest=[{','.join(map(str, levels))}]",
    ]
    if most_objects > 100:
        settings.append(f"model.post.max_detections={math.ceil(most_objects / 50) * 50}")
    for text, rare in (
        ("no object", [row["name"] for row in classes if row["objects"] == 0]),
        ("fewer than 20 objects", [row["name"] for row in classes if 0 < row["objects"] < 20]),
    ):
        if rare:
            shown = ", ".join(rare[:8]) + (f", ... ({len(rare)})" if len(rare) > 8 else "")
            notes.append(f"classes with {text}: {shown}")
    return {"short_side": short_side, "sizes_of_interest": levels, "settings": settings, "notes": notes}
