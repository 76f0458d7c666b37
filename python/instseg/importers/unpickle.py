# SPDX-License-Identifier: Apache-2.0
"""Reads pickle streams as data. Nothing is imported or called: every global has a stand-in or is refused.

The opcodes come from :mod:`pickletools` (the format's documentation in executable form); the machine below
keeps only those that build containers, numbers, strings, tensors and arrays.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

import torch

from instseg.importers.arrays import ArrayData, ArrayType, from_buffer, scalar
from instseg.importers.tensors import STORAGE_DTYPES, Storage, StoredTensor, shown

PersistentLoad = Callable[[object], object]


class ByteStream(Protocol):
    """What a pickle is read from."""

    def read(self, count: int = -1, /) -> bytes: ...
    def readline(self, limit: int = -1, /) -> bytes: ...
    def tell(self) -> int: ...


_MARK = object()


class PickledDict(dict[Any, Any]):
    """OrderedDict and its relatives; attributes such as ``_metadata`` are dropped."""


class StorageType:
    """A ``torch.FloatStorage`` or similar, named but not imported."""

    def __init__(self, name: str) -> None:
        self.dtype = STORAGE_DTYPES[name]
        self.untyped = name == "UntypedStorage"


class Foreign:
    """A class or function of another package and all that a pickle makes of it: a name without content."""

    def __init__(self, name: str) -> None:
        self.name = name


class Callee:
    """A permitted global that a pickle may call."""

    def __init__(self, build: Callable[..., object]) -> None:
        self.build = build


def _tensor(
    storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> object:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor refers to something that is not a storage")
    return storage.view(storage.dtype, offset, size, stride)


def _tensor_v3(
    storage: object,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    dtype: object,
    *_: object,
) -> object:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor refers to something that is not a storage or not a dtype")
    return storage.view(dtype, offset, size, stride)


def _parameter(data: object, *_: object) -> object:
    if not isinstance(data, StoredTensor):
        raise ValueError("a parameter without a tensor")
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"_codecs.encode with encoding {shown(encoding)} is not permitted")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


def _dict(items: object = ()) -> PickledDict:
    out = PickledDict()
    pairs = items.items() if isinstance(items, dict) else items
    if not isinstance(pairs, (list, tuple)) and not isinstance(items, dict):
        raise ValueError("a dictionary made of something that is not a list of pairs")
    for key, value in pairs:  # type: ignore[attr-defined]
        out[_key(key)] = value
    return out


def _list(items: object = ()) -> list[object]:
    if not isinstance(items, (list, tuple)):
        raise ValueError("a set made of something that is not a list")
    return list(items)


def _size(items: object = ()) -> tuple[object, ...]:
    return tuple(_list(items))


def _reconstruct(array_type: object, shape: object = (0,), code: object = b"b") -> ArrayData:
    return ArrayData()


def _getattr(owner: object, name: object = "", *_: object) -> Foreign:
    """Methods of foreign classes are pickled as ``getattr(class, name)``; of anything else it is refused."""
    if not isinstance(owner, Foreign):
        raise _refusal("builtins", "getattr")
    return Foreign(f"{owner.name}.{shown(name)}"[:200])


def _permitted() -> dict[tuple[str, str], object]:
    table: dict[tuple[str, str], object] = {
        ("collections", "OrderedDict"): Callee(_dict),
        ("collections", "Counter"): Callee(_dict),
        ("torch._utils", "_rebuild_tensor"): Callee(_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): Callee(_tensor),
        ("torch._utils", "_rebuild_tensor_v3"): Callee(_tensor_v3),
        ("torch._utils", "_rebuild_parameter"): Callee(_parameter),
        ("torch._utils", "_rebuild_parameter_with_state"): Callee(_parameter),
        ("torch", "Size"): Callee(_size),
        ("torch", "device"): Callee(lambda *_: "device"),
        ("_codecs", "encode"): Callee(_encode),
    }
    for builtins in ("__builtin__", "builtins"):
        table[builtins, "bytes"] = Callee(_empty_bytes)
        table[builtins, "set"] = Callee(_list)
        table[builtins, "frozenset"] = Callee(_list)
        table[builtins, "getattr"] = Callee(_getattr)
    for name in STORAGE_DTYPES:
        table["torch", name] = table["torch.storage", name] = StorageType(name)
    for value in vars(torch).values():
        if isinstance(value, torch.dtype):
            table["torch", str(value).removeprefix("torch.")] = value
    for core in ("numpy.core", "numpy._core"):
        table[core + ".multiarray", "_reconstruct"] = Callee(_reconstruct)
        table[core + ".multiarray", "scalar"] = Callee(scalar)
        table[core + ".numeric", "_frombuffer"] = Callee(from_buffer)
    table["numpy", "ndarray"] = None
    table["numpy", "dtype"] = Callee(ArrayType)
    return table


_PERMITTED = _permitted()


# Where code that does harm when it is called lives, and where all that a state dict needs comes from.
_OWN_PACKAGES = {*sys.stdlib_module_names, "__builtin__", "__main__", "torch", "numpy", "instseg"}


def _refusal(module: str, name: str) -> ValueError:
    return ValueError(
        f"its pickle asks for '{module}.{name}', which is not a tensor or plain data; nothing "
        "was executed. "
        "Save only the state dict of the model, or do not trust this file"
    )


def find_global(module: str, name: str) -> object:
    """
    The stand-in of ``module.name``. What is not on the list is refused by its name in a ValueError when it
    is of Python itself, torch or numpy, and a :class:`Foreign` otherwise.
    """
    if (module, name) in _PERMITTED:
        return _PERMITTED[module, name]
    if module.partition(".")[0] in _OWN_PACKAGES or not re.fullmatch(r"\w+(\.\w+)*", module):
        raise _refusal(module, name)
    return Foreign(f"{module}.{name}"[:200])


def _key(key: object) -> object:
    # Hashing nested tuples can take exponential time, and no checkpoint needs them as keys.
    if key is None or isinstance(key, (str, int, float, bytes)):
        return key
    raise ValueError(f"a dictionary key of type {type(key).__name__} is not permitted in a checkpoint")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"its pickle names a global with a {type(value).__name__}")
    return value


def _refuse_persistent(pid: object) -> object:
    raise ValueError("its pickle refers to data outside of it, which this kind of file does not have")


def unpickle(stream: ByteStream, persistent_load: PersistentLoad = _refuse_persistent) -> object:
    """
    The object of the pickle that starts at the position of ``stream``, which is left behind its end.

    Python 2 byte strings are decoded as latin-1. Tensors come as :class:`StoredTensor`, numpy arrays as
    :class:`ArrayData`, sets as lists, objects of other packages as :class:`Foreign`. Raises ValueError on a
    damaged stream and on every other global or operation that is not on the list above.
    """
    machine = _Machine(persistent_load)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
            machine.step(opcode.name, argument)
    except (
        IndexError,
        KeyError,
        TypeError,
        UnicodeError,
        MemoryError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"its pickle stream is damaged ({type(error).__name__}: {error})") from None
    return machine.result


class _Machine:
    """The stack, the memo and one method per group of opcodes."""

    def __init__(self, persistent_load: PersistentLoad) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}
        self.persistent_load = persistent_load
        self.result: object = None

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name not in ("PROTO", "FRAME"):
            handler = _HANDLERS.get(name)
            if handler is None:
                raise ValueError(f"its pickle uses the operation {name}, which is not permitted")
            handler(self, argument)

    def pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        items.reverse()
        return items

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError("stack underflow")
        self.stack[-count:] = [items]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return
        if not isinstance(target, list):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"its pickle sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def set_item(self, _: object) -> None:
        pair = [self.stack.pop(), self.stack.pop()]
        self.set_items(pair[::-1])

    def find(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(find_global(module, name))

    def find_on_stack(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(find_global(_text(module), _text(name)))

    def reduce(self, _: object) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        if isinstance(callee, Foreign):
            self.stack.append(Foreign(callee.name))
            return
        if not isinstance(callee, Callee) or not isinstance(arguments, tuple):
            raise ValueError(f"its pickle calls a {type(callee).__name__}, which is not permitted")
        self.stack.append(callee.build(*arguments))

    def new_object(self, operation: str, arguments: int) -> None:
        """NEWOBJ and NEWOBJ_EX: an instance of a class, only ever of a foreign one."""
        popped = [self.stack.pop() for _ in range(arguments)]
        cls = self.stack.pop()
        if not isinstance(cls, Foreign) or not all(isinstance(value, (tuple, dict)) for value in popped):
            raise ValueError(
                f"its pickle uses the operation {operation} on a {type(cls).__name__}, which is not permitted"
            )
        self.stack.append(Foreign(cls.name))

    def build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, (ArrayData, ArrayType)):
            target.set_state(state)
        elif not isinstance(target, (PickledDict, Foreign)):
            raise ValueError(
                f"its pickle sets the state of a {type(target).__name__}, which is not permitted"
            )

    def load_persistent(self, pid: object) -> None:
        self.stack.append(self.persistent_load(pid))

    def stop(self, _: object) -> None:
        self.result = self.stack.pop()


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_DICT": PickledDict, "EMPTY_SET": list}
_HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "DICT": lambda m, _: m.stack.append(_dict(_pairs(m.pop_to_mark()))),
    "FROZENSET": lambda m, _: m.stack.append(m.pop_to_mark()),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": lambda m, _: m.new_object("NEWOBJ", 1),
    "NEWOBJ_EX": lambda m, _: m.new_object("NEWOBJ_EX", 2),
    "BUILD": _Machine.build,
    "PERSID": _Machine.load_persistent,
    "BINPERSID": lambda m, _: m.load_persistent(m.stack.pop()),
    "STOP": _Machine.stop,
}


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("its pickle builds a dictionary of an odd number of items")
    return list(zip(items[::2], items[1::2], strict=True))
