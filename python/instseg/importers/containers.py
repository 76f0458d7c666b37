# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files of other code bases: recognised by content, read without executing anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from instseg.importers.arrays import ArrayData
from instseg.importers.tensors import StoredTensor
from instseg.importers.torch_files import LEGACY_MAGIC, BoundedFile, read_legacy, read_zip
from instseg.importers.unpickle import Foreign, unpickle

_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "blobs", "net")
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass
class Checkpoint:
    """The weights of a file by the names it uses, without a leading ``module.``."""

    container: str
    """"torch zip", "torch legacy", "pickle", "safetensors" or "memory"."""
    state: dict[str, StoredTensor]
    skipped: list[str] = field(default_factory=list)
    """Entries that are no weights: momentum buffers, counters, objects that are no tensors."""
    meta: dict[str, object] = field(default_factory=dict)
    """What stood beside the weights: mmdetection's ``meta``, ``__author__``, ..."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """
    The weights in ``path``, still on disk (docs/import.md, "What can be read").

    Raises OSError when the file cannot be opened and ValueError, in one line naming the file and the cause,
    when it is empty, truncated, a web page, or contains anything but data.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"[convert] {path}: is a folder, expected a checkpoint file")
    try:
        with path.open("rb") as stream:
            return _read(stream, path)
    except ValueError as error:
        raise ValueError(f"[convert] {path}: {_one_line(error)}") from None
    except OSError as error:
        raise type(error)(f"[convert] {path}: cannot be read: {error.strerror or error}") from None


def from_mapping(state: Mapping[str, torch.Tensor]) -> Checkpoint:
    """A state dict that is already in memory."""
    return _checkpoint("memory", state)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read(stream: BinaryIO, path: Path) -> Checkpoint:
    head = stream.read(512)
    size = stream.seek(0, 2)
    stream.seek(0)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise ValueError("is empty (0 bytes); download it again")
    if text.startswith(b"<"):
        raise ValueError(
            "is a web page, not weights; download the file itself (on Hugging Face, 'resolve' "
            "instead of 'blob')"
        )
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(
            "is a Git LFS pointer, not the weights; fetch the file itself, e.g. with 'git lfs pull'"
        )
    if head.startswith(b"PK"):
        return _checkpoint("torch zip", read_zip(stream, path))
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < (1 << 40):
        return _read_safetensors(path)
    if head[:1] in (b"\x80", b"(", b"}"):
        return _read_pickle(stream, path, size)
    raise ValueError(
        f"is not a checkpoint this program knows (it begins with {head[:8]!r}); expected a "
        "PyTorch, pickle or "
        "safetensors file"
    )


def _read_pickle(stream: BinaryIO, path: Path, size: int) -> Checkpoint:
    bounded = BoundedFile(stream, size)
    try:
        top = unpickle(bounded)
        if top == LEGACY_MAGIC:
            return _checkpoint("torch legacy", read_legacy(bounded, path, size))
    except ValueError as error:
        if re.search(r"exhausted|remain|not enough data|no newline", str(error)):
            raise ValueError(f"is truncated at {size} bytes ({error}); download it again") from None
        raise
    return _checkpoint("pickle", top)


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    def load(name: str) -> torch.Tensor:
        with safe_open(path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    state = {}
    try:
        with safe_open(path, "pt") as file:
            meta = dict(file.metadata() or {})
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)
                dtype = _SAFETENSORS_DTYPES.get(part.get_dtype())
                if dtype is None:
                    raise ValueError(
                        f"tensor '{name}' has the dtype {part.get_dtype()}, which cannot be read"
                    )
                state[name] = StoredTensor(tuple(part.get_shape()), dtype, partial(load, name))
    except SafetensorError as error:
        raise ValueError(f"is a damaged safetensors file ({error})") from None
    out = _checkpoint("safetensors", state)
    out.meta = meta
    return out


def _checkpoint(container: str, top: object) -> Checkpoint:
    if isinstance(top, Foreign):
        raise ValueError(f"holds a '{top.name}' object; save only the state dict of the model")
    if not isinstance(top, Mapping):
        raise ValueError(f"holds a {type(top).__name__}, expected a dictionary of weights")
    outer: Mapping[object, object] = top
    meta: dict[str, object] = {}
    for key in _WRAPPERS:
        inner = outer.get(key)
        if isinstance(inner, Mapping) and any(_stored(value) is not None for value in inner.values()):
            meta = {str(k): v for k, v in outer.items() if k != key}
            return _flatten(container, inner, meta)
    if not any(_stored(value) is not None for value in outer.values()):
        keys = ", ".join(repr(str(key)[:40]) for key in list(outer)[:6])
        raise ValueError(f"holds no weights; its top-level keys are {keys or 'none'}")
    return _flatten(container, outer, meta)


def _stored(value: object) -> StoredTensor | None:
    if isinstance(value, StoredTensor):
        return value
    if isinstance(value, ArrayData):
        return value.stored()
    return StoredTensor.of(value) if isinstance(value, torch.Tensor) else None


def _foreign(value: object) -> Foreign | None:
    """A foreign object that `value` is or contains."""
    left, seen = [value], set()
    while left:
        item = left.pop()
        if isinstance(item, Foreign):
            return item
        if isinstance(item, (list, tuple, Mapping)) and id(item) not in seen:
            seen.add(id(item))  # the same tuple can be nested exponentially often
            left += item.values() if isinstance(item, Mapping) else item
    return None


def _flatten(container: str, entries: Mapping[object, object], meta: dict[str, object]) -> Checkpoint:
    out = Checkpoint(container, {}, meta=meta)
    for key, value in entries.items():
        name = str(key)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if (foreign := _foreign(value)) is not None:
            raise ValueError(
                f"holds a '{foreign.name}' object among its weights, as '{name[:80]}'; nothing was executed. "
                "Save only the state dict of the model, or do not trust this file"
            )
        tensor = None if name.endswith("_momentum") else _stored(value)
        if tensor is None:
            out.skipped.append(name)
        elif name in out.state:
            raise ValueError(f"holds '{name}' twice, with and without 'module.'")
        else:
            out.state[name] = tensor
    return out
