# SPDX-License-Identifier: Apache-2.0
"""CSV logs survive interruption and resuming."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console

from instseg.training.logs import CsvLog, TrainingLog


def rows(path: Path) -> list[str]:
    return path.read_text().split()


def test_resuming_drops_what_comes_again(tmp_path: Path):
    path = tmp_path / "log.csv"
    log = CsvLog(path, 0)
    for iteration in range(6):
        log.write(iteration, {"loss": iteration / 4, "lr": 0.1})
    log = CsvLog(path, 4)
    log.write(4, {"loss": 9.0, "lr": 0.2})
    assert rows(path) == [
        "iteration,loss,lr",
        "0,0.0,0.1",
        "1,0.25,0.1",
        "2,0.5,0.1",
        "3,0.75,0.1",
        "4,9.0,0.2",
    ]


def test_an_evaluation_made_before_the_checkpoint_is_kept(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, 0, done=True)
    for iteration in (2, 4, 6):
        log.write(iteration, {"AP": iteration / 10})
    assert rows(path) == ["iteration,AP", "2,0.2", "4,0.4", "6,0.6"]
    resumed = CsvLog(path, 4, done=True)
    assert rows(path) == ["iteration,AP", "2,0.2", "4,0.4"]
    resumed.write(4, {"AP": 0.5})  # evaluated again
    resumed.write(6, {"AP": 0.7})
    assert rows(path) == ["iteration,AP", "2,0.2", "4,0.5", "6,0.7"]


def test_starting_over_starts_a_new_file(tmp_path: Path):
    path = tmp_path / "log.csv"
    CsvLog(path, 0).write(0, {"a": 1.0})
    CsvLog(path, 0).write(0, {"b": 2.0})
    assert rows(path) == ["iteration,b", "0,2.0"]


def test_a_half_written_last_row_is_dropped(tmp_path: Path):
    path = tmp_path / "log.csv"
    path.write_text("iteration,a\n0,1.0\n1,")
    CsvLog(path, 1).write(1, {"a": 2.0})
    assert rows(path) == ["iteration,a", "0,1.0", "1,2.0"]


def test_new_columns_come_with_the_first_row_of_a_resumed_run(tmp_path: Path):
    path = tmp_path / "log.csv"
    log = CsvLog(path, 0)
    log.write(0, {"loss": 1.0, "lr": 0.1})
    log.write(1, {"loss": 0.5, "late": 9.0})  # the first row has decided
    log = CsvLog(path, 2)
    log.write(2, {"loss": 0.25, "seconds": 3.0})
    log.write(3, {"loss": 0.125, "seconds": 4.0, "late": 9.0})
    assert rows(path) == [
        "iteration,loss,lr,seconds",
        "0,1.0,0.1,",
        "1,0.5,,",
        "2,0.25,,3.0",
        "3,0.125,,4.0",
    ]


def test_a_run_of_lines(tmp_path: Path):
    out = io.StringIO()
    console = Console(file=out, width=40)
    with TrainingLog(tmp_path, 0, 4, 2, 8, console, tensorboard=False) as log:
        for iteration in range(4):
            log.iteration(iteration, {"loss_cls": 0.5, "total": 1.0}, 0.01, {"seconds": 2.0, "memory": 1e9})
        log.finished(16.0, torch.device("cpu"))
    first, second, last = out.getvalue().splitlines()
    assert first.startswith("iteration 2/4  loss 1.000  lr 0.01  ") and " eta 0:00:0" in first
    assert second.startswith("iteration 4/4  ")
    assert re.match(r"4 iterations in 0:00:16, 2\.0 img/s; peak memory \d+\.\d\d GB RAM", last)
    header, *values = rows(tmp_path / "log.csv")
    assert header == "iteration,lr,loss_cls,total,images_per_second,seconds,memory"
    assert [row.split(",")[0] for row in values] == ["1", "3"]
    assert all(row.endswith(",2.0,1000000000.0") for row in values)


def test_peak_memory_grows():
    script = """
import torch
from instseg.training.usage import peak_memory
before = peak_memory(torch.device("cpu"))["peak_memory_mb"]
block = torch.ones(256 * 2**20, dtype=torch.uint8)
print(peak_memory(torch.device("cpu"))["peak_memory_mb"] - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # What an import needed for a moment may be filled first.
    assert 200 <= float(done.stdout) < 300
