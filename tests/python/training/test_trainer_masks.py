# SPDX-License-Identifier: Apache-2.0
"""CondInst, BoxInst, BlendMask and SOLO through the training loop."""

from __future__ import annotations

import csv
import math
from typing import Any

import pytest
import torch
from training_helpers import (
    BLENDMASK,
    BOXINST,
    CONDINST,
    MODEL,
    SMALL,
    SOLO,
    SOLOV2,
    log_of,
    recipe_of,
    run,
    with_segmentations,
)

import instseg.evaluation
from instseg import Model, Predictor
from instseg.recipe import Recipe
from instseg.training import Trainer


@pytest.fixture
def files(make_dataset):
    made = make_dataset()
    with_segmentations(made)
    return made


def mask_recipe(files, model: dict[str, Any], **changes: Any) -> Recipe:
    return recipe_of(files, model={**MODEL, **model}, **changes)


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        (CONDINST, {"loss_mask", "loss_semantic"}),
        (BLENDMASK, {"loss_mask", "loss_semantic"}),
        ({"family": "condinst", "condinst": BOXINST}, {"loss_projection", "loss_pairwise"}),
        (SOLO, {"loss_cls", "loss_mask"}),
        (SOLOV2, {"loss_cls", "loss_mask"}),
    ],
    ids=["condinst", "blendmask", "boxinst", "solo", "solov2"],
)
def test_a_run_trains_masks_and_evaluates_them(files, tmp_path, model, terms):
    val = {"annotations": str(files[0]), "images": str(files[1])}
    recipe = mask_recipe(files, model, data__val=val, solver__iterations=8, solver__milestones=[])
    summary = run(recipe, tmp_path / "run")
    rows = log_of(tmp_path / "run")
    assert terms <= {name for name in rows[0] if name.startswith("loss_")}
    for row in rows:
        losses = [float(value) for name, value in row.items() if name.startswith("loss_")]
        assert float(row["total"]) == pytest.approx(math.fsum(losses), rel=1e-5)
    for name in terms - {"loss_pairwise"}:  # that one is warming up
        assert float(rows[-1][name]) < float(rows[0][name]), name
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        (metrics,) = csv.DictReader(file)
    assert {"AP", "mask_AP", "mask_AP50", "mask_AR100"} <= set(metrics)
    assert summary["metrics"]["mask_AP"] == summary["best"]["mask_AP"] == float(metrics["mask_AP"])

    predictor = Predictor(tmp_path / "run" / "model.safetensors")
    assert predictor.config.family == model["family"]
    found = predictor(files[1] / "0.png")
    assert found.masks is not None and len(found.rle()) == len(found)


def test_a_validation_file_without_masks_gives_numbers_of_boxes(files, make_dataset, tmp_path):
    annotations, folder = make_dataset(name="boxes")
    val = {"annotations": str(annotations), "images": str(folder)}
    summary = run(mask_recipe(files, CONDINST, data__val=val, solver__iterations=1), tmp_path / "run")
    assert summary["metrics"]["AP"] >= 0 and "mask_AP" not in summary["metrics"]


@pytest.mark.parametrize(
    "model",
    [
        {"family": "condinst", "condinst": {**BOXINST, "boxinst": {"warmup_iterations": 8}}},
        {"family": "condinst", "condinst": {**SMALL, "max_proposals": 3}},
        BLENDMASK,
        SOLOV2,
    ],
    ids=["boxinst", "condinst", "blendmask", "solov2"],
)
def test_interrupted_and_resumed_equals_uninterrupted(files, tmp_path, monkeypatch, model):
    recipe = mask_recipe(files, model, checkpoint_every=2)
    run(recipe, tmp_path / "whole")

    real = Trainer.step

    def killed(self, batch):
        if batch.iteration == 5:  # after the checkpoint of iteration 4, one step is lost
            raise SystemExit("killed")
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(SystemExit):
        run(recipe, tmp_path / "parts")
    monkeypatch.setattr(Trainer, "step", real)
    torch.manual_seed(999)
    resumed = Trainer(recipe, tmp_path / "parts", quiet=True)
    boxes = model.get("condinst", {}).get("supervision") == "boxes"
    if boxes:
        assert resumed.model.get_buffer("iterations").item() == 4
    resumed.run()

    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    whole = Model.load(tmp_path / "whole" / "model.safetensors").state_dict()
    parts = Model.load(tmp_path / "parts" / "model.safetensors").state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    if boxes:
        assert whole["iterations"].item() == 6
        assert float(log_of(tmp_path / "whole")[-1]["loss_pairwise"]) > 0


def test_the_pairwise_term_warms_up(files, tmp_path):
    """Without learning its value is proportional to the iteration."""
    logs = {}
    for warmup in (1, 4):
        condinst = {**BOXINST, "boxinst": {"warmup_iterations": warmup, "color_threshold": 0.05}}
        recipe = mask_recipe(
            files,
            {"family": "condinst", "condinst": condinst, "backbone": {"norm": "bn_eval"}},
            solver__base_lr=1e-12,
            solver__momentum=0.0,
        )
        run(recipe, tmp_path / str(warmup))
        logs[warmup] = [float(row["loss_pairwise"]) for row in log_of(tmp_path / str(warmup))]
    assert all(value > 0 for value in logs[1])
    shares = [few / full for few, full in zip(logs[4], logs[1], strict=True)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1], rel=1e-3)


def test_the_best_model_is_that_of_the_best_masks(files, tmp_path, monkeypatch):
    def numbers(box: float, mask: float) -> dict[str, Any]:
        keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        of_masks = {f"mask_{key}": mask for key in keys}
        return {**dict.fromkeys(keys, box), **of_masks, "problems": []}

    scripted = iter([numbers(0.5, 0.3), numbers(0.4, 0.35), numbers(0.6, 0.2)])
    monkeypatch.setattr(instseg.evaluation, "evaluate", lambda *args, **options: next(scripted))
    val = {"annotations": str(files[0]), "images": str(files[1])}
    recipe = mask_recipe(files, BLENDMASK, data__val=val, eval_every=1, solver__iterations=3)
    saved = []
    real = Trainer._save_model
    monkeypatch.setattr(
        Trainer,
        "_save_model",
        lambda self, name, metrics: (saved.append((name, self.iteration)), real(self, name, metrics)),
    )
    summary = run(recipe, tmp_path / "run")
    assert saved == [("model_best.safetensors", 1), ("model_best.safetensors", 2), ("model.safetensors", 3)]
    assert summary["best"]["iteration"] == 2 and summary["best"]["mask_AP"] == 0.35
    assert summary["metrics"]["mask_AP"] == 0.2


def test_images_without_objects_can_be_trained_on(make_dataset, tmp_path):
    def half(document):
        document["annotations"] = [row for row in document["annotations"] if row["image_id"] < 12]

    made = make_dataset(edit=half)
    with_segmentations(made)
    for name, model in (("condinst", CONDINST), ("blendmask", BLENDMASK), ("solo", SOLO)):
        recipe = mask_recipe(made, model, data__filter_empty=False, solver__batch_size=1)
        run(recipe, tmp_path / name)
        losses = [float(row["loss_mask"]) for row in log_of(tmp_path / name)]
        assert min(losses) == 0 and max(losses) > 0
