# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's names and shapes say about its model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
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
class Layout:
    """What decides the official names of a model, besides the code base."""

    mask_convs: int = 0
    """Convolutions in the mask branch or bottom module."""
    solo: bool = False
    decoupled: bool = False
    """Decoupled SOLO, light or not."""

    @staticmethod
    def of_config(config: Config) -> Layout:
        """The layout of the model that ``config`` describes."""
        if config["family"] == "solo":
            return Layout(solo=True, decoupled=config["solo"]["head"].startswith("decoupled"))
        masks = config.get(config["family"], {})
        return Layout(mask_convs=int(masks.get("branch_convs", 0)))


@dataclass(frozen=True)
class Masks:
    """The part of a ModelConfig that decides which parameters make the masks."""

    family: str = "fcos"
    convs: int = 0
    channels: int = 0
    norm: str = "none"
    maps: int = 0
    """Mask features or bases."""
    per_instance: int = 0
    """Parameters of a dynamic mask head, or values of an attention."""
    semantic: bool = False
    """CondInst has an auxiliary task; BlendMask's is decided by the file."""

    @staticmethod
    def of_config(config: Config) -> Masks:
        """The masks that ``config`` describes."""
        family = config["family"]
        if family == "condinst":
            part = config["condinst"]
            maps, per_instance = max(part["mask_channels"], 1), _head_parameters(part)
            semantic = part["semantic"]
        elif family == "blendmask":
            part = config["blendmask"]
            maps, per_instance = part["bases"], part["bases"] * part["attention_size"] ** 2
            semantic = False
        else:
            return Masks()
        convs, channels, norm = part["branch_convs"], part["branch_channels"], part["branch_norm"]
        return Masks(family, convs, channels, norm, maps, per_instance, semantic)

    @staticmethod
    def of_names(shapes: Mapping[str, tuple[int, ...]]) -> Masks:
        """The masks of a checkpoint, from shapes by our names."""
        for family, branch, vector in (
            ("condinst", "mask_branch.", "controller.weight"),
            ("blendmask", "basis_module.", "top_layer.weight"),
        ):
            if vector not in shapes:
                continue
            norm = "none"
            if branch + "refine.0.norm.weight" in shapes:
                norm = "bn" if branch + "refine.0.norm.running_mean" in shapes else "gn"
            towers = _count(shapes, re.escape(branch) + r"tower\.(\d+)\.weight")
            return Masks(
                family=family,
                # BlendMask has one more, behind its upsampling.
                convs=towers - (family == "blendmask"),
                channels=shapes.get(branch + "refine.0.weight", (0,))[0],
                norm=norm,
                maps=shapes.get(branch + "output.weight", (0,))[0],
                per_instance=shapes[vector][0],
                semantic=family == "condinst" and branch + "seg_logits.weight" in shapes,
            )
        return Masks()

    def __str__(self) -> str:
        if self.family == "fcos":
            return "no masks"
        maps, values = ("mask features", "parameters") if self.family == "condinst" else ("bases", "values")
        return (
            f"{self.family} masks of {self.maps} {maps} and {self.per_instance} {values} an instance, "
            f"{self.convs} mask convolutions of {self.channels} channels, mask norm {self.norm}"
            f"{', semantic task' if self.semantic else ''}"
        )


def _head_parameters(condinst: Mapping[str, Any]) -> int:
    """Weights and biases of CondInst's dynamic mask head."""
    inputs = condinst["mask_channels"] + (0 if condinst["coordinates"] == "none" else 2)
    depth, width = condinst["head_depth"], condinst["head_width"]
    if depth == 1:
        return int(inputs + 1)
    return int((inputs + 1) * width + (depth - 2) * (width + 1) * width + width + 1)


@dataclass(frozen=True)
class SoloMasks:
    """The part of a ModelConfig that decides which parameters make the masks of a SOLO model."""

    head: str
    channels: int
    grids: tuple[int, ...] = ()
    """Where each cell, or row and column, has an output of its own; () for SOLOv2."""
    mask_channels: int = 0
    branch_channels: int = 0
    """Both 0 unless the head is SOLOv2's."""

    @staticmethod
    def of_config(part: Mapping[str, Any]) -> SoloMasks:
        """The masks that the ``solo`` fields of a configuration describe."""
        if part["head"] == "solov2":
            return SoloMasks("solov2", part["channels"], (), part["mask_channels"], part["branch_channels"])
        return SoloMasks(part["head"], part["channels"], tuple(part["grids"]))

    @staticmethod
    def of_names(shapes: Mapping[str, tuple[int, ...]]) -> SoloMasks | None:
        """The masks of a checkpoint, from shapes by our names; None when it is not of SOLO."""
        channels = shapes.get("head.cls_tower.0.weight", (0,))[0]
        if "head.kernel.weight" in shapes:
            branch = shapes.get("mask_branch.level0.0.weight", (0,))[0]
            return SoloMasks("solov2", channels, (), shapes["head.kernel.weight"][0], branch)
        for part in ("mask", "x"):
            names = (f"head.{part}_output.{level}.weight" for level in count())
            outputs = tuple(shapes[name][0] for name in takewhile(shapes.__contains__, names))
            if not outputs:
                continue
            if part == "mask":
                return SoloMasks("solo", channels, tuple(math.isqrt(cells) for cells in outputs))
            head = "decoupled" if "head.x_tower.0.weight" in shapes else "decoupled_light"
            return SoloMasks(head, channels, outputs)
        return None

    def __str__(self) -> str:
        what = (
            f"{self.mask_channels} mask features of a branch of {self.branch_channels}"
            if self.head == "solov2"
            else f"grids of {', '.join(map(str, self.grids))}"
        )
        return f"head {self.head} of {self.channels} channels, {what}"


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
    masks: Masks | SoloMasks

    @staticmethod
    def of_config(config: Config) -> Structure:
        """The structure that ``config`` describes."""
        neck, head = config["neck"], config["head"]
        if config["family"] == "solo":
            masks = SoloMasks.of_config(config["solo"])
            backbone, convs = config["backbone"]["name"], config["solo"]["convs"]
            return Structure(backbone, (neck["min_level"], 5), 0, convs, 0, "gn", False, masks)
        return Structure(
            backbone=config["backbone"]["name"],
            levels=(neck["min_level"], neck["max_level"] if neck["extra"] == "conv" else 5),
            share_convs=head["share_convs"],
            cls_convs=head["cls_convs"],
            box_convs=head["box_convs"],
            head_norm=head["norm"],
            scale=head["scale"],
            masks=Masks.of_config(config),
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
            masks=SoloMasks.of_names(shapes) or Masks.of_names(shapes),
        )

    def without_backbone(self) -> Structure:
        """The same with any backbone."""
        return replace(self, backbone="")

    def __str__(self) -> str:
        if isinstance(self.masks, SoloMasks):
            return f"{self.backbone}, SOLO {self.masks}, {self.cls_convs} convolutions a tower"
        return (
            f"{self.backbone}, P{self.levels[0]}..P{self.levels[1]}, {self.share_convs}+{self.cls_convs}+"
            f"{self.box_convs} head convolutions (shared+class+box), head norm {self.head_norm}, "
            f"{'with' if self.scale else 'no'} scales, {self.masks}"
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
    (r"(^|\.)panoptic_module\.", "a panoptic BlendMask model"),
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
                raise ValueError(f"is {kind} (it has '{name}'), which this version does not support yet")
