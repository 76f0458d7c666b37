# SPDX-License-Identifier: Apache-2.0
"""What the command line tests and their fixtures share."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

CONFIG: dict[str, Any] = {
    "num_classes": 2,
    "class_names": ["disc", "square"],
    "category_ids": [5, 9],
    "input": {"short_side": 64, "long_side": 96},
    "backbone": {"name": "resnet18", "norm": "bn_eval", "freeze": 0, "stride_in_1x1": False},
    "neck": {"channels": 32, "max_level": 5},
    "head": {"cls_convs": 1, "box_convs": 1, "prior_prob": 0.3},
    "targets": {"sizes_of_interest": [32, 64]},
}


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines of stderr that report an error."""
        return [line for line in self.err.splitlines() if line.startswith("instseg: error: ")]


Run = Callable[..., Result]


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Smooth colour noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png_with_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
