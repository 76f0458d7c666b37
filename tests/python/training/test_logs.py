# SPDX-License-Identifier: Apache-2.0
"""CSV logs survive interruption and resuming."""

from __future__ import annotations

from pathlib import Path

from instseg.training.logs import CsvLog


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
