# SPDX-License-Identifier: Apache-2.0
"""BlendMask, CondInst and BoxInst files land on the right parameters and are told apart by content."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from instseg import find_preset, presets
from instseg.importers import convert, convert_state, official_name_map

sys.path.insert(0, str(Path(__file__).parent))
import official_names as official
from import_checks import COUNTER, assert_complete

CONDINST, BLENDMASK = official.adelaidet_condinst, official.adelaidet_blendmask
IGNORED = {"mask_head.sizes_of_interest", "mask_head._iter"}

# Shapes of a file, and the presets it may be of: the first is taken.
FILES: list[tuple[dict[str, official.Shape], list[str]]] = [
    (BLENDMASK(), ["blendmask_R_50_1x", "blendmask_R_50_3x"]),
    (BLENDMASK(depth=101), ["blendmask_R_101_3x"]),
    (BLENDMASK("550"), ["blendmask_550_R_50_1x", "blendmask_550_R_50_3x"]),
    (BLENDMASK("RT"), ["blendmask_RT_R_50_4x_syncbn_shtw"]),
    (BLENDMASK("RT", bn_head=True), ["blendmask_RT_R_50_4x_bn_head_syncbn_shtw"]),
    (CONDINST(), ["condinst_MS_R_50_1x", "condinst_MS_R_50_3x"]),
    (CONDINST(semantic=True), ["condinst_MS_R_50_3x_sem"]),
    (CONDINST(101), ["condinst_MS_R_101_1x", "condinst_MS_R_101_3x"]),
    (CONDINST(101, semantic=True), ["condinst_MS_R_101_3x_sem"]),
    (CONDINST(boxes=True), ["boxinst_MS_R_50_1x", "boxinst_MS_R_50_3x"]),
    (CONDINST(101, boxes=True), ["boxinst_MS_R_101_1x", "boxinst_MS_R_101_3x"]),
    (official.mmdet_condinst(), ["mmdet_condinst_r50_1x"]),
]


@pytest.mark.parametrize(("shapes", "names"), FILES, ids=[names[0] for _, names in FILES])
def test_every_name_is_matched(shapes: dict[str, official.Shape], names: list[str]) -> None:
    state = official.numbered(shapes)
    model, report = convert_state(state)
    assert report.ok and report.preset == names[0]
    assert model.config == find_preset(names[0]).config
    assert_complete(model, state, report.matched)
    assert all(name.endswith(COUNTER) or name in IGNORED for name in report.ignored)
    # Only the schedules differ, and the report says so.
    assert [all(name in note for name in names) for note in report.notes] == [True] * (len(names) > 1)
    table = official_name_map(names[0], report.flavor)
    assert set(table.values()) == set(model.state_dict())
    assert report.matched.items() <= table.items()


@pytest.mark.parametrize(("shapes", "names"), FILES, ids=[names[-1] for _, names in FILES])
def test_named_presets(shapes: dict[str, official.Shape], names: list[str]) -> None:
    _, report = convert_state(official.numbered(shapes), preset=names[-1])
    assert report.ok and report.preset == names[-1] and report.notes == []


def test_every_published_file_is_listed() -> None:
    released = {p.name for p in presets() if p.weights_file and p.config.family in ("blendmask", "condinst")}
    assert released <= {name for _, names in FILES for name in names}


@pytest.mark.parametrize(
    ("preset", "flavor", "theirs", "ours"),
    [
        (
            "condinst_MS_R_50_3x_sem",
            "adelaidet",
            "mask_branch.refine.2.0.weight",
            "mask_branch.refine.2.weight",
        ),
        (
            "condinst_MS_R_50_3x_sem",
            "adelaidet",
            "mask_branch.tower.3.1.running_var",
            "mask_branch.tower.3.norm.running_var",
        ),
        ("condinst_MS_R_50_3x_sem", "adelaidet", "mask_branch.tower.4.bias", "mask_branch.output.bias"),
        (
            "condinst_MS_R_50_3x_sem",
            "adelaidet",
            "mask_branch.seg_head.1.1.bias",
            "mask_branch.seg_head.1.norm.bias",
        ),
        (
            "condinst_MS_R_50_3x_sem",
            "adelaidet",
            "mask_branch.logits.weight",
            "mask_branch.seg_logits.weight",
        ),
        ("boxinst_MS_R_50_1x", "adelaidet", "mask_head._iter", "iterations"),
        ("boxinst_MS_R_50_1x", "adelaidet", "controller.weight", "controller.weight"),
        ("blendmask_R_50_1x", "adelaidet", "basis_module.tower.2.0.weight", "basis_module.tower.2.weight"),
        ("blendmask_R_50_1x", "adelaidet", "basis_module.tower.4.0.weight", "basis_module.tower.3.weight"),
        ("blendmask_R_50_1x", "adelaidet", "basis_module.tower.4.1.bias", "basis_module.tower.3.norm.bias"),
        ("blendmask_R_50_1x", "adelaidet", "basis_module.tower.5.weight", "basis_module.output.weight"),
        (
            "blendmask_550_R_50_1x",
            "adelaidet",
            "basis_module.tower.3.0.weight",
            "basis_module.tower.2.weight",
        ),
        ("blendmask_550_R_50_1x", "adelaidet", "basis_module.tower.4.weight", "basis_module.output.weight"),
        (
            "blendmask_R_50_1x",
            "adelaidet",
            "basis_module.seg_head.3.weight",
            "basis_module.seg_head.1.weight",
        ),
        (
            "blendmask_R_50_1x",
            "adelaidet",
            "basis_module.seg_head.4.running_mean",
            "basis_module.seg_head.1.norm.running_mean",
        ),
        ("blendmask_R_50_1x", "adelaidet", "basis_module.seg_head.6.bias", "basis_module.seg_logits.bias"),
        ("blendmask_R_50_1x", "adelaidet", "top_layer.bias", "top_layer.bias"),
        (
            "mmdet_condinst_r50_1x",
            "mmdet",
            "mask_head.mask_feature_head.convs_all_levels.1.conv1.bn.weight",
            "mask_branch.refine.1.norm.weight",
        ),
        (
            "mmdet_condinst_r50_1x",
            "mmdet",
            "mask_head.mask_feature_head.conv_branch.2.conv.weight",
            "mask_branch.tower.2.weight",
        ),
        (
            "mmdet_condinst_r50_1x",
            "mmdet",
            "mask_head.mask_feature_head.conv_pred.bias",
            "mask_branch.output.bias",
        ),
        ("mmdet_condinst_r50_1x", "mmdet", "bbox_head.controller.bias", "controller.bias"),
    ],
)
def test_names(preset: str, flavor: str, theirs: str, ours: str) -> None:
    assert official_name_map(preset, flavor)[theirs] == ours


def test_boxinst_resumes_its_warm_up() -> None:
    state = official.numbered(official.adelaidet_condinst(boxes=True))
    state["mask_head._iter"] = torch.tensor([90000.0])
    model, report = convert_state(state)
    iterations = model.state_dict()["iterations"]
    assert int(iterations) == 90000 and iterations.dtype == torch.int64 and iterations.shape == ()
    assert not any("cast" in note for note in report.notes)
    del state["mask_head._iter"]
    model, report = convert_state(state)
    assert report.ok and int(model.state_dict()["iterations"]) == 0


def test_condinst_has_no_counter() -> None:
    state = official.numbered(official.adelaidet_condinst())
    model, report = convert_state(state)
    assert "iterations" not in model.state_dict()
    assert set(report.ignored) >= IGNORED
    without = {name: value for name, value in state.items() if name not in IGNORED}
    assert convert_state(without)[1].ok


# ---- Classes and auxiliary layers ----


def test_classes_come_from_the_file() -> None:
    for shapes in (
        official.adelaidet_condinst(classes=3, semantic=True),
        official.adelaidet_blendmask(classes=3, semantic_classes=3),
        official.mmdet_condinst(classes=3),
    ):
        state = official.numbered(shapes)
        model, report = convert_state(state)
        assert report.ok and model.config.num_classes == 3 and model.config.class_names == []
        assert_complete(model, state, report.matched)


def test_one_class_is_a_person_only_when_told() -> None:
    state = official.numbered(official.adelaidet_blendmask(classes=1, semantic_classes=1))
    model, report = convert_state(state)
    assert report.preset == "blendmask_R_50_1x"
    assert model.config.num_classes == 1 and model.config.class_names == []
    model, _ = convert_state(state, preset="blendmask_Person_R_50_1x")
    assert model.config.class_names == ["person"]


@pytest.mark.parametrize(("semantic_classes", "have"), [(0, "none"), (80, "those for 80 classes")])
def test_semantic_layers_of_other_classes_are_dropped(semantic_classes: int, have: str) -> None:
    state = official.numbered(official.adelaidet_blendmask(classes=2, semantic_classes=semantic_classes))
    model, report = convert_state(state)
    assert report.ok and not model.config.blendmask.semantic
    assert any("blendmask.semantic is false" in note and have in note for note in report.notes)
    head = [name for name in state if ".seg_head." in name]
    assert set(head) <= set(report.ignored) and not set(head) & set(report.matched)


def test_auxiliary_layers_may_be_left_out() -> None:
    state = official.numbered(official.adelaidet_condinst(semantic=True))
    model, report = convert_state(state, overrides={"condinst.semantic": False})
    assert report.ok and "mask_branch.logits.bias" in report.ignored
    assert not any(".seg_" in name for name in model.state_dict())


# ---- What does not fit ----


@pytest.mark.parametrize(
    ("shapes", "preset", "text"),
    [
        (CONDINST(), "boxinst_MS_R_50_1x", r"8 mask features and 169 parameters .*16 mask features and 233"),
        (CONDINST(boxes=True), "condinst_MS_R_50_1x", r"233 parameters .* 169 parameters"),
        (CONDINST(semantic=True), "condinst_MS_R_50_3x", r"semantic task; the preset"),
        (CONDINST(), "fcos_R_50_1x", r"condinst masks .*; the preset .* no masks"),
        (BLENDMASK(), "blendmask_550_R_50_3x", r"3 mask convolutions .*P3\.\.P6.* 2 mask convolutions"),
        (BLENDMASK("RT"), "blendmask_RT_R_50_4x_bn_head_syncbn_shtw", "head norm gn.*head norm bn"),
        (official.mmdet_condinst(), "condinst_MS_R_50_1x", "has mmdet names, but preset condinst_MS_R_50_1x"),
    ],
)
def test_wrong_preset(shapes: dict[str, official.Shape], preset: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        convert_state(official.numbered(shapes), preset=preset)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("shapes", "name", "kind"),
    [
        (BLENDMASK(), "panoptic_module.p2.0.weight", "a panoptic BlendMask model"),
        (BLENDMASK(), "backbone.bottom_up.res3.1.conv2_offset.weight", "deformable convolutions"),
        (BLENDMASK(), "backbone.bottom_up.base_layer.0.weight", "a DLA backbone"),
        (CONDINST(), "backbone.repeated_bifpn.0.lateral_1_f1.weight", "a BiFPN model"),
        (CONDINST(boxes=True), "backbone.bottom_up.res5.1.conv2_offset.bias", "deformable convolutions"),
    ],
)
def test_variants_that_are_not_supported_yet(shapes: dict[str, official.Shape], name: str, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"{kind}.*this version does not support yet"):
        convert_state(official.numbered({**shapes, name: (4,)}))


def test_other_sizes_need_a_configuration() -> None:
    shapes = official.adelaidet_condinst()
    for i in range(3):
        shapes[f"mask_branch.refine.{i}.0.weight"] = (64, 256, 3, 3)
    with pytest.raises(ValueError, match=r"fits no preset of adelaidet weights: .*of 64 channels"):
        convert_state(official.numbered(shapes))


def test_condinst_with_another_tower_length() -> None:
    """The index of the output layer follows the number of convolutions of the file and of the config."""
    shapes = official.adelaidet_condinst()
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("mask_branch.tower.3.")}
    for leaf in ("weight", "bias"):
        shapes[f"mask_branch.tower.3.{leaf}"] = shapes.pop(f"mask_branch.tower.4.{leaf}")
    config = find_preset("condinst_MS_R_50_1x").config.to_dict()
    config["condinst"]["branch_convs"] = 3
    state = official.numbered(shapes)
    model, report = convert_state(state, preset=config)
    assert report.ok and report.matched["mask_branch.tower.3.bias"] == "mask_branch.output.bias"
    assert_complete(model, state, report.matched)
    assert official_name_map(config, "adelaidet")["mask_branch.tower.3.bias"] == "mask_branch.output.bias"


# ---- Configuration inside mmdetection's files ----


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ("centerness_on_reg=True, norm_on_bbox=True, center_sampling=True", ("box", "relu", True, 1.5)),
        ("center_sampling=True, center_sample_radius=2.25", ("cls", "exp", False, 2.25)),
        ("num_classes=2", ("cls", "exp", False, 0.0)),
    ],
)
def test_mmdet_switches(tmp_path: Path, switches: str, expected: tuple[Any, ...]) -> None:
    text = (
        f"model = dict(backbone=dict(style='pytorch'), bbox_head=dict(type='CondInstBboxHead', {switches}))"
    )
    state = official.numbered(official.mmdet_condinst(classes=2))
    meta = {"cfg": text, "dataset_meta": {"classes": ("cat", "dog")}}
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "latest.pth")
    model, report = convert(tmp_path / "latest.pth")
    config = model.config
    assert report.ok and report.preset == "mmdet_condinst_r50_1x" and config.class_names == ["cat", "dog"]
    head = config.head
    found = (head.centerness_on, head.box_transform, head.stride_units, config.targets.center_radius)
    assert found == expected
    assert config.input == find_preset("mmdet_condinst_r50_1x").config.input
