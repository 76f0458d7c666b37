# SPDX-License-Identifier: Apache-2.0
"""What a training run tells: progress on the terminal, CSV files and TensorBoard."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Weight of the newest iteration in the displayed loss and speed.
SMOOTHING = 0.1


class CsvLog:
    """A CSV file with a row per logged iteration; reopening drops rows from ``start`` on."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._columns: list[str] = []
        if not path.exists():
            return
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        if start == 0 or not rows:
            path.unlink()
            return
        self._columns = rows[0]
        kept = [row for row in rows[1:] if row[0].isdigit() and int(row[0]) < start]
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self._columns, *kept])

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Appends a row; the first one decides the columns."""
        new = not self._columns
        if new:
            self._columns = ["iteration", *values]
        row = {"iteration": iteration, **values}
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)


class TrainingLog:
    """Progress bar (or plain lines when the output is no terminal), log.csv, metrics.csv and TensorBoard.

    Args:
        folder: where the files go.
        start: first iteration of this run; entries from there on are replaced.
        total: iterations of the whole training.
        every: iterations between two entries.
    """

    def __init__(
        self, folder: Path, start: int, total: int, every: int, batch_size: int, console: Console
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._losses = CsvLog(folder / "log.csv", start)
        self._metrics = CsvLog(folder / "metrics.csv", start)
        self._board: SummaryWriter = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self._total, self._every, self._batch_size = total, every, batch_size
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
        self._board.close()

    def message(self, text: str) -> None:
        """A line above the progress bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def paused(self) -> None:
        """Leaves the time since the last iteration (an evaluation, say) out of the speed."""
        self._last = time.monotonic()

    def iteration(self, iteration: int, losses: Mapping[str, float], rate: float) -> None:
        """Notes one finished iteration: its loss terms with ``total`` among them, and learning rate."""
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
        self._losses.write(iteration, {"lr": rate, **losses, "images_per_second": round(speed, 2)})
        for name, value in losses.items():
            self._scalar(f"train/{name}", value, iteration)
        self._scalar("train/lr", rate, iteration)
        self._scalar("train/images_per_second", speed, iteration)
        if self._bar is None:
            left = (self._total - iteration - 1) * self._pace
            self.message(f"iteration {iteration + 1}/{self._total}  {status}  eta {_clock(left)}")

    def metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """Notes an evaluation made after ``iteration`` iterations."""
        self._metrics.write(iteration, values)
        for name, value in values.items():
            self._scalar(f"val/{name}", value, iteration)

    def _scalar(self, name: str, value: float, iteration: int) -> None:
        self._board.add_scalar(name, value, iteration)


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else (1 - SMOOTHING) * old + SMOOTHING * new


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
