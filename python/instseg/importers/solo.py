# SPDX-License-Identifier: Apache-2.0
"""Names of SOLO, Decoupled SOLO and SOLOv2: the authors' repository, mmdetection 2 and later, AdelaiDet."""

from __future__ import annotations

import functools

from instseg.importers.names import (
    NameTable,
    Row,
    conv_norm,
    d2_resnet,
    sequential_tower,
    torchvision_resnet,
    tower_rows,
)

_LEVEL, _OUTPUT = "mask_branch.level{i}.{j}", "mask_branch.output"


@functools.cache
def repository(decoupled: bool) -> NameTable:
    """The authors' names, which are mmdetection 1.0's; one layer of Decoupled SOLO is called differently."""
    head, masks = "bbox_head.", "mask_feat_head."
    return NameTable(
        [
            *_mm_detector(head, "ins_convs", "cate_convs"),
            ("head.mask_output.{l}.{wb}", head + "solo_ins_list.{l}.{wb}"),
            ("head.x_output.{l}.{wb}", head + "dsolo_ins_list_x.{l}.{wb}"),
            ("head.y_output.{l}.{wb}", head + "dsolo_ins_list_y.{l}.{wb}"),
            ("head.cls_logits.{wb}", f"{head}{'dsolo' if decoupled else 'solo'}_cate.{{wb}}"),
            ("head.kernel.{wb}", head + "solo_kernel.{wb}"),
            *_mm_branch(masks),
            *conv_norm(_OUTPUT, masks + "conv_pred.0.conv", masks + "conv_pred.0.gn"),
        ]
    )


def _mm_detector(head: str, masks: str, classes: str) -> list[Row]:
    """Backbone, neck and towers of mmdetection; ``masks`` and ``classes`` are what it calls the towers."""
    rows = [
        *torchvision_resnet("backbone."),
        ("neck.lateral{k}.{wb}", "neck.lateral_convs.{k-2}.conv.{wb}"),
        ("neck.output{k}.{wb}", "neck.fpn_convs.{k-2}.conv.{wb}"),
    ]
    for ours, theirs in (
        ("cls", classes),
        ("mask", masks),
        ("x", masks + "_x"),
        ("y", masks + "_y"),
        ("kernel", "kernel_convs"),
    ):
        tower = head + theirs + ".{i}"
        rows += tower_rows(f"head.{ours}_tower", tower + ".conv", tower + ".gn")
    return rows


def _mm_branch(masks: str) -> list[Row]:
    level = masks + "convs_all_levels.{i}.conv{j}"
    return conv_norm(_LEVEL, level + ".conv", level + ".gn")


def _mmdet() -> list[Row]:
    head, masks = "mask_head.", "mask_head.mask_feature_head."
    return [
        *_mm_detector(head, "mask_convs", "cls_convs"),
        ("head.mask_output.{l}.{wb}", head + "conv_mask_list.{l}.{wb}"),
        ("head.x_output.{l}.{wb}", head + "conv_mask_list_x.{l}.{wb}"),
        ("head.y_output.{l}.{wb}", head + "conv_mask_list_y.{l}.{wb}"),
        ("head.cls_logits.{wb}", head + "conv_cls.{wb}"),
        ("head.kernel.{wb}", head + "conv_kernel.{wb}"),
        *_mm_branch(masks),
        *conv_norm(_OUTPUT, masks + "conv_pred.conv", masks + "conv_pred.gn"),
    ]


def _adelaidet() -> list[Row]:
    head, level = "ins_head.", "mask_head.convs_all_levels.{i}.conv{j}"
    return [
        *d2_resnet("backbone.bottom_up."),
        ("neck.lateral{k}.{wb}", "backbone.fpn_lateral{k}.{wb}"),
        ("neck.output{k}.{wb}", "backbone.fpn_output{k}.{wb}"),
        *sequential_tower("head.cls_tower", head + "cate_tower"),
        *sequential_tower("head.kernel_tower", head + "kernel_tower"),
        ("head.cls_logits.{wb}", head + "cate_pred.{wb}"),
        ("head.kernel.{wb}", head + "kernel_pred.{wb}"),
        *conv_norm(_LEVEL, level + ".0", level + ".1"),
        *conv_norm(_OUTPUT, "mask_head.conv_pred.0", "mask_head.conv_pred.1"),
    ]


MMDET = NameTable(_mmdet())
ADELAIDET = NameTable(_adelaidet())
