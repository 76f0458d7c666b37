# SPDX-License-Identifier: Apache-2.0
"""instseg predict with model files that are well formed at first sight."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Run


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(path: Path, header: str, data: bytes) -> Path:
    """Writes a safetensors file."""
    raw = header.encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def damaged(header: dict[str, Any], damage: str) -> str:
    """The header's text with a mistake."""
    if damage == "newer":
        header["__metadata__"]["format_version"] = "999"
    if damage == "overlap":
        header["head.box_pred.bias"]["data_offsets"][0] -= 4
        header["head.box_pred.bias"]["data_offsets"][1] -= 4
    text = json.dumps(header)
    if damage == "duplicate":
        name = "head.box_pred.bias"
        text = f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}"
    return text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("duplicate", "head.box_pred.bias"), ("newer", "999"), ("overlap", "head.box_pred.bias")],
)
def test_refused(
    run: Run, model_file: Path, pictures: Path, tmp_path: Path, damage: str, reason: str
) -> None:
    header, data = split(model_file)
    broken = join(tmp_path / "broken.safetensors", damaged(header, damage), data)
    result = run("predict", broken, pictures / "a.jpg")
    assert result.code != 0 and result.out == ""
    assert len(result.err.splitlines()) == 1 and len(result.errors) == 1, result.err
    assert "broken.safetensors" in result.err and reason in result.err


def test_the_untouched_file_is_accepted(run: Run, model_file: Path, pictures: Path, tmp_path: Path) -> None:
    """What the tests above write differs from a good file by the mistake only."""
    header, data = split(model_file)
    same = join(tmp_path / "same.safetensors", damaged(header, "none"), data)
    result = run("predict", same, pictures / "a.jpg")
    assert result.code == 0 and "NaN" not in result.err and "a.jpg" in result.out


def test_nan_weight_warns_and_runs(run: Run, model_file: Path, pictures: Path, tmp_path: Path) -> None:
    header, data = split(model_file)
    begin = header["head.box_pred.bias"]["data_offsets"][0]
    data = data[:begin] + struct.pack("<f", float("nan")) + data[begin + 4 :]
    broken = join(tmp_path / "nan.safetensors", json.dumps(header), data)
    result = run("predict", broken, pictures / "a.jpg")
    assert result.code == 0 and "a.jpg  90x60" in result.out
    warnings = [line for line in result.err.splitlines() if "NaN" in line]
    assert len(warnings) == 1 and result.errors == []
    assert "nan.safetensors" in warnings[0] and "head.box_pred.bias" in warnings[0]
