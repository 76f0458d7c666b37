# SPDX-License-Identifier: Apache-2.0
"""The library's operations on tensors, CPU and CUDA; docs/ops.md has formulas and sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import _C
from ._C import (
    DynamicHead,
    FcosCandidates,
    FcosLevel,
    FcosTargets,
    GridCandidates,
    ImageBatch,
    InputConfig,
    LocationGrid,
    MaskTargets,
    PackedMasks,
    RasterizedMasks,
    SoloTargets,
    TargetLevel,
    Targets,
    aligned_bilinear,
    blend,
    box_iou,
    box_loss,
    centerness_of,
    class_map,
    conv_at,
    dice_loss,
    dynamic_mask_head,
    fcos_decode,
    fcos_targets,
    mask_iou,
    mask_nms,
    matrix_nms,
    network_size,
    nms,
    pack_masks,
    points_nms,
    rasterize,
    rasterize_in_boxes,
    resize_nearest,
    rle_decode,
    rle_encode,
    sigmoid_focal_loss,
    smallest_class_map,
    solo_targets,
)
from .image import ImageLike, to_tensor

__all__ = [
    "DynamicHead",
    "FcosCandidates",
    "FcosLevel",
    "FcosTargets",
    "GridCandidates",
    "LocationGrid",
    "MaskTargets",
    "PackedMasks",
    "RasterizedMasks",
    "SoloTargets",
    "TargetLevel",
    "Targets",
    "aligned_bilinear",
    "blend",
    "box_iou",
    "box_loss",
    "centerness_of",
    "class_map",
    "conv_at",
    "dice_loss",
    "dynamic_mask_head",
    "fcos_decode",
    "fcos_targets",
    "locations",
    "make_batch",
    "mask_iou",
    "mask_nms",
    "matrix_nms",
    "network_size",
    "nms",
    "pack_masks",
    "points_nms",
    "preprocess",
    "rasterize",
    "rasterize_in_boxes",
    "resize_image",
    "resize_nearest",
    "rle_decode",
    "rle_encode",
    "sigmoid_focal_loss",
    "smallest_class_map",
    "solo_targets",
]


def locations(grid: LocationGrid, device: str | torch.device = "cpu") -> torch.Tensor:
    """x, y of every cell in the network image, [height*width, 2] float32, row-major."""
    return _C.locations(grid, torch.device(device))


def resize_image(image: ImageLike, size: tuple[int, int], kernel: str = "pillow") -> torch.Tensor:
    """Resizes RGB uint8 [H, W, 3] to `size` (height, width).

    "pillow" and "opencv" return uint8 as those libraries' bilinear resize does, "float" returns float32.
    """
    return _C.resize_image(to_tensor(image), size, kernel)


def make_batch(
    images: Sequence[ImageLike],
    config: InputConfig,
    original_sizes: Sequence[tuple[int, int]] | None = None,
) -> ImageBatch:
    """Normalises and pads RGB images [H, W, 3] (uint8, or float32 tensors in 0..255) at network size.

    `original_sizes` (height, width) of each image are those the detections are returned in; default: its own.
    """
    pixels = [
        image if isinstance(image, torch.Tensor) and image.is_floating_point() else to_tensor(image)
        for image in images
    ]
    return _C.make_batch(pixels, config, list(original_sizes or []))


def preprocess(images: Sequence[ImageLike], config: InputConfig) -> ImageBatch:
    """Resizes by the shortest-edge rule of `config`, normalises and pads: all that precedes the network."""
    return _C.preprocess([to_tensor(image) for image in images], config)
