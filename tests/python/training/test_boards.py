# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard and Weights & Biases get to see; the latter is played by a module of this test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_helpers import recipe_of

from instseg.recipe import WandbRecipe
from instseg.training.logs import TrainingLog

FAKE = """
import json, os
from pathlib import Path

class Image:
    def __init__(self, pixels):
        self.shape = list(pixels.shape)

class Run:
    def __init__(self, folder, id):
        self.id, self._file = id, Path(folder) / "calls.jsonl"
    def note(self, **call):
        with open(self._file, "a") as file:
            file.write(json.dumps(call) + "\\n")
    def log(self, values, step):
        values = {k: v.shape if isinstance(v, Image) else v for k, v in values.items()}
        self.note(log=values, step=step)
    def finish(self, exit_code):
        self.note(finish=exit_code)

def init(dir, id, **settings):
    if settings["mode"] == "online":
        raise RuntimeError("no API key\\nlong explanation")
    run = Run(dir, id or "new1")
    run.note(init=settings, id=id)
    return run
"""


@pytest.fixture
def fake_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)


def open_log(folder: Path, start: int = 0, **options: Any) -> TrainingLog:
    folder.mkdir(exist_ok=True)
    return TrainingLog(folder, start, 10, 1, 2, Console(quiet=True), **options)


def calls(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def test_tensorboard(tmp_path):
    with open_log(tmp_path) as log:
        log.iteration(0, {"loss_cls": 0.5, "total": 0.75}, 0.01, {"data_seconds": 0.25})
        log.metrics(1, {"AP": 0.5})
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        "train/loss_cls",
        "train/total",
        "train/lr",
        "train/images_per_second",
        "train/data_seconds",
        "val/AP",
    }
    assert [(e.step, e.value) for e in found.Scalars("train/data_seconds")] == [(0, 0.25)]
    assert [(e.step, e.value) for e in found.Scalars("val/AP")] == [(1, 0.5)]


def test_tensorboard_can_be_left_out(tmp_path):
    with open_log(tmp_path, tensorboard=False, pictures_every=1) as log:
        log.iteration(0, {"total": 0.75}, 0.01)
        log.training_picture(None, None)  # type: ignore[arg-type]  # nobody to show it to
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv"]


def test_weights_and_biases(tmp_path, fake_wandb):
    settings = WandbRecipe(project="cells", tags=["a"], mode="offline")
    folder = tmp_path / "run"
    recipe = {"name": "nuclei", "solver": {"base_lr": 0.1}}
    with open_log(folder, wandb=settings, tensorboard=False, recipe=recipe) as log:
        log.iteration(0, {"total": 0.75}, 0.01, {"memory": 3.0})
        log.metrics(1, {"AP": 0.5})
    begun, row, metrics, end = calls(folder)
    assert begun == {
        "init": {
            "project": "cells",
            "name": "nuclei",
            "entity": None,
            "group": None,
            "tags": ["a"],
            "mode": "offline",
            "config": recipe,
            "resume": "allow",
        },
        "id": None,
    }
    assert row["step"] == 0 and row["log"]["train/total"] == 0.75 and row["log"]["train/memory"] == 3.0
    assert metrics == {"log": {"val/AP": 0.5}, "step": 1} and end == {"finish": 0}
    assert not (folder / "tensorboard").exists()


def test_weights_and_biases_continue_a_resumed_run_only(tmp_path, fake_wandb):
    settings = WandbRecipe(project="cells", name="mine")
    folder = tmp_path / "run"
    for start in (0, 4, 0):
        try:
            with open_log(folder, start, wandb=settings, tensorboard=False):
                if start == 4:
                    raise RuntimeError("stopped")
        except RuntimeError:
            pass
    assert [call["id"] for call in calls(folder) if "init" in call] == [None, "new1", None]
    assert [call["finish"] for call in calls(folder) if "finish" in call] == [0, 1, 0]


def test_weights_and_biases_that_do_not_start(tmp_path, fake_wandb):
    with pytest.raises(ValueError, match=r"wandb does not start: no API key; wandb\.mode=offline") as caught:
        open_log(tmp_path / "run", wandb=WandbRecipe(project="p", mode="online"))
    assert "\n" not in str(caught.value)


def test_weights_and_biases_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb, or say wandb=null"):
        open_log(tmp_path / "run", wandb=WandbRecipe(project="p"))


def test_pictures_go_to_every_board(tmp_path, fake_wandb, monkeypatch):
    from instseg.training import logs

    monkeypatch.setattr(logs, "batch_picture", lambda batch, config: np.full((6, 8, 3), 200, np.uint8))
    two = [np.zeros((4, 4, 3), np.uint8)] * 2
    monkeypatch.setattr(logs, "validation_pictures", lambda predictor, dataset: iter(two))

    class Batch:
        def __init__(self, iteration: int) -> None:
            self.iteration = iteration

    folder = tmp_path / "run"
    wandb = WandbRecipe(project="p", mode="offline")
    with open_log(folder, 3, wandb=wandb, pictures_every=4) as log:
        for iteration in range(3, 10):
            log.training_picture(Batch(iteration), None)  # type: ignore[arg-type]
        log.validation_pictures(10, None, None)  # type: ignore[arg-type]
    found = events(folder)
    assert set(found.Tags()["images"]) == {"train/batch", "val/image_0", "val/image_1"}
    assert [image.step for image in found.Images("train/batch")] == [3, 4, 8]
    assert (found.Images("train/batch")[0].width, found.Images("train/batch")[0].height) == (8, 6)
    logged = [(call["step"], call["log"]) for call in calls(folder) if "log" in call]
    assert logged[0] == (3, {"train/batch": [6, 8, 3]}) and logged[-1] == (10, {"val/image_1": [4, 4, 3]})
    with open_log(folder / "none", pictures_every=0) as log:
        log.training_picture(Batch(0), None)  # type: ignore[arg-type]
        log.validation_pictures(1, None, None)  # type: ignore[arg-type]
    assert events(folder / "none").Tags()["images"] == []


def test_the_log_of_a_recipe(make_dataset, tmp_path, fake_wandb):
    recipe = recipe_of(
        make_dataset(), tensorboard=False, wandb={"project": "cells", "mode": "offline"}, name="tiny"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    with TrainingLog.of_recipe(recipe, folder, 0, Console(quiet=True)) as log:
        for iteration in range(recipe.solver.iterations):
            log.iteration(iteration, {"total": 1.0}, 0.1)
    begun, *rows, _ = calls(folder)
    assert begun["init"]["config"] == recipe.model_dump(mode="json") and len(rows) == 6
