# SPDX-License-Identifier: Apache-2.0
"""What stops a run from outside: a full disk, a killed data process, Ctrl-C, another model's checkpoint."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from training_helpers import log_of, recipe_of, run

from instseg.training import Trainer, TrainingError, run_folder
from instseg.training.checkpoint import list_checkpoints, load_checkpoint
from instseg.training.failures import data_failure, lost_data_worker


@pytest.fixture
def files(make_dataset):
    return make_dataset()


def _full(monkeypatch, times: int) -> list[int]:
    """The next so many checkpoints meet a full disk after a part of them is written."""
    real, failures = torch.save, []

    def save(values, file):
        if len(failures) < times and "optimizer" in values:
            failures.append(values["iteration"])
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(values, file)

    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr(run_folder, "_PAUSE", 0.0)
    return failures


def test_a_full_disk_leaves_the_checkpoint_before(files, tmp_path, monkeypatch):
    run(recipe_of(files), tmp_path / "whole")
    recipe = recipe_of(files, checkpoint_every=2)
    run(recipe_of(files, checkpoint_every=2, solver__iterations=2), tmp_path / "run")
    (kept,) = list_checkpoints(tmp_path / "run")
    content = kept.read_bytes()
    with monkeypatch.context() as patch:
        failures = _full(patch, 99)
        with pytest.raises(OSError) as caught:
            run(recipe, tmp_path / "run")
    assert failures == [4, 4], "one more attempt"
    message = str(caught.value)
    assert (
        f"'{tmp_path / 'run' / 'checkpoint_0000004.pt'}' cannot be written: no space left on device"
        in message
    )
    assert "MB are needed" in message and "MB are free" in message and "\n" not in message
    assert [path.name for path in (tmp_path / "run").glob("checkpoint*")] == [kept.name]
    assert kept.read_bytes() == content
    run(recipe, tmp_path / "run")
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")


def test_a_disk_that_is_full_for_a_moment_is_no_matter(files, tmp_path, monkeypatch):
    failures = _full(monkeypatch, 1)
    assert run(recipe_of(files, solver__iterations=1), tmp_path / "run")["iteration"] == 1
    assert failures == [1] and len(list_checkpoints(tmp_path / "run")) == 1


LIMITED = """
import resource, sys
from pathlib import Path
import yaml
from instseg.recipe import parse_recipe
from instseg.training import Trainer
trainer = Trainer(parse_recipe(yaml.safe_load(Path(sys.argv[1]).read_text())), sys.argv[2], quiet=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    trainer.run()
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_a_write_that_the_system_cuts_short(files, tmp_path):
    """The real thing: torch's archive writer fails in the middle of a tensor."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(files, solver__iterations=1).model_dump(mode="json")))
    command = [sys.executable, "-c", LIMITED, str(path), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    (line,) = done.stdout.splitlines()
    assert "checkpoint_0000001.pt' cannot be written: file too large" in line, done.stderr
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_unfinished_files_of_killed_runs_are_removed(files, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    stale = ["checkpoint_0000004.tmp77", "model.safetensors.tmp12-345", "recipe.yaml.tmp5", "log.csv.tmp5"]
    for name in [*stale, "notes.tmp7", "mine.txt"]:
        (folder / name).write_text("half")
    Trainer(recipe_of(files), folder, quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "notes.tmp7"]


def test_checkpoint_of_other_classes(files, make_dataset, tmp_path):
    run(recipe_of(files, solver__iterations=1), tmp_path / "run")

    def one_more(document):
        document["categories"].append({"id": 9, "name": "triangle"})

    other = make_dataset(edit=one_more, name="other")
    with pytest.raises(ValueError) as caught:
        Trainer(recipe_of(other), tmp_path / "run", quiet=True)
    expected = "has 2 classes (square, round), data.train has 3 classes (square, round, triangle); "
    assert expected in str(caught.value) and "--no-resume" in str(caught.value)


def test_a_killed_data_process_ends_the_run_with_a_line_and_a_checkpoint(files, tmp_path, monkeypatch):
    run(recipe_of(files), tmp_path / "whole")
    recipe = recipe_of(files, data__workers=1)
    real = Trainer.step
    made = Trainer(recipe, tmp_path / "run", quiet=True)

    def step(self, batch):
        result = real(self, batch)
        if batch.iteration == 2:
            import multiprocessing

            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                child.join(5)
        return result

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(TrainingError) as caught:
        made.run()
    message = str(caught.value)
    assert "data worker process" in message and "lower data.workers" in message and "\n" not in message
    monkeypatch.setattr(Trainer, "step", real)
    run(recipe, tmp_path / "run")
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "DataLoader worker (pid 77) is killed by signal: Killed. ",
            " 77 is killed by signal: Killed at",
        ),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "process 7, 8 exited unexpectedly at"),
        ("Caught MemoryError in DataLoader worker process 1.\nTraceback\nMemoryError: no", "worker 1 failed"),
    ],
)
def test_troubles_of_data_processes_are_one_line(text, expected):
    error = data_failure(RuntimeError(text), 5)
    assert isinstance(error, TrainingError) and expected in str(error) and "iteration 5" in str(error)
    assert "\n" not in str(error)
    other = ValueError("something else")
    assert data_failure(other, 5) is other and lost_data_worker(other, 5) is None


def _command(recipe: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "instseg.cli", "train", str(recipe), "--output", str(output)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_an_interrupted_command_saves_and_exits_with_130(files, tmp_path, number):
    recipe = recipe_of(files, solver__iterations=100000, data__workers=1)
    path, output = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    process = subprocess.Popen(_command(path, output), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (output / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "instseg: error: interrupted" and "Traceback" not in error
    (kept,) = list_checkpoints(output)
    reached = load_checkpoint(kept).iteration
    assert f"run again to continue from iteration {reached}" in error
    assert len(log_of(output)) == reached > 0
