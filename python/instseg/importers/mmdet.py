# SPDX-License-Identifier: Apache-2.0
"""Names of mmdetection's FCOS and what its files say about the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping

from instseg.importers.names import NameTable, torchvision_resnet, tower_rows

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
    ]
)


def canonical(name: str) -> str:
    """The first 2.x releases say ``fcos_cls`` for ``conv_cls``, and so on."""
    return re.sub(r"^bbox_head\.fcos_(cls|reg|centerness)\.", r"bbox_head.conv_\1.", name)


def is_improved(meta: Mapping[str, object]) -> bool | None:
    """
    Whether the configuration text inside the file turns on center sampling, box normalisation and
    centerness on the box tower; None when there is no such text or only some of the three are on.
    """
    inner = meta.get("meta")
    text = (inner.get("config") or inner.get("cfg")) if isinstance(inner, dict) else None
    if not isinstance(text, str) or "FCOSHead" not in text:
        return None
    switches = ("centerness_on_reg", "norm_on_bbox", "center_sampling")
    found = {re.search(rf"\b{key}['\"]?\s*[=:]\s*True\b", text) is not None for key in switches}
    return found.pop() if len(found) == 1 else None


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
