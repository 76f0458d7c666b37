# SPDX-License-Identifier: Apache-2.0
"""Start values from a model file: other classes, other architectures, a run on another data set."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from training_helpers import MODEL, recipe_of, run

from instseg import Model
from instseg.training.finetune import CLASS_LAYERS, fine_tune
from instseg.training.weights import load_weights

SMALL: dict[str, Any] = {
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "backbone": {"name": "efficientnet_lite0", "norm": "bn_eval"},
    "neck": {"channels": 32, "max_level": 5},
    "head": {"cls_convs": 1, "box_convs": 1},
    "targets": {"sizes_of_interest": [64, 128]},
}
BRANCH = {"branch_channels": 16, "branch_convs": 1}
SOLO = {"channels": 32, "convs": 1, "mask_channels": 32}
SOLO_NECK = {"channels": 32, "min_level": 2, "max_level": 6}
FAMILIES: dict[str, dict[str, Any]] = {
    "fcos": {},
    "condinst": {"family": "condinst", "condinst": {**BRANCH, "semantic": True}},
    "boxinst": {"family": "condinst", "condinst": {**BRANCH, "supervision": "boxes"}},
    "blendmask": {"family": "blendmask", "blendmask": {**BRANCH, "semantic": True}},
    "solo": {"family": "solo", "solo": SOLO | {"head": "solo"}},
    "decoupled": {"family": "solo", "solo": SOLO | {"head": "decoupled"}},
    "solov2": {"family": "solo", "solo": SOLO | {"head": "solov2"}},
}


def make(family: str, names: list[str], seed: int = 1, **changes: Any) -> Model:
    torch.manual_seed(seed)
    config = {**SMALL, **FAMILIES[family], "num_classes": len(names), "class_names": names, **changes}
    if config.get("family") == "solo":
        config = {key: value for key, value in config.items() if key not in ("targets", "head")}
        config = {"neck": SOLO_NECK, **{k: v for k, v in config.items() if k != "neck"}}
    return Model(config)


def trained(family: str, names: list[str], **changes: Any) -> Model:
    """A model whose every value differs from a fresh one's."""
    model = make(family, names, seed=2, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    return model


def copied(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_names_every_layer_that_depends_on_the_classes(family):
    two, five = make(family, list("ab")).state_dict(), make(family, list("abcde")).state_dict()
    assert two.keys() == five.keys()
    differing = {name.rpartition(".")[0] for name in two if two[name].shape != five[name].shape}
    table = CLASS_LAYERS[make(family, ["a"]).config.family]
    assert differing == {layer for layer in table if f"{layer}.weight" in two}
    assert "head.cls_logits" in differing
    for layer, first in table.items():
        if layer in differing:
            assert five[f"{layer}.weight"].shape[0] == five[f"{layer}.bias"].shape[0] == 5 + first


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_known_classes_are_taken_over_by_name(family, tmp_path):
    source = trained(family, ["a", "b", "c"])
    source.save(tmp_path / "m.safetensors")
    model = make(family, ["c", "x", "a", "y"])
    fresh = copied(model)
    transfer = fine_tune(model, tmp_path / "m.safetensors")
    old, new = source.state_dict(), model.state_dict()
    table = CLASS_LAYERS[model.config.family]
    assert transfer.carried == ["c", "a"] and not transfer.reshaped and not transfer.missing
    layers = [layer for layer in table if f"{layer}.weight" in new]
    assert transfer.by_class == [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]
    for name, tensor in new.items():
        layer = name.rpartition(".")[0]
        if layer not in layers:
            if name != "iterations":
                assert name in transfer.taken and torch.equal(tensor, old[name]), name
            continue
        first = table[layer]
        assert torch.equal(tensor[:first], old[name][:first]), name
        assert torch.equal(tensor[first], old[name][first + 2]), name
        assert torch.equal(tensor[first + 2], old[name][first]), name
        for row in (first + 1, first + 3):
            assert torch.equal(tensor[row], fresh[name][row]), name
    line = transfer.line()
    assert f"re-initialised for the classes but for the rows of c, a: {', '.join(layers)}" in line
    assert "3 -> 4 classes, 2 of them in both" in line and "\n" not in line


def test_the_counter_of_boxinst_starts_anew(tmp_path):
    source = trained("boxinst", ["a", "b"])
    source.get_buffer("iterations").fill_(90000)
    source.save(tmp_path / "m.safetensors")
    model = make("boxinst", ["a", "b"])
    line = fine_tune(model, tmp_path / "m.safetensors").line()
    assert model.get_buffer("iterations").item() == 0 and "the counter 'iterations' starts at 0" in line


def test_unknown_classes_keep_the_layer_fresh(tmp_path):
    source = trained("blendmask", ["a", "b", "c"])
    source.save(tmp_path / "m.safetensors")
    model = make("blendmask", ["x", "y", "z"])
    fresh = copied(model)
    line = fine_tune(model, tmp_path / "m.safetensors").line()
    assert "3 -> 3 classes, 0 of them in both" in line
    assert "re-initialised for the classes: head.cls_logits, basis_module.seg_logits" in line
    for layer in CLASS_LAYERS["blendmask"]:
        assert torch.equal(model.get_parameter(f"{layer}.weight"), fresh[f"{layer}.weight"])
        assert torch.equal(model.get_parameter(f"{layer}.bias"), fresh[f"{layer}.bias"])


def test_classes_in_another_order_are_sorted_by_name(tmp_path):
    source = trained("fcos", ["a", "b", "c"])
    source.save(tmp_path / "m.safetensors")
    model = make("fcos", ["b", "c", "a"])
    line = fine_tune(model, tmp_path / "m.safetensors").line()
    old = source.get_parameter("head.cls_logits.weight")
    assert torch.equal(model.get_parameter("head.cls_logits.weight"), old[[1, 2, 0]])
    assert "same classes in another order; rows taken over by class name: head.cls_logits" in line
    assert "initialised" not in line


def test_a_part_of_the_classes_needs_nothing_fresh(tmp_path):
    source = trained("fcos", ["a", "b", "c"])
    source.save(tmp_path / "m.safetensors")
    model = make("fcos", ["c"])
    line = fine_tune(model, tmp_path / "m.safetensors").line()
    assert torch.equal(
        model.get_parameter("head.cls_logits.bias"), source.get_parameter("head.cls_logits.bias")[2:]
    )
    assert "3 -> 1 classes, 1 of them in both; rows taken over by class name" in line


def test_unnamed_classes_mean_nothing_unless_both_are(tmp_path):
    source = trained("fcos", ["a", "b"], class_names=[])
    source.save(tmp_path / "m.safetensors")
    named = make("fcos", ["a", "b"])
    fresh = copied(named)
    line = fine_tune(named, tmp_path / "m.safetensors").line()
    assert "2 -> 2 classes, of unknown names; re-initialised for the classes: head.cls_logits" in line
    assert torch.equal(named.get_parameter("head.cls_logits.weight"), fresh["head.cls_logits.weight"])
    unnamed = make("fcos", ["a", "b"], class_names=[])
    assert fine_tune(unnamed, tmp_path / "m.safetensors").classes == "same classes"
    for name, tensor in unnamed.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


def test_float16_files_are_as_good(tmp_path):
    source = trained("fcos", ["a", "b"])
    source.save(tmp_path / "m.safetensors", dtype="float16")
    model = make("fcos", ["b"])
    fine_tune(model, tmp_path / "m.safetensors")
    expected = source.get_parameter("head.cls_logits.weight")[1:].half().float()
    assert torch.equal(model.get_parameter("head.cls_logits.weight"), expected)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_detectors_become_condinst(tmp_path):
    trained("fcos", ["a", "b", "c"]).save(tmp_path / "m.safetensors")
    model = make("condinst", ["a", "b", "c"])
    line = fine_tune(model, tmp_path / "m.safetensors").line()
    assert "not in the file, re-initialised: mask_branch, controller" in line
    trained("condinst", ["a", "b", "c"]).save(tmp_path / "c.safetensors")
    line = fine_tune(make("fcos", ["a", "b", "c"]), tmp_path / "c.safetensors").line()
    assert "of no use here: mask_branch, controller" in line


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        (
            {"backbone": {"name": "resnet18"}},
            ["backbone.name: 'efficientnet_lite0' -> 'resnet18'"],
        ),
        ({"neck": {"channels": 64, "max_level": 5}}, ["neck.channels: 32 -> 64", "of the neck fit"]),
        ({"head": {"cls_convs": 4, "box_convs": 4}}, ["head.box_convs: 1 -> 4", "of the head fit"]),
    ],
)
def test_another_architecture_is_refused_with_what_differs(tmp_path, changes, texts):
    trained("fcos", ["a", "b", "c"]).save(tmp_path / "m.safetensors")
    model = make("fcos", ["a", "b", "c"], **changes)
    before = copied(model)
    with pytest.raises(ValueError, match="another architecture") as caught:
        fine_tune(model, tmp_path / "m.safetensors")
    for text in [*texts, str(tmp_path / "m.safetensors"), "choose a file of the same architecture"]:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_another_family_is_refused(tmp_path):
    trained("solov2", ["a"]).save(tmp_path / "m.safetensors")
    model = make("fcos", ["a"], neck=SOLO_NECK | {"min_level": 3, "max_level": 5})
    with pytest.raises(ValueError, match=r"family: 'solo' -> 'fcos'"):
        fine_tune(model, tmp_path / "m.safetensors")


