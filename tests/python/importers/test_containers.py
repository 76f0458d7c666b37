# SPDX-License-Identifier: Apache-2.0
"""Every kind of checkpoint file, by hand or by the library it comes from; and files that must fail."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from instseg.importers.containers import read_checkpoint
from instseg.importers.unpickle import unpickle

STATE = {
    "module.a.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
    "a.half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "a.bfloat": torch.tensor([0.5, 3.0], dtype=torch.bfloat16),
    "a.counter": torch.tensor(7),
    "a.flag": torch.tensor([True, False]),
    "a.double": torch.tensor([[1e-300]], dtype=torch.float64),
    "a.empty": torch.empty(0, 3),
}


def loaded(path: Path) -> dict[str, torch.Tensor]:
    return {name: stored.load() for name, stored in read_checkpoint(path).state.items()}


def assert_is_state(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = STATE) -> None:
    assert list(found) == [name.removeprefix("module.") for name in expected]
    for name, tensor in expected.items():
        value = found[name.removeprefix("module.")]
        assert value.dtype == tensor.dtype and value.shape == tensor.shape and torch.equal(value, tensor)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_torch_files(tmp_path: Path, zipped: bool, wrapper: str | None) -> None:
    path = tmp_path / "no_extension"
    state = OrderedDict(STATE)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    extras = {
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
        "iteration": 5,
        "meta": {"CLASSES": ("x",)},
    }
    top = state if wrapper is None else {wrapper: state, **extras}
    torch.save(top, path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert checkpoint.container == ("torch zip" if zipped else "torch legacy")
    assert checkpoint.meta.get("meta") == (None if wrapper is None else {"CLASSES": ("x",)})
    assert_is_state(loaded(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_views_parameters_and_shared_storages(tmp_path: Path, zipped: bool) -> None:
    base = torch.randn(6, 8)
    state = {
        "transposed": base.t(),
        "part": base[2:4, 1::3],
        "expanded": base[:1].expand(4, 8),
        "parameter": torch.nn.Parameter(base[0]),
        "same": base,
    }
    path = tmp_path / "views.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert_is_state(loaded(path), state)
    assert all(value.is_contiguous() for value in loaded(path).values())


def test_dtype_without_its_own_storage_type(tmp_path: Path) -> None:
    path = tmp_path / "v3.pth"
    torch.save({"x": torch.tensor([1, 60000]).to(torch.uint16)}, path)
    assert loaded(path)["x"].tolist() == [1, 60000]


def _big_endian_zip(path: Path, values: np.ndarray) -> None:
    """An archive as a big-endian machine writes it."""
    source = io.BytesIO()
    torch.save({"x": torch.from_numpy(values)}, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("byteorder"):
                data = b"big"
            if info.filename.endswith("data/0"):
                data = values.byteswap().tobytes()
            new.writestr(info.filename, data)


def test_big_endian_archive(tmp_path: Path) -> None:
    values = np.array([1.5, -3e7, 0.1], np.float32)
    _big_endian_zip(tmp_path / "big.pth", values)
    assert np.array_equal(loaded(tmp_path / "big.pth")["x"].numpy(), values)


def test_legacy_storage_view(tmp_path: Path) -> None:
    """torch < 1.0 wrote views of storages: (key, offset, size) as the sixth field of the persistent id."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> tuple[object, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), 1, (2,), (1,), False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            view = ("root_view", 2, 4)
            return (
                ("storage", torch.FloatStorage, "root", "cpu", 10, view) if isinstance(obj, Storage) else None
            )

    path = tmp_path / "view.pth"
    with path.open("wb") as stream:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001}):
            pickle.dump(value, stream, 2)
        Pickler(stream, 2).dump({"x": Tensor()})
        pickle.dump(["root"], stream, 2)
        stream.write(struct.pack("<q", 10) + np.arange(10, dtype="<f4").tobytes())
    assert loaded(path)["x"].tolist() == [3.0, 4.0]


ARRAYS = {
    "conv1_w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "scalar": np.array(1, np.float32),
    "integers": np.array([[1, 2]], np.int64),
}


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_pickles(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "x", "lr": np.float64(0.5)}, protocol))
    checkpoint = read_checkpoint(path)
    assert checkpoint.container == "pickle"
    assert checkpoint.meta == {"__author__": "x", "lr": 0.5}
    for name, array in ARRAYS.items():
        value = checkpoint.state[name].load()
        assert value.shape == array.shape and np.array_equal(value.numpy(), array)


