# SPDX-License-Identifier: Apache-2.0
"""A tiny model, pictures and a data set for the command line tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_helpers import CONFIG, Result, Run, picture

import instseg
from instseg.cli import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs ``instseg ARGUMENTS`` in this process; a traceback would fail the test by itself."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return call


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that detects something everywhere."""
    torch.manual_seed(0)
    model = instseg.Model(CONFIG)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("cls_logits.weight", "centerness.weight", "box_pred.weight")):
                value.mul_(40)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    model.save(str(path), summary={"iteration": 7, "metrics": {"AP": 0.5}})
    return path


@pytest.fixture(scope="session")
def mask_model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with masks that detects something everywhere."""
    torch.manual_seed(0)
    model = instseg.Model(
        {**CONFIG, "family": "condinst", "condinst": {"branch_channels": 16, "branch_convs": 1}}
    )
    with torch.no_grad():
        for name in ("cls_logits", "centerness", "box_pred"):
            model.get_parameter(f"head.{name}.weight").mul_(40)
    path = tmp_path_factory.mktemp("model") / "masks.safetensors"
    model.save(str(path))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two pictures of different format and size, and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture(1, 90, 60).save(folder / "a.jpg", quality=90)
    picture(2, 60, 80).save(folder / "b.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, Path]:
    """COCO file and folder: six pictures with one or two objects each."""
    folder = tmp_path / "images"
    folder.mkdir()
    images, annotations = [], []
    for i in range(1, 7):
        name = f"{i}.png"
        picture(i, 96, 64).save(folder / name)
        images.append({"id": i, "file_name": name, "width": 96, "height": 64})
        for k in range(1 + i % 2):
            box = [8.0 + 30 * k, 10.0, 28.0, 24.0]
            entry = {"id": 10 * i + k, "image_id": i, "category_id": (5, 9)[k], "bbox": box, "iscrowd": 0}
            annotations.append({**entry, "area": box[2] * box[3]})
    categories = [{"id": 5, "name": "disc"}, {"id": 9, "name": "square"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, folder
