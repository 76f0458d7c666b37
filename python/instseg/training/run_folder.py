# SPDX-License-Identifier: Apache-2.0
"""The files of a training run: written whole or not at all, also when the disk is full."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from instseg.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    size_of,
    sync_folder,
)

if TYPE_CHECKING:
    from instseg import Model

_T = TypeVar("_T")

FINAL_MODEL = "model.safetensors"
BEST_MODEL = "model_best.safetensors"

# What a killed process leaves of a file it was writing.
_STALE = re.compile(
    r"(checkpoint_\d+|model(_best)?\.safetensors|recipe\.yaml|summary\.json|(log|metrics)\.csv)\.tmp[\d-]+"
)

# Pause before the second attempt at writing a file (s).
_PAUSE = 1.0


class RunFolder:
    """Folder of a run: recipe.yaml, checkpoint_*.pt, summary.json and the model files.

    Every write is tried twice; then OSError names the file and the space on the disk, and what was there
    before is still whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def prepare(self) -> None:
        """Makes the folder and removes what killed runs left of unfinished files."""
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self.path.iterdir():
            if _STALE.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes the checkpoints."""
        for old in list_checkpoints(self.path):
            old.unlink()

    def newest_checkpoint(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that can be read; one that was damaged is passed over.

        Raises ValueError when there are some, and none can be read: starting over would remove them.
        """
        reason = ""
        for path in reversed(list_checkpoints(self.path)):
            try:
                return load_checkpoint(path)
            except (OSError, ValueError) as error:
                say(f"{error}; trying the one before")
                reason = reason or str(error)
        if reason:
            raise ValueError(f"{reason}; no checkpoint is readable, start over with --no-resume")
        return None

    def save_checkpoint(self, checkpoint: Checkpoint, keep: int) -> None:
        """Writes a checkpoint and removes all but the ``keep`` newest."""
        path = self.path / f"checkpoint_{checkpoint.iteration:07d}.pt"
        self._written(path, lambda: save_checkpoint(self.path, checkpoint, keep), size_of(vars(checkpoint)))

    def save_model(self, name: str, model: Model, summary: Mapping[str, Any]) -> None:
        """Writes a model file."""
        path = self.path / name
        size = size_of(dict(model.state_dict()))
        self._written(path, lambda: model.save(str(path), summary=summary), size)

    def write_recipe(self, values: Mapping[str, Any]) -> None:
        """Writes recipe.yaml."""
        self._write_text("recipe.yaml", yaml.safe_dump(dict(values), sort_keys=False))

    def write_summary(self, values: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        self._write_text("summary.json", json.dumps(values, indent=2) + "\n")

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Says where a log could not be written."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"[Trainer] the logs in '{self.path}' cannot be written: {_reason(error)}, "
                f"{_free(self.path)} MB are free; checkpoints are intact, make room and run again to continue"
            ) from None

    def summary_of(self, iteration: int) -> dict[str, Any] | None:
        """The summary of a run that ended after ``iteration`` iterations with a model."""
        if not (self.path / FINAL_MODEL).is_file():
            return None
        try:
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(summary, dict) and summary.get("iteration") == iteration
        return summary if same else None

    def _write_text(self, name: str, text: str) -> None:
        path = self.path / name
        temporary = path.with_name(f"{name}.tmp{os.getpid()}")

        def write() -> None:
            try:
                with open(temporary, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(self.path)

        self._written(path, write, len(text))

    def _written(self, path: Path, write: Callable[[], _T], size: int) -> _T:
        try:
            return write()
        except OSError:
            time.sleep(_PAUSE)
        try:
            return write()
        except OSError as error:
            raise OSError(
                f"[Trainer] '{path}' cannot be written: {_reason(error)}; {_megabytes(size)} MB are needed, "
                f"{_free(self.path)} MB are free; files written before are intact, make room and run again "
                "to continue"
            ) from None


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _free(path: Path) -> str:
    try:
        return _megabytes(shutil.disk_usage(path).free)
    except OSError:
        return "an unknown number of"
