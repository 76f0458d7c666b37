# SPDX-License-Identifier: Apache-2.0
"""One line for what stops a run from outside: data processes, checkpoints of other models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instseg.training.checkpoint import differences
from instseg.training.step import TrainingError

if TYPE_CHECKING:
    from instseg import ModelConfig

# "DataLoader worker (pid 7) is killed by signal: Killed." or "... (pid(s) 7, 8) exited unexpectedly"
_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) ([^.\n]*)")
_RAISED = re.compile(r"Caught (\w+) in DataLoader worker process (\d+)")


def lost_data_worker(error: BaseException, iteration: int) -> TrainingError | None:
    """The error to raise when ``error`` tells of the end of a process that prepares batches."""
    found = _LOST.search(str(error))
    if found is None:
        return None
    return TrainingError(
        f"[Trainer] data worker process {found[1].strip()} {found[2].strip()} at iteration {iteration}; "
        "if memory was short, lower data.workers; the last checkpoint is intact, run again to continue"
    )


def data_failure(error: Exception, iteration: int) -> Exception:
    """The error to raise when the next batch could not be had: ``error``, in one line."""
    lost = lost_data_worker(error, iteration)
    if lost is not None:
        return lost
    found = _RAISED.search(str(error))
    if found is None:
        return error
    reason = str(error).strip().splitlines()[-1]
    return TrainingError(f"[Trainer] data worker {found[2]} failed at iteration {iteration}: {reason}")


def refuse_other_model(stored: dict[str, Any], config: ModelConfig, folder: Path) -> None:
    """Raises ValueError unless a checkpoint's model is the recipe's."""
    wanted = config.to_dict()
    changed = differences(stored, wanted)
    if not changed:
        return
    way_out = "choose another folder or start over with --no-resume"
    old, new = stored.get("class_names"), wanted["class_names"]
    if isinstance(old, list) and old != new:
        raise ValueError(
            f"[Trainer] the checkpoint in '{folder}' has {_classes(old)}, data.train has {_classes(new)}; "
            f"{way_out}, or set weights to the old run's model file to go on from it"
        )
    raise ValueError(
        f"[Trainer] the checkpoint in '{folder}' is of another model ({'; '.join(changed[:3])}); {way_out}"
    )


def _classes(names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} class{'' if len(names) == 1 else 'es'} ({shown})"
