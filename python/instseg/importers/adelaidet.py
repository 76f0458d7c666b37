# SPDX-License-Identifier: Apache-2.0
"""Names of AdelaiDet and detectron2 FCOS checkpoints."""

from __future__ import annotations

from instseg.importers.names import NameTable, d2_resnet, sequential_tower

_HEAD = "proposal_generator.fcos_head."

TABLE = NameTable(
    [
        *d2_resnet("backbone.bottom_up."),
        ("neck.lateral{k}.{wb}", "backbone.fpn_lateral{k}.{wb}"),
        ("neck.lateral{k}.norm.{leaf}", "backbone.fpn_lateral{k}.norm.{leaf}"),
        ("neck.output{k}.{wb}", "backbone.fpn_output{k}.{wb}"),
        ("neck.output{k}.norm.{leaf}", "backbone.fpn_output{k}.norm.{leaf}"),
        ("neck.p6.{wb}", "backbone.top_block.p6.{wb}"),
        ("neck.p7.{wb}", "backbone.top_block.p7.{wb}"),
        *sequential_tower("head.share_tower", _HEAD + "share_tower"),
        *sequential_tower("head.cls_tower", _HEAD + "cls_tower"),
        *sequential_tower("head.box_tower", _HEAD + "bbox_tower"),
        ("head.cls_logits.{wb}", _HEAD + "cls_logits.{wb}"),
        ("head.box_pred.{wb}", _HEAD + "bbox_pred.{wb}"),
        ("head.centerness.{wb}", _HEAD + "ctrness.{wb}"),
        ("head.scales.{l}", _HEAD + "scales.{l}.scale"),
    ]
)


def canonical(name: str) -> str:
    """Early files say ``centerness`` for ``ctrness``."""
    return name.replace("fcos_head.centerness.", "fcos_head.ctrness.")
