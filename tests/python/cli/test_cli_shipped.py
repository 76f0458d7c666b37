# SPDX-License-Identifier: Apache-2.0
"""Models that come with the package: found, listed, used when no model is named; files with float16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli_helpers import Run, picture

import instseg
from instseg import model_files
from instseg.cli._predict import split_inputs

DEFAULT = model_files.DEFAULT_MODEL


@pytest.fixture
def shipped(tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose folder of models holds a tiny one."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(model_file, folder / f"{DEFAULT}.safetensors")
    monkeypatch.setattr(model_files, "FOLDER", folder)
    return folder / f"{DEFAULT}.safetensors"


@pytest.fixture
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "FOLDER", tmp_path / "nowhere")


def test_found_by_name(shipped: Path) -> None:
    assert instseg.shipped_models() == {DEFAULT: shipped}
    assert instseg.shipped_model() == instseg.shipped_model(DEFAULT) == shipped
    with pytest.raises(ValueError, match=f"no model 'nuclei_condinst' .*did you mean '{DEFAULT}'"):
        instseg.shipped_model("nuclei_condinst")
    assert instseg.Predictor().class_names == ["disc", "square"]


def test_an_installation_without_models(run: Run, nothing_shipped: None, pictures: Path) -> None:
    assert instseg.shipped_models() == {}
    for name in (None, DEFAULT):
        with pytest.raises(FileNotFoundError, match=f"no model '{DEFAULT}' .*install the package again"):
            instseg.shipped_model(name)
    for arguments in (["predict", pictures], ["models", "--shipped"]):
        result = run(*arguments)
        assert result.code == 1 and len(result.errors) == 1 and DEFAULT in result.err and result.out == ""
    assert run("models").code == 0


def test_listing(run: Run, shipped: Path) -> None:
    assert run("models", "--shipped").out == f"{shipped}\n"
    document = json.loads(run("models", "--shipped", "--json").out)
    assert document == [{"name": DEFAULT, "path": str(shipped)}]
    assert f"comes with the package: {DEFAULT}, {shipped}" in run("models").out


def test_predict_without_a_model(run: Run, shipped: Path, model_file: Path, pictures: Path) -> None:
    given = json.loads(run("predict", model_file, pictures, "--json", "-", "--score", 0.2).out)
    for arguments in (
        [pictures],
        [pictures / "a.jpg", pictures / "b.png"],
        ["--model", model_file, pictures],
    ):
        result = run("predict", *arguments, "--json", "-", "--score", 0.2)
        assert result.code == 0, result.err
        assert json.loads(result.out)["images"] == given["images"]


def test_the_first_argument_is_a_model_by_content(
    run: Run, shipped: Path, model_file: Path, pictures: Path, tmp_path: Path
) -> None:
    model = str(shutil.copy(model_file, tmp_path / "model.jpg"))
    picture(3, 40, 40).save(tmp_path / "photo", format="PNG")
    image, missing = str(pictures / "a.jpg"), str(tmp_path / "missing.tif")
    (pictures / "broken.png").write_bytes(b"")
    broken = str(pictures / "broken.png")
    default = str(shipped)
    assert split_inputs([model, image]) == (model, [image])
    assert split_inputs([image]) == (default, [image])
    assert split_inputs([str(tmp_path / "photo")]) == (default, [str(tmp_path / "photo")])
    assert split_inputs([missing, image]) == (default, [missing, image])
    assert split_inputs([broken]) == (default, [broken])
    assert split_inputs([str(pictures)]) == (default, [str(pictures)])
    assert split_inputs([image], model) == (model, [image])
    result = run("predict", broken, image)
    assert (
        result.code == 1
        and result.errors[0].endswith("broken.png: file is empty")
        and "a.jpg  90x60" in result.out
    )


def test_arguments_that_are_not_clear(run: Run, shipped: Path, model_file: Path, pictures: Path) -> None:
    image, text = pictures / "a.jpg", pictures / "notes.txt"
    for arguments, message in (
        ([image, model_file], f"'{model_file}' is a model file where an image is expected"),
        ([model_file, image, model_file], "one model comes first, or with --model"),
        (["--model", model_file, model_file, image], "is a model file where an image is expected"),
        ([model_file], f"no image or folder given besides the model '{model_file}'"),
        ([text, image], f"'{text}' is neither a model file nor an image"),
    ):
        result = run("predict", *arguments)
        assert result.code == 2 and len(result.err.splitlines()) == 1 and message in result.err, result.err
    for name in ("missing.safetensors", "missing"):
        result = run("predict", name, image)
        assert result.code == 1 and result.errors == [f"instseg: error: model file '{name}' does not exist"]
    result = run("predict", "--model", "missing.bin", image)
    assert result.errors == ["instseg: error: model file 'missing.bin' does not exist"]


def test_convert_to_float16(run: Run, mask_model_file: Path, pictures: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    source = instseg.Model.load(mask_model_file)
    source.save(tmp_path / "named.safetensors", summary={"epochs": 3})
    result = run("convert", tmp_path / "named.safetensors", small, "--dtype", "float16")
    assert result.code == 0 and result.out.startswith(f"wrote {small}, float16, "), result.err
    assert small.stat().st_size < 0.55 * mask_model_file.stat().st_size
    assert json.loads(run("info", small, "--json").out)["summary"] == {"epochs": 3}
    converted = instseg.Model.load(small).state_dict()
    parameters = {name for name, _ in source.named_parameters()}
    for name, value in source.state_dict().items():
        expected = value.half().float() if name in parameters else value
        assert converted[name].dtype == value.dtype and torch.equal(converted[name], expected), name
    image = [instseg.read_image(pictures / "b.png")]
    before, after = (
        instseg.Model.load(path).eval().intermediates(image) for path in (mask_model_file, small)
    )
    for name in ("logits.p3", "reg.p4", "mask_features"):
        assert (after[name] - before[name]).norm() < 0.005 * before[name].norm(), name
    whole = tmp_path / "whole.safetensors"
    document = json.loads(run("convert", small, whole, "--json").out)
    assert document == {
        "source": str(small),
        "output": str(whole),
        "dtype": "float32",
        "bytes": whole.stat().st_size,
    }
    assert all(
        torch.equal(value, converted[name]) for name, value in instseg.Model.load(whole).state_dict().items()
    )


def test_convert_refuses_what_it_cannot_do(run: Run, model_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    half = run("convert", model_file, target, "--dtype", "half")
    assert half.code == 2 and "--dtype must be float32 or float16, got 'half'" in half.err
    preset = run("convert", model_file, target, "--preset", "fcos_R_50_1x")
    assert preset.code == 2 and "leave --preset out" in preset.err
    model = instseg.Model.load(model_file)
    with torch.no_grad():
        model.get_parameter("head.box_pred.bias")[1] = 70000.0
    model.save(tmp_path / "large.safetensors")
    large = run("convert", tmp_path / "large.safetensors", target, "--dtype", "float16")
    assert large.code == 1 and len(large.err.splitlines()) == 1
    assert "parameter 'head.box_pred.bias' holds 70000, beyond the 65504" in large.err
    assert not target.exists()


def test_float16_in_python(tmp_path: Path, model_file: Path) -> None:
    model = instseg.Model.load(model_file)
    model.save(tmp_path / "half.safetensors", {"AP": 0.5}, dtype="float16")
    with pytest.raises(ValueError, match="dtype 'bfloat16' is not one of float32, float16"):
        model.save(tmp_path / "other.safetensors", dtype="bfloat16")
    from safetensors.torch import load_file

    for name, tensor in load_file(tmp_path / "half.safetensors").items():
        buffer = name.endswith(("running_mean", "running_var"))
        counter = name.endswith("num_batches_tracked")
        expected = torch.int64 if counter else torch.float32 if buffer else torch.float16
        assert tensor.dtype == expected, name


def test_model_files_by_content(tmp_path: Path, model_file: Path) -> None:
    assert model_files.is_model_file(model_file)
    (tmp_path / "f").write_bytes(model_file.read_bytes()[:20])
    assert not model_files.is_model_file(tmp_path / "f")
    with pytest.raises(OSError):
        model_files.is_model_file(tmp_path / "none")
