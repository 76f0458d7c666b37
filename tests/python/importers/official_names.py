# SPDX-License-Identifier: Apache-2.0
"""State dicts of other code bases, spelled out from their names; independent of instseg.importers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

NORM = ("weight", "bias", "running_mean", "running_var")
RESNET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
Shape = tuple[int, ...]


def numbered(shapes: dict[str, Shape]) -> dict[str, torch.Tensor]:
    """Tensors that can be told apart: every element of the i-th is i + 1. They occupy no memory."""
    return {name: torch.tensor(i + 1.0).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def bottlenecks(depth: int) -> Iterator[tuple[int, int, str, Shape]]:
    """(stage 2..5, block, "conv1" ... "shortcut", weight shape) of a ResNet."""
    wide_in = 64
    for stage, blocks in zip(range(2, 6), RESNET[depth], strict=True):
        width, wide = 32 * 2 ** (stage - 1), 128 * 2 ** (stage - 1)
        for block in range(blocks):
            yield stage, block, "conv1", (width, wide_in, 1, 1)
            yield stage, block, "conv2", (width, width, 3, 3)
            yield stage, block, "conv3", (wide, width, 1, 1)
            if block == 0:
                yield stage, block, "shortcut", (wide, wide_in, 1, 1)
            wide_in = wide


def basic_blocks(depth: int) -> Iterator[tuple[int, int, str, Shape]]:
    """The same of a ResNet-18 or 34."""
    wide_in = 64
    for stage, blocks in zip(range(2, 6), RESNET[depth], strict=True):
        width = 16 * 2**stage
        for block in range(blocks):
            yield stage, block, "conv1", (width, wide_in, 3, 3)
            yield stage, block, "conv2", (width, width, 3, 3)
            if wide_in != width:
                yield stage, block, "shortcut", (width, wide_in, 1, 1)
            wide_in = width


def torchvision_resnet(depth: int, prefix: str = "", counters: bool = True) -> dict[str, Shape]:
    """torchvision's ResNet without its classifier."""
    leaves = (*NORM, "num_batches_tracked") if counters else NORM

    def norm(name: str, channels: int) -> dict[str, Shape]:
        return {f"{name}.{leaf}": () if leaf == "num_batches_tracked" else (channels,) for leaf in leaves}

    out: dict[str, Shape] = {prefix + "conv1.weight": (64, 3, 7, 7), **norm(prefix + "bn1", 64)}
    for stage, block, part, shape in (bottlenecks if depth >= 50 else basic_blocks)(depth):
        base = f"{prefix}layer{stage - 1}.{block}."
        weight, bn = ("downsample.0", "downsample.1") if part == "shortcut" else (part, "bn" + part[-1])
        out[f"{base}{weight}.weight"] = shape
        out.update(norm(base + bn, shape[0]))
    return out


def caffe2_resnet(depth: int, folded: bool) -> dict[str, Shape]:
    """Detectron's ResNet: R-50.pkl, or a file with norms folded to scale and shift."""
    leaves = ("s", "b") if folded else ("gamma", "beta", "running_mean", "running_var")
    out: dict[str, Shape] = {"conv1_w": (64, 3, 7, 7)}
    out.update({f"res_conv1_bn_{leaf}": (64,) for leaf in leaves})
    for stage, block, part, shape in bottlenecks(depth):
        branch = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}[part]
        base = f"res{stage}_{block}_{branch}"
        out[base + "_w"] = shape
        out.update({f"{base}_bn_{leaf}": (shape[0],) for leaf in leaves})
    out.update({"fc1000_w": (1000, 2048), "fc1000_b": (1000,), "conv1_b": (64,)})
    return out


def _conv(name: str, shape: Shape) -> dict[str, Shape]:
    return {name + ".weight": shape, name + ".bias": shape[:1]}


