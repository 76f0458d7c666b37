# SPDX-License-Identifier: Apache-2.0
"""Tensors of a checkpoint that stay in the file until they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


def shown(value: object) -> str:
    """A short text for a value of unknown origin; nested ones could be exponentially long."""
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(shown(n) if isinstance(n, (int, float)) else "?" for n in value[:6]) + ")"
    return repr(value)[:40] if isinstance(value, (int, float, str)) else type(value).__name__


@dataclass(frozen=True)
class StoredTensor:
    """Shape and dtype of a tensor in a file; ``load()`` reads it into a new CPU tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]

    @staticmethod
    def of(tensor: torch.Tensor) -> StoredTensor:
        """A tensor that is already in memory."""
        value = tensor.detach()
        return StoredTensor(tuple(value.shape), value.dtype, lambda: value)


class Storage:
    """A run of raw bytes in a file. ``read(start, stop)`` returns bytes ``[start, stop)`` of it."""

    def __init__(
        self,
        dtype: torch.dtype,
        num_bytes: int,
        read: Callable[[int, int], bytes],
        *,
        little_endian: bool = True,
    ) -> None:
        self.dtype = dtype
        self.num_bytes = num_bytes
        self.read = read
        self.little_endian = little_endian

    def view(
        self, dtype: torch.dtype, offset: int, size: Sequence[int], stride: Sequence[int]
    ) -> StoredTensor:
        """The strided tensor at element ``offset``; ValueError unless it lies inside the storage."""
        ints = [offset, *size, *stride]
        if not all(type(value) is int and value >= 0 for value in ints) or len(size) != len(stride):
            raise ValueError(
                f"a tensor has the impossible layout offset {shown(offset)}, size {shown(size)}, "
                f"stride {shown(stride)}"
            )
        empty = 0 in size
        reach = 0 if empty else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        item = dtype.itemsize
        if (offset + reach) * item > self.num_bytes:
            raise ValueError(
                f"a tensor of size {tuple(size)} at element {offset} reaches beyond its storage of "
                f"{self.num_bytes} bytes"
            )
        layout = tuple(size), tuple(stride)
        return StoredTensor(layout[0], dtype, lambda: self._load(dtype, offset * item, reach * item, *layout))

    def _load(
        self, dtype: torch.dtype, start: int, count: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> torch.Tensor:
        if count == 0:
            return torch.empty(size, dtype=dtype)
        return tensor_from_bytes(
            self.read(start, start + count), dtype, size, stride, little_endian=self.little_endian
        )


def tensor_from_bytes(
    data: bytes,
    dtype: torch.dtype,
    size: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    *,
    little_endian: bool = True,
) -> torch.Tensor:
    """A new contiguous tensor of ``size`` from raw ``data``; ``stride`` in elements, default row-major."""
    if not data:
        return torch.empty(size, dtype=dtype)
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if not little_endian and dtype.itemsize > 1:
        raw = raw.view(-1, dtype.itemsize).flip(1).contiguous().view(-1)
    if dtype == torch.bool:
        raw = raw != 0  # any other byte than 0 and 1 would be undefined as a bool
    flat = raw.view(dtype)
    if stride is None:
        return flat[: math.prod(size)].view(size)
    return flat.as_strided(size, stride).contiguous()
