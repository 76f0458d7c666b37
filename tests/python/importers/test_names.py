# SPDX-License-Identifier: Apache-2.0
"""Every published naming scheme lands on the right parameter of the model."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

from instseg import Model, presets
from instseg.importers import convert, convert_state, official_name_map

sys.path.insert(0, str(Path(__file__).parent))
import official_names as official
from import_checks import COUNTER, assert_complete

PARITY = Path(__file__).parents[2] / "data" / "parity"


def parity_shapes(name: str) -> dict[str, tuple[int, ...]]:
    manifest = json.loads((PARITY / name / "manifest.json").read_text())
    return {key: tuple(shape) for key, shape, _ in manifest["state_dict"]}


@pytest.mark.parametrize(
    ("name", "flavor"),
    [
        ("fcos_R_50_1x", "adelaidet"),
        ("fcos_RT_MS_R_50_4x_syncbn", "adelaidet"),
        ("torchvision_fcos_resnet50_fpn", "torchvision"),
    ],
)
def test_official_state_dicts(name: str, flavor: str) -> None:
    state = official.numbered(parity_shapes(name))
    model, report = convert_state(state, preset=name)
    assert report.ok and report.flavor == flavor and report.preset == name
    assert all(key.endswith(COUNTER) for key in report.ignored)
    assert_complete(model, state, report.matched)
    names = official_name_map(name, flavor)
    assert set(names.values()) == set(model.state_dict())
    assert report.matched.items() <= names.items()


def test_parity_names_are_those_of_the_generator() -> None:
    """official_names.py spells the same names as the running original."""
    assert parity_shapes("fcos_R_50_1x") == official.adelaidet_fcos()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.bottom_up.stem.conv1.weight", "backbone.stem.weight"),
        ("backbone.bottom_up.stem.conv1.norm.running_var", "backbone.stem.norm.running_var"),
        ("backbone.bottom_up.res4.5.conv2.weight", "backbone.res4.5.conv2.weight"),
        ("backbone.bottom_up.res2.0.shortcut.norm.bias", "backbone.res2.0.shortcut.norm.bias"),
        ("backbone.fpn_lateral4.bias", "neck.lateral4.bias"),
        ("backbone.fpn_output3.weight", "neck.output3.weight"),
        ("backbone.top_block.p7.weight", "neck.p7.weight"),
        ("proposal_generator.fcos_head.cls_tower.9.bias", "head.cls_tower.3.bias"),
        ("proposal_generator.fcos_head.bbox_tower.4.weight", "head.box_tower.1.norm.weight"),
        ("proposal_generator.fcos_head.ctrness.weight", "head.centerness.weight"),
        ("proposal_generator.fcos_head.scales.2.scale", "head.scales.2"),
    ],
)
def test_adelaidet_names(theirs: str, ours: str) -> None:
    assert official_name_map("fcos_R_50_1x", "adelaidet")[theirs] == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.body.bn1.weight", "backbone.stem.norm.weight"),
        ("backbone.body.layer3.5.bn2.running_mean", "backbone.res4.5.conv2.norm.running_mean"),
        ("backbone.body.layer1.0.downsample.1.bias", "backbone.res2.0.shortcut.norm.bias"),
        ("backbone.fpn.inner_blocks.2.0.weight", "neck.lateral5.weight"),
        ("backbone.fpn.layer_blocks.0.0.bias", "neck.output3.bias"),
        ("head.classification_head.conv.7.weight", "head.cls_tower.2.norm.weight"),
        ("head.regression_head.bbox_ctrness.bias", "head.centerness.bias"),
    ],
)
def test_torchvision_names(theirs: str, ours: str) -> None:
    assert official_name_map("torchvision_fcos_resnet50_fpn", "torchvision")[theirs] == ours


def test_per_level_norms_of_the_head() -> None:
    shapes = official.adelaidet_fcos(levels=3, bn_head=True)
    state = official.numbered(shapes)
    model, report = convert_state(state)
    assert report.ok and report.preset == "fcos_RT_MS_R_50_4x_syncbn_bn_head"
    assert_complete(model, state, report.matched)
    source = "proposal_generator.fcos_head.bbox_tower.7.2.running_mean"
    assert report.matched[source] == "head.box_tower.2.norm.2.running_mean"


def test_early_centerness_names_and_training_files() -> None:
    shapes = official.adelaidet_fcos()
    state = {
        name.replace("ctrness", "centerness"): value for name, value in official.numbered(shapes).items()
    }
    state = {"module." + name: value for name, value in state.items()}
    state["module.pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).reshape(3, 1, 1)
    model, report = convert_state(state, preset="fcos_R_50_1x_iou")
    assert report.ok and report.ignored == ["pixel_mean"] and report.notes == []
    assert model.config.head.quality == "iou"
    assert_complete(model, state, report.matched)


def test_stored_normalisation_wins() -> None:
    state = official.numbered(official.adelaidet_fcos())
    state["pixel_mean"] = torch.tensor([102.9801, 115.9465, 122.7717])
    model, report = convert_state(state, preset="fcos_R_50_1x")
    assert model.config.input.mean == pytest.approx([102.9801, 115.9465, 122.7717], abs=1e-4)
    assert "input.mean" in report.notes[0]


def test_shared_tower() -> None:
    state = official.numbered(official.adelaidet_fcos(levels=3, share=4, towers=0))
    config = Model("fcos_RT_MS_R_50_4x_syncbn").config.to_dict()
    config["head"].update(share_convs=4, cls_convs=0, box_convs=0)
    model, report = convert_state(state, preset=config)
    assert report.ok and report.preset == ""
    assert_complete(model, state, report.matched)


@pytest.mark.parametrize(("depth", "old_names"), [(50, True), (101, False)])
def test_mmdet(depth: int, old_names: bool) -> None:
    state = official.numbered(official.mmdet_fcos(depth, old_names=old_names))
    model, report = convert_state(state, preset=f"mmdet_fcos_r{depth}_caffe_1x")
    assert report.ok and report.flavor == "mmdet"
    canonical = {name.replace("bbox_head.fcos_", "bbox_head.conv_"): value for name, value in state.items()}
    matched = {
        name.replace("bbox_head.fcos_", "bbox_head.conv_"): ours for name, ours in report.matched.items()
    }
    assert_complete(model, canonical, matched)
    assert matched["neck.fpn_convs.2.conv.weight"] == "neck.output5.weight"
    assert matched["neck.fpn_convs.3.conv.weight"] == "neck.p6.weight"
    assert model.state_dict()["head.scales.0"].shape == (1,)
    config = model.config
    assert (config.post.score, config.post.topk_over, config.post.clip_before_nms) == (
        "product",
        "locations",
        True,
    )
    assert (config.head.box_transform, config.head.centerness_on, config.input.resize) == (
        "exp",
        "cls",
        "opencv",
    )


@pytest.mark.parametrize("improved", [True, False])
def test_mmdet_configuration_inside_the_file(tmp_path: Path, improved: bool) -> None:
    switches = (
        "norm_on_bbox=True, centerness_on_reg=True, center_sampling=True" if improved else "strides=[8]"
    )
    classes = tuple(f"class_{i}" for i in range(3))
    meta = {"config": f"model = dict(bbox_head=dict(type='FCOSHead', {switches}))", "CLASSES": classes}
    state = official.numbered(official.mmdet_fcos(classes=3))
    torch.save({"state_dict": state, "meta": meta, "optimizer": {}}, tmp_path / "latest.pth")
    model, report = convert(tmp_path / "latest.pth")
    assert report.ok and model.config.class_names == list(classes) and model.config.category_ids == []
    assert model.config.head.centerness_on == ("box" if improved else "cls")


def test_mmdet_without_configuration_asks() -> None:
    state = official.numbered(official.mmdet_fcos())
    with pytest.raises(
        ValueError, match=r"which model is it: .*mmdet_fcos_r50_caffe_1x.*head\.box_transform.*--preset"
    ):
        convert_state(state)


def test_maskrcnn_benchmark() -> None:
    state = official.numbered(official.maskrcnn_benchmark_fcos())
    with pytest.raises(
        ValueError, match=r"maskrcnn_benchmark_fcos or maskrcnn_benchmark_fcos_imprv\?.*--preset"
    ):
        convert_state(state)
    model, report = convert_state(state, preset="maskrcnn_benchmark_fcos")
    assert report.ok and report.flavor == "maskrcnn_benchmark"
    assert_complete(model, state, report.matched)
    assert report.matched["rpn.head.centerness.bias"] == "head.centerness.bias"
    assert report.matched["backbone.fpn.fpn_inner2.weight"] == "neck.lateral3.weight"
    assert report.matched["backbone.body.stem.bn1.bias"] == "backbone.stem.norm.bias"
    config = model.config
    assert config.input.mean == [102.9801, 115.9465, 122.7717]
    assert (config.head.box_transform, config.head.centerness_on, config.head.stride_units) == (
        "exp",
        "cls",
        False,
    )
    improved = convert_state(state, preset="maskrcnn_benchmark_fcos_imprv")[0].config
    assert (improved.head.box_transform, improved.head.centerness_on) == ("relu", "box")


# ---- What is recognised, what is asked ----


@pytest.mark.parametrize(("depth", "levels", "preset"), [(50, 3, "fcos_RT_MS_R_50_4x_syncbn")])
def test_unambiguous_files_need_no_preset(depth: int, levels: int, preset: str) -> None:
    _, report = convert_state(official.numbered(official.adelaidet_fcos(depth, levels=levels)))
    assert report.preset == preset


@pytest.mark.parametrize("depth", [50, 101])
def test_iou_quality_cannot_be_seen(depth: int) -> None:
    state = official.numbered(official.adelaidet_fcos(depth))
    with pytest.raises(
        ValueError, match=rf"fcos_MS_R_{depth}_2x.*_iou\?.*head\.quality.*--preset NAME"
    ) as raised:
        convert_state(state)
    assert "R_101" not in str(raised.value) if depth == 50 else "R_50" not in str(raised.value)


def test_other_backbone_of_a_known_kind_is_noted() -> None:
    model, report = convert_state(official.numbered(official.adelaidet_fcos(101, levels=3)))
    assert model.config.backbone.name == "resnet101" and model.config.neck.max_level == 5
    assert report.ok


def test_number_of_classes_comes_from_the_file() -> None:
    state = official.numbered(official.adelaidet_fcos(classes=3))
    model, report = convert_state(
        state, preset="fcos_R_50_1x", overrides={"post.nms_threshold": 0.5, "input": {"short_side": 640}}
    )
    config = model.config
    assert config.num_classes == 3 and config.class_names == [] and config.category_ids == []
    assert "3 classes" in report.notes[0]
    assert config.post.nms_threshold == 0.5 and config.input.short_side == 640


def test_coco_names_come_from_the_preset() -> None:
    model, _ = convert_state(official.numbered(official.adelaidet_fcos()), preset="fcos_R_50_1x")
    assert model.config.class_names[0] == "person" and model.config.category_ids[-1] == 90


def test_wrong_preset() -> None:
    state = official.numbered(official.adelaidet_fcos())
    with pytest.raises(
        ValueError, match="has adelaidet names, but preset mmdet_fcos_r50_caffe_1x is of mmdet"
    ):
        convert_state(state, preset="mmdet_fcos_r50_caffe_1x")
    with pytest.raises(
        ValueError, match=r"does not fit preset fcos_RT_MS_R_50_4x_syncbn: .*P3\.\.P7.*P3\.\.P5"
    ):
        convert_state(state, preset="fcos_RT_MS_R_50_4x_syncbn")
    with pytest.raises(ValueError, match="fcos_R_50_1x"):
        convert_state(state, preset="fcos_R_50_1y")
    with pytest.raises(ValueError, match=r"override 'post\.nms' is no field"):
        convert_state(state, preset="fcos_R_50_1x", overrides={"post.nms": 0.5})


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("panoptic_module.predictor.weight", "is a panoptic BlendMask model .* does not support yet"),
        ("backbone.repeated_bifpn.0.lateral_0_f0.weight", "BiFPN"),
        ("backbone.bottom_up.base_layer.0.weight", "DLA"),
        ("backbone.bottom_up.res4.0.conv2_offset.weight", "deformable"),
    ],
)
def test_models_that_cannot_be_imported_are_named(name: str, cause: str) -> None:
    state = {"proposal_generator.fcos_head.cls_logits.weight": torch.ones(1), name: torch.ones(1)}
    with pytest.raises(ValueError, match=cause):
        convert_state(state)


def test_resnext_is_named() -> None:
    shapes = official.adelaidet_fcos()
    shapes["backbone.bottom_up.res2.0.conv2.weight"] = (256, 8, 3, 3)
    with pytest.raises(ValueError, match="ResNeXt"):
        convert_state(official.numbered(shapes))


def test_files_that_are_no_detector(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classification backbone.*which model .*\?.*--preset NAME"):
        convert_state(official.numbered(official.torchvision_resnet(50)))
    with pytest.raises(ValueError, match="no detector this program knows, such as a, b"):
        convert_state({"a": torch.ones(1), "b": torch.ones(1)})
    model = Model("fcos_efficientnet_lite0")
    model.save(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"own\.safetensors: is an instseg model already"):
        convert(tmp_path / "own.safetensors")


# ---- Strictness, dtypes, files ----


def test_missing_unexpected_and_misshapen_parameters() -> None:
    state = official.numbered(official.adelaidet_fcos())
    del state["backbone.fpn_output4.bias"]
    state["backbone.fpn_output9.bias"] = torch.ones(3)
    state["backbone.fpn_output3.bias"] = torch.ones(3)
    with pytest.raises(ValueError) as raised:
        convert_state(state, preset="fcos_R_50_1x")
    message = str(raised.value)
    assert "1 parameter of the model got no value: neck.output4.bias" in message
    assert "1 name in the file fit nothing: backbone.fpn_output9.bias" in message
    assert "'backbone.fpn_output3.bias' has shape (3,), the model's neck.output3.bias (256,)" in message
    model, report = convert_state(state, preset="fcos_R_50_1x", strict=False)
    assert report.missing == ["neck.output4.bias", "neck.output3.bias"] and not report.ok
    assert report.unexpected == ["backbone.fpn_output9.bias", "backbone.fpn_output3.bias"]
    assert float(model.state_dict()["neck.output5.bias"][0]) == float(state["backbone.fpn_output5.bias"][0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = official.numbered(official.adelaidet_fcos(levels=3))
    state = {name: value.to(dtype) for name, value in state.items()}
    torch.save({"model": state}, tmp_path / "half.pth")
    model, report = convert(tmp_path / "half.pth")
    assert report.ok and str(dtype).removeprefix("torch.") in report.notes[0]
    assert all(
        value.dtype == torch.float32
        for name, value in model.state_dict().items()
        if not name.endswith(COUNTER)
    )
    assert_complete(model, state, report.matched)


def test_batch_norm_state_is_taken_from_the_file_and_freezing_from_the_configuration() -> None:
    shapes = parity_shapes("fcos_RT_MS_R_50_4x_syncbn")
    state = official.numbered(shapes)
    for name in shapes:
        if name.endswith(COUNTER):
            state[name] = torch.tensor(41)
    model, report = convert_state(state)
    own = model.state_dict()
    assert int(own["backbone.res3.0.conv1.norm.num_batches_tracked"]) == 41
    assert "backbone.stem.norm.num_batches_tracked" not in own
    assert "backbone.bottom_up.stem.conv1.norm.num_batches_tracked" in report.ignored
    bare, report = convert_state({name: value for name, value in state.items() if not name.endswith(COUNTER)})
    assert report.ok and bare.config == model.config


def test_detectron2_pickle(tmp_path: Path) -> None:
    state = official.numbered(official.adelaidet_fcos(levels=3))
    content = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "somebody"}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, 2))
    model, report = convert(tmp_path / "model.pkl")
    assert report.ok and report.container == "pickle"
    assert_complete(model, state, report.matched)


def test_one_line_error_names_the_file(tmp_path: Path) -> None:
    torch.save(official.numbered(official.adelaidet_fcos()), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"^\[convert\] .*x\.pth: which model is it") as raised:
        convert(tmp_path / "x.pth")
    assert "\n" not in str(raised.value)


def test_official_name_map_of_every_published_preset() -> None:
    for preset in presets():
        prefix, _, _ = preset.name.partition("_")
        own = "solo" if preset.config.family == "solo" else "adelaidet"
        flavor = {"torchvision": "torchvision", "mmdet": "mmdet", "adet": "adelaidet"}.get(prefix, own)
        if preset.config.backbone.name == "resnet50":
            names = official_name_map(preset.name, flavor)
            assert len(set(names)) == len(Model(preset.name).state_dict())
    with pytest.raises(ValueError, match="flavor 'x' is not one of adelaidet"):
        official_name_map("fcos_R_50_1x", "x")
