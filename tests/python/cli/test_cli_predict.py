# SPDX-License-Identifier: Apache-2.0
"""instseg predict: its document, pictures, and what it does with bad input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import Run, picture, png_with_size
from PIL import Image

import instseg
from instseg._bin import native_root


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def check_document(document: dict[str, Any]) -> None:
    """The schema of docs/cli.md."""
    assert list(document) == ["model", "images", "errors"]
    for image in document["images"]:
        assert list(image) == ["file", "width", "height", "detections"]
        scores = [d["score"] for d in image["detections"]]
        assert scores == sorted(scores, reverse=True)
        for detection in image["detections"]:
            assert list(detection) == ["class", "label", "category_id", "score", "box"]
            x1, y1, x2, y2 = detection["box"]
            assert 0 <= x1 < x2 <= image["width"] and 0 <= y1 < y2 <= image["height"]
    for error in document["errors"]:
        assert list(error) == ["file", "error"] and "\n" not in error["error"]


def test_document_and_pictures(run: Run, model_file: Path, pictures: Path, tmp_path: Path) -> None:
    target, output = tmp_path / "found.json", tmp_path / "out" / "drawn"
    result = run("predict", model_file, pictures, "--json", target, "--output", output, "--score", 0.2)
    assert result.code == 0, result.err
    assert result.out == ""
    assert result.err.startswith("2 of 2 images done in ")
    document = load(target)
    check_document(document)
    assert document["model"] == "tiny.safetensors" and document["errors"] == []
    assert [entry["file"] for entry in document["images"]] == [f"{pictures}/a.jpg", f"{pictures}/b.png"]
    assert [(e["width"], e["height"]) for e in document["images"]] == [(90, 60), (60, 80)]

    predictor = instseg.Predictor(model_file, score_threshold=0.2)
    for entry in document["images"]:
        expected = predictor(entry["file"])
        assert len(expected) > 0, "the test model must detect something"
        assert entry == expected.to_dict(entry["file"])
        assert {d["category_id"] for d in entry["detections"]} <= {5, 9}
        assert all(d["score"] >= 0.2 for d in entry["detections"])
        drawn = np.asarray(Image.open(output / Path(entry["file"]).name))
        assert drawn.shape == (entry["height"], entry["width"], 3)
    expected_pixels = predictor(f"{pictures}/b.png").plot(f"{pictures}/b.png", 0.2)
    assert np.array_equal(np.asarray(Image.open(output / "b.png")), expected_pixels)


@pytest.mark.parametrize(
    "options",
    [[], ["--max-detections", "3", "--short-side", "96", "--long-side", "128"]],
    ids=["plain", "sizes"],
)
def test_same_as_the_native_program(
    run: Run, model_file: Path, pictures: Path, tmp_path: Path, options: list[str]
) -> None:
    (pictures / "broken.png").write_bytes(b"")
    arguments = [str(model_file), str(pictures), "--score", "0.2", *options]
    python, native = tmp_path / "python", tmp_path / "native"
    native.mkdir()
    result = run("predict", *arguments, "--output", python, "--json", tmp_path / "python.json")
    program = str(native_root() / "bin" / "instseg-infer")
    command = [program, *arguments, "--output", str(native), "--json", str(tmp_path / "native.json")]
    other = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.code, other.returncode) == (1, 1), other.stderr
    ours, theirs = load(tmp_path / "python.json"), load(tmp_path / "native.json")
    assert ours["model"] == theirs["model"]
    assert ours["errors"] == theirs["errors"] and len(ours["errors"]) == 1
    for mine, its in zip(ours["images"], theirs["images"], strict=True):
        assert not options or len(mine["detections"]) <= 3
        assert {**mine, "detections": None} == {**its, "detections": None}
        assert [d["label"] for d in mine["detections"]] == [d["label"] for d in its["detections"]]
        for a, b in zip(mine["detections"], its["detections"], strict=True):
            assert a["box"] == pytest.approx(b["box"], abs=0.01)
            assert a["score"] == pytest.approx(b["score"], abs=1e-5)
    assert sorted(p.name for p in python.iterdir()) == sorted(p.name for p in native.iterdir())
    for file in python.iterdir():
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(native / file.name)))


def test_without_outputs_detections_are_listed(run: Run, model_file: Path, pictures: Path) -> None:
    result = run("predict", model_file, pictures / "a.jpg", "--score", 0.2)
    assert result.code == 0
    first, *rest = result.out.splitlines()
    assert first.startswith(f"{pictures}/a.jpg  90x60  ") and len(rest) == int(first.split()[-2])


def test_json_to_stdout(run: Run, model_file: Path, pictures: Path) -> None:
    result = run("predict", model_file, pictures / "a.jpg", "--json", "-")
    assert result.code == 0
    check_document(json.loads(result.out))


def test_masks_in_the_document(
    run: Run, model_file: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a predictor that finds the same detections with masks."""
    plain = json.loads(run("predict", model_file, pictures / "b.png", "--json", "-").out)
    boxes_only = instseg.Predictor.__call__

    def with_masks(self: instseg.Predictor, image: Any) -> instseg.Instances:
        found = boxes_only(self, image)
        maps = torch.rand(len(found), 20, 15, generator=torch.Generator().manual_seed(1))
        found.masks = instseg.Masks(maps, found.image_size, network_size=(80, 60))
        return found

    monkeypatch.setattr(instseg.Predictor, "__call__", with_masks)
    output = tmp_path / "drawn"
    arguments = ["predict", model_file, pictures / "b.png", "--json", "-"]
    with_them = json.loads(run(*arguments, "--output", output).out)
    expected = with_masks(instseg.Predictor(model_file, score_threshold=0.3), pictures / "b.png")
    assert with_them["images"] == [expected.to_dict(f"{pictures}/b.png")]
    assert list(with_them["images"][0]["detections"][0])[-2:] == ["mask", "area"]
    drawn = np.asarray(Image.open(output / "b.png"))
    assert np.array_equal(drawn, expected.plot(pictures / "b.png", 0.3))
    assert json.loads(run(*arguments, "--no-masks").out) == plain


