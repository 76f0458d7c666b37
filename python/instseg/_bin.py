# SPDX-License-Identifier: Apache-2.0
"""Entry point `instseg-infer`: replaces this process by the native program of the package."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def native_root() -> Path:
    """Folder of the built parts: the extension, `lib/`, `bin/`, `include/`, `share/`.

    Found without importing torch. In an editable install it is not the folder of this file.
    """
    spec = importlib.util.find_spec("instseg._C")
    if spec is None or spec.origin is None:
        raise ImportError("instseg is not built: the extension instseg._C is missing; run pip install again")
    return Path(spec.origin).parent


def infer() -> None:
    """Runs `instseg-infer` with this process's arguments; does not return."""
    program = native_root() / "bin" / "instseg-infer"
    if not program.exists():
        sys.exit(f"instseg-infer: {program} is missing; run pip install again")
    os.execv(program, [str(program), *sys.argv[1:]])