def test_half_of_a_part_is_enough_and_named(tmp_path):
    """Of eight tensors of two towers, those of the second convolution are missing."""
    trained("fcos", ["a"]).save(tmp_path / "m.safetensors")
    model = make("fcos", ["a"], head={"cls_convs": 2, "box_convs": 2})
    line = fine_tune(model, tmp_path / "m.safetensors").line()
    assert "not in the file, re-initialised: head.cls_tower.1" in line and "head.box_tower.1" in line


def test_other_shapes_are_named(tmp_path):
    trained("condinst", ["a"]).save(tmp_path / "m.safetensors")
    model = make("condinst", ["a"], condinst={**BRANCH, "semantic": True, "mask_channels": 4})
    fresh = copied(model)
    line = fine_tune(model, tmp_path / "m.safetensors").line()
    assert "of other shape in the file, re-initialised: " in line
    assert "mask_branch.output, controller" in line
    assert torch.equal(model.get_parameter("controller.weight"), fresh["controller.weight"])


def test_damaged_values_are_told(tmp_path):
    source = trained("fcos", ["a"])
    with torch.no_grad():
        source.get_parameter("head.box_pred.bias").fill_(float("nan"))
    source.save(tmp_path / "m.safetensors")
    line = fine_tune(make("fcos", ["b"]), tmp_path / "m.safetensors").line()
    assert "warning: " in line and "head.box_pred.bias" in line


