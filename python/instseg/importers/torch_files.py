# SPDX-License-Identifier: Apache-2.0
"""The two file layouts of ``torch.save``: zip archives (torch >= 1.6) and the earlier stream of pickles."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from instseg.importers.tensors import Storage
from instseg.importers.unpickle import StorageType, unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., name length, extra length


class BoundedFile:
    """A stream that never allocates more than what is left of the file, whatever length a pickle claims."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size

    def read(self, count: int = -1, /) -> bytes:
        left = self._size - self._stream.tell()
        return self._stream.read(left if count < 0 else min(count, left))

    def readline(self, limit: int = -1, /) -> bytes:
        return self._stream.readline(limit)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int) -> int:
        return self._stream.seek(offset)


def _read_range(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        data = stream.read(stop - start)
    if len(data) != stop - start:
        raise ValueError("ends inside a tensor; the file changed while it was read")
    return data


class _Member:
    """One uncompressed file of a zip archive, read straight from its position."""

    def __init__(self, path: Path, info: zipfile.ZipInfo, stream: BinaryIO, size: int) -> None:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(
                f"its member '{info.filename}' is compressed or encrypted, as torch.save never does"
            )
        stream.seek(max(info.header_offset, 0))
        header = stream.read(_LOCAL_HEADER.size)
        if info.header_offset < 0 or len(header) != _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise ValueError(f"its zip archive is damaged at member '{info.filename}'")
        _, name, extra = _LOCAL_HEADER.unpack(header)
        self.start = info.header_offset + _LOCAL_HEADER.size + name + extra
        self.size = info.file_size
        if self.start + self.size > size:
            raise ValueError(f"its member '{info.filename}' reaches beyond the end of the file")
        self._path = path
        self._info = info

    def read(self, start: int, stop: int) -> bytes:
        data = _read_range(self._path, self.start + start, self.start + stop)
        # torch writes 0 when its checksums are switched off.
        whole = start == 0 and stop == self.size
        if whole and self._info.CRC and zlib.crc32(data) != self._info.CRC:
            raise ValueError(
                f"its member '{self._info.filename}' is damaged (wrong checksum); download the file again"
            )
        return data


def read_zip(stream: BinaryIO, path: Path) -> object:
    """The object of a zip archive of ``torch.save``; tensors stay in the file."""
    size = stream.seek(0, 2)
    try:
        with zipfile.ZipFile(stream) as archive:
            infos = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, struct.error, NotImplementedError, UnicodeError, OverflowError) as error:
        raise ValueError(f"is a truncated or damaged zip archive ({error}); download it again") from None
    if any("/code/" in name or name.endswith("/constants.pkl") for name in infos):
        raise ValueError("is a TorchScript program, not a state dict; save model.state_dict() instead")
    tops = [name for name in infos if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(tops) != 1:
        raise ValueError(
            "is a zip archive without weights (no data.pkl); if it holds a checkpoint, unpack it first"
        )
    prefix = tops[0].removesuffix("data.pkl")
    little = True
    if prefix + "byteorder" in infos:
        order = _Member(path, infos[prefix + "byteorder"], stream, size)
        little = order.read(0, min(order.size, 16)).strip() != b"big"

    def persistent_load(pid: object) -> Storage:
        kind, key, count = _storage_id(pid)
        info = infos.get(f"{prefix}data/{key}")
        if info is None:
            raise ValueError(f"its storage '{key[:40]}' is missing from the archive")
        member = _Member(path, info, stream, size)
        if member.size < count * kind.dtype.itemsize:
            raise ValueError(
                f"its storage '{key}' has {member.size} bytes instead of {count * kind.dtype.itemsize}"
            )
        return Storage(kind.dtype, member.size, member.read, little_endian=little)

    data = _Member(path, infos[tops[0]], stream, size)
    return unpickle(io.BytesIO(data.read(0, data.size)), persistent_load)


def _storage_id(pid: object) -> tuple[StorageType, str, int]:
    fields: tuple[Any, ...] = pid if isinstance(pid, tuple) else ()
    if len(fields) < 5 or fields[0] != "storage" or not isinstance(fields[1], StorageType):
        raise ValueError("its pickle refers to something other than a tensor storage")
    if not isinstance(fields[2], str) or type(fields[4]) is not int or fields[4] < 0:
        raise ValueError("its pickle names a storage in an unknown way")
    return fields[1], fields[2], fields[4]


class _LegacyStorage(Storage):
    """A storage whose position in the file is known only after the object has been read."""

    def __init__(self, kind: StorageType, count: int, path: Path, little_endian: bool) -> None:
        super().__init__(kind.dtype, count * kind.dtype.itemsize, self._read_at, little_endian=little_endian)
        self.start = -1
        self._path = path

    def _read_at(self, start: int, stop: int) -> bytes:
        return _read_range(self._path, self.start + start, self.start + stop)


def read_legacy(stream: BoundedFile, path: Path, size: int) -> object:
    """The object of the pickle-stream layout; ``stream`` stands behind the magic number."""
    if unpickle(stream) != LEGACY_PROTOCOL:
        raise ValueError("is written in a version of the old torch format that is unknown")
    system = unpickle(stream)
    little = not isinstance(system, dict) or bool(system.get("little_endian", True))
    storages: dict[str, _LegacyStorage] = {}

    def persistent_load(pid: object) -> Storage:
        kind, key, count = _storage_id(pid)
        root = storages.setdefault(key, _LegacyStorage(kind, count, path, little))
        if root.dtype != kind.dtype or root.num_bytes != count * kind.dtype.itemsize:
            raise ValueError(f"its storage '{key[:40]}' is described in two ways")
        fields = cast("tuple[Any, ...]", pid)
        return root if len(fields) < 6 or fields[5] is None else _storage_view(root, fields[5])

    top = unpickle(stream, persistent_load)
    keys = unpickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is damaged")
    if not set(keys) >= set(storages):
        raise ValueError("its list of storages is incomplete")
    for key in keys:
        _place(storages.get(key), stream, size, key, little)
    return top


def _place(storage: _LegacyStorage | None, stream: BoundedFile, size: int, key: str, little: bool) -> None:
    """Gives ``storage`` the position at ``stream`` and moves behind it."""
    count = stream.read(8)
    if storage is None:
        raise ValueError(f"it lists storage '{key[:40]}', which no tensor uses")
    expected = storage.num_bytes // storage.dtype.itemsize
    found = int.from_bytes(count, "little" if little else "big", signed=True)
    if len(count) == 8 and found != expected:
        raise ValueError(f"its storage '{key[:40]}' has {found} elements instead of {expected}")
    storage.start = stream.tell()
    if len(count) < 8 or storage.start + storage.num_bytes > size:
        raise ValueError(f"is truncated at {size} bytes, inside storage '{key[:40]}'; download it again")
    stream.seek(storage.start + storage.num_bytes)


def _storage_view(root: _LegacyStorage, view: object) -> Storage:
    """Part of a storage: ``view`` is (key, offset, size) in elements."""
    fields: tuple[Any, ...] = view if isinstance(view, tuple) else ()
    if len(fields) != 3 or not all(type(n) is int and n >= 0 for n in fields[1:]):
        raise ValueError("its pickle describes part of a storage in an unknown way")
    start, length = (n * root.dtype.itemsize for n in fields[1:])
    if start + length > root.num_bytes:
        raise ValueError(f"part of a storage reaches beyond its {root.num_bytes} bytes")
    return Storage(
        root.dtype,
        length,
        lambda first, last: root.read(start + first, start + last),
        little_endian=root.little_endian,
    )
