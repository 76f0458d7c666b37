# SPDX-License-Identifier: Apache-2.0
"""One optimiser step: micro-batches, precision, moving average, memory layout."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from training_helpers import (
    BLENDMASK,
    MODEL,
    SMALL,
    SOLO,
    log_of,
    recipe_of,
    run,
    with_segmentations,
)

from instseg import Model
from instseg.training import Trainer, TrainingError, trainer
from instseg.training.ema import Ema, ema_decay

STEADY = {"base_lr": 0.005, "batch_size": 4, "iterations": 4, "milestones": [], "warmup_iterations": 0}

# Batch norms of the mask branch see a micro-batch only, and proposals are drawn for each.
ALONE = {"branch_norm": "none", "max_proposals": 0}


@pytest.fixture
def files(make_dataset):
    """Images of one size, so that any of them have the same canvas; one without objects."""

    def one_empty(document):
        document["annotations"] = [row for row in document["annotations"] if row["image_id"] != 12]

    made = make_dataset(sizes=((64, 96),) * 6, edit=one_empty)
    with_segmentations(made)
    return made


def step_recipe(files, model: dict[str, Any] | None = None, **solver: Any):
    annotations, images = map(str, files)
    split = {"annotations": annotations, "images": images}
    data = {"train": split, "short_sides": [64], "long_side": 128, "workers": 0, "filter_empty": False}
    return recipe_of(files, model={**MODEL, **(model or {})}, data=data, solver={**STEADY, **solver})


@pytest.mark.parametrize(
    "model",
    [{}, {"family": "condinst", "condinst": {**SMALL, **ALONE}}, SOLO],
    ids=["fcos", "condinst", "solo"],
)
def test_micro_batches_equal_one_batch(files, tmp_path, model):
    logs = {}
    for micro in (4, 2, 1):
        run(step_recipe(files, model, micro_batch=micro), tmp_path / str(micro))
        logs[micro] = log_of(tmp_path / str(micro))
    for micro in (2, 1):
        for whole, parts in zip(logs[4], logs[micro], strict=True):
            for name in whole:
                expected = pytest.approx(float(whole[name]), rel=1e-5, abs=1e-7)
                assert float(parts[name]) == expected, name


def test_a_loss_that_is_not_finite_names_the_images_of_its_micro_batch(files, tmp_path, monkeypatch):
    class Broken(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.calls = 0

        def set_reduce_mean(self, fn, parts, micro_batches):
            self.shared = parts, micro_batches

        def normalizers(self, images, targets):
            return torch.ones(1)

        def forward(self, images, targets):
            self.calls += 1
            return {
                "loss_cls": self.weight.sum(),
                "loss_box": self.weight.sum() * (math.inf if self.calls == 4 else 1),
            }

    monkeypatch.setattr(trainer, "build_model", Broken)
    broken = Trainer(step_recipe(files, micro_batch=2), tmp_path / "run", quiet=True)
    seen = []
    real = Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda self, batch: (seen.append(batch.image_ids), real(self, batch))[1]
    )
    with pytest.raises(TrainingError) as caught:
        broken.run()
    assert broken.model.shared == (2, 2)
    assert f"loss_box is inf at iteration 1 on images {seen[1][2:]};" in str(caught.value)


@pytest.mark.parametrize("model", [{}, BLENDMASK, SOLO], ids=["fcos", "blendmask", "solo"])
def test_bf16_trains_like_float32_with_losses_in_float32(files, tmp_path, model, monkeypatch):
    kinds = set()
    real = Model.losses

    def spy(self, images, targets):
        terms = real(self, images, targets)
        kinds.update((term.dtype, torch.is_autocast_enabled("cpu")) for term in terms.values())
        return terms

    monkeypatch.setattr(Model, "losses", spy)
    for amp in ("none", "bf16"):
        run(step_recipe(files, model, amp=amp), tmp_path / amp)
    assert kinds == {(torch.float32, False), (torch.float32, True)}
    exact, half = log_of(tmp_path / "none"), log_of(tmp_path / "bf16")
    assert exact != half
    for left, right in zip(exact, half, strict=True):
        # 8 bits of mantissa, through some fifty layers
        assert float(right["total"]) == pytest.approx(float(left["total"]), rel=0.1)
    saved = Model.load(tmp_path / "bf16" / "model.safetensors")
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}


def test_fp16_needs_a_gpu(files, tmp_path):
    with pytest.raises(ValueError, match=r"solver\.amp=fp16 needs a GPU; use bf16"):
        Trainer(step_recipe(files, amp="fp16"), tmp_path / "run", quiet=True)


def test_overflowing_gradients_skip_the_step_and_are_reported(files, tmp_path, monkeypatch, capfd):
    """The scaler works on any device: an infinite gradient leaves the weights and halves the scale."""

    class Overflowing(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.calls = 0

        def forward(self, images, targets):
            self.calls += 1
            steep = 1e38 if self.calls == 2 else 1.0  # times the loss scale of 65536
            return {"loss": self.weight.sum() * steep}

    monkeypatch.setattr(trainer, "build_model", Overflowing)
    monkeypatch.setattr(Trainer, "_finish", lambda self, metrics: {})
    made = Trainer(step_recipe(files, iterations=2, ema_decay=0.5), tmp_path / "run")
    made.stepper.scaler = torch.amp.GradScaler("cpu")
    weights = []
    real = Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda self, batch: (real(self, batch), weights.append(self.model.weight.item()))[0]
    )
    made.run()
    assert weights[0] == weights[1] == pytest.approx(1 - 0.005, rel=1e-6)
    assert made.stepper.ema.updates == 1
    assert "the step is skipped; the loss scale is 32768 now" in capfd.readouterr().err
    state = made.stepper.state_dict()
    assert state["scaler"]["scale"] == 32768.0


def test_the_moving_average_equals_a_hand_computation():
    model = torch.nn.BatchNorm1d(1)
    ema = Ema(model, 0.5)
    expected = {"weight": 1.0, "running_mean": 0.0}
    for n, value in enumerate((3.0, -1.0, 10.0, 4.0, 0.5, 7.0)):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(2 * value)
            model.num_batches_tracked.fill_(n + 1)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected["weight"] = decay * expected["weight"] + (1 - decay) * value
        expected["running_mean"] = decay * expected["running_mean"] + (1 - decay) * 2 * value
    assert [ema_decay(0.999, n) for n in (0, 8, 100000)] == pytest.approx([0.1, 0.5, 0.999])
    with ema.applied():
        assert model.weight.item() == pytest.approx(expected["weight"], rel=1e-6)
        assert model.running_mean.item() == pytest.approx(expected["running_mean"], rel=1e-6)
        assert model.num_batches_tracked.item() == 6
    assert (model.weight.item(), model.running_mean.item()) == (7.0, 14.0)
    twin = Ema(torch.nn.BatchNorm1d(1), 0.5)
    twin.load_state_dict(ema.state_dict())
    assert twin.updates == 6 and torch.equal(
        twin.state_dict()["values"]["weight"], ema.state_dict()["values"]["weight"]
    )


def test_the_moving_average_is_saved_as_the_model_and_kept_over_a_resume(files, tmp_path):
    whole = Trainer(step_recipe(files, ema_decay=0.9), tmp_path / "whole", quiet=True)
    whole.run()
    average = whole.stepper.ema.state_dict()["values"]
    saved = Model.load(tmp_path / "whole" / "model.safetensors").state_dict()
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert any(not torch.equal(average[name], value) for name, value in whole.model.state_dict().items())

    run(step_recipe(files, ema_decay=0.9, iterations=2), tmp_path / "parts")
    run(step_recipe(files, ema_decay=0.9), tmp_path / "parts")
    resumed = Model.load(tmp_path / "parts" / "model.safetensors").state_dict()
    assert all(torch.equal(saved[name], resumed[name]) for name in saved)


def test_an_average_may_begin_with_a_resume(files, tmp_path, capfd):
    run(step_recipe(files, iterations=1), tmp_path / "run")
    made = Trainer(step_recipe(files, ema_decay=0.9), tmp_path / "run")
    assert "no moving average; it begins with the weights of the checkpoint" in capfd.readouterr().err
    average, state = made.stepper.ema.state_dict()["values"], made.model.state_dict()
    assert all(torch.equal(average[name], state[name]) for name in state)


def test_the_memory_layout_changes_neither_numbers_nor_files(files, tmp_path):
    """Up to the order of sums in convolutions; the files hold the same tensors in the same way."""
    for layout in (True, False):
        run(step_recipe(files, channels_last=layout, clip_norm=1.0), tmp_path / str(layout))
    logs = [log_of(tmp_path / str(layout)) for layout in (True, False)]
    for left, right in zip(*logs, strict=True):
        assert float(left["total"]) == pytest.approx(float(right["total"]), rel=1e-5)
    last, first = (Model.load(tmp_path / str(layout) / "model.safetensors") for layout in (True, False))
    for (name, left), (other, right) in zip(last.named_parameters(), first.named_parameters(), strict=True):
        assert name == other and left.is_contiguous() and left.stride() == right.stride()
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    # A run goes on with the other layout.
    more = step_recipe(files, channels_last=False, clip_norm=1.0, iterations=5)
    assert run(more, tmp_path / "True")["iteration"] == 5
