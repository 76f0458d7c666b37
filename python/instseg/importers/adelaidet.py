# SPDX-License-Identifier: Apache-2.0
"""Names of AdelaiDet and detectron2 checkpoints: FCOS, BlendMask, CondInst, BoxInst."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from instseg.importers.names import NameTable, Row, conv_norm, d2_resnet, sequential_tower

_HEAD = "proposal_generator.fcos_head."


@functools.cache
def table(convs: int) -> NameTable:
    """
    The names of a model whose mask branch or bottom module has ``convs`` 3x3 convolutions.

    The count matters because the authors number all parts of that sequence: the output layer of CondInst has
    the index ``convs``; BlendMask has an upsampling there, then one more convolution and the output.
    """
    return NameTable([*_detector(), *_condinst(convs), *_blendmask(convs)])


def mask_convs(names: Iterable[str]) -> int:
    """``convs`` of a file with these names; 0 without a mask branch."""
    for name in names:
        found = re.fullmatch(r"(mask_branch|basis_module)\.tower\.(\d{1,3})\.bias", name)
        if found is not None:
            return max(int(found[2]) - (2 if found[1] == "basis_module" else 0), 0)
    return 0


def canonical(name: str) -> str:
    """Early files say ``centerness`` for ``ctrness``."""
    return name.replace("fcos_head.centerness.", "fcos_head.ctrness.")


def _condinst(convs: int) -> list[Row]:
    part = "mask_branch."
    return [
        *conv_norm(part + "refine.{i}", part + "refine.{i}.0", part + "refine.{i}.1"),
        *conv_norm(part + "tower.{i}", part + "tower.{i}.0", part + "tower.{i}.1"),
        (part + "output.{wb}", f"{part}tower.{convs}.{{wb}}"),
        *conv_norm(part + "seg_head.{i}", part + "seg_head.{i}.0", part + "seg_head.{i}.1"),
        (part + "seg_logits.{wb}", part + "logits.{wb}"),
        ("controller.{wb}", "controller.{wb}"),
        ("iterations", "mask_head._iter"),
    ]


def _blendmask(convs: int) -> list[Row]:
    part = "basis_module."
    last, theirs = f"{part}tower.{convs}", f"{part}tower.{convs + 1}"
    return [
        *conv_norm(part + "refine.{i}", part + "refine.{i}.0", part + "refine.{i}.1"),
        # Before the general rows: behind the upsampling the authors count one further than we do.
        *conv_norm(last, theirs + ".0", theirs + ".1"),
        *conv_norm(part + "tower.{i}", part + "tower.{i}.0", part + "tower.{i}.1"),
        (part + "output.{wb}", f"{part}tower.{convs + 2}.{{wb}}"),
        (part + "seg_logits.{wb}", part + "seg_head.6.{wb}"),
        *conv_norm(part + "seg_head.{i}", part + "seg_head.{3*i}", part + "seg_head.{3*i+1}"),
        ("top_layer.{wb}", "top_layer.{wb}"),
    ]


def _detector() -> list[Row]:
    return [
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
