# SPDX-License-Identifier: Apache-2.0
"""instseg train and instseg eval on a handful of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_helpers import CONFIG, Run

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


@pytest.fixture
def recipe(tmp_path: Path, dataset: tuple[Path, Path]) -> Path:
    annotations, images = dataset
    split = {"annotations": str(annotations), "images": str(images)}
    model = {key: CONFIG[key] for key in ("input", "backbone", "neck", "head", "targets")}
    values = {
        "model": model,
        "data": {"train": split, "val": split, "short_sides": [64], "long_side": 96, "workers": 0},
        "solver": {"batch_size": 2, "iterations": 2, "milestones": [1], "warmup_iterations": 0},
        "device": "cpu",
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_train_writes_a_model_and_resumes(run: Run, recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    result = run("train", recipe, "solver.iterations=3", "--output", output)
    assert result.code == 0, result.err
    model = output / "model.safetensors"
    info = json.loads(run("info", model, "--json").out)
    assert info["class_names"] == ["disc", "square"]
    assert info["config"]["category_ids"] == [5, 9]
    assert info["summary"]["iteration"] == 3

    written = model.stat().st_mtime_ns
    assert run("train", recipe, "solver.iterations=3", "--output", output).code == 0
    assert model.stat().st_mtime_ns == written, "a finished run must be reused"
    assert run("train", recipe, "solver.iterations=3", "--output", output, "--no-resume").code == 0
    assert model.stat().st_mtime_ns > written


def test_train_with_short_forms(run: Run, recipe: Path, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    """The fixture's images are in the folder `images` beside the JSON file."""
    annotations, images = dataset
    values = yaml.safe_load(recipe.read_text())
    values["data"].update(train=None, val=None)
    recipe.write_text(yaml.safe_dump(values))
    splits = [f"data.train={annotations}", f"data.val={annotations}:{images}"]
    result = run("train", recipe, *splits, "--output", tmp_path / "run")
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    split = {"annotations": str(annotations), "images": str(images)}
    assert summary["recipe"]["data"]["train"] == summary["recipe"]["data"]["val"] == split
    assert summary["metrics"] is not None
    missing = run("train", recipe, "data.train=/no/such.json", "--output", tmp_path / "a")
    assert missing.code == 1 and len(missing.errors) == 1 and "/no/such.json" in missing.err
    edited = json.loads(annotations.read_text())
    annotations.write_text(json.dumps({**edited, "annotations": []}))
    empty = run("train", recipe, *splits, "--output", tmp_path / "b")
    assert empty.code == 1 and len(empty.errors) == 1 and "no image with objects" in empty.err


def test_train_errors(run: Run, recipe: Path, tmp_path: Path) -> None:
    missing = run("train", recipe, "data.train.images=/no/such/folder", "--output", tmp_path / "a")
    assert missing.code == 1 and len(missing.errors) == 1 and "/no/such/folder" in missing.err
    (tmp_path / "file").write_text("")
    taken = run("train", recipe, "--output", tmp_path / "file")
    assert taken.code == 1 and len(taken.errors) == 1 and "file" in taken.err


def test_eval(run: Run, model_file: Path, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    annotations, images = dataset
    numbers_file, detections_file = tmp_path / "ap.json", tmp_path / "detections.json"
    options = ["--annotations", annotations, "--images", images]
    result = run("eval", model_file, *options, "--json", numbers_file, "--detections", detections_file)
    assert result.code == 0, result.err
    numbers = json.loads(numbers_file.read_text())
    assert list(numbers) == KEYS
    assert all(-1 <= value <= 1 for value in numbers.values())
    lines = result.out.splitlines()
    assert [line.split()[0].rstrip(":") for line in lines][:3] == ["AP", "AP50", "AP75"]
    assert len(lines) == 12
    detections = json.loads(detections_file.read_text())
    assert len(detections) > 0
    for detection in detections:
        assert {"image_id", "category_id", "bbox", "score"} <= set(detection)
        assert detection["category_id"] in (5, 9)


def test_eval_of_masks(run: Run, mask_model_file: Path, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    annotations, images = dataset
    document = json.loads(annotations.read_text())
    for found in document["annotations"]:
        x, y, w, h = found["bbox"]
        found["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    annotations.write_text(json.dumps(document))
    numbers_file, detections_file = tmp_path / "ap.json", tmp_path / "detections.json"
    options = ["--annotations", annotations, "--images", images]
    result = run("eval", mask_model_file, *options, "--json", numbers_file, "--detections", detections_file)
    assert result.code == 0 and result.err == "", result.err
    boxes, masks = result.out.split("\nmasks\n")
    tables = [[line.split()[0] for line in text.strip().splitlines()] for text in (boxes, masks)]
    assert len(tables[0]) == 12 and tables[0] == tables[1]
    numbers = json.loads(numbers_file.read_text())
    assert list(numbers) == [*KEYS, *(f"mask_{key}" for key in KEYS)]
    assert masks.splitlines()[0].endswith(f"{numbers['mask_AP']:.4f}")
    detections = json.loads(detections_file.read_text())
    assert detections and all(found["segmentation"]["size"] == [64, 96] for found in detections)


def test_eval_of_masks_without_any(run: Run, mask_model_file: Path, dataset: tuple[Path, Path]) -> None:
    annotations, images = dataset
    result = run("eval", mask_model_file, "--annotations", annotations, "--images", images)
    assert result.code == 0
    assert result.err == (
        f"instseg: warning: '{annotations}' has no usable masks; only boxes are evaluated\n"
    )
    assert len(result.out.splitlines()) == 12 and "masks" not in result.out


def test_eval_of_a_folder_with_a_broken_image(run: Run, model_file: Path, dataset: tuple[Path, Path]) -> None:
    annotations, images = dataset
    (images / "3.png").write_bytes(b"")
    result = run("eval", model_file, "--annotations", annotations, "--images", images)
    assert result.code == 1
    assert len(result.errors) == 1 and "3.png" in result.err
    assert len(result.out.splitlines()) == 12, "the other images are evaluated"


@pytest.mark.parametrize("bad", [2, 30])
def test_eval_of_bad_annotations(run: Run, model_file: Path, dataset: tuple[Path, Path], bad: int) -> None:
    annotations, images = dataset
    document = json.loads(annotations.read_text())
    broken = {"image_id": 1, "category_id": 77, "bbox": [1, 1, 5, 5]}
    document["annotations"] += [{"id": 1000 + i, **broken} for i in range(bad)]
    annotations.write_text(json.dumps(document))
    result = run("eval", model_file, "--annotations", annotations, "--images", images)
    assert result.code == 1
    assert len(result.out.splitlines()) == 12, "the other annotations are evaluated"
    assert "annotation 1000: category id 77" in result.errors[0]
    assert len(result.errors) == min(bad, 21)
    if bad > 20:
        assert "and 10 more problems" in result.errors[-1] and "instances.json" in result.errors[-1]


def test_eval_errors(run: Run, model_file: Path, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    annotations, images = dataset
    nowhere = tmp_path / "nowhere"
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [')
    cases: list[tuple[Path, Path, Path, str]] = [
        (nowhere, annotations, images, "model file"),
        (model_file, nowhere, images, "nowhere"),
        (model_file, annotations, nowhere, "nowhere"),
        (model_file, broken, images, "broken.json"),
        (model_file, annotations, annotations, "instances.json"),
    ]
    for model, json_file, folder, expected in cases:
        result = run("eval", model, "--annotations", json_file, "--images", folder)
        assert result.code == 1
        assert len(result.err.splitlines()) == 1 and len(result.errors) == 1
        assert expected in result.err
