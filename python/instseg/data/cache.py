# SPDX-License-Identifier: Apache-2.0
"""Keeps parsed annotation files on disk: one file of arrays that are mapped, not read, the next time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from instseg.data.index import PackedIndex, pack_index
from instseg.data.records import Problem, index_document, read_document

FORMAT = 1  # of the file, and of what the parser makes of an annotation file
MIN_SIZE = 1 << 20  # bytes; smaller files are parsed in no time, so that True leaves them alone

_MAGIC = b"instseg index\n\0\0"  # 16 bytes, then the CRC-32 of all that follows and the header's length
_START = 32  # where the header begins
_ALIGNMENT = 64
_HEAD = 1 << 16  # bytes at either end of the annotation file that its key looks at

Cache = bool | str | os.PathLike[str]


def cache_folder(cache: Cache) -> Path | None:
    """The folder that ``cache`` means: itself, for True the user's, for False none."""
    if not isinstance(cache, bool):
        return Path(cache)
    if not cache:
        return None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:  # no home folder
            return None
    return Path(base) / "instseg"


def load_index(annotations: Path, masks: bool, cache: Cache = True) -> PackedIndex:
    """The indexed annotation file, from the cache where it is as parsed then.

    A damaged or outdated entry is replaced; a folder that cannot be written is no error.

    Args:
        masks: with the segmentations.
        cache: folder of the entries; True: the user's, for files from 1 MiB on; False: none.

    Raises OSError and ValueError as read_document.
    """
    folder = cache_folder(cache)
    if folder is None or (cache is True and annotations.stat().st_size < MIN_SIZE):
        return pack_index(index_document(read_document(annotations), masks))
    key = _key(annotations, masks)
    name = hashlib.sha256(f"{key['path']}\n{masks}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    entry = folder / f"{name}.index"
    found = _read(entry, key)
    if found is not None:
        return found
    index = pack_index(index_document(read_document(annotations), masks))
    # Read-only homes and full disks are common on clusters.
    with contextlib.suppress(OSError):
        _write(entry, key, index)
    return index


def _key(annotations: Path, masks: bool) -> dict[str, Any]:
    """What an entry must have been made from."""
    import instseg

    path = annotations.resolve()
    state = path.stat()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        digest.update(file.read(_HEAD))
        file.seek(max(0, state.st_size - _HEAD))
        digest.update(file.read(_HEAD))
    return {
        "format": FORMAT,
        "version": instseg.__version__,
        "path": str(path),
        "size": state.st_size,
        "mtime": state.st_mtime_ns,
        "ctime": state.st_ctime_ns,  # no program can set it back
        "content": digest.hexdigest(),
        "masks": masks,
    }


def _write(entry: Path, key: dict[str, Any], index: PackedIndex) -> None:
    layout: dict[str, list[Any]] = {}
    end = 0
    for name, values in index.arrays.items():
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        layout[name] = [values.dtype.str, list(values.shape), begin]
        end = begin + values.nbytes
    header = json.dumps(
        {
            "key": key,
            "categories": list(index.categories.items()),
            "problems": [asdict(problem) for problem in index.problems],
            "arrays": layout,
        }
    ).encode("ascii")
    header += b" " * (-(_START + len(header)) % _ALIGNMENT)
    body = bytearray(end)
    for name, values in index.arrays.items():
        begin = layout[name][2]
        body[begin : begin + values.nbytes] = values.tobytes()
    rest = len(header).to_bytes(8, "little") + header
    checksum = zlib.crc32(body, zlib.crc32(rest)).to_bytes(8, "little")
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.with_name(f"{entry.name}.tmp{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.writelines((_MAGIC, checksum, rest, body))
        os.replace(temporary, entry)
    finally:
        temporary.unlink(missing_ok=True)


def _read(entry: Path, key: dict[str, Any]) -> PackedIndex | None:
    """The index in ``entry``; None when it is missing, damaged or of something else."""
    try:
        content = np.memmap(entry, np.uint8, mode="r").view(np.ndarray)
        if content[: len(_MAGIC)].tobytes() != _MAGIC:
            return None
        length = int.from_bytes(content[24:_START].tobytes(), "little")
        header = json.loads(content[_START : _START + length].tobytes())
        if header["key"] != key:
            return None
        if zlib.crc32(content[24:].data) != int.from_bytes(content[16:24].tobytes(), "little"):
            return None
        arrays = {}
        for name, (dtype, shape, begin) in header["arrays"].items():
            kind = np.dtype(dtype)
            start = _START + length + begin
            size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
            arrays[name] = content[start : start + size].view(kind).reshape(shape)
        categories = {int(category): str(text) for category, text in header["categories"]}
        return PackedIndex(categories, [Problem(**problem) for problem in header["problems"]], arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