@pytest.mark.parametrize("content", [b"", b"no model", b"\x89PNG\r\n\x1a\n" + bytes(40)], ids=range(3))
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "w.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_weights(make("fcos", ["a"]), str(path))
    assert "w.bin" in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_starts_from_a_run_with_other_classes(make_dataset, tmp_path, capsys):
    """The second run's loss begins below that of a run from scratch, and its line says what was taken."""
    files = make_dataset()
    recipe = recipe_of(files, solver__iterations=2, solver__milestones=[1])
    run(recipe, tmp_path / "first")

    def renamed(document):
        document["categories"] = [{"id": 3, "name": "brick"}, {"id": 7, "name": "round"}]

    others = make_dataset(edit=renamed, name="others")
    from instseg.training import Trainer

    tuned = recipe_of(others, weights=str(tmp_path / "first" / "model.safetensors"))
    trainer = Trainer(tuned, tmp_path / "second")
    said = " ".join(capsys.readouterr().err.split())
    assert "re-initialised for the classes but for the rows of round: head.cls_logits" in said
    old = Model.load(tmp_path / "first" / "model.safetensors").state_dict()
    new = trainer.model.state_dict()
    assert trainer.config.class_names == ["brick", "round"]
    assert torch.equal(new["head.box_pred.weight"], old["head.box_pred.weight"])
    # "square", "round" have the labels 0, 1 in the first file
    assert torch.equal(new["head.cls_logits.weight"][1], old["head.cls_logits.weight"][1])
    assert not torch.equal(new["head.cls_logits.weight"][0], old["head.cls_logits.weight"][0])
    trainer.run()
    summary = json.loads((tmp_path / "second" / "summary.json").read_text())
    assert summary["recipe"]["weights"].endswith("model.safetensors") and MODEL["preset"].startswith("fcos")
