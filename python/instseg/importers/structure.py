# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's names and shapes say about its model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Config = dict[str, Any]
"""``ModelConfig.to_dict()``."""

_BLOCKS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}


@dataclass(frozen=True)
class Structure:
    """The part of a ModelConfig that decides which parameters exist, apart from the number of classes."""

    backbone: str
    levels: tuple[int, int]
    share_convs: int
    cls_convs: int
    box_convs: int
    head_norm: str
    scale: bool

    @staticmethod
    def of_config(config: Config) -> Structure:
        """The structure that ``config`` describes."""
        neck, head = config["neck"], config["head"]
        return Structure(
            backbone=config["backbone"]["name"],
            levels=(neck["min_level"], neck["max_level"] if neck["extra"] == "conv" else 5),
            share_convs=head["share_convs"],
            cls_convs=head["cls_convs"],
            box_convs=head["box_convs"],
            head_norm=head["norm"],
            scale=head["scale"],
        )

    @staticmethod
    def of_names(shapes: Mapping[str, tuple[int, ...]]) -> Structure:
        """The structure of a checkpoint, from shapes by our names; ValueError for an unknown backbone."""
        convs = {
            tower: _count(shapes, rf"head\.{tower}_tower\.(\d+)\.weight") for tower in ("share", "cls", "box")
        }
        laterals = [int(k) for k in _found(shapes, r"neck\.lateral(\d+)\.weight")] or [3]
        extra = [int(k) for k in _found(shapes, r"neck\.p(\d+)\.weight")]
        norm = "none"
        if _found(shapes, r"(head\.\w+_tower\.\d+\.norm\.weight)"):
            norm = "gn"
        elif _found(shapes, r"(head\.\w+_tower\.\d+\.norm\.\d+\.running_mean)"):
            norm = "bn"
        return Structure(
            backbone=backbone_of(shapes),
            levels=(min(laterals), max([*laterals, *extra])),
            share_convs=convs["share"],
            cls_convs=convs["cls"],
            box_convs=convs["box"],
            head_norm=norm,
            scale="head.scales.0" in shapes,
        )

    def without_backbone(self) -> Structure:
        """The same with any backbone."""
        return replace(self, backbone="")

    def __str__(self) -> str:
        return (
            f"{self.backbone}, P{self.levels[0]}..P{self.levels[1]}, {self.share_convs}+{self.cls_convs}+"
            f"{self.box_convs} head convolutions (shared+class+box), head norm {self.head_norm}, "
            f"{'with' if self.scale else 'no'} scales"
        )


def _found(names: Iterable[str], pattern: str) -> list[str]:
    compiled = re.compile(pattern)
    return [match[1] for match in map(compiled.fullmatch, names) if match is not None]


def _count(names: Iterable[str], pattern: str) -> int:
    return len(_found(names, pattern))


def backbone_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name of the ResNet with these shapes by our names, e.g. "resnet50"."""
    blocks = tuple(_count(shapes, rf"backbone\.res{s}\.(\d+)\.conv1\.weight") for s in range(2, 6))
    bottleneck = "backbone.res2.0.conv3.weight" in shapes
    name = _BLOCKS.get((blocks, bottleneck))
    if name is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise ValueError(
            f"its backbone has {'-'.join(map(str, blocks))} {kind} blocks; known are resnet18, 34, 50 and 101"
        )
    middle = shapes.get("backbone.res2.0.conv2.weight", (0, 0))
    if len(middle) == 4 and middle[0] != middle[1]:
        raise ValueError(
            f"its backbone is a ResNeXt (3x3 weight of shape {middle}), which this version does not have"
        )
    return name


_UNSUPPORTED = (
    (r"(^|\.)(basis_module|top_layer)\.", "a BlendMask model"),
    (r"(^|\.)controller\.", "a CondInst or BoxInst model"),
    (r"^ins_head\.|bbox_head\.d?solo|mask_head\.conv_(cls|mask)", "a SOLO model"),
    (r"\.repeated_bifpn\.", "a BiFPN model"),
    (r"bottom_up\.base_layer\.", "a model with a DLA backbone"),
    (r"\.OSA\d", "a model with a VoVNet backbone"),
    (r"conv2_offset\.|conv_offset\.|_tower\.\d+\.offset\.", "a model with deformable convolutions"),
)


def refuse_unsupported(names: Iterable[str]) -> None:
    """ValueError naming the kind of model, for published models that have no counterpart here."""
    for name in names:
        for pattern, kind in _UNSUPPORTED:
            if re.search(pattern, name):
                raise ValueError(f"is {kind} (it has '{name}'), which this version cannot import")