def test_score_drops_detections(run: Run, model_file: Path, pictures: Path) -> None:
    low = json.loads(run("predict", model_file, pictures, "--json", "-", "--score", 0).out)
    high = json.loads(run("predict", model_file, pictures, "--json", "-", "--score", 1).out)
    assert sum(len(i["detections"]) for i in low["images"]) > 0
    assert sum(len(i["detections"]) for i in high["images"]) == 0


def test_folder_with_broken_files(run: Run, model_file: Path, pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "a.jpg").read_bytes()
    (pictures / "empty.jpg").write_bytes(b"")
    (pictures / "huge.png").write_bytes(png_with_size(100_000, 100_000))
    (pictures / "text.jpg").write_text("<html>not found</html>")
    (pictures / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "truncated.png").write_bytes((pictures / "b.png").read_bytes()[:200])
    picture(3, 40, 40).save(pictures / "really_a_png.jpg", format="PNG")
    target = tmp_path / "found.json"
    result = run("predict", model_file, pictures, tmp_path / "missing.jpg", "--json", target)
    assert result.code == 1
    document = load(target)
    check_document(document)
    good = [Path(entry["file"]).name for entry in document["images"]]
    assert good == ["a.jpg", "b.png", "really_a_png.jpg"]
    bad = [Path(entry["file"]).name for entry in document["errors"]]
    assert bad == ["empty.jpg", "huge.png", "text.jpg", "truncated.jpg", "truncated.png", "missing.jpg"]
    assert len(result.errors) == 6 and len(result.err.splitlines()) == 7
    for name, line in zip(bad, result.errors, strict=True):
        assert name in line
    assert result.err.splitlines()[-1].startswith("3 of 9 images done")
    assert result.err.splitlines()[-1].endswith("6 inputs failed")