@pytest.mark.parametrize("nested", [True, False])
def test_python2_caffe2_pickle(tmp_path: Path, nested: bool) -> None:
    """Python 2 wrote byte strings (decoded as latin-1) and the module name numpy.core.multiarray."""
    raw = np.array([1.0, -2.5], "<f4").tobytes()

    def string(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    dtype = (
        b"cnumpy\ndtype\n("
        + string(b"f4")
        + b"K\x00K\x01tR(K\x03"
        + string(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + string(b"b") + b"tR"
        b"(K\x01K\x02\x85" + dtype + b"\x89" + string(raw) + b"tb"
    )
    blobs = (
        b"}("
        + string(b"conv1_w")
        + array
        + string(b"conv1_w_momentum")
        + array
        + string(b"weight_order")
        + b"Ntu"
    )
    blobs = blobs.replace(b"Ntu", b"Nu")
    top = b"\x80\x02" + (b"}" + string(b"blobs") + blobs + b"s." if nested else blobs + b".")
    path = tmp_path / "R-50.pkl"
    path.write_bytes(top)
    checkpoint = read_checkpoint(path)
    assert checkpoint.state["conv1_w"].load().tolist() == [1.0, -2.5]
    assert sorted(checkpoint.skipped) == ["conv1_w_momentum", "weight_order"]


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.pth"
    save_file({name: tensor for name, tensor in STATE.items()}, path, {"format": "pt"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.container == "safetensors" and checkpoint.meta == {"format": "pt"}
    expected = {name.removeprefix("module."): tensor for name, tensor in STATE.items()}
    found = loaded(path)
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# ---- Hostile files ----


class Payload:
    """Calls ``function(*arguments)`` when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


def _payloads(sentinel: Path) -> dict[str, Payload]:
    import argparse
    import os

    import numpy.testing
    import torch.hub

    code = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "posix.system": Payload(os.system, f"touch {sentinel}"),
        "builtins.eval": Payload(eval, code),
        "builtins.exec": Payload(exec, code),
        "builtins.getattr": Payload(getattr, "text", "upper"),
        "argparse.Namespace": Payload(argparse.Namespace),
        "numpy.testing._private.utils.runstring": Payload(numpy.testing._private.utils.runstring, code, {}),
        "torch.hub.load": Payload(torch.hub.load, str(sentinel.parent), "x"),
        "torch.jit._script.script": Payload(torch.jit.script, len),
        "torch.serialization.load": Payload(torch.load, str(sentinel)),
    }


NAMES = [*_payloads(Path("x"))]


@pytest.mark.parametrize("kind", ["zip", "legacy", "pkl"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_executed(tmp_path: Path, kind: str, name: str) -> None:
    sentinel = tmp_path / "executed"
    state = {"model": {"a": torch.ones(2)}, "evil": _payloads(sentinel)[name]}
    path = tmp_path / "evil.pth"
    if kind == "pkl":
        path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "evil": state["evil"]}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match="nothing was executed") as raised:
        read_checkpoint(path)
    message = str(raised.value).replace("__builtin__", "builtins")
    assert f"'{name}'" in message and str(path) in message and "\n" not in message
    assert not sentinel.exists()


class _History:
    """Pickled as mmengine pickles its HistoryBuffer: attributes with arrays, and methods of the class."""

    def __init__(self) -> None:
        self.log = np.array([0.5, 0.25])
        self.methods = {"min": _History.smallest, "buffer": [np.float64(3)]}

    def smallest(self) -> float:
        return float(self.log.min())


class _Options(dict[str, int]):
    pass


FRAMEWORK = types.ModuleType("somengine.logging")
for _member, _name in (
    (_History, "HistoryBuffer"),
    (_History.smallest, "HistoryBuffer.smallest"),
    (_Options, "Options"),
):
    _member.__module__, _member.__qualname__ = FRAMEWORK.__name__, _name  # type: ignore[attr-defined]
    vars(FRAMEWORK)[_name] = _member


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of the classes above, which must exist while they are written."""
    monkeypatch.setitem(sys.modules, "somengine", types.ModuleType("somengine"))
    monkeypatch.setitem(sys.modules, FRAMEWORK.__name__, FRAMEWORK)


@pytest.mark.usefixtures("framework")
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_foreign_objects_beside_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    hub = {"log_scalars": OrderedDict(loss=_History()), "options": _Options(a=1)}
    path = tmp_path / "epoch_12.pth"
    top = {"meta": {"epoch": 12, "options": _Options(b=2)}, "state_dict": STATE, "message_hub": hub}
    torch.save(top, path, pickle_protocol=protocol)
    for name in ("somengine", "somengine.logging"):
        monkeypatch.delitem(sys.modules, name)
    checkpoint = read_checkpoint(path)
    assert_is_state({name: stored.load() for name, stored in checkpoint.state.items()})
    assert checkpoint.meta["meta"]["epoch"] == 12  # type: ignore[index]
    assert not any(name.startswith("somengine") for name in sys.modules)


@pytest.mark.usefixtures("framework")
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [(1, {"deep": x})], lambda x: [x.smallest]])
def test_foreign_objects_among_the_weights(tmp_path: Path, wrap: Callable[[_History], object]) -> None:
    path = tmp_path / "x.pth"
    value = wrap(_History())
    torch.save({"state_dict": {"a": torch.ones(1), "b": value}}, path)
    with pytest.raises(ValueError, match="nothing was executed") as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("framework")
def test_a_foreign_object_instead_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(_History(), path)
    assert "holds a 'somengine.logging.HistoryBuffer' object" in _failure(path)
    torch.save({"model": _History()}, path)
    assert "holds no weights" in _failure(path)


def test_the_payload_would_work(tmp_path: Path) -> None:
    """Guards the test above: with pickle itself the sentinel appears."""
    sentinel = tmp_path / "executed"
    pickle.loads(pickle.dumps(_payloads(sentinel)["posix.system"]))
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("stream", "cause"),
    [
        (b"\x80\x02ccollections\nOrderedDict\n)R(U\x05itemsK\x01ub0N.", "damaged|pickle"),
        (b"\x80\x02(S'touch x'\nios\nsystem\n.", "INST"),
        (b"\x80\x02(cos\nsystem\nS'x'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x17OrderedDict.__class__.x\x93.", "OrderedDict.__class__"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls a StorageType"),
        (b"\x80\x02]q\x00}b.", "sets the state of a list"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"\x80\x02cos.path\njoin\n)R.", "os.path.join"),
        (b"\x80\x02c__main__\nx\n.", "__main__.x"),
        (b"\x80\x02cbuiltins\ngetattr\ncbuiltins\nset\nX\x03\x00\x00\x00pop\x86R.", "builtins.getattr"),
        (b"\x80\x02cbuiltins\nset\n)\x81.", "NEWOBJ"),
        (b"\x80\x02cother.pkg\nC\nK\x01\x81.", "NEWOBJ"),
        (b"\x80\x02c.os\nsystem\n.", ".os.system"),
        (b"\x80\x02))R.", "calls a tuple"),
        (b"\x80\x02U\x01xQ.", "refers to data outside"),
        (b"\x80\x02}K\x01K\x02\x86K\x03s.", "key of type tuple"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "'hex'"),
        (b"\x80\x02" + b"r\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02tR.", "damaged"),
    ],
)
def test_hand_written_attacks(stream: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        unpickle(io.BytesIO(stream))


@pytest.mark.parametrize(
    "use", [b"ctorch\ndevice\nh\x01\x85R", b"cnumpy\ndtype\nh\x01\x85R", b"h\x01h\x01\x93", b"}h\x01Ns"]
)
def test_exponentially_nested_values_cost_nothing(use: bytes) -> None:
    nested = b"\x80\x04)" + b"q\x01h\x01\x86" * 200 + b"q\x01"
    with contextlib.suppress(ValueError):
        unpickle(io.BytesIO(nested + use + b"."))
    with pytest.raises(ValueError, match="is not a storage"):
        unpickle(io.BytesIO(nested + b"ctorch._utils\n_rebuild_tensor_v2\n(h\x01h\x01h\x01h\x01tR."))


def test_attributes_of_containers_cannot_be_replaced() -> None:
    found = unpickle(io.BytesIO(b"\x80\x02ccollections\nOrderedDict\n)R}U\x05itemsK\x01sb."))
    assert found == {} and callable(found.items)  # type: ignore[attr-defined]


class _FakeStorage:
    """Pickled as a persistent id."""

    def __init__(self, *pid: object) -> None:
        self.pid = pid


class _Rebuild:
    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


def _zip_with(path: Path, tensor: _Rebuild, storage: bytes = bytes(16)) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj.pid if isinstance(obj, _FakeStorage) else None

    data = io.BytesIO()
    Pickler(data, 2).dump({"x": tensor})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data.getvalue())
        archive.writestr("a/data/0", storage)


GOOD = ("storage", torch.FloatStorage, "0", "cpu", 4)


@pytest.mark.parametrize(
    ("pid", "layout", "cause"),
    [
        (GOOD, (0, (5,), (1,)), "reaches beyond its storage"),
        (GOOD, (3, (2,), (1,)), "reaches beyond its storage"),
        (GOOD, (0, (2, 2), (3, 1)), "reaches beyond its storage"),
        (GOOD, (2**62, (1,), (1,)), "reaches beyond its storage"),
        (GOOD, (-1, (2,), (1,)), "impossible layout"),
        (GOOD, (0, (2,), (-1,)), "impossible layout"),
        (GOOD, (0, (2, 2), (1,)), "impossible layout"),
        (GOOD, (0, (2.0,), (1,)), "impossible layout"),
        (GOOD, (0, ((((1,),),),), (1,)), r"size \(\?\)"),
        (("storage", torch.FloatStorage, "0", "cpu", 400), (0, (2,), (1,)), "16 bytes instead of 1600"),
        (("storage", torch.FloatStorage, "../0", "cpu", 4), (0, (2,), (1,)), "missing from the archive"),
        (("module", torch.FloatStorage, "0", "cpu", 4), (0, (2,), (1,)), "other than a tensor storage"),
        (("storage", torch.float32, "0", "cpu", 4), (0, (2,), (1,)), "other than a tensor storage"),
    ],
)
def test_nothing_reads_out_of_range(tmp_path: Path, pid: tuple, layout: tuple, cause: str) -> None:
    path = tmp_path / "x.pth"
    _zip_with(path, _Rebuild(_FakeStorage(*GOOD), 0, (4,), (1,), False, OrderedDict()))
    assert loaded(path)["x"].shape == (4,)
    _zip_with(path, _Rebuild(_FakeStorage(*pid), *layout, False, OrderedDict()))
    with pytest.raises(ValueError, match=cause) as raised:
        read_checkpoint(path)
    assert str(path) in str(raised.value)


def test_huge_expanded_tensor_is_not_materialised(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    _zip_with(path, _Rebuild(_FakeStorage(*GOOD), 0, (10**6, 10**6), (0, 0), False, OrderedDict()))
    assert read_checkpoint(path).state["x"].shape == (10**6, 10**6)


def test_array_that_lies_about_its_size(tmp_path: Path) -> None:
    good = pickle.dumps({"x": np.zeros(3, np.float32)}, 2)
    path = tmp_path / "x.pkl"
    path.write_bytes(good.replace(b"K\x03\x85", b"K\x09\x85", 1))
    with pytest.raises(ValueError, match="needs 36 bytes and has 12"):
        read_checkpoint(path)


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"x": np.array([None, 1], dtype=object)}))
    with pytest.raises(ValueError, match="dtype 'O8'"):
        read_checkpoint(path)


