# SPDX-License-Identifier: Apache-2.0
"""Model files by content, and those that come with the package."""

from __future__ import annotations

import difflib
import json
import os
import struct
from pathlib import Path

#: Where the package keeps its model files.
FOLDER = Path(__file__).parent / "models"

#: The one that is used when none is named.
DEFAULT_MODEL = "nuclei_condinst_lite0"

_SUFFIX = ".safetensors"
_MAX_HEADER = 100_000_000  # bytes, as the C++ reader


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a safetensors file with an instseg model in it, judged by its content.

    Raises OSError when it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size <= _MAX_HEADER:
            return False
        header = file.read(size)
    try:
        metadata = json.loads(header).get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError):
        return False
    return isinstance(metadata, dict) and metadata.get("format") == "instseg"


def shipped_models() -> dict[str, Path]:
    """Name and path of the model files that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{_SUFFIX}"))}


def shipped_model(name: str | None = None) -> Path:
    """Path of a model file that comes with the package; without a name that of nuclei (docs/model-cards).

    Raises FileNotFoundError when this installation lacks it, ValueError when there is none of that name.
    """
    wanted = DEFAULT_MODEL if name is None else name
    found = shipped_models()
    if wanted in found:
        return found[wanted]
    if name is None or name == DEFAULT_MODEL:
        raise FileNotFoundError(
            f"[shipped_model] this installation has no model '{wanted}' (no '{FOLDER / wanted}{_SUFFIX}'); "
            "install the package again, or name a model file"
        )
    close = difflib.get_close_matches(wanted, found, 1, 0.4)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(found) or 'none'}"
    raise ValueError(f"[shipped_model] no model '{wanted}' comes with the package; {hint}")
