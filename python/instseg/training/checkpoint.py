# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from which a run continues exactly."""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

FORMAT = 1
_NAME = re.compile(r"checkpoint_(\d{7,})\.pt")


@dataclass
class Checkpoint:
    """State between two iterations; ``iteration`` is the next one to run."""

    iteration: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    random: dict[str, Any]
    recipe: dict[str, Any]
    config: dict[str, Any]
    progress: dict[str, Any]  # best metrics, seconds trained
    step: dict[str, Any] = field(default_factory=dict)  # loss scale and moving average (Stepper)


def random_state() -> dict[str, Any]:
    """States of the generators that training may draw from in this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def restore_random_state(state: dict[str, Any]) -> None:
    """Undoes what was drawn since random_state()."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes atomically, then removes all but the ``keep`` newest checkpoints of ``folder``.

    Later ones than this were damaged, else they would have been resumed: they go too.

    Raises OSError when it cannot be written; nothing of it remains then, and the others are untouched.
    """
    path = folder / f"checkpoint_{checkpoint.iteration:07d}.pt"
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            _serialise({"format": FORMAT, **vars(checkpoint)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    every = list_checkpoints(folder)
    end = every.index(path) + 1
    for old in every[: max(end - keep, 0)] + every[end:]:
        old.unlink(missing_ok=True)
    return path


def _serialise(values: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(values, file)
    except RuntimeError as error:
        # torch's archive writer complains about its own state after the file refused the bytes.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def sync_folder(folder: Path) -> None:
    """Makes renames in ``folder`` survive a power cut; file systems without that notion may refuse."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def size_of(value: Any) -> int:
    """Bytes of the tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, (list, tuple)) else 0


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of ``folder``, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint without executing code from it.

    Raises OSError when it cannot be read and ValueError, naming the file, when it is no checkpoint.
    """
    with open(path, "rb") as file:
        try:
            values = torch.load(file, map_location="cpu", weights_only=True)
            version = values.pop("format")
            checkpoint = Checkpoint(**values)
        except Exception as error:  # torch.load raises whatever the damage leads to
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"[load_checkpoint] '{path}' is not a readable checkpoint: {reason}") from None
    if version != FORMAT:
        raise ValueError(f"[load_checkpoint] '{path}' has format {version}, this version reads {FORMAT}")
    return checkpoint


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names whose values differ, with both values."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}: {left!r} -> {right!r}")
    return found
