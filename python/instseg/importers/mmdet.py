# SPDX-License-Identifier: Apache-2.0
"""Names of mmdetection's FCOS and CondInst and what its files, also of SOLO, say about the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping

from instseg.importers.names import NameTable, conv_norm, torchvision_resnet, tower_rows
from instseg.importers.structure import Config

_MASKS = "mask_head.mask_feature_head."
_LEVEL = _MASKS + "convs_all_levels.{i}.conv{i}."
_BRANCH = _MASKS + "conv_branch.{i}."

TABLE = NameTable(
    [
        *torchvision_resnet("backbone."),
        # Before the general row: convolutions 3 and 4 are the levels derived from P5.
        ("neck.p6.{wb}", "neck.fpn_convs.3.conv.{wb}"),
        ("neck.p7.{wb}", "neck.fpn_convs.4.conv.{wb}"),
        ("neck.lateral{k}.{wb}", "neck.lateral_convs.{k-3}.conv.{wb}"),
        ("neck.output{k}.{wb}", "neck.fpn_convs.{k-3}.conv.{wb}"),
        *tower_rows("head.cls_tower", "bbox_head.cls_convs.{i}.conv", "bbox_head.cls_convs.{i}.gn"),
        *tower_rows("head.box_tower", "bbox_head.reg_convs.{i}.conv", "bbox_head.reg_convs.{i}.gn"),
        ("head.cls_logits.{wb}", "bbox_head.conv_cls.{wb}"),
        ("head.box_pred.{wb}", "bbox_head.conv_reg.{wb}"),
        ("head.centerness.{wb}", "bbox_head.conv_centerness.{wb}"),
        ("head.scales.{l}", "bbox_head.scales.{l}.scale"),
        ("controller.{wb}", "bbox_head.controller.{wb}"),
        *conv_norm("mask_branch.refine.{i}", _LEVEL + "conv", _LEVEL + "bn"),
        *conv_norm("mask_branch.tower.{i}", _BRANCH + "conv", _BRANCH + "bn"),
        ("mask_branch.output.{wb}", _MASKS + "conv_pred.{wb}"),
        ("iterations", "mask_head._iter"),
    ]
)


def canonical(name: str) -> str:
    """The first 2.x releases say ``fcos_cls`` for ``conv_cls``, and so on."""
    return re.sub(r"^bbox_head\.fcos_(cls|reg|centerness)\.", r"bbox_head.conv_\1.", name)


_SWITCHES = ("centerness_on_reg", "norm_on_bbox", "center_sampling")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"

# mean and std in channel order, for what the text leaves out.
_INPUTS: dict[str, tuple[list[float], list[float]]] = {
    "rgb": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "bgr": ([102.9801, 115.9465, 122.7717], [1.0, 1.0, 1.0]),
}


def _config_text(meta: Mapping[str, object]) -> str | None:
    """The configuration text inside the file, without comments."""
    inner = meta.get("meta")
    text = (inner.get("config") or inner.get("cfg")) if isinstance(inner, dict) else None
    return re.sub(r"#.*", "", text) if isinstance(text, str) else None


def _last(text: str, keys: str, value: str) -> str | None:
    """
    The value of the last ``key=value`` or ``'key': value`` in ``text``.

    The last, because old files hold the texts of a configuration and of its bases, bases first.
    """
    # The lookahead keeps numbers whole.
    found = re.findall(rf"\b(?:{keys})\b['\"]?\s*[=:]\s*({value})(?![\w.])", text)
    return found[-1] if found else None


def _truth(text: str, keys: str) -> bool | None:
    value = _last(text, keys, "True|False|true|false")
    return None if value is None else value.lower() == "true"


def _triple(text: str, key: str) -> list[float] | None:
    separator = r"\s*,\s*"
    value = _last(text, key, rf"[\[(]\s*{separator.join([_NUMBER] * 3)}\s*,?\s*[\])]")
    return None if value is None else [float(number) for number in re.findall(_NUMBER, value)]


def switches(meta: Mapping[str, object]) -> dict[str, bool] | None:
    """
    The three improvements and whether the configuration text inside the file turns them on.

    mmdetection's default of each is off. None when there is no text of such a head.
    """
    text = _config_text(meta)
    if text is None or re.search(r"FCOSHead|(CondInst|BoxInst)BboxHead", text) is None:
        return None
    return {key: _truth(text, key) is True for key in _SWITCHES}


def is_improved(meta: Mapping[str, object]) -> bool | None:
    """
    Whether the configuration text inside the file turns on center sampling, box normalisation and
    centerness on the box tower, all three; None when there is no such text.
    """
    found = switches(meta)
    return None if found is None else all(found.values())


def configure(config: Config, meta: Mapping[str, object], *, asked: bool) -> list[str]:
    """
    Puts what the configuration text inside the file says into ``config``; notes on what changed.

    Switches are taken only when ``asked`` is false: otherwise the user's preset has answered. Raises
    ValueError, a question answered by a preset, when mean or std come without a channel order.
    """
    text = _config_text(meta)
    if text is None:
        return []
    changes = _input_changes(text, config, asked=asked)
    found = switches(meta)
    # Plain and improved FCOS have presets of their own; CondInst has one, which is improved.
    settled = config["family"] == "fcos" and found is not None and len(set(found.values())) == 1
    if not asked and found is not None and not settled:
        changes.update(_switch_changes(text, found))
    if config["family"] == "solo":
        changes.update(_grid_changes(text))
    notes = []
    for (section, key), value in changes.items():
        if not _same(config[section][key], value):
            notes.append(
                f"{section}.{key} {value} was taken from the configuration inside the file; "
                f"the preset has {config[section][key]}"
            )
            config[section][key] = value
    return notes


def _same(one: object, other: object) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(abs(a - b) <= 1e-3 for a, b in zip(one, other, strict=True))
    return one == other


def _input_changes(text: str, config: Config, *, asked: bool) -> dict[tuple[str, str], object]:
    """Channel order, mean, std and position of the stride of a text that says something about them."""
    style = _last(text, "style", "['\"](?:caffe|pytorch)['\"]")
    rgb = _truth(text, "to_rgb|bgr_to_rgb")
    mean, std = _triple(text, "mean"), _triple(text, "std")
    if style is None and rgb is None and mean is None and std is None:
        return {}
    pytorch = None if style is None else "pytorch" in style
    rgb = pytorch if rgb is None else rgb
    if rgb is None:
        if not asked:
            raise ValueError(
                "which channel order has its input? The configuration inside the file gives mean or std, but "
                "neither to_rgb nor a backbone style; answer with --preset NAME (preset=... in Python)"
            )
        rgb = config["input"]["channel_order"] == "rgb"
        pytorch = not config["backbone"]["stride_in_1x1"]
    # Published weights pair RGB input with pytorch style, BGR input with caffe style.
    pytorch = rgb if pytorch is None else pytorch
    order = "rgb" if rgb else "bgr"
    usual = _INPUTS[order]
    return {
        ("backbone", "stride_in_1x1"): not pytorch,
        ("input", "channel_order"): order,
        ("input", "mean"): usual[0] if mean is None else mean,
        ("input", "std"): usual[1] if std is None else std,
    }


def _switch_changes(text: str, found: Mapping[str, bool]) -> dict[tuple[str, str], object]:
    """Fields of a configuration between the plain and the improved one, one switch at a time."""
    radius = _last(text, "center_sample_radius", _NUMBER)
    on_box, normed, sampling = (found[key] for key in _SWITCHES)
    return {
        ("head", "centerness_on"): "box" if on_box else "cls",
        ("head", "box_transform"): "relu" if normed else "exp",
        ("head", "stride_units"): normed,
        ("targets", "center_radius"): float(radius or 1.5) if sampling else 0.0,
    }


def _grid_changes(text: str) -> dict[tuple[str, str], object]:
    """The grids of a SOLO model, which the weights of SOLOv2 do not show."""
    value = _last(text, "num_grids", r"[\[(]\s*\d+(?:\s*,\s*\d+)*\s*,?\s*[\])]")
    return {} if value is None else {("solo", "grids"): [int(n) for n in re.findall(r"\d+", value)]}


def class_names(meta: Mapping[str, object]) -> list[str]:
    """Class names stored beside the weights, or an empty list."""
    inner = meta.get("meta")
    if not isinstance(inner, dict):
        return []
    dataset = inner.get("dataset_meta")
    for place in (inner, dataset if isinstance(dataset, dict) else {}):
        for key in ("CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names):
                return list(names)
    return []
