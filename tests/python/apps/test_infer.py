# SPDX-License-Identifier: Apache-2.0
"""The native program instseg-infer: same results as the Python API, and its errors and exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import instseg
from instseg._bin import native_root

PROGRAM = native_root() / "bin" / "instseg-infer"
SCORE = 0.2
CONFIG: dict[str, Any] = {
    "num_classes": 3,
    "class_names": ["ant", "bee", "cat"],
    "category_ids": [7, 11, 13],
    "input": {"short_side": 96, "long_side": 160},
    "backbone": {"name": "resnet18", "norm": "bn_eval", "freeze": 0, "stride_in_1x1": False},
    "neck": {"channels": 32},
    "head": {"cls_convs": 1, "box_convs": 1, "prior_prob": 0.2},
}


MASK_FAMILIES: dict[str, dict[str, Any]] = {
    "condinst": {"branch_channels": 16, "branch_convs": 1},
    "blendmask": {"branch_channels": 16, "branch_convs": 1, "attention_size": 5, "mask_size": 20},
}


def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("instseg-infer: ")]


def write_model(path: Path, **changes: Any) -> Path:
    """A small random model whose scores spread over 0..1."""
    torch.manual_seed(0)
    net = instseg.Model({**CONFIG, **changes})
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith(("cls_logits.weight", "centerness.weight", "box_pred.weight")):
                value.mul_(40)
            if name.startswith(("controller.weight", "top_layer.weight")):
                value.mul_(40)
    net.save(str(path))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a colour JPEG, a colour PNG and a grey PNG of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((200, 150), Image.Resampling.BICUBIC)
    picture.save(folder / "a.jpg", quality=90)
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "b.png")
    picture.convert("L").crop((0, 0, 120, 90)).save(folder / "c.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def detections(document: dict[str, Any], index: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    rows = document["images"][index]["detections"]
    boxes = torch.tensor([row["box"] for row in rows]).reshape(-1, 4)
    return boxes, torch.tensor([row["score"] for row in rows]), [row["label"] for row in rows]


def test_agrees_with_python(model: Path, images: Path) -> None:
    result = run(model, images, "--score", SCORE, "--json", "-", "--threads", torch.get_num_threads())
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["model"] == "tiny.safetensors"
    assert document["errors"] == []
    files = [Path(entry["file"]) for entry in document["images"]]
    assert files == [images / "a.jpg", images / "b.png", images / "c.png"]
    predictor = instseg.Predictor(str(model), score_threshold=SCORE)
    for index, file in enumerate(files):
        expected = predictor(str(file))
        boxes, scores, labels = detections(document, index)
        assert len(expected) > 5, "the test model must detect something"
        assert labels == expected.labels.tolist()
        torch.testing.assert_close(boxes, expected.boxes, atol=0.01, rtol=0)
        torch.testing.assert_close(scores, expected.scores, atol=1e-5, rtol=0)
        assert (scores >= SCORE).all()
        entry = document["images"][index]
        assert (entry["height"], entry["width"]) == tuple(expected.image_size)
        row = entry["detections"][0]
        assert row["class"] == CONFIG["class_names"][labels[0]]
        assert row["category_id"] == CONFIG["category_ids"][labels[0]]


@pytest.mark.parametrize("family", MASK_FAMILIES)
def test_masks_and_pictures_are_those_of_python(family: str, images: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "masks.safetensors", family=family, **{family: MASK_FAMILIES[family]})
    document = tmp_path / "found.json"
    threads = ("--threads", torch.get_num_threads())
    result = run(model, images, "--score", SCORE, "--output", tmp_path / "out", "--json", document, *threads)
    assert result.returncode == 0, result.stderr
    predictor = instseg.Predictor(str(model), score_threshold=SCORE)
    for entry in json.loads(document.read_text())["images"]:
        file = Path(entry["file"])
        expected = predictor(str(file))
        areas = expected.area()
        assert len(expected) > 5 and bool((areas > 0).any())
        assert [row["mask"] for row in entry["detections"]] == expected.rle()
        assert [row["area"] for row in entry["detections"]] == areas.tolist()
        picture = tmp_path / f"python{file.suffix}"
        expected.save_plot(str(picture), instseg.read_image(str(file)), score_threshold=SCORE)
        assert picture.read_bytes() == (tmp_path / "out" / file.name).read_bytes()


def test_writes_pictures_and_document(model: Path, images: Path, tmp_path: Path) -> None:
    document = tmp_path / "found.json"
    result = run(
        model, images, images / "a.jpg", "--score", SCORE, "--output", tmp_path / "out", "--json", document
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.jpg",
        "a_2.jpg",
        "b.png",
        "c.png",
    ]
    with Image.open(images / "b.png") as before, Image.open(tmp_path / "out" / "b.png") as after:
        assert before.size == after.size
        assert np.any(np.asarray(before) != np.asarray(after)), "nothing was drawn"
    assert len(json.loads(document.read_text())["images"]) == 4
    assert "4 of 4 images done" in result.stderr
    assert "ms per image: decode" in result.stderr


def test_lists_detections_without_output_options(model: Path, images: Path) -> None:
    result = run(model, images / "c.png", "--score", SCORE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].startswith(f"{images / 'c.png'}  120x90  ")
    assert any(name in result.stdout for name in CONFIG["class_names"])
    assert "\r" not in result.stderr, "progress belongs on terminals only"


def test_no_masks_leaves_boxes_alone(model: Path, images: Path) -> None:
    plain, without = (
        run(model, images / "c.png", "--score", SCORE, "--json", "-", *options)
        for options in ([], ["--no-masks"])
    )
    assert without.returncode == 0 and json.loads(without.stdout) == json.loads(plain.stdout)


def test_needs_no_environment(model: Path, images: Path) -> None:
    assert run(model, images / "c.png", env={}).returncode == 0


def test_bad_inputs_are_reported_and_the_rest_done(model: Path, images: Path, tmp_path: Path) -> None:
    jpeg = (images / "a.jpg").read_bytes()
    png = (images / "b.png").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is no image")
    (tmp_path / "png_content.jpg").write_bytes(png)
    (tmp_path / "good.jpg").write_bytes(jpeg)
    result = run(model, tmp_path, tmp_path / "missing.png", "--score", SCORE, "--json", "-")
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert [Path(entry["file"]).name for entry in document["images"]] == ["good.jpg", "png_content.jpg"]
    failed = [Path(entry["file"]).name for entry in document["errors"]]
    assert failed == ["cut.jpg", "cut.png", "empty.png", "text.jpg", "missing.png"]
    lines = error_lines(result)
    assert len(lines) == 5
    for name, line in zip(failed, lines, strict=True):
        assert name in line
    assert result.stderr.splitlines()[-1] == "5 inputs failed"


def test_pixel_limit(model: Path, images: Path) -> None:
    result = run(model, images / "a.jpg", images / "c.png", "--pixel-limit", 120 * 90, "--json", "-")
    assert result.returncode == 1
    assert len(json.loads(result.stdout)["images"]) == 1
    assert "a.jpg" in error_lines(result)[0]
    assert str(120 * 90) in error_lines(result)[0], "the message must state the limit"


def test_folder_without_images(model: Path, tmp_path: Path) -> None:
    result = run(model, tmp_path)
    assert result.returncode == 1
    assert error_lines(result) == [
        f"instseg-infer: {tmp_path}: no image files (.jpg, .jpeg, .png) in this folder"
    ]


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 9, "truncated"])
def test_bad_model_file(model: Path, images: Path, tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "bad.safetensors"
    if content == "truncated":
        path.write_bytes(model.read_bytes()[:-1000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    result = run(path, images / "a.jpg")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "bad.safetensors" in error_lines(result)[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_one_line(model: Path, images: Path) -> None:
    result = run(model, images / "a.jpg", "--device", "cuda")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "cuda" in error_lines(result)[0].lower()


def test_outputs_are_checked_before_the_work(model: Path, images: Path, tmp_path: Path) -> None:
    result = run(model, images, "--json", tmp_path / "no" / "such" / "folder.json")
    assert (result.returncode, result.stdout) == (1, "")
    result = run(model, images, "--output", images)
    assert (result.returncode, result.stdout) == (1, "")
    assert "would replace input images" in error_lines(result)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model file given; see instseg-infer --help"),
        (["m.safetensors"], "no image or folder given; see instseg-infer --help"),
        (["m", "a.png", "--scroe", "1"], "unknown option --scroe (did you mean --score?)"),
        (["m", "a.png", "--score", "2"], "--score must be between 0 and 1, got 2"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"instseg-infer: {message}\n"


def test_version_and_help() -> None:
    version = run("--version")
    assert version.returncode == 0
    info = instseg.build_info()
    assert version.stdout.startswith(f"instseg {info['version']}\nlibtorch: {info['torch_version']}\n")
    assert "image decoders: jpeg, png" in version.stdout
    help_text = run("--help")
    assert help_text.returncode == 0
    assert "Examples:" in help_text.stdout
