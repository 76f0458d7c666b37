# SPDX-License-Identifier: Apache-2.0
"""What a training run tells: progress on the terminal, CSV files, TensorBoard and Weights & Biases."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from instseg.training.boards import Board, TensorBoard, WeightsAndBiases
from instseg.training.pictures import batch_picture, validation_pictures
from instseg.training.usage import peak_memory

if TYPE_CHECKING:
    from instseg import ModelConfig, Predictor
    from instseg.data import Batch, CocoDataset
    from instseg.recipe import Recipe, WandbRecipe

# Weight of the newest iteration in the displayed loss and speed.
SMOOTHING = 0.1


class CsvLog:
    """A CSV file with a row per logged iteration; reopening drops rows from ``start`` on, or with ``done``,
    where rows count the iterations that were done, from ``start`` + 1 on."""

    def __init__(self, path: Path, start: int, *, done: bool = False) -> None:
        self._path = path
        self._columns: list[str] = []
        self._old: list[list[str]] | None = None  # rows of an earlier run, until the first one of this run
        if not path.exists():
            return
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        if start == 0 or not rows:
            path.unlink()
            return
        self._columns = rows[0]
        self._old = [row for row in rows[1:] if row[0].isdigit() and int(row[0]) < start + done]
        self._rewrite(self._old)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Appends a row. The first one decides the columns; in a reopened file it may add some."""
        repeated = [row for row in self._old or () if row[0] == str(iteration)]
        if self._old is not None and repeated:
            self._old = [row for row in self._old if row not in repeated]
            self._rewrite(self._old)
        added = [name for name in ("iteration", *values) if name not in self._columns]
        if not self._columns:
            self._columns = added
            self._rewrite([])
        elif self._old is not None and added:
            self._columns = [*self._columns, *added]
            self._rewrite([row + [""] * len(added) for row in self._old])
        self._old = None
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            writer.writerow({"iteration": iteration, **values})

    def _rewrite(self, rows: Iterable[list[str]]) -> None:
        temporary = self._path.with_name(f"{self._path.name}.tmp{os.getpid()}")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self._columns, *rows])
        os.replace(temporary, self._path)


class TrainingLog:
    """Progress bar (or plain lines when the output is no terminal), log.csv, metrics.csv and boards.

    Args:
        folder: where the files go.
        start: first iteration of this run; entries from there on are replaced.
        total: iterations of the whole training.
        every: iterations between two entries.
        batch_size: images of an iteration.
        tensorboard: write event files.
        wandb: the run of Weights & Biases to log to.
        pictures_every: iterations between pictures of a training batch; 0: no pictures at all.
        recipe: shown with the run of Weights & Biases.

    Raises ValueError when ``wandb`` is given and the package is missing or refuses to start.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        total: int,
        every: int,
        batch_size: int,
        console: Console,
        *,
        tensorboard: bool = True,
        wandb: WandbRecipe | None = None,
        pictures_every: int = 0,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self._losses = CsvLog(folder / "log.csv", start)
        self._metrics = CsvLog(folder / "metrics.csv", start, done=True)
        self._boards: list[Board] = []
        if wandb is not None:
            self._boards.append(WeightsAndBiases(folder, start, wandb, recipe or {}))
        if tensorboard:
            self._boards.append(TensorBoard(folder / "tensorboard", start))
        self._start, self._total, self._every, self._batch_size = start, total, every, batch_size
        self._pictures_every = pictures_every if self._boards else 0
        self._console = console
        self._bar: Progress | None = None
        self._loss: float | None = None
        self._pace: float | None = None  # seconds per iteration, smoothed
        self._last = time.monotonic()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=total, completed=start, status="")

    @classmethod
    def of_recipe(cls, recipe: Recipe, folder: Path, start: int, console: Console) -> TrainingLog:
        """The log that a recipe asks for."""
        return cls(
            folder,
            start,
            recipe.solver.iterations,
            recipe.log_every,
            recipe.solver.batch_size,
            console,
            tensorboard=recipe.tensorboard,
            wandb=recipe.wandb,
            pictures_every=recipe.pictures_every,
            recipe=recipe.model_dump(mode="json"),
        )

    def __enter__(self) -> TrainingLog:
        if self._bar is not None:
            self._bar.start()
        self._last = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        for board in self._boards:
            board.close(kind is not None)

    def message(self, text: str) -> None:
        """A line above the progress bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def paused(self) -> None:
        """Leaves the time since the last iteration (an evaluation, say) out of the speed."""
        self._last = time.monotonic()

    def iteration(
        self, iteration: int, losses: Mapping[str, float], rate: float, extra: Mapping[str, float] = {}
    ) -> None:
        """Notes one finished iteration.

        losses: the terms, and ``total`` among them. rate: the learning rate. extra: more numbers for files
        and boards: seconds, memory, ...
        """
        now = time.monotonic()
        self._pace = _smooth(self._pace, now - self._last)
        self._last = now
        self._loss = _smooth(self._loss, losses["total"])
        speed = self._batch_size / max(self._pace, 1e-9)
        status = f"loss {self._loss:.3f}  lr {rate:.2g}  {speed:.1f} img/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration + 1, status=status)
        if (iteration + 1) % self._every and iteration + 1 != self._total:
            return
        self._losses.write(iteration, {"lr": rate, **losses, "images_per_second": round(speed, 2), **extra})
        self._scalars(iteration, "train", {**losses, "lr": rate, "images_per_second": speed, **extra})
        if self._bar is None:
            left = (self._total - iteration - 1) * self._pace
            self.message(f"iteration {iteration + 1}/{self._total}  {status}  eta {_clock(left)}")

    def metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """Notes an evaluation made after ``iteration`` iterations."""
        self._metrics.write(iteration, values)
        self._scalars(iteration, "val", values)

    def training_picture(self, batch: Batch, config: ModelConfig) -> None:
        """Shows a batch with its targets: the first one of this run, then one every ``pictures_every``.

        Its images are as the network sees them, so that mistakes of the augmentation are seen.
        """
        if self._pictures_every and (
            batch.iteration % self._pictures_every == 0 or batch.iteration == self._start
        ):
            self._picture(batch.iteration, "train/batch", batch_picture(batch, config))

    def validation_pictures(self, iteration: int, predictor: Predictor, dataset: CocoDataset) -> None:
        """Shows the first images of ``dataset``: its annotations left, the predictions right."""
        if self._pictures_every:
            for i, pixels in enumerate(validation_pictures(predictor, dataset)):
                self._picture(iteration, f"val/image_{i}", pixels)

    def finished(self, seconds: float, device: torch.device) -> None:
        """The last line: how long the training took, without evaluations, and how much memory."""
        pace = self._total * self._batch_size / max(seconds, 1e-9)
        peaks = peak_memory(device).values()
        memory = ", ".join(
            f"{value / 1000:.2f} GB {name}" for name, value in zip(("RAM", "GPU"), peaks, strict=False)
        )
        self.message(f"{self._total} iterations in {_clock(seconds)}, {pace:.1f} img/s; peak memory {memory}")

    def _scalars(self, iteration: int, section: str, values: Mapping[str, float]) -> None:
        for board in self._boards:
            board.scalars(iteration, {f"{section}/{name}": value for name, value in values.items()})

    def _picture(self, iteration: int, name: str, pixels: Any) -> None:
        for board in self._boards:
            board.picture(iteration, name, pixels)


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else (1 - SMOOTHING) * old + SMOOTHING * new


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
