# SPDX-License-Identifier: Apache-2.0
"""instseg data check: every problem of a data set is listed and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Run


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
