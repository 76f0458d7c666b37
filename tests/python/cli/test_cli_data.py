# SPDX-License-Identifier: Apache-2.0
"""instseg data check: every problem of a data set is listed and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import Run
from PIL import Image


def edit(path: Path, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_sound(run: Run, dataset: tuple[Path, Path]) -> None:
    result = run("data", "check", *dataset)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{dataset[0]}: 0 problems\n"
    assert json.loads(run("data", "check", *dataset, "--json").out) == []


def test_every_problem_is_named(run: Run, dataset: tuple[Path, Path]) -> None:
    path, folder = dataset

    def damage(document: dict[str, Any]) -> None:
        rows = {row["id"]: row for row in document["annotations"]}
        rows[10]["category_id"] = 77
        rows[11]["bbox"] = [10, 10, 0, 5]
        rows[20]["bbox"] = [500, 10, 5, 5]
        del rows[30]["bbox"]
        rows[31]["image_id"] = 99

    edit(path, damage)
    (folder / "5.png").unlink()
    (folder / "6.png").write_bytes((folder / "6.png").read_bytes()[:60])
    result = run("data", "check", path, folder, "--json")
    assert result.code == 1
    problems = json.loads(result.out)
    kinds = {problem["annotation_id"]: problem["kind"] for problem in problems if problem["annotation_id"]}
    assert kinds == {
        10: "unknown_category",
        11: "empty_box",
        20: "box_outside_image",
        30: "missing_key",
        31: "unknown_image",
    }
    images = {problem["image_id"]: problem["kind"] for problem in problems if not problem["annotation_id"]}
    assert images == {5: "image_missing", 6: "image_unreadable"}

    lines = run("data", "check", path, folder).out.splitlines()
    assert len(lines) == 8 and lines[-1].endswith(": 7 problems")
    assert sum("annotation 20" in line for line in lines) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}'])
def test_unusable_file(run: Run, dataset: tuple[Path, Path], content: str) -> None:
    path, folder = dataset
    path.write_text(content)
    result = run("data", "check", path, folder)
    assert result.code == 1
    assert len(result.out.splitlines()) == 2 and path.name in result.out.splitlines()[0]


def test_missing_paths(run: Run, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments in ((tmp_path / "no.json", dataset[1]), (dataset[0], tmp_path / "nowhere")):
        result = run("data", "check", *arguments)
        assert result.code == 1 and result.out == ""
        assert len(result.err.splitlines()) == 1 and len(result.errors) == 1


def test_masks_are_demanded_when_asked_for_or_present(run: Run, dataset: tuple[Path, Path]) -> None:
    path, folder = dataset
    count = len(json.loads(path.read_text())["annotations"])
    result = run("data", "check", path, folder, "--masks", "--json")
    assert result.code == 1
    assert [problem["kind"] for problem in json.loads(result.out)] == ["mask_missing"] * count

    def two(document: dict[str, Any]) -> None:
        document["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
        for found in document["annotations"][1:]:
            x, y, w, h = found["bbox"]
            found["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]

    edit(path, two)
    result = run("data", "check", path, folder)
    assert result.code == 1 and "polygon 0 has 2 points, fewer than three" in result.out
    assert result.out.endswith(": 1 problem\n")
    assert run("data", "check", path, folder, "--no-masks").code == 0


def masks_of(path: Path) -> None:
    """Gives every object its box as polygon, and makes the first one a crowd."""

    def change(document: dict[str, Any]) -> None:
        for row in document["annotations"]:
            x, y, w, h = row["bbox"]
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        document["annotations"][0]["iscrowd"] = 1

    edit(path, change)


def test_stats(run: Run, dataset: tuple[Path, Path]) -> None:
    path, folder = dataset
    masks_of(path)
    result = run("data", "stats", path, folder, "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert (found["images"], found["objects"], found["crowds"], found["masks"]) == (6, 8, 1, 8)
    assert found["missing_files"] == 0
    text = run("data", "stats", path)
    assert text.code == 0
    assert "6 images (0 without objects), 8 objects (8 with masks), 1 crowd" in text.out
    assert "disc" in text.out and "model.targets.sizes_of_interest=" in text.out
    (folder / "1.png").unlink()
    missing = run("data", "stats", path, folder)
    assert missing.code == 1 and "1 image file missing" in missing.out


def test_plot(run: Run, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = dataset
    masks_of(path)
    names = ["samples", "objects_per_image", "box_sizes", "aspect_ratios", "classes"]
    first, second = tmp_path / "a", tmp_path / "deep" / "b"
    for output in (first, second):
        result = run("data", "plot", path, folder, "--output", output, "--count", 2, "--seed", 5)
        assert (result.code, result.err) == (0, "") and str(output) in result.out
        assert sorted(p.name for p in output.iterdir()) == sorted(f"{name}.png" for name in names)
    assert (first / "samples.png").read_bytes() == (second / "samples.png").read_bytes()
    assert run("data", "plot", path, folder, "--output", first, "--images", "6, 2").code == 0
    assert (first / "samples.png").read_bytes() != (second / "samples.png").read_bytes()


def test_plot_errors(run: Run, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = dataset
    for options, code, message in (
        (["--images", "99"], 1, "no image 99"),
        (["--images", "one"], 2, "is not a list of image ids"),
        (["--images", ","], 2, "--images is empty"),
        (["--count", "0"], 2, "--count"),
    ):
        result = run("data", "plot", path, folder, "--output", tmp_path / "out", *options)
        assert result.code == code and len(result.errors) == 1 and message in result.err
    taken = run("data", "plot", path, folder, "--output", path)
    assert taken.code == 1 and "is a file, not a folder" in taken.err
    edit(path, lambda document: document.update(images=[], annotations=[]))
    empty = run("data", "plot", path, folder, "--output", tmp_path / "out")
    assert empty.code == 1 and "has no images" in empty.err and not (tmp_path / "out").exists()


def test_convert_lvis(run: Run, dataset: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = dataset
    masks_of(path)

    def change(document: dict[str, Any]) -> None:
        for image in document["images"]:
            image["coco_url"] = f"http://host/{folder.name}/{image.pop('file_name')}"
        document["annotations"][1]["segmentation"] = [[1, 2]]
        for row in document["categories"]:
            row["frequency"] = "r"

    edit(path, change)
    result = run("data", "convert", "lvis", path, tmp_path / "out.json")
    assert (result.code, result.err) == (0, "")
    assert "6 images, 8 annotations, 2 categories (frequency: 2 r)" in result.out
    assert "left out: 1 bad_polygon" in result.out
    assert run("data", "check", tmp_path / "out.json", tmp_path).code == 0
    assert json.loads(run("data", "convert", "lvis", path, tmp_path / "o.json", "--json").out)["images"] == 6
    for arguments, message in (
        ([tmp_path / "none.json", tmp_path / "o.json"], "none.json' does not exist"),
        ([path, tmp_path / "nowhere" / "o.json"], "does not exist"),
        ([folder / "1.png", tmp_path / "o.json"], "is not JSON"),
    ):
        failed = run("data", "convert", "lvis", *arguments)
        assert failed.code == 1 and len(failed.errors) == 1 and message in failed.err


def test_convert_cityscapes(run: Run, tmp_path: Path) -> None:
    for kind, name in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds")):
        (tmp_path / kind / "val" / "ulm").mkdir(parents=True)
        pixels = np.zeros((20, 30), np.uint16 if kind == "gtFine" else np.uint8)
        pixels[5:15, 8:20] = 24000 if kind == "gtFine" else 90
        Image.fromarray(pixels).save(tmp_path / kind / "val" / "ulm" / f"ulm_0_1_{name}.png")
    out = tmp_path / "out.json"
    result = run("data", "convert", "cityscapes", tmp_path, out, "--split", "val")
    assert (result.code, result.err) == (0, "")
    assert "1 image, 1 annotation (0 crowds), 8 categories" in result.out
    assert run("data", "check", out, tmp_path).code == 0
    failed = run("data", "convert", "cityscapes", tmp_path, out)
    assert failed.code == 1 and len(failed.errors) == 1 and "splits are val" in failed.err
