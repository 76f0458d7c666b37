# SPDX-License-Identifier: Apache-2.0
"""SOLO, Decoupled SOLO and SOLOv2 files of three code bases land on the right parameters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from instseg import Model, find_preset, presets
from instseg.importers import convert, convert_state, official_name_map

sys.path.insert(0, str(Path(__file__).parent))
import official_names as official
import official_solo as solo
from import_checks import COUNTER, assert_complete

PARITY = Path(__file__).parents[2] / "data" / "parity"

# Shapes of a file, flavor, and the presets it may be of: the first is taken.
FILES: list[tuple[dict[str, official.Shape], str, list[str]]] = [
    (solo.repository("solo"), "solo", ["solo_R50_1x", "solo_R50_3x"]),
    (solo.repository("solo", 101), "solo", ["solo_R101_3x"]),
    (solo.repository("decoupled"), "solo", ["decoupled_solo_R50_1x", "decoupled_solo_R50_3x"]),
    (solo.repository("decoupled", 101), "solo", ["decoupled_solo_R101_3x"]),
    (solo.repository("decoupled_light"), "solo", ["decoupled_solo_light_R50_3x"]),
    (solo.repository("solov2"), "solo", ["solov2_R50_1x", "solov2_R50_3x"]),
    (solo.repository("solov2", 101), "solo", ["solov2_R101_3x"]),
    (solo.repository("solov2_light", 18), "solo", ["solov2_light_448_R18_3x"]),
    (solo.repository("solov2_light", 34), "solo", ["solov2_light_448_R34_3x"]),
    (solo.repository("solov2_light", 50), "solo", ["solov2_light_448_R50_3x"]),
    (solo.adelaidet(), "adelaidet", ["adet_solov2_R50_3x"]),
    (solo.adelaidet(101), "adelaidet", ["adet_solov2_R101_3x"]),
    (solo.mmdet("solo"), "mmdet", ["mmdet_solo_r50_1x", "mmdet_solo_r50_3x"]),
    (solo.mmdet("decoupled"), "mmdet", ["mmdet_decoupled_solo_r50_1x", "mmdet_decoupled_solo_r50_3x"]),
    (solo.mmdet("decoupled_light"), "mmdet", ["mmdet_decoupled_solo_light_r50_3x"]),
    (solo.mmdet("solov2"), "mmdet", ["mmdet_solov2_r50_1x", "mmdet_solov2_r50_3x"]),
    (solo.mmdet("solov2_light", 18), "mmdet", ["mmdet_solov2_light_r18_3x"]),
    (solo.mmdet("solov2_light", 50), "mmdet", ["mmdet_solov2_light_r50_3x"]),
]
RECORDED = {
    "solo_r50_1x": solo.repository("solo"),
    "decoupled_solo_r50_1x": solo.repository("decoupled"),
    "decoupled_solo_light_r50_3x": solo.repository("decoupled_light"),
    "solov2_r50_1x": solo.repository("solov2"),
    "solov2_light_448_r50_3x": solo.repository("solov2_light"),
    "adet_solov2_R50_3x": solo.adelaidet(),
}


@pytest.mark.parametrize("case", RECORDED)
def test_names_are_those_of_the_originals(case: str) -> None:
    """official_solo.py spells the same names and shapes as the running original."""
    manifest = json.loads((PARITY / case / "manifest.json").read_text())
    assert {name: tuple(shape) for name, shape, _ in manifest["state_dict"]} == RECORDED[case]


@pytest.mark.parametrize(("shapes", "flavor", "names"), FILES, ids=[names[0] for _, _, names in FILES])
def test_every_name_is_matched(shapes: dict[str, official.Shape], flavor: str, names: list[str]) -> None:
    state = official.numbered(shapes)
    model, report = convert_state(state)
    assert report.ok and report.flavor == flavor and report.preset == names[0]
    assert model.config == find_preset(names[0]).config
    assert_complete(model, state, report.matched)
    assert all(name.endswith(COUNTER) for name in report.ignored)
    # Only the schedules differ, and the report says so.
    assert [all(name in note for name in names) for note in report.notes] == [True] * (len(names) > 1)
    table = official_name_map(names[0], flavor)
    assert set(table.values()) == set(model.state_dict())
    assert report.matched.items() <= table.items()


@pytest.mark.parametrize(("shapes", "flavor", "names"), FILES, ids=[names[-1] for _, _, names in FILES])
def test_named_presets(shapes: dict[str, official.Shape], flavor: str, names: list[str]) -> None:
    prefixed = {"module." + name: value for name, value in official.numbered(shapes).items()}
    _, report = convert_state(prefixed, preset=names[-1])
    assert report.ok and report.preset == names[-1] and report.flavor == flavor and report.notes == []


def test_every_published_file_is_listed() -> None:
    released = {p.name for p in presets() if p.weights_file and p.config.family == "solo"}
    assert released == {name for _, _, names in FILES for name in names}


@pytest.mark.parametrize("head", solo.HEADS)
def test_both_flavors_give_the_same_model(head: str) -> None:
    state = official.numbered(solo.repository(head, classes=3))
    renamed = {solo.mmdet_name(name): value for name, value in state.items()}
    assert not any(name.startswith("bbox_head") for name in renamed)
    one, two = convert_state(state)[0], convert_state(renamed)[0]
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # Only the boxes differ that scales are measured on.
    config = one.config
    assert config.solo.inclusive_boxes and not two.config.solo.inclusive_boxes
    config.solo.inclusive_boxes = False
    assert config == two.config


@pytest.mark.parametrize(
    ("preset", "flavor", "theirs", "ours"),
    [
        (
            "solo_R50_1x",
            "solo",
            "backbone.layer4.2.bn3.running_var",
            "backbone.res5.2.conv3.norm.running_var",
        ),
        ("solo_R50_1x", "solo", "neck.lateral_convs.0.conv.bias", "neck.lateral2.bias"),
        ("solo_R50_1x", "solo", "neck.fpn_convs.3.conv.weight", "neck.output5.weight"),
        ("solo_R50_1x", "solo", "bbox_head.ins_convs.6.conv.weight", "head.mask_tower.6.weight"),
        ("solo_R50_1x", "solo", "bbox_head.cate_convs.2.gn.bias", "head.cls_tower.2.norm.bias"),
        ("solo_R50_1x", "solo", "bbox_head.solo_ins_list.4.weight", "head.mask_output.4.weight"),
        ("solo_R50_1x", "solo", "bbox_head.solo_cate.bias", "head.cls_logits.bias"),
        ("decoupled_solo_R50_1x", "solo", "bbox_head.ins_convs_x.0.conv.weight", "head.x_tower.0.weight"),
        ("decoupled_solo_R50_1x", "solo", "bbox_head.ins_convs_y.3.gn.weight", "head.y_tower.3.norm.weight"),
        ("decoupled_solo_R50_1x", "solo", "bbox_head.dsolo_ins_list_x.1.bias", "head.x_output.1.bias"),
        ("decoupled_solo_R50_1x", "solo", "bbox_head.dsolo_cate.weight", "head.cls_logits.weight"),
        (
            "decoupled_solo_light_R50_3x",
            "solo",
            "bbox_head.ins_convs.3.gn.bias",
            "head.mask_tower.3.norm.bias",
        ),
        ("decoupled_solo_light_R50_3x", "solo", "bbox_head.dsolo_ins_list_y.0.bias", "head.y_output.0.bias"),
        ("solov2_R50_1x", "solo", "bbox_head.kernel_convs.3.conv.weight", "head.kernel_tower.3.weight"),
        ("solov2_R50_1x", "solo", "bbox_head.solo_kernel.bias", "head.kernel.bias"),
        (
            "solov2_R50_1x",
            "solo",
            "mask_feat_head.convs_all_levels.3.conv2.conv.weight",
            "mask_branch.level3.2.weight",
        ),
        ("solov2_R50_1x", "solo", "mask_feat_head.conv_pred.0.gn.bias", "mask_branch.output.norm.bias"),
        ("mmdet_solo_r50_1x", "mmdet", "mask_head.mask_convs.0.conv.weight", "head.mask_tower.0.weight"),
        ("mmdet_solo_r50_1x", "mmdet", "mask_head.conv_mask_list.2.bias", "head.mask_output.2.bias"),
        ("mmdet_solo_r50_1x", "mmdet", "neck.fpn_convs.3.conv.bias", "neck.output5.bias"),
        (
            "mmdet_decoupled_solo_r50_1x",
            "mmdet",
            "mask_head.conv_mask_list_y.3.weight",
            "head.y_output.3.weight",
        ),
        (
            "mmdet_decoupled_solo_r50_1x",
            "mmdet",
            "mask_head.mask_convs_y.5.gn.weight",
            "head.y_tower.5.norm.weight",
        ),
        ("mmdet_solov2_r50_1x", "mmdet", "mask_head.conv_kernel.weight", "head.kernel.weight"),
        (
            "mmdet_solov2_r50_1x",
            "mmdet",
            "mask_head.mask_feature_head.conv_pred.conv.weight",
            "mask_branch.output.weight",
        ),
        (
            "mmdet_solov2_r50_1x",
            "mmdet",
            "mask_head.mask_feature_head.convs_all_levels.0.conv0.gn.weight",
            "mask_branch.level0.0.norm.weight",
        ),
        ("adet_solov2_R50_3x", "adelaidet", "backbone.fpn_output2.bias", "neck.output2.bias"),
        ("adet_solov2_R50_3x", "adelaidet", "ins_head.cate_tower.6.weight", "head.cls_tower.2.weight"),
        ("adet_solov2_R50_3x", "adelaidet", "ins_head.kernel_tower.10.bias", "head.kernel_tower.3.norm.bias"),
        ("adet_solov2_R50_3x", "adelaidet", "ins_head.cate_pred.bias", "head.cls_logits.bias"),
        (
            "adet_solov2_R50_3x",
            "adelaidet",
            "mask_head.convs_all_levels.2.conv1.1.weight",
            "mask_branch.level2.1.norm.weight",
        ),
        ("adet_solov2_R50_3x", "adelaidet", "mask_head.conv_pred.1.bias", "mask_branch.output.norm.bias"),
    ],
)
def test_names(preset: str, flavor: str, theirs: str, ours: str) -> None:
    assert official_name_map(preset, flavor)[theirs] == ours


# ---- Files as they are found ----


def test_a_training_file_of_the_authors(tmp_path: Path) -> None:
    """Class names have underscores there, and the configuration lies beside the weights."""
    text = (
        "model = dict(type='SOLO', backbone=dict(type='ResNet', style='pytorch'), "
        "bbox_head=dict(type='SOLOHead', num_grids=[40, 36, 24, 16, 12]))\n"
        "img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)"
    )
    classes = tuple(name.replace(" ", "_") for name in find_preset("solo_R50_1x").config.class_names)
    state = {"module." + name: value for name, value in official.numbered(solo.repository("solo")).items()}
    content = {"state_dict": state, "meta": {"config": text, "CLASSES": classes}, "optimizer": {}}
    torch.save(content, tmp_path / "latest.pth")
    model, report = convert(tmp_path / "latest.pth", "solo_R50_3x")
    assert report.ok and report.notes == []
    assert model.config == find_preset("solo_R50_3x").config
    assert_complete(model, state, report.matched)


@pytest.mark.parametrize("make", [solo.repository, solo.mmdet])
def test_own_classes_and_grids_come_from_the_file(tmp_path: Path, make: Any) -> None:
    text = "bbox_head=dict(type='SOLOv2Head', num_grids=[20, 18, 12, 8, 6]), style='pytorch', to_rgb=True"
    meta = {"config": text, "CLASSES": ("cat", "big_dog")}
    state = official.numbered(make("solov2", classes=2))
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "latest.pth")
    model, report = convert(tmp_path / "latest.pth")
    config = model.config
    assert report.ok and config.class_names == ["cat", "big_dog"] and config.category_ids == []
    assert config.solo.grids == [20, 18, 12, 8, 6]
    assert any("solo.grids [20, 18, 12, 8, 6] was taken from the configuration" in n for n in report.notes)


def test_an_unknown_backbone_of_a_known_head_is_noted() -> None:
    model, report = convert_state(official.numbered(solo.mmdet("solov2", 101)))
    assert report.ok and model.config.backbone.name == "resnet101"
    assert report.preset == "mmdet_solov2_r50_1x"


def test_grids_of_their_own_need_a_configuration() -> None:
    shapes = solo.repository("solo")
    shapes.update(
        {"bbox_head.solo_ins_list.0.weight": (400, 256, 1, 1), "bbox_head.solo_ins_list.0.bias": (400,)}
    )
    state = official.numbered(shapes)
    with pytest.raises(ValueError, match=r"fits no preset of solo weights: .*grids of 20, 36, 24, 16, 12"):
        convert_state(state)
    config = find_preset("solo_R50_1x").config
    config.solo.grids = [20, 36, 24, 16, 12]
    model, report = convert_state(state, preset=config)
    assert report.ok and model.config.solo.grids[0] == 20


# ---- What does not fit ----


@pytest.mark.parametrize(
    ("shapes", "preset", "text"),
    [
        (
            solo.repository("solo"),
            "mmdet_solo_r50_1x",
            "has solo names, but preset mmdet_solo_r50_1x is of mmdet",
        ),
        (
            solo.mmdet("solov2"),
            "solov2_R50_3x",
            "has mmdet names, but preset solov2_R50_3x is of solo weights",
        ),
        (solo.adelaidet(), "solov2_R50_3x", "has adelaidet names, .* use one of .*adet_solov2_R50_3x"),
        (
            solo.adelaidet(),
            "condinst_MS_R_50_1x",
            r"head solov2 of 512 channels.*; the preset .*condinst masks",
        ),
        (solo.repository("solo"), "decoupled_solo_R50_1x", "head solo of .*; the preset .*head decoupled of"),
        (
            solo.repository("decoupled"),
            "decoupled_solo_light_R50_3x",
            r"7 convolutions.*light.*4 convolutions",
        ),
        (solo.repository("solov2"), "solov2_light_448_R50_3x", r"256 mask features.*128 mask features"),
        (official.mmdet_condinst(), "mmdet_solov2_r50_1x", r"condinst masks .*; the preset .*head solov2"),
        (official.adelaidet_fcos(), "adet_solov2_R50_3x", r"no masks; the preset .*head solov2"),
    ],
)
def test_wrong_preset(shapes: dict[str, official.Shape], preset: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        convert_state(official.numbered(shapes), preset=preset)
    assert "\n" not in str(raised.value)


def test_mixed_flavors() -> None:
    """A file with the names of both code bases is none that either of them wrote."""
    shapes = {**solo.repository("solo"), **solo.mmdet("solo")}
    with pytest.raises(
        ValueError,
        match=r"mixes the names of several models, mmdet \('mask_head\.conv_cls\.weight'\) and solo",
    ):
        convert_state(official.numbered(shapes))
    # Towers of the one among the names of the other.
    mixed = {
        (solo.mmdet_name(name) if "cate_convs" in name else name): shape
        for name, shape in solo.repository("solov2").items()
    }
    with pytest.raises(ValueError, match="fits no preset of solo weights"):
        convert_state(official.numbered(mixed))


def test_both_category_layers() -> None:
    shapes = solo.repository("decoupled")
    for leaf in ("weight", "bias"):
        shapes[f"bbox_head.solo_cate.{leaf}"] = shapes[f"bbox_head.dsolo_cate.{leaf}"]
    with pytest.raises(ValueError, match=r"2 names in the file fit nothing: bbox_head\.solo_cate"):
        convert_state(official.numbered(shapes))


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        (solo.repository("decoupled_light"), "bbox_head.ins_convs.3.conv.conv_offset.weight"),
        (solo.repository("solov2", 101), "mask_feat_head.conv_pred.0.conv.conv_offset.bias"),
        (solo.repository("solov2", 101), "backbone.layer2.0.conv2.conv_offset.weight"),
        (solo.mmdet("solov2", 101), "mask_head.kernel_convs.0.conv.conv_offset.weight"),
    ],
)
def test_deformable_convolutions_are_not_supported_yet(shapes: dict[str, official.Shape], name: str) -> None:
    message = rf"deformable convolutions \(it has '{name}'\), which this version does not support yet"
    with pytest.raises(ValueError, match=message):
        convert_state(official.numbered({**shapes, name: (18,)}))


def test_resnext_is_named() -> None:
    shapes = solo.repository("solov2", 101)
    shapes["backbone.layer1.0.conv2.weight"] = (256, 4, 3, 3)
    with pytest.raises(ValueError, match="ResNeXt"):
        convert_state(official.numbered(shapes))


def test_the_backbone_of_a_solo_file(tmp_path: Path) -> None:
    """Any detector file can give its backbone to another model."""
    from instseg.importers import load_backbone

    state = official.numbered(solo.repository("solo"))
    torch.save({"state_dict": state}, tmp_path / "solo.pth")
    model = Model("mmdet_condinst_r50_1x")
    report = load_backbone(model, tmp_path / "solo.pth")
    assert report.ok and all(name.startswith("backbone.") for name in report.matched.values())
