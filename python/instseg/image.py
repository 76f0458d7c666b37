# SPDX-License-Identifier: Apache-2.0
"""Images in and out: everything becomes RGB, uint8, [H, W, 3]."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt
import torch

from . import _C

if TYPE_CHECKING:
    from PIL import Image

Array: TypeAlias = npt.NDArray[np.uint8]
#: A path, an RGB uint8 [H, W, 3] array or tensor, or a PIL image.
ImageLike: TypeAlias = Union[str, "os.PathLike[str]", npt.NDArray[Any], torch.Tensor, "Image.Image"]

_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}


def _from_pil(image: Image.Image, name: str) -> Array:
    from PIL import ImageOps

    try:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"[read_image] {name}: {error}") from error


def _read_with_pillow(path: str, pixel_limit: int) -> Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > pixel_limit:
                raise ValueError(
                    f"[read_image] {path}: {image.width}x{image.height} pixels, "
                    f"more than pixel_limit {pixel_limit}"
                )
            return _from_pil(image, path)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"[read_image] {path}: {error}") from error


def read_image(path: str | os.PathLike[str], pixel_limit: int = _C.DEFAULT_PIXEL_LIMIT) -> Array:
    """Decodes an image file to RGB, uint8 [H, W, 3], EXIF orientation applied.

    JPEG and PNG go through the library's own decoders, other formats through Pillow. Raises OSError when the
    file cannot be read, ValueError, naming it, when it is empty, truncated, no image or over `pixel_limit`.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        head = file.read(8)
    foreign = head and not any(head.startswith(_MAGIC[kind]) for kind in _C.image_decoders())
    if foreign:
        return _read_with_pillow(path, pixel_limit)
    pixels: Array = _C.read_image(path, pixel_limit).numpy()
    return pixels


def write_image(path: str | os.PathLike[str], image: ImageLike) -> None:
    """Writes PNG or JPEG (quality 95), chosen by the extension of `path`."""
    _C.write_image(os.fspath(path), to_tensor(image))


def to_tensor(image: ImageLike) -> torch.Tensor:
    """RGB, uint8 [H, W, 3], contiguous, on the CPU. TypeError or ValueError says what was given instead."""
    if isinstance(image, (str, os.PathLike)):
        return torch.from_numpy(read_image(image))
    if isinstance(image, np.ndarray):
        kind, dtype_ok = "array", image.dtype == np.uint8
    elif isinstance(image, torch.Tensor):
        kind, dtype_ok = "tensor", image.dtype == torch.uint8
    elif hasattr(image, "getexif") and hasattr(image, "convert"):
        return torch.from_numpy(_from_pil(image, "PIL image"))
    else:
        raise TypeError(
            "[image] expected a path, an RGB uint8 [H, W, 3] array or tensor, or a PIL image, "
            f"got {type(image).__name__}"
        )
    if not dtype_ok or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"[image] an {kind} must be RGB uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
            + (
                "; move the channels last"
                if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3
                else ""
            )
        )
    if isinstance(image, np.ndarray):
        # A copy makes negative strides (a BGR flip) and read-only arrays usable.
        writable = image.flags.c_contiguous and image.flags.writeable
        return torch.from_numpy(image if writable else image.copy(order="C"))
    return image.detach().cpu().contiguous()


def to_array(tensor: torch.Tensor) -> Array:
    """The tensor's memory as numpy array."""
    array: Array = tensor.numpy()
    return array