# ---- Damaged and mistaken files ----


def _failure(path: Path) -> str:
    with pytest.raises(ValueError) as raised:
        read_checkpoint(path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and message.startswith("[convert] ")
    return message


@pytest.mark.parametrize("kind", ["zip", "legacy", "pkl", "safetensors"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.99])
def test_truncated(tmp_path: Path, kind: str, keep: float) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "cut.pth"
    state = {f"layer{i}.weight": torch.randn(40, 40) for i in range(4)}
    if kind == "pkl":
        path.write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}, 2))
    elif kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(16, int(len(whole) * keep))])
    assert "truncated" in (message := _failure(path)) or "damaged" in message


def test_flipped_bit_in_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "flip.pth"
    torch.save({"x": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(2000)) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="wrong checksum"):
        loaded(path)


def test_archive_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "nocrc.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert loaded(path)["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is empty"),
        (b"<!doctype html><html><body>Sign in</body></html>", "web page"),
        (b"\xef\xbb\xbf\n  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a checkpoint"),
        (b'{"weights": 1}', "not a checkpoint"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"epoch": 3}), "holds no weights; its top-level keys are 'epoch'"),
        (pickle.dumps({}), "keys are none"),
        (b"PK\x03\x04" + bytes(50), "truncated or damaged zip"),
    ],
)
def test_not_weights(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "FCOS_R_50_1x.pth"
    path.write_bytes(content)
    assert cause in _failure(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "no data.pkl" in _failure(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))
    assert "compressed" in _failure(path)
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))
    assert "TorchScript" in _failure(path)


def test_names_that_collide_without_module(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"module.a": torch.ones(1), "a": torch.ones(1)}, path)
    assert "twice" in _failure(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"\[convert\].*nothing\.pth.*No such file"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("kind", ["zip", "legacy", "pkl"])
def test_random_damage_never_escapes(tmp_path: Path, kind: str) -> None:
    """Flipped bytes give a ValueError or other numbers, never another exception."""
    path = tmp_path / "x.pth"
    state = {"model": {"a.weight": torch.randn(2, 3), "b": torch.ones(4).half()}, "iteration": 3}
    if kind == "pkl":
        arrays = {name: value.numpy() for name, value in state["model"].items()}  # type: ignore[attr-defined]
        path.write_bytes(pickle.dumps({"model": arrays}, 2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        data = bytearray(whole)
        for position in random.integers(0, len(data), random.integers(1, 4)):
            data[position] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            loaded(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100
