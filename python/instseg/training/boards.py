# SPDX-License-Identifier: Apache-2.0
"""Where numbers and pictures of a run are shown: TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from instseg.image import Array
    from instseg.recipe import WandbRecipe

_RUN_ID = "wandb_run.txt"


class Board(Protocol):
    """Takes what happened after or in an iteration; iterations never decrease."""

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Numbers by name, "train/total"."""

    def picture(self, iteration: int, name: str, pixels: Array) -> None:
        """An RGB uint8 [H, W, 3] picture."""

    def close(self, failed: bool) -> None:
        """Writes what is left."""


class TensorBoard:
    """Event files in ``folder``; entries of an earlier run from ``start`` on are hidden."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start)

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """See Board."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def picture(self, iteration: int, name: str, pixels: Array) -> None:
        """See Board."""
        self._writer.add_image(name, pixels, iteration, dataformats="HWC")

    def close(self, failed: bool) -> None:
        """See Board."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the package wandb; resuming from a folder continues the run that was begun in it.

    Args:
        folder: of the training run; wandb's own files go there, too.
        start: first iteration; 0 begins a new run.
        settings: project and so on.
        recipe: shown as the run's configuration.

    Raises ValueError when wandb is not installed or refuses to start.
    """

    def __init__(self, folder: Path, start: int, settings: WandbRecipe, recipe: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError(
                "[TrainingLog] the recipe has a section wandb, but the package is not installed; "
                "pip install wandb, or say wandb=null"
            ) from None
        self._wandb: Any = wandb
        note = folder / _RUN_ID
        known = note.read_text(encoding="utf-8").strip() if start > 0 and note.is_file() else None
        try:
            self._run: Any = wandb.init(
                project=settings.project,
                name=settings.name or recipe.get("name"),
                entity=settings.entity,
                group=settings.group,
                tags=settings.tags,
                mode=settings.mode,
                dir=str(folder),
                config=dict(recipe),
                id=known or None,
                resume="allow",
            )
        except Exception as error:  # wandb raises types of its own, e.g. without a key
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"[TrainingLog] wandb does not start: {reason}; wandb.mode=offline needs no account"
            ) from None
        note.write_text(f"{self._run.id}\n", encoding="utf-8")

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """See Board."""
        self._run.log(dict(values), step=iteration)

    def picture(self, iteration: int, name: str, pixels: Array) -> None:
        """See Board."""
        self._run.log({name: self._wandb.Image(pixels)}, step=iteration)

    def close(self, failed: bool) -> None:
        """See Board."""
        self._run.finish(exit_code=int(failed))
