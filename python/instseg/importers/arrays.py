# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the numpy objects of a pickle."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch

from instseg.importers.tensors import StoredTensor, shown, tensor_from_bytes

_DTYPES = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u1": torch.uint8,
    "b1": torch.bool,
}


class ArrayType:
    """A ``numpy.dtype``: kind and size like ``f4``, and the byte order its state carries."""

    def __init__(self, code: object, *_: object) -> None:
        match = re.fullmatch(r"([<>|=]?)([a-zA-Z]\d*|\?)", code) if isinstance(code, str) else None
        if match is None:
            raise ValueError(f"a numpy array of dtype {shown(code)} cannot be read")
        self.little_endian = match[1] != ">"
        self.code = "b1" if match[2] == "?" else match[2]

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2:
            raise ValueError("a numpy dtype with a malformed state")
        self.little_endian = state[1] != ">"

    def torch_dtype(self) -> torch.dtype:
        if self.code not in _DTYPES:
            raise ValueError(f"a numpy array of dtype {self.code!r} cannot become a tensor")
        return _DTYPES[self.code]


class ArrayData:
    """A ``numpy.ndarray``: its pickled state, turned into a tensor by :meth:`stored`."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.type = ArrayType("f4")
        self.fortran = False
        self.raw: bytes | None = b""

    def set_state(self, state: object) -> None:
        """``state`` is numpy's (version, shape, dtype, is_fortran, raw bytes); version may be absent."""
        fields: tuple[Any, ...] = state if isinstance(state, tuple) else ()
        if len(fields) == 5:
            fields = fields[1:]
        if len(fields) != 4 or not isinstance(fields[1], ArrayType) or not isinstance(fields[0], tuple):
            raise ValueError("a numpy array with a malformed state")
        self.shape, self.type, self.fortran = fields[0], fields[1], bool(fields[2])
        raw = fields[3]
        if isinstance(raw, str):  # Python 2 bytes, decoded as latin-1
            raw = raw.encode("latin-1")
        self.raw = bytes(raw) if isinstance(raw, (bytes, bytearray)) else None

    def stored(self) -> StoredTensor:
        """The array as a tensor; ValueError unless its bytes fit shape and dtype."""
        dtype = self.type.torch_dtype()
        if not all(type(n) is int and n >= 0 for n in self.shape):
            raise ValueError(f"a numpy array has the impossible shape {shown(self.shape)}")
        needed = math.prod(self.shape) * dtype.itemsize
        if self.raw is None or len(self.raw) != needed:
            have = "no" if self.raw is None else str(len(self.raw))
            raise ValueError(f"a numpy array of shape {self.shape} needs {needed} bytes and has {have}")
        return StoredTensor(self.shape, dtype, self._load)

    def _load(self) -> torch.Tensor:
        shape = self.shape[::-1] if self.fortran else self.shape
        tensor = tensor_from_bytes(
            self.raw or b"", self.type.torch_dtype(), shape, little_endian=self.type.little_endian
        )
        return tensor.permute(*range(tensor.dim() - 1, -1, -1)).contiguous() if self.fortran else tensor


def from_buffer(buffer: object, dtype: object, shape: object, order: object = "C", *_: object) -> ArrayData:
    """``numpy._core.numeric._frombuffer``, the form of protocol 5."""
    array = ArrayData()
    array.set_state((shape, dtype, order == "F", buffer))
    return array


def scalar(dtype: object, raw: object = b"") -> object:
    """``numpy._core.multiarray.scalar``: a Python number, or None for other kinds."""
    if isinstance(raw, str):
        raw = raw.encode("latin-1")
    if not isinstance(dtype, ArrayType) or not isinstance(raw, (bytes, bytearray)):
        return None
    if re.fullmatch(r"[fiu][1248]|b1", dtype.code) is None or len(raw) != int(dtype.code[1:]):
        return None
    return np.frombuffer(raw, ("<" if dtype.little_endian else ">") + dtype.code)[0].item()
