# SPDX-License-Identifier: Apache-2.0
"""Names of torchvision's ``fcos_resnet50_fpn`` and of its ResNet classification files."""

from __future__ import annotations

import re

from instseg.importers.names import NameTable, sequential_tower, torchvision_resnet

_CLS = "head.classification_head."
_BOX = "head.regression_head."

TABLE = NameTable(
    [
        *torchvision_resnet("backbone.body."),
        ("neck.lateral{k}.{wb}", "backbone.fpn.inner_blocks.{k-3}.0.{wb}"),
        ("neck.output{k}.{wb}", "backbone.fpn.layer_blocks.{k-3}.0.{wb}"),
        ("neck.p6.{wb}", "backbone.fpn.extra_blocks.p6.{wb}"),
        ("neck.p7.{wb}", "backbone.fpn.extra_blocks.p7.{wb}"),
        *sequential_tower("head.cls_tower", _CLS + "conv"),
        *sequential_tower("head.box_tower", _BOX + "conv"),
        ("head.cls_logits.{wb}", _CLS + "cls_logits.{wb}"),
        ("head.box_pred.{wb}", _BOX + "bbox_reg.{wb}"),
        ("head.centerness.{wb}", _BOX + "bbox_ctrness.{wb}"),
    ]
)
BACKBONE = NameTable(torchvision_resnet(""))


def canonical(name: str) -> str:
    """torchvision 0.12 had no ``.0`` in the pyramid."""
    return re.sub(r"\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r".\1_blocks.\2.0.\3", name)
