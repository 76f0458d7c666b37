# SPDX-License-Identifier: Apache-2.0
"""The configuration text inside mmdetection's files decides channel order, normalisation and stride."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from instseg import Model
from instseg.importers import Report, convert

sys.path.insert(0, str(Path(__file__).parent))
import official_names as official

CAFFE_MEAN, CAFFE_STD = [102.9801, 115.9465, 122.7717], [1.0, 1.0, 1.0]
RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
HEAD = "bbox_head=dict(type='FCOSHead', num_classes=2, bbox_coder=dict(target_means=[0.0, 0.0, 0.0])"
NORM_RGB = "img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)"
NORM_BGR = "img_norm_cfg = dict(\n    mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], to_rgb=False)"
PREPROCESSOR = """{'model': {'data_preprocessor': {'type': 'DetDataPreprocessor',
    'mean': [123.675, 116.28, 103.53], 'std': (58.395, 57.12, 57.375), 'bgr_to_rgb': True},
    'backbone': {'style': 'pytorch'}, 'bbox_head': {'type': 'FCOSHead'}}}"""


def imported(folder: Path, text: str, preset: str | None = None, key: str = "config") -> tuple[Model, Report]:
    """A file with this configuration text, converted."""
    state = official.numbered(official.mmdet_fcos(classes=2))
    torch.save({"state_dict": state, "meta": {key: text}}, folder / "latest.pth")
    return convert(folder / "latest.pth", preset)


def input_of(model: Model) -> tuple[Any, ...]:
    config = model.config
    numbers = [pytest.approx(v, abs=1e-4) for v in (config.input.mean, config.input.std)]
    return config.input.channel_order, *numbers, config.backbone.stride_in_1x1


def text_of(backbone: str = "", switches: str = "", norm: str = "") -> str:
    head = f"{HEAD}, {switches})" if switches else f"{HEAD})"
    return f"model = dict(backbone=dict(type='ResNet', depth=50{backbone}), {head})\n{norm}\n"


CAFFE = ("bgr", CAFFE_MEAN, CAFFE_STD, True)
PYTORCH = ("rgb", RGB_MEAN, RGB_STD, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (text_of(", style='pytorch'", norm=NORM_RGB), PYTORCH),
        (text_of(", style='caffe'", norm=NORM_BGR), CAFFE),
        (text_of(', style="pytorch"'), PYTORCH),
        (text_of(norm=NORM_RGB), PYTORCH),
        (text_of(norm="to_rgb=False"), CAFFE),
        (
            text_of(", style='caffe'", norm="mean=[103.53, 116.28, 123.675]"),
            ("bgr", [103.53, 116.28, 123.675], CAFFE_STD, True),
        ),
        (
            text_of(", style='pytorch'", norm="to_rgb=False, mean=[1, 2.5, 3e0], std=[4., 5, 6]"),
            ("bgr", [1.0, 2.5, 3.0], [4.0, 5.0, 6.0], False),
        ),
        (text_of(", style='caffe'  # style='pytorch'\n", norm=NORM_BGR), CAFFE),
        (text_of(", style='caffe'", norm=NORM_BGR) + text_of(", style='pytorch'", norm=NORM_RGB), PYTORCH),
        (text_of(), CAFFE),
        (PREPROCESSOR, PYTORCH),
    ],
    ids=["pytorch", "caffe", "style", "norm", "order", "mean", "mixed", "comment", "last", "nothing", "3.x"],
)
def test_input(tmp_path: Path, text: str, expected: tuple[Any, ...]) -> None:
    model, report = imported(tmp_path, text, key="cfg" if text is PREPROCESSOR else "config")
    assert report.ok
    assert input_of(model) == expected
    changed = [note for note in report.notes if "configuration inside the file" in note]
    assert len(changed) == sum(a != b for a, b in zip(expected, CAFFE, strict=True))


def test_a_preset_does_not_overrule_the_input_in_the_file(tmp_path: Path) -> None:
    text = text_of(", style='pytorch'", "center_sampling=True", NORM_RGB)
    model, report = imported(tmp_path, text, "mmdet_fcos_r50_caffe_1x")
    assert input_of(model) == PYTORCH
    assert model.config.targets.center_radius == 0.0, "the preset answers what the switches leave open"
    assert any("backbone.stride_in_1x1 False was taken" in note for note in report.notes)


def test_normalisation_without_a_channel_order_asks(tmp_path: Path) -> None:
    text = text_of(norm="mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0]")
    with pytest.raises(ValueError, match=r"latest\.pth: which channel order .*--preset") as caught:
        imported(tmp_path, text)
    assert "\n" not in str(caught.value)
    model, _ = imported(tmp_path, text, "mmdet_fcos_r50_caffe_1x")
    assert input_of(model) == ("bgr", [1.0, 2.0, 3.0], CAFFE_STD, True)


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ("center_sampling=True", ("cls", "exp", False, 1.5)),
        ("center_sampling=True, center_sample_radius=2.25", ("cls", "exp", False, 2.25)),
        ("norm_on_bbox=True, center_sampling=False", ("cls", "relu", True, 0.0)),
        ("centerness_on_reg=True, norm_on_bbox=True", ("box", "relu", True, 0.0)),
        ("centerness_on_reg=False", ("cls", "exp", False, 0.0)),
        ("centerness_on_reg=True, norm_on_bbox=True, center_sampling=True", ("box", "relu", True, 1.5)),
    ],
)
def test_switches_one_by_one(tmp_path: Path, switches: str, expected: tuple[Any, ...]) -> None:
    config = imported(tmp_path, text_of(", style='caffe'", switches))[0].config
    head = config.head
    found = (head.centerness_on, head.box_transform, head.stride_units, config.targets.center_radius)
    assert found == expected
