# SPDX-License-Identifier: Apache-2.0
"""How long a COCO file takes to open: parsed, and mapped from the cache."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from timing import machine, measure, median, save, spread

from instseg.data import CocoDataset

HEIGHT, WIDTH = 480, 640


def write_file(path: Path, annotations: int, per_image: int, points: int) -> None:
    """Star-shaped polygons of random place and size."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    images = -(-annotations // per_image)
    rows = []
    for own in range(annotations):
        x, y, size = rng.uniform(60, WIDTH - 60), rng.uniform(60, HEIGHT - 60), rng.uniform(8, 50)
        radius = size * rng.uniform(0.7, 1, points)
        ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).round(2)
        low, high = ring.min(0), ring.max(0)
        rows.append(
            {
                "id": own + 1,
                "image_id": own // per_image + 1,
                "category_id": own % 80 + 1,
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "area": float(np.prod(high - low)),
                "iscrowd": 0,
                "segmentation": [ring.ravel().tolist()],
            }
        )
    document = {
        "images": [
            {"id": i + 1, "file_name": f"{i:012}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in range(images)
        ],
        "annotations": rows,
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(80)],
    }
    path.write_text(json.dumps(document))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=20_000)
    parser.add_argument("--per-image", type=int, default=7)
    parser.add_argument("--points", type=int, default=24, help="of each polygon")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the numbers here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "instances.json"
        write_file(path, arguments.annotations, arguments.per_image, arguments.points)

        def open_(cache: Path | bool) -> CocoDataset:
            return CocoDataset(path, folder, masks=True, cache=cache)

        fresh, cached = open_(False), open_(folder / "cache")
        same = fresh.ground_truth() == cached.ground_truth() and fresh.num_objects == cached.num_objects
        assert same, "the cached data set differs"
        times = measure(
            {"parsed": lambda: open_(False), "cached": lambda: open_(folder / "cache")},
            arguments.repeats,
            warmup=1,
        )
        (entry,) = (folder / "cache").iterdir()
        sizes = {"json_bytes": path.stat().st_size, "cache_bytes": entry.stat().st_size}
    ratio = median(times["parsed"]) / median(times["cached"])
    print(f"{arguments.annotations} annotations, {sizes['json_bytes'] / 1e6:.1f} MB of JSON")
    print(f"parsed {spread(times['parsed'])}")
    print(f"cached {spread(times['cached'])}, {ratio:.0f} times as fast, {sizes['cache_bytes'] / 1e6:.1f} MB")
    save(arguments.json, {"machine": machine(), **vars(arguments), **sizes, "ratio": ratio, "ms": times})


if __name__ == "__main__":
    main()
