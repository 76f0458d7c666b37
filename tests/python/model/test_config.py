# SPDX-License-Identifier: Apache-2.0
"""The bound configuration structs and presets."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import instseg

CONFIGS = [
    instseg.InputConfig,
    instseg.BackboneConfig,
    instseg.NeckConfig,
    instseg.HeadConfig,
    instseg.TargetConfig,
    instseg.LossConfig,
    instseg.PostConfig,
    instseg.BoxInstConfig,
    instseg.CondInstConfig,
    instseg.BlendMaskConfig,
    instseg.SoloConfig,
    instseg.ModelConfig,
]


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return value[:-1] if value else ["x"] if isinstance(value, list) else value


@pytest.mark.parametrize("config_type", CONFIGS)
def test_dataclass_behaviour(config_type: Any) -> None:
    default = config_type()
    fields = default.to_dict()
    assert config_type(**fields) == default == config_type.from_dict({})
    for name, value in fields.items():
        if isinstance(value, dict) or name == "category_ids":
            continue
        assert getattr(default, name) == value
        changed = copy.deepcopy(default)
        setattr(changed, name, other(value))
        assert changed != default and getattr(changed, name) == other(value) != value, name
        assert config_type(**{name: other(value)}) == changed
        assert config_type.from_dict({name: other(value)}) == changed
        assert eval(repr(changed), vars(instseg)) == changed
        assert pickle.loads(pickle.dumps(changed)) == changed
        assert copy.copy(changed) == changed
    assert default == config_type()
    assert default != 3


def test_nested_fields_are_live() -> None:
    config = instseg.ModelConfig()
    head = config.head
    head.norm = "bn"
    config.post.max_detections = 7
    assert config.head.norm == "bn" and config.to_dict()["post"]["max_detections"] == 7
    del config
    assert head.norm == "bn"


def test_values_nested_twice() -> None:
    config = instseg.ModelConfig(condinst={"boxinst": {"pairwise_size": 5}})
    config.condinst.boxinst.pairwise_dilation = 1
    expected = instseg.BoxInstConfig(pairwise_size=5, pairwise_dilation=1)
    assert config.condinst.boxinst == expected
    assert config.to_dict()["condinst"]["boxinst"] == expected.to_dict()
    assert eval(repr(config), vars(instseg)) == config
    with pytest.raises(TypeError, match=r"condinst\.boxinst\.pairwise_size must be an int"):
        instseg.ModelConfig(condinst={"boxinst": {"pairwise_size": "5"}})


def test_nested_values() -> None:
    by_dict = instseg.ModelConfig(head={"norm": "bn"}, num_classes=2)
    by_object = instseg.ModelConfig(head=instseg.HeadConfig(norm="bn"), num_classes=2)
    assert by_dict == by_object and by_dict.head.cls_convs == instseg.HeadConfig().cls_convs
    by_object.head = {"share_convs": 1}
    assert by_object.head == instseg.HeadConfig(share_convs=1)
    copied = copy.copy(by_dict)
    copied.head.norm = "gn"
    assert by_dict.head.norm == "bn"


def test_json() -> None:
    config = instseg.ModelConfig(num_classes=2, class_names=["a", "é"], category_ids=[4, 9])
    assert json.loads(config.to_json()) == config.to_dict()
    assert instseg.ModelConfig.from_json(config.to_json(indent=2)) == config
    with pytest.raises(ValueError, match="num_clases"):
        instseg.ModelConfig.from_json('{"num_clases": 3}')


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"nrm": "bn"}, ValueError, "nrm: unknown field; fields are share_convs, cls_convs"),
        ({"norm": 3}, TypeError, r"\[HeadConfig\] norm must be a str, got 3 \(int\)"),
        ({"norm": None}, TypeError, "norm must be a str, got None"),
        ({"scale": 1}, TypeError, "scale must be a bool"),
        ({"cls_convs": True}, TypeError, "cls_convs must be an int"),
        ({"cls_convs": 2.5}, TypeError, "cls_convs must be an int"),
        ({"prior_prob": "0.1"}, TypeError, "prior_prob must be a number"),
    ],
)
def test_wrong_fields(values: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        instseg.HeadConfig(**values)
    with pytest.raises(error, match=text):
        instseg.HeadConfig.from_dict(values)
    with pytest.raises(error, match="head\\." + next(iter(values))):
        instseg.ModelConfig(head=values)


def test_assignment_is_checked() -> None:
    config = instseg.ModelConfig()
    with pytest.raises(TypeError, match="mean must be a list of numbers"):
        config.input.mean = "123"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="head must be a dict or a config object"):
        config.head = instseg.NeckConfig()  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        config.nonsense = 1  # type: ignore[attr-defined]
    config.input.mean = (1, np.float32(2), 3.5)  # type: ignore[assignment]
    assert config.input.mean == [1.0, 2.0, 3.5]
    config.num_classes = np.int64(5)  # type: ignore[assignment]
    assert config.num_classes == 5 and type(config.num_classes) is int


def test_check_names_the_field() -> None:
    with pytest.raises(ValueError, match=r"head\.norm.*'ln'"):
        instseg.ModelConfig(head={"norm": "ln"}).check()
    instseg.ModelConfig().check()


def test_unhashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(instseg.HeadConfig())


def test_presets() -> None:
    presets = instseg.presets()
    assert len({preset.name for preset in presets}) == len(presets)
    for preset in presets:
        preset.config.check()
        assert instseg.find_preset(preset.name).config == preset.config
    r50 = instseg.find_preset("fcos_R_50_1x")
    assert r50.config.backbone.name == "resnet50" and r50.box_ap > 38
    assert r50.mask_ap == 0 and instseg.find_preset("condinst_MS_R_50_1x").mask_ap == 35.7
    r50.config.num_classes = 3
    assert instseg.find_preset("fcos_R_50_1x").config.num_classes == 80
    with pytest.raises(ValueError, match="fcos_R_50_1x"):
        instseg.find_preset("fcos_R50_1x")
