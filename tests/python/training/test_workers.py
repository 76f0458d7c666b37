# SPDX-License-Identifier: Apache-2.0
"""Several workers see and learn what one process does, fail together, and stop together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import job, start
from training_helpers import BLENDMASK, MODEL, SOLO, log_of, recipe_of, run, with_segmentations

from instseg import Model
from instseg.recipe import Recipe
from instseg.training import Trainer
from instseg.training.workers import Workers

SOLVER = {"base_lr": 0.005, "iterations": 20, "milestones": [15], "warmup_iterations": 2, "ema_decay": 0.9}

# Batch size and images of a forward pass; for four workers one image each, of SOLO two one after the other.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fcos": ({}, {"batch_size": 4}),
    "solo": (SOLO, {"batch_size": 8, "clip_norm": 35.0}),
    # Batch norms of so few pixels amplify rounding from step to step, hence small ones.
    "blendmask": (BLENDMASK, {"batch_size": 4, "sync_bn": True, "base_lr": 0.0005}),
}


def _recipes(files) -> dict[str, Recipe]:
    split = {"annotations": str(files[0]), "images": str(files[1])}
    data = {"train": split, "short_sides": [64], "long_side": 128, "workers": 0, "filter_empty": False}
    return {
        name: recipe_of(
            files, model={**MODEL, **model}, data={**data, "val": split}, solver={**SOLVER, **solver}
        )
        for name, (model, solver) in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def outcome(make_datasets, tmp_path_factory) -> tuple[Path, dict[str, Recipe], list[list[str]]]:
    """Runs of all families in one process and in four; an error and an interruption in one of two."""
    folder = tmp_path_factory.mktemp("workers")

    def some_empty(document):
        document["annotations"] = [row for row in document["annotations"] if row["image_id"] % 3]

    files = make_datasets(folder, sizes=((64, 96),) * 8, edit=some_empty)
    with_segmentations(files)
    recipes = _recipes(files)
    small = recipe_of(files, data__short_sides=[64], checkpoint_every=2)
    split = {name: recipe.model_copy(deep=True) for name, recipe in recipes.items()}
    split["solo"].solver.micro_batch = 1
    phases = [
        {"world": 4, "jobs": [job(split[name], folder / f"{name}_4") for name in split]},
        {"world": 2, "jobs": [job(small, folder / "whole")]},
        {
            "world": 2,
            "jobs": [job(small, folder / "parts")],
            "event": {"kind": "signal", "rank": 1, "iteration": 2},
        },
        {
            "world": 2,
            "jobs": [job(small, folder / "parts")],
            "event": {"kind": "raise", "rank": 1, "iteration": 5},
        },
        {"world": 2, "jobs": [job(small, folder / "parts")]},
    ]
    return folder, recipes, start(phases, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_four_workers_learn_what_one_process_does(outcome, family):
    folder, recipes, reports = outcome
    assert reports[0] == ["done"] * 4
    alone = run(recipes[family], folder / f"{family}_1")
    one, four = log_of(folder / f"{family}_1"), log_of(folder / f"{family}_4")
    assert len(one) == len(four) == 20
    for left, right in zip(one, four, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert float(right[name]) == pytest.approx(float(left[name]), rel=1e-5, abs=1e-7), name
    assert float(one[-1]["total"]) < float(one[0]["total"])
    # Evaluated and saved is the moving average; the images were shared out.
    shared = json.loads((folder / f"{family}_4" / "summary.json").read_text())
    assert shared["workers"] == 4 and shared["micro_batches"] == (2 if family == "solo" else 1)
    assert shared["metrics"].keys() == alone["metrics"].keys()
    assert shared["metrics"] == pytest.approx(alone["metrics"], abs=2e-3)
    left, right = (
        Model.load(folder / f"{family}_{world}" / "model.safetensors").state_dict() for world in (1, 4)
    )
    apart = sum(float((right[name].double() - value).square().sum()) for name, value in left.items())
    assert apart <= 1e-10 * sum(float(value.double().square().sum()) for value in left.values())


def test_workers_stop_together_and_resume(outcome):
    folder, _, reports = outcome
    assert reports[1] == ["done"] * 2
    assert reports[2] == ["KeyboardInterrupt: "] * 2
    # Sums of two do not depend on their order: to the last bit.
    assert reports[4] == ["done"] * 2
    assert log_of(folder / "parts") == log_of(folder / "whole")


def test_one_error_is_reported_once_and_ends_all(outcome):
    _, _, reports = outcome
    assert sorted(text.split(":")[0] for text in reports[3]) == ["PeerFailed", "RuntimeError"]
    assert "RuntimeError: worker 1 of 2: something is wrong here" in reports[3]


def test_a_batch_must_be_shared_evenly(make_dataset, tmp_path):
    workers = Workers(rank=0, world=3)
    recipe = recipe_of(make_dataset(), solver__batch_size=4)
    workers.of_first = lambda value: value  # nobody else is there
    with pytest.raises(ValueError, match=r"batch_size 4 cannot be shared by 3 workers; .* e\.g\. 6"):
        Trainer(recipe, tmp_path / "run", quiet=True, workers=workers)


def test_an_environment_without_a_meeting_point_is_refused(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE is 2, but MASTER_ADDR is not set; use torchrun"):
        Workers.join()


def test_a_single_process_needs_no_group():
    workers = Workers.join()
    value = torch.tensor([1.0, 2.0])
    assert (workers.rank, workers.world) == (0, 1)
    assert torch.equal(workers.mean(value), value) and workers.gather_objects(3) == [3]
    assert workers.any_of(True, False) == [True, False]


@pytest.mark.parametrize(
    ("name", "world", "message"),
    [
        ("quantum", 1, "'quantum' is unknown"),
        ("cuda", 1, "sees no GPU"),
        ("cuda:1", 2, "no GPU|cannot be"),
    ],
)
def test_devices_that_do_not_exist(name, world, message):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        Workers(0, world).device(name)
