# SPDX-License-Identifier: Apache-2.0
"""State dicts of SOLO models of three code bases, spelled out; independent of instseg.importers."""

from __future__ import annotations

from official_names import NORM, Shape, bottlenecks, torchvision_resnet

GRIDS = (40, 36, 24, 16, 12)
HEADS = ("solo", "decoupled", "decoupled_light", "solov2", "solov2_light")
_AFFINE = ("weight", "bias")
_CONVS = {"solo": 7, "decoupled": 7, "decoupled_light": 4, "solov2": 4, "solov2_light": 2}


def _conv(name: str, shape: Shape) -> dict[str, Shape]:
    return {name + ".weight": shape, name + ".bias": shape[:1]}


def _normed(conv: str, norm: str, shape: Shape) -> dict[str, Shape]:
    """A convolution without bias and its GroupNorm."""
    return {conv + ".weight": shape, **{f"{norm}.{leaf}": shape[:1] for leaf in _AFFINE}}


def _tower(name: str, head: str, inputs: int) -> dict[str, Shape]:
    channels = 512 if head == "solov2" else 256
    out: dict[str, Shape] = {}
    for i in range(_CONVS[head]):
        shape = (channels, channels if i else inputs, 3, 3)
        out.update(_normed(f"{name}.{i}.conv", f"{name}.{i}.gn", shape))
    return out


def _mm_body(depth: int) -> dict[str, Shape]:
    """Backbone and neck of mmdetection, whose pyramid starts at C2."""
    out = torchvision_resnet(depth, "backbone.")
    for i in range(4):
        channels = (64 if depth < 50 else 256) * 2**i
        out.update(_conv(f"neck.lateral_convs.{i}.conv", (256, channels, 1, 1)))
    for i in range(4):
        out.update(_conv(f"neck.fpn_convs.{i}.conv", (256, 256, 3, 3)))
    return out


def _branch_levels() -> list[tuple[int, int, Shape]]:
    """(level, convolution, shape) of SOLOv2's mask branch; the coarsest level sees coordinates."""
    return [
        (i, j, (128, 128 if j else 258 if i == 3 else 256, 3, 3)) for i in range(4) for j in range(max(i, 1))
    ]


def repository(head: str, depth: int = 50, classes: int = 80) -> dict[str, Shape]:
    """The repository of SOLO's authors; ``head`` is one of HEADS."""
    out = _mm_body(depth)
    box = "bbox_head."
    features = 512 if head == "solov2" else 256
    out.update(_tower(box + "cate_convs", head, 256))
    if head.startswith("solov2"):
        maps = 128 if head == "solov2_light" else 256
        out.update(_tower(box + "kernel_convs", head, 258))
        out.update(_conv(box + "solo_kernel", (maps, features, 3, 3)))
        for i, j, shape in _branch_levels():
            name = f"mask_feat_head.convs_all_levels.{i}.conv{j}"
            out.update(_normed(name + ".conv", name + ".gn", shape))
        pred = "mask_feat_head.conv_pred.0"
        out.update(_normed(pred + ".conv", pred + ".gn", (maps, 128, 1, 1)))
    elif head == "solo":
        out.update(_tower(box + "ins_convs", head, 258))
        for level, side in enumerate(GRIDS):
            out.update(_conv(f"{box}solo_ins_list.{level}", (side * side, 256, 1, 1)))
    else:
        towers = {"ins_convs_x": 257, "ins_convs_y": 257} if head == "decoupled" else {"ins_convs": 258}
        for name, inputs in towers.items():
            out.update(_tower(box + name, head, inputs))
        for axis in "xy":
            for level, side in enumerate(GRIDS):
                out.update(_conv(f"{box}dsolo_ins_list_{axis}.{level}", (side, 256, 3, 3)))
    category = "dsolo_cate" if head.startswith("decoupled") else "solo_cate"
    out.update(_conv(box + category, (classes, features, 3, 3)))
    return out


# In this order: what the authors call it, what mmdetection 2 and later do.
_RENAMED = (
    ("mask_feat_head.conv_pred.0.", "mask_head.mask_feature_head.conv_pred."),
    ("mask_feat_head.", "mask_head.mask_feature_head."),
    ("bbox_head.dsolo_ins_list_", "mask_head.conv_mask_list_"),
    ("bbox_head.solo_ins_list.", "mask_head.conv_mask_list."),
    ("bbox_head.ins_convs", "mask_head.mask_convs"),
    ("bbox_head.cate_convs.", "mask_head.cls_convs."),
    ("bbox_head.dsolo_cate.", "mask_head.conv_cls."),
    ("bbox_head.solo_cate.", "mask_head.conv_cls."),
    ("bbox_head.solo_kernel.", "mask_head.conv_kernel."),
    ("bbox_head.kernel_convs.", "mask_head.kernel_convs."),
)


def mmdet_name(name: str) -> str:
    """mmdetection's name for one of the authors'."""
    for old, new in _RENAMED:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def mmdet(head: str, depth: int = 50, classes: int = 80) -> dict[str, Shape]:
    """mmdetection 2 and later."""
    return {mmdet_name(name): shape for name, shape in repository(head, depth, classes).items()}


def adelaidet(depth: int = 50, classes: int = 80) -> dict[str, Shape]:
    """SOLOv2 of AdelaiDet."""
    out: dict[str, Shape] = {}

    def unit(name: str, shape: Shape) -> None:
        out[name + ".weight"] = shape
        out.update({f"{name}.norm.{leaf}": shape[:1] for leaf in NORM})

    for k in range(2, 6):
        out.update(_conv(f"backbone.fpn_lateral{k}", (256, 64 * 2**k, 1, 1)))
        out.update(_conv(f"backbone.fpn_output{k}", (256, 256, 3, 3)))
    unit("backbone.bottom_up.stem.conv1", (64, 3, 7, 7))
    for stage, block, part, shape in bottlenecks(depth):
        unit(f"backbone.bottom_up.res{stage}.{block}.{part}", shape)
    for tower, inputs in (("cate_tower", 256), ("kernel_tower", 258)):
        for i in range(4):
            name = f"ins_head.{tower}."
            out.update(_normed(name + str(3 * i), name + str(3 * i + 1), (512, 512 if i else inputs, 3, 3)))
    out.update(_conv("ins_head.cate_pred", (classes, 512, 3, 3)))
    out.update(_conv("ins_head.kernel_pred", (256, 512, 3, 3)))
    for i, j, shape in _branch_levels():
        name = f"mask_head.convs_all_levels.{i}.conv{j}."
        out.update(_normed(name + "0", name + "1", shape))
    out.update(_normed("mask_head.conv_pred.0", "mask_head.conv_pred.1", (256, 128, 1, 1)))
    return out