def test_pixel_limit(run: Run, model_file: Path, pictures: Path) -> None:
    result = run("predict", model_file, pictures, "--pixel-limit", 5000)
    assert result.code == 1
    assert len(result.errors) == 1 and "a.jpg" in result.errors[0] and "5000" in result.errors[0]
    assert "b.png  60x80" in result.out


def test_folder_without_images(run: Run, model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    result = run("predict", model_file, tmp_path / "void")
    assert result.code == 1
    assert len(result.errors) == 1 and "no image files" in result.errors[0] and "void" in result.errors[0]


def test_names_of_pictures_never_collide(run: Run, model_file: Path, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    picture(4, 30, 30).save(other / "b.png")
    result = run("predict", model_file, pictures, other, "--output", tmp_path / "out")
    assert result.code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.jpg", "b.png", "b_2.png"]


def test_inputs_are_never_replaced(run: Run, model_file: Path, pictures: Path) -> None:
    before = (pictures / "a.jpg").read_bytes()
    result = run("predict", model_file, pictures, "--output", pictures)
    assert result.code == 1 and len(result.errors) == 1 and "replace" in result.err
    assert (pictures / "a.jpg").read_bytes() == before


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Makes reading the file of this name raise ``error``."""
    read = instseg.read_image

    def failing(path: str, **options: Any) -> Any:
        if Path(path).name == name:
            raise error
        return read(path, **options)

    monkeypatch.setattr(instseg, "read_image", failing)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("out of memory\nframe #0: main"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (KeyError("x"), "'x'"),
    ],
)
def test_an_unexpected_error_costs_one_image(
    run: Run,
    model_file: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    text: str,
) -> None:
    fail_at(monkeypatch, "a.jpg", error)
    result = run("predict", model_file, pictures, "--json", tmp_path / "found.json")
    assert result.code == 1 and len(result.errors) == 1
    document = load(tmp_path / "found.json")
    check_document(document)
    assert [entry["file"] for entry in document["images"]] == [f"{pictures}/b.png"]
    assert document["errors"] == [{"file": f"{pictures}/a.jpg", "error": text}]


def test_an_interrupt_keeps_what_is_done(
    run: Run, model_file: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "b.png", KeyboardInterrupt())
    result = run("predict", model_file, pictures, "--json", tmp_path / "found.json")
    assert result.code == 130
    assert result.errors == ["instseg: error: interrupted"]
    assert "1 of 2 images done" in result.err
    document = load(tmp_path / "found.json")
    check_document(document)
    assert [entry["file"] for entry in document["images"]] == [f"{pictures}/a.jpg"]


def test_unwritable_json(run: Run, model_file: Path, pictures: Path, tmp_path: Path) -> None:
    result = run("predict", model_file, pictures, "--json", tmp_path / "no" / "found.json")
    assert result.code == 1 and len(result.err.splitlines()) == 1 and "--json" in result.err


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "header", "folder"])
@pytest.mark.parametrize("command", ["predict", "info"])
def test_malformed_model_file(
    run: Run, model_file: Path, pictures: Path, tmp_path: Path, damage: str, command: str
) -> None:
    whole = model_file.read_bytes()
    broken = tmp_path / "broken.safetensors"
    content = {
        "empty": b"",
        "text": b"not a model file at all",
        "truncated": whole[: len(whole) // 2],
        "header": (2**60).to_bytes(8, "little") + whole[8:],
    }
    if damage == "folder":
        broken.mkdir()
    else:
        broken.write_bytes(content[damage])
    result = run(command, broken, *([pictures] if command == "predict" else []))
    assert result.code == 1
    assert result.out == ""
    assert len(result.err.splitlines()) == 1 and len(result.errors) == 1
    assert "broken.safetensors" in result.err