def mmdet_fcos(depth: int = 50, classes: int = 80, old_names: bool = False) -> dict[str, Shape]:
    """mmdetection's FCOS with five levels."""
    out = torchvision_resnet(depth, "backbone.")
    for i, channels in enumerate((512, 1024, 2048)):
        out.update(_conv(f"neck.lateral_convs.{i}.conv", (256, channels, 1, 1)))
    for i in range(5):
        out.update(_conv(f"neck.fpn_convs.{i}.conv", (256, 256, 3, 3)))
    for tower in ("cls_convs", "reg_convs"):
        for i in range(4):
            out.update(_conv(f"bbox_head.{tower}.{i}.conv", (256, 256, 3, 3)))
            out.update({f"bbox_head.{tower}.{i}.gn.{leaf}": (256,) for leaf in ("weight", "bias")})
    stem = "bbox_head.fcos_" if old_names else "bbox_head.conv_"
    for part, channels in (("cls", classes), ("reg", 4), ("centerness", 1)):
        out.update(_conv(stem + part, (channels, 256, 3, 3)))
    out.update({f"bbox_head.scales.{level}.scale": () for level in range(5)})
    return out


def maskrcnn_benchmark_fcos() -> dict[str, Shape]:
    """The first FCOS implementation, R-50 with five levels."""
    out: dict[str, Shape] = {}
    body = "module.backbone.body."
    for name, shape in torchvision_resnet(50, counters=False).items():
        out[body + ("" if name.startswith("layer") else "stem.") + name] = shape
    for i, channels in zip((2, 3, 4), (512, 1024, 2048), strict=True):
        out.update(_conv(f"module.backbone.fpn.fpn_inner{i}", (256, channels, 1, 1)))
        out.update(_conv(f"module.backbone.fpn.fpn_layer{i}", (256, 256, 3, 3)))
    for level in ("p6", "p7"):
        out.update(_conv(f"module.backbone.fpn.top_blocks.{level}", (256, 256, 3, 3)))
    for tower in ("cls_tower", "bbox_tower"):
        for i in range(4):
            out.update(_conv(f"module.rpn.head.{tower}.{3 * i}", (256, 256, 3, 3)))
            out.update({f"module.rpn.head.{tower}.{3 * i + 1}.{leaf}": (256,) for leaf in ("weight", "bias")})
    for part, channels in (("cls_logits", 80), ("bbox_pred", 4), ("centerness", 1)):
        out.update(_conv(f"module.rpn.head.{part}", (channels, 256, 3, 3)))
    out.update({f"module.rpn.head.scales.{level}.scale": (1,) for level in range(5)})
    return out


def adelaidet_fcos(
    depth: int = 50,
    classes: int = 80,
    levels: int = 5,
    bn_head: bool = False,
    share: int = 0,
    towers: int = 4,
    scales: bool = True,
    counters: bool = False,
) -> dict[str, Shape]:
    """AdelaiDet's FCOS."""
    out: dict[str, Shape] = {}
    bottom = "backbone.bottom_up."

    def unit(name: str, shape: Shape) -> None:
        out[name + ".weight"] = shape
        out.update({f"{name}.norm.{leaf}": shape[:1] for leaf in NORM})
        if counters:
            out[name + ".norm.num_batches_tracked"] = ()

    unit(bottom + "stem.conv1", (64, 3, 7, 7))
    for stage, block, part, shape in bottlenecks(depth):
        unit(f"{bottom}res{stage}.{block}.{part}", shape)
    for k, channels in zip((3, 4, 5), (512, 1024, 2048), strict=True):
        out.update(_conv(f"backbone.fpn_lateral{k}", (256, channels, 1, 1)))
        out.update(_conv(f"backbone.fpn_output{k}", (256, 256, 3, 3)))
    for k in range(6, 3 + levels):
        out.update(_conv(f"backbone.top_block.p{k}", (256, 256, 3, 3)))
    head = "proposal_generator.fcos_head."
    for tower, count in (("share_tower", share), ("cls_tower", towers), ("bbox_tower", towers)):
        for i in range(count):
            out.update(_conv(f"{head}{tower}.{3 * i}", (256, 256, 3, 3)))
            norm = f"{head}{tower}.{3 * i + 1}"
            if bn_head:
                for level in range(levels):
                    out.update({f"{norm}.{level}.{leaf}": (256,) for leaf in NORM})
            else:
                out.update({f"{norm}.{leaf}": (256,) for leaf in ("weight", "bias")})
    for part, channels in (("cls_logits", classes), ("bbox_pred", 4), ("ctrness", 1)):
        out.update(_conv(head + part, (channels, 256, 3, 3)))
    if scales:
        out.update({f"{head}scales.{level}.scale": (1,) for level in range(levels)})
    return out


