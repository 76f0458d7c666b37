# SPDX-License-Identifier: Apache-2.0
"""A tiny recipe, how to run it and what it leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from instseg.recipe import Recipe, parse_recipe
from instseg.training import Trainer

# Columns of log.csv that differ from run to run.
TIMES = ("images_per_second", "seconds", "data_seconds", "peak_memory_mb")

MODEL = {
    "preset": "fcos_efficientnet_lite0",
    "input": {"short_side": 64, "long_side": 128},
    "neck": {"channels": 32},
    "head": {"cls_convs": 1, "box_convs": 1},
    "post": {"max_detections": 50},
}

SMALL = {"branch_channels": 16, "branch_convs": 1}
BOXINST = {**SMALL, "supervision": "boxes", "topk_per_image": 64, "max_proposals": 0}

CONDINST = {"family": "condinst", "condinst": {**SMALL, "semantic": True}}
BLENDMASK = {"family": "blendmask", "blendmask": SMALL}

# Objects of about 20 px in images of 64.
_SOLO = {
    "convs": 1,
    "channels": 32,
    "mask_channels": 32,
    "branch_channels": 32,
    "grids": [8, 6, 4, 3, 2],
    "min_scales": [1, 16, 32, 64, 128],
    "max_scales": [32, 64, 128, 256, 2048],
}


def solo(preset: str) -> dict[str, Any]:
    # Masks that begin at 0.01, or its square, hardly move in a few iterations.
    head = {"prior_prob": 0.3}
    return {"family": "solo", "preset": preset, "neck": {"channels": 32}, "solo": _SOLO, "head": head}


SOLO = solo("decoupled_solo_light_lite0")
SOLOV2 = solo("solov2_lite0")


def recipe_of(files, **changes: Any) -> Recipe:
    annotations, folder = map(str, files)
    split = {"annotations": annotations, "images": folder}
    values: dict[str, Any] = {
        "name": "tiny",
        "model": MODEL,
        "data": {"train": split, "short_sides": [48, 64], "long_side": 128, "workers": 0},
        "solver": {
            "base_lr": 0.005,
            "batch_size": 2,
            "iterations": 6,
            "milestones": [4],
            "warmup_iterations": 2,
        },
        "log_every": 1,
        "checkpoint_every": 100,
        "device": "cpu",
    }
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            values[section] = {**values[section], field: value}
        else:
            values[section] = value
    return parse_recipe(values)


def log_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in TIMES:
            row.pop(name)
    return rows


def run(recipe: Recipe, folder: Path, **options: Any) -> dict[str, Any]:
    return Trainer(recipe, folder, quiet=True, **options).run()


def with_segmentations(files) -> None:
    """Gives every object its box as polygon."""
    document = json.loads(files[0].read_text())
    for found in document["annotations"]:
        x, y, w, h = found["bbox"]
        found["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    files[0].write_text(json.dumps(document))
