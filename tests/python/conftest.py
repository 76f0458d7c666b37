# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by the Python tests."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeDataset = Callable[..., tuple[Path, Path]]


@pytest.fixture
def make_dataset(tmp_path: Path, make_datasets: MakeDataset) -> MakeDataset:
    """Writes a small COCO dataset of bright rectangles (ids 3 and 7); returns JSON file and folder."""
    return functools.partial(make_datasets, tmp_path)


@pytest.fixture(scope="session")
def make_datasets() -> MakeDataset:
    """The same for tests that share a dataset; takes the folder first."""
    from PIL import Image

    def make(
        parent: Path,
        sizes: Sequence[tuple[int, int]] = ((64, 96), (64, 96), (96, 64), (96, 64)),  # height, width
        objects: int = 2,
        edit: Callable[[dict[str, Any]], None] | None = None,
        name: str = "dataset",
    ) -> tuple[Path, Path]:
        rng = np.random.default_rng(7)
        folder = parent / name / "images"
        folder.mkdir(parents=True)
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "round"}, {"id": 3, "name": "square"}],
        }
        for i, (height, width) in enumerate(sizes):
            pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            for _ in range(objects):
                w, h = rng.integers(12, 30, 2).tolist()
                x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
                pixels[y : y + h, x : x + w] = rng.integers(180, 250, 3)
                annotation = {
                    "id": len(document["annotations"]) + 1,
                    "image_id": 10 + i,
                    "category_id": 3 if len(document["annotations"]) % 2 else 7,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
                document["annotations"].append(annotation)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            document["images"].append(
                {"id": 10 + i, "file_name": f"{i}.png", "width": width, "height": height}
            )
        if edit is not None:
            edit(document)
        path = parent / name / "instances.json"
        path.write_text(json.dumps(document))
        return path, folder

    return make