def _batch_norm(name: str, channels: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.{leaf}": (channels,) for leaf in NORM}
    return {**shapes, name + ".num_batches_tracked": ()}


def _block(name: str, inputs: int, conv: str = ".0", norm: str = ".1") -> dict[str, Shape]:
    """A convolution to 128 channels without bias and its norm."""
    return {f"{name}{conv}.weight": (128, inputs, 3, 3), **_batch_norm(name + norm, 128)}


def _mask_branch(prefix: str, convs: int) -> dict[str, Shape]:
    out: dict[str, Shape] = {}
    for i in range(3):
        out.update(_block(f"{prefix}refine.{i}", 256))
    for i in range(convs):
        out.update(_block(f"{prefix}tower.{i}", 128))
    return out


def adelaidet_condinst(
    depth: int = 50, classes: int = 80, semantic: bool = False, boxes: bool = False
) -> dict[str, Shape]:
    """AdelaiDet's CondInst; with ``boxes`` its BoxInst."""
    maps, parameters = (16, 233) if boxes else (8, 169)
    out = adelaidet_fcos(depth, classes)
    out.update({"mask_head.sizes_of_interest": (5,), "mask_head._iter": (1,)})
    out.update(_mask_branch("mask_branch.", 4))
    out.update(_conv("mask_branch.tower.4", (maps, 128, 1, 1)))
    if semantic:
        out.update(_block("mask_branch.seg_head.0", 256))
        out.update(_block("mask_branch.seg_head.1", 128))
        out.update(_conv("mask_branch.logits", (classes, 128, 1, 1)))
    out.update(_conv("controller", (parameters, 256, 3, 3)))
    return out


def adelaidet_blendmask(
    kind: str = "", depth: int = 50, classes: int = 80, semantic_classes: int = 80, bn_head: bool = False
) -> dict[str, Shape]:
    """AdelaiDet's BlendMask; ``kind`` is "", "550" or "RT"; 0 ``semantic_classes``: without that head."""
    levels, convs = {"": (5, 3), "550": (4, 2), "RT": (3, 2)}[kind]
    share, towers = (3, 0) if kind else (0, 4)
    out = adelaidet_fcos(depth, classes, levels, bn_head, share, towers, scales=False, counters=kind == "RT")
    out.update(_mask_branch("basis_module.", convs))
    out.update(_block(f"basis_module.tower.{convs + 1}", 128))
    out.update(_conv(f"basis_module.tower.{convs + 2}", (4, 128, 1, 1)))
    if semantic_classes:
        head = "basis_module.seg_head"
        out.update(_block(head, 256, ".0", ".1"))
        out.update(_block(head, 128, ".3", ".4"))
        out.update(_conv(head + ".6", (semantic_classes + 1, 128, 1, 1)))
    out.update(_conv("top_layer", (784, 256, 3, 3)))
    return out


def mmdet_condinst(depth: int = 50, classes: int = 80) -> dict[str, Shape]:
    """mmdetection's CondInst."""
    out = mmdet_fcos(depth, classes)
    out.update(_conv("bbox_head.controller", (169, 256, 3, 3)))
    masks = "mask_head.mask_feature_head."
    for i in range(3):
        out.update(_block(f"{masks}convs_all_levels.{i}.conv{i}", 256, ".conv", ".bn"))
    for i in range(4):
        out.update(_block(f"{masks}conv_branch.{i}", 128, ".conv", ".bn"))
    out.update(_conv(masks + "conv_pred", (8, 128, 1, 1)))
    return out
