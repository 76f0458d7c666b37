# SPDX-License-Identifier: Apache-2.0
"""instseg eval: detections of other tools, several processes, classes, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Run
from PIL import Image

from instseg.evaluation import evaluate_detections

Files = tuple[Path, Path, Path]


def polygon(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def files(dataset: tuple[Path, Path], tmp_path: Path) -> Files:
    """Ground truth with masks, COCO results with some mistakes, image folder."""
    annotations, images = dataset
    document = json.loads(annotations.read_text())
    rows = []
    for i, found in enumerate(document["annotations"]):
        found["segmentation"] = polygon(found["bbox"])
        box = [found["bbox"][0] + i, *found["bbox"][1:]]
        row = {"image_id": found["image_id"], "category_id": found["category_id"], "score": 0.9 - i / 20}
        if i == 4:
            row["category_id"] = 14 - row["category_id"]
        if i != 5:
            rows.append({**row, "bbox": box, "segmentation": polygon(box)})
    rows.append({**rows[0], "score": 0.85})
    rows.append(
        {**rows[1], "score": 0.7, "bbox": [60, 45, 10, 12], "segmentation": polygon([60, 45, 10, 12])}
    )
    annotations.write_text(json.dumps(document))
    detections = tmp_path / "found.json"
    detections.write_text(json.dumps(rows))
    return annotations, detections, images


def test_results_of_another_tool(run: Run, files: Files, tmp_path: Path) -> None:
    gt, dt, _ = files
    numbers_file = tmp_path / "ap.json"
    result = run("eval", "--gt", gt, "--dt", dt, "--json", numbers_file, "--classes")
    assert result.code == 0 and result.err == "", result.err
    numbers = json.loads(numbers_file.read_text())
    for kind, prefix in (("box", ""), ("mask", "mask_")):
        expected = evaluate_detections(gt, dt, kind=kind, evaluator="pycocotools")
        assert {key: numbers[prefix + key] for key in expected} == expected
    assert 0.1 < numbers["AP"] < 0.9
    boxes, box_classes, masks, _ = result.out.split("\n\n")
    assert boxes.splitlines()[0].split() == ["AP", "IoU", "0.50:0.95", f"{numbers['AP']:.4f}"]
    assert masks.startswith("masks\nAP ")
    header, disc, square = (line.split() for line in box_classes.splitlines())
    assert header == ["class", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "objects"]
    assert (disc[0], disc[-1], square[0], square[-1]) == ("disc", "6", "square", "3")
    row = numbers["classes"]["box"][0]
    assert disc[1:3] == [f"{row['AP']:.4f}", f"{row['AP50']:.4f}"] and disc[6] == "-"

    same = run("eval", "--gt", gt, "--dt", dt, "--classes", "--evaluator", "pycocotools")
    assert (same.code, same.out) == (0, result.out)
    only = run("eval", "--gt", gt, "--dt", dt, "--kind", "mask", "--max-detections", "1", "--json", "-")
    assert only.out.startswith("masks\n") and '"mask_AP"' in only.out and '"AP"' not in only.out


def test_kinds_are_found_in_the_files(run: Run, files: Files) -> None:
    gt, dt, _ = files
    rows = json.loads(dt.read_text())
    both = run("eval", "--gt", gt, "--dt", dt).out
    dt.write_text(json.dumps([{k: v for k, v in row.items() if k != "segmentation"} for row in rows]))
    assert run("eval", "--gt", gt, "--dt", dt).out == both.split("\n\nmasks")[0] + "\n"
    dt.write_text(json.dumps([{k: v for k, v in row.items() if k != "bbox"} for row in rows]))
    assert run("eval", "--gt", gt, "--dt", dt).out == "masks" + both.split("\n\nmasks")[1]
    dt.write_text(json.dumps(rows))
    document = json.loads(gt.read_text())
    for row in document["annotations"]:
        del row["segmentation"]
    gt.write_text(json.dumps(document))
    bare = run("eval", "--gt", gt, "--dt", dt)
    assert bare.code == 0 and "masks" not in bare.out
    assert bare.err == f"instseg: warning: '{gt}' has no masks; only boxes are evaluated\n"
    dt.write_text("[]")
    empty = run("eval", "--gt", gt, "--dt", dt)
    assert empty.code == 0 and empty.out.splitlines()[0].endswith("0.0000")


def test_pictures(run: Run, files: Files, tmp_path: Path) -> None:
    gt, dt, images = files
    folder = tmp_path / "mistakes"
    result = run("eval", "--gt", gt, "--dt", dt, "--images", images, "--pictures", folder)
    assert result.code == 0, result.err
    names = {f"{k}_{n}.png" for k in ("box", "mask") for n in ("precision_recall", "false_positives")}
    names |= {f"{k}_false_negatives.png" for k in ("box", "mask")}
    assert {path.name for path in folder.iterdir()} == names
    assert set(result.out.split("\n\n")[-1].split()) == {str(folder / name) for name in names}
    plain = tmp_path / "curves"
    assert run("eval", "--gt", gt, "--dt", dt, "--pictures", plain).code == 0
    assert {path.name for path in plain.iterdir()} == {
        "box_precision_recall.png",
        "mask_precision_recall.png",
    }
    with Image.open(plain / "box_precision_recall.png") as curves:
        assert curves.size == (520, 420)


def test_a_model_in_two_processes(run: Run, mask_model_file: Path, files: Files, tmp_path: Path) -> None:
    annotations, _, images = files
    (images / "3.png").write_bytes(b"")
    outputs = []
    for workers in (1, 2):
        found = tmp_path / f"found{workers}.json"
        options = ["--annotations", annotations, "--images", images, "--detections", found]
        options += ["--workers", workers, "--pictures", tmp_path / f"pictures{workers}"]
        result = run("eval", mask_model_file, *options)
        assert result.code == 1 and len(result.errors) == 1 and "3.png" in result.err
        assert (tmp_path / f"pictures{workers}" / "mask_false_negatives.png").is_file()
        outputs.append((result.out.replace(f"pictures{workers}", ""), found.read_text()))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda row: row.pop("score"), "detection 1 has no 'score'"),
        (lambda row: row.pop("bbox"), "detection 1 has no 'bbox'"),
        (lambda row: row.update(image_id=99), "image 99 which is not in the ground truth"),
        (lambda row: row.update(score=float("nan")), "score of detection 1 is nan"),
        (lambda row: row.update(bbox=[1, 2, 3]), "detection 1 has bbox [1, 2, 3]"),
        (
            lambda row: row.update(segmentation={"size": [5, 5], "counts": [25]}),
            "run lengths of size 5x5 for an image of 64x96",
        ),
        (lambda row: row.update(segmentation={"size": [64, 96]}), "no 'size' and 'counts'"),
        (lambda row: row.update(segmentation={"size": [64, 96], "counts": "~"}), "character 0"),
    ],
)
def test_bad_detections(run: Run, files: Files, edit: Any, text: str) -> None:
    gt, dt, _ = files
    rows = json.loads(dt.read_text())
    edit(rows[1])
    dt.write_text(json.dumps(rows))
    result = run("eval", "--gt", gt, "--dt", dt)
    assert result.code == 1 and len(result.err.splitlines()) == 1 and text in result.err


def test_bad_files_and_command_lines(run: Run, files: Files, model_file: Path, tmp_path: Path) -> None:
    gt, dt, images = files
    nowhere, text, number = tmp_path / "nowhere", tmp_path / "text", tmp_path / "number"
    text.write_text("no JSON")
    number.write_text("3")
    model = [model_file, "--annotations", gt, "--images", images]
    cases: list[tuple[list[Any], int, str]] = [
        (["--gt", nowhere, "--dt", dt], 1, f"annotation file '{nowhere}' does not exist"),
        (["--gt", gt, "--dt", nowhere], 1, f"detections file '{nowhere}' does not exist"),
        (["--gt", gt, "--dt", text], 1, f"'{text}' is not JSON"),
        (["--gt", text, "--dt", dt, "--kind", "box"], 1, f"'{text}' is not JSON"),
        (["--gt", gt, "--dt", number], 1, f"'{number}' holds a int"),
        (["--gt", gt, "--dt", gt], 1, "must be a list of COCO results"),
        (["--gt", dt, "--dt", dt, "--kind", "box"], 1, "is not a COCO document"),
        (["--gt", gt, "--dt", dt, "--images", nowhere], 1, f"image folder '{nowhere}' does not exist"),
        (["--gt", gt], 2, "--dt is missing"),
        (["--dt", dt], 2, "--gt is missing"),
        ([], 2, "eval needs MODEL"),
        ([*model, "--gt", gt], 2, "--gt goes without MODEL"),
        ([*model, "--kind", "mask"], 2, "--kind goes with --gt and --dt"),
        (model[:3], 2, "--images is missing"),
        ([*model, "--workers", "0"], 2, "--workers must be positive, got 0"),
        ([*model, "--evaluator", "coco"], 2, "--evaluator must be instseg or pycocotools, got 'coco'"),
        (["--gt", gt, "--dt", dt, "--workers", "2"], 2, "--workers goes with MODEL"),
        (["--gt", gt, "--dt", dt, "--kind", "segm"], 2, "--kind must be box, mask or auto, got 'segm'"),
        (["--gt", gt, "--dt", dt, "--max-detections", "0"], 2, "--max-detections must be positive, got 0"),
        (["--gt", gt, "--dt", dt, "--pictures", text], 1, "is a file, not a folder"),
    ]
    for arguments, code, expected in cases:
        result = run("eval", *arguments)
        assert (result.code, len(result.err.splitlines())) == (code, 1), (arguments, result)
        assert expected in result.err, (arguments, result.err)
