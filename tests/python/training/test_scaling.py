# SPDX-License-Identifier: Apache-2.0
"""Schedules for other batch sizes, and the recipe fields of a step."""

from __future__ import annotations

import json

import pytest
from training_helpers import log_of, recipe_of, run

from instseg.recipe import SolverRecipe, bundled_recipes, load_recipe, parse_recipe
from instseg.training import Trainer
from instseg.training.scaling import micro_batches, scaled


def test_a_smaller_batch_means_a_lower_rate_and_a_longer_schedule():
    solver, line = scaled(load_recipe("condinst_MS_R_50_1x", ["solver.batch_size=4"]).solver)
    assert solver.base_lr == pytest.approx(0.0025)
    assert (solver.iterations, solver.milestones) == (360000, [240000, 320000])
    assert (solver.warmup_iterations, solver.warmup_factor, solver.gamma) == (4000, 0.001, 0.1)
    assert line is not None and "\n" not in line
    for change in (
        "solver.batch_size is 4, the recipe is for 16",
        "base_lr 0.01 -> 0.0025",
        "iterations 90000 -> 360000",
        "milestones [60000, 80000] -> [240000, 320000]",
        "warmup_iterations 1000 -> 4000",
        "solver.auto_scale=false keeps them",
    ):
        assert change in line


def test_a_larger_batch_rounds_and_keeps_milestones_ascending():
    values = {
        "reference_batch": 2,
        "batch_size": 16,
        "base_lr": 0.02,
        "iterations": 20,
        "milestones": [9, 10],
    }
    solver, _ = scaled(SolverRecipe(**values, warmup_iterations=0))
    assert solver.base_lr == pytest.approx(0.16)
    assert (solver.iterations, solver.milestones, solver.warmup_iterations) == (3, [1], 0)


def test_nothing_is_scaled_without_need_or_against_the_will():
    for solver in (SolverRecipe(batch_size=4), SolverRecipe(reference_batch=16)):
        assert scaled(solver) == (solver, None)
    refused = SolverRecipe(batch_size=4, reference_batch=16, auto_scale=False)
    solver, line = scaled(refused)
    assert solver == refused and line is not None and "nothing is scaled" in line


def test_published_recipes_know_their_batch_size():
    for name in bundled_recipes():
        solver = load_recipe(name).solver
        small = name.startswith(("nuclei", "penn_fudan"))
        assert solver.reference_batch == (None if small else 16), name
        assert solver.sync_bn == (name.startswith(("blendmask", "fcos_RT"))), name


def test_the_trainer_scales_and_says_so(make_dataset, tmp_path, capfd):
    recipe = recipe_of(
        make_dataset(), solver__reference_batch=4, solver__iterations=1, solver__milestones=[1]
    )
    Trainer(recipe, tmp_path / "run").run()
    error = capfd.readouterr().err
    assert "base_lr 0.005 -> 0.0025, iterations 1 -> 2, milestones [1] -> [2]" in error
    rows = log_of(tmp_path / "run")
    assert len(rows) == 2 and float(rows[-1]["lr"]) < 0.0025
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["schedule"]["iterations"] == 2 and parse_recipe(summary["recipe"]) == recipe
    # The recipe kept is the one given: resuming does not scale twice.
    assert run(recipe, tmp_path / "run")["iteration"] == 2


def test_images_of_a_step_are_shared_evenly():
    assert micro_batches(SolverRecipe(batch_size=16), 8) == 1
    assert micro_batches(SolverRecipe(batch_size=16, micro_batch=2), 1) == 8
    assert micro_batches(SolverRecipe(batch_size=16, micro_batch=2), 4) == 2
    with pytest.raises(ValueError, match=r"batch_size 16 cannot be shared by 3 workers.*e\.g\. 18"):
        micro_batches(SolverRecipe(batch_size=16), 3)
    with pytest.raises(ValueError, match=r"no multiple of solver\.micro_batch 8 times 4 workers"):
        micro_batches(SolverRecipe(batch_size=16, micro_batch=8), 4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("micro_batch", 3, "solver: batch_size 4 is no multiple of micro_batch 3"),
        ("micro_batch", 0, r"solver\.micro_batch: .*greater than 0"),
        ("reference_batch", -1, r"solver\.reference_batch: .*greater than 0"),
        ("amp", "fp8", r"solver\.amp: .*'none', 'bf16' or 'fp16'.*got 'fp8'"),
        ("ema_decay", 1.0, r"solver\.ema_decay: .*less than 1"),
        ("ema_decay", 0, r"solver\.ema_decay: .*greater than 0"),
        ("channels_last", "often", r"solver\.channels_last: "),
        ("sync_bm", True, "did you mean 'solver.sync_bn'"),
    ],
)
def test_wrong_values_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_recipe({"solver": {"batch_size": 4, field: value}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "meant"), [(True, "bf16"), (False, "none"), ("fp16", "fp16")])
def test_amp_may_be_a_switch(given, meant):
    assert parse_recipe({"solver": {"amp": given}}).solver.amp == meant
