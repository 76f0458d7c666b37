# SPDX-License-Identifier: Apache-2.0
"""instseg info, models and convert."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from cli_helpers import Run

import instseg
from instseg.importers import official_name_map


def test_info_about_the_build(run: Run) -> None:
    document = json.loads(run("info", "--json").out)
    for key, value in instseg.build_info().items():
        assert document[key] == value
    result = run("info")
    assert result.code == 0
    for name in ("torch", "CUDA kernels", "image decoders", "instruction set"):
        assert any(line.startswith(name) for line in result.out.splitlines()), name
    assert torch.__version__ in result.out


def test_info_about_a_model(run: Run, model_file: Path) -> None:
    document = json.loads(run("info", model_file, "--json").out)
    model = instseg.Model.load(str(model_file))
    assert document["config"] == model.config.to_dict()
    assert document["class_names"] == ["disc", "square"]
    assert document["parameters"] == sum(p.numel() for p in model.parameters())
    assert document["summary"] == {"iteration": 7, "metrics": {"AP": 0.5}}
    text = run("info", model_file).out
    assert f"{document['parameters']:,}" in text
    assert 'backbone.name: "resnet18"' in text
    assert "iteration: 7" in text


def test_info_warns_about_nan(run: Run, tmp_path: Path, model_file: Path) -> None:
    model = instseg.Model.load(str(model_file))
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] = float("nan")
    model.save(str(tmp_path / "nan.safetensors"))
    result = run("info", tmp_path / "nan.safetensors", "--json")
    assert result.code == 0
    assert result.err.startswith("instseg: warning: ") and "NaN" in result.err
    assert len(json.loads(result.out)["warnings"]) == 1


def test_models(run: Run) -> None:
    rows = json.loads(run("models", "--json").out)
    presets = instseg.presets()
    assert [row["name"] for row in rows] == [preset.name for preset in presets]
    by_name = {row["name"]: row for row in rows}
    assert by_name["fcos_R_50_1x"]["box_ap"] == 38.7 and by_name["fcos_R_50_1x"]["mask_ap"] is None
    assert by_name["condinst_MS_R_50_1x"]["mask_ap"] == 35.7
    text = run("models").out
    for preset in presets:
        assert preset.name in text
    row = next(line.split() for line in text.splitlines() if line.startswith("condinst_MS_R_50_1x "))
    assert row[1:4] == ["39.7", "35.7", "CondInst,"]
    row = next(line.split() for line in text.splitlines() if line.startswith("fcos_R_50_1x "))
    assert row[1:4] == ["38.7", "-", "FCOS,"]
    assert by_name["solo_R50_1x"]["box_ap"] is None and by_name["solo_R50_1x"]["mask_ap"] == 32.9
    row = next(line.split() for line in text.splitlines() if line.startswith("solo_R50_1x "))
    assert row[1:4] == ["-", "32.9", "SOLO,"]


def test_convert(run: Run, tmp_path: Path) -> None:
    preset = "fcos_RT_MS_R_50_4x_syncbn"
    model = instseg.Model(preset)
    names = {ours: official for official, ours in official_name_map(model.config, "adelaidet").items()}
    state = {names[name]: value for name, value in model.state_dict().items() if name in names}
    torch.save({"model": state}, tmp_path / "foreign.pth")
    output = tmp_path / "ours.safetensors"
    result = run("convert", tmp_path / "foreign.pth", output, "--preset", preset, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["ok"] and report["flavor"] == "adelaidet"
    assert len(report["matched"]) == len(state)
    converted = instseg.Model.load(str(output)).state_dict()
    for name, value in model.state_dict().items():
        if name in names:
            assert torch.equal(converted[name], value), name


def test_convert_errors(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    missing = run("convert", tmp_path / "missing.pth", output)
    assert missing.code == 1 and "missing.pth" in missing.err and len(missing.errors) == 1
    (tmp_path / "page.pth").write_text("<html>sign in</html>")
    page = run("convert", tmp_path / "page.pth", output)
    assert page.code == 1 and len(page.err.splitlines()) == 1 and "page.pth" in page.err
    torch.save({"model": {"foo.weight": torch.zeros(2)}}, tmp_path / "odd.pth")
    odd = run("convert", tmp_path / "odd.pth", output)
    assert odd.code == 1 and len(odd.err.splitlines()) == 1 and "odd.pth" in odd.err
    folder = run("convert", tmp_path / "odd.pth", tmp_path / "no" / "out.safetensors")
    assert folder.code == 1 and "no/out.safetensors" in folder.err
    assert not output.exists()
