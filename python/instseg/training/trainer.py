# SPDX-License-Identifier: Apache-2.0
"""The training loop: from a recipe to a model file."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich.console import Console

from instseg.data import Augmentation, Batch, Problem, training_batches
from instseg.recipe import Recipe
from instseg.training.checkpoint import (
    Checkpoint,
    differences,
    list_checkpoints,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from instseg.training.datasets import training_data, validation_data
from instseg.training.logs import TrainingLog
from instseg.training.optim import build_optimizer, set_learning_rate
from instseg.training.weights import load_weights

if TYPE_CHECKING:
    from instseg import Model, ModelConfig

FINAL_MODEL = "model.safetensors"
BEST_MODEL = "model_best.safetensors"

# Recipe fields that may change between the parts of a run without changing its numbers.
_HARMLESS = ("name", "data.workers", "eval_every", "checkpoint_every", "keep_checkpoints", "log_every")


class TrainingError(RuntimeError):
    """Training cannot go on, e.g. a loss is not finite."""


def build_model(config: ModelConfig) -> Model:
    """A freshly initialised model."""
    from instseg import Model

    return Model(config)


class Trainer:
    """Trains the model of a recipe.

    Files in ``output_dir``: recipe.yaml, checkpoint_*.pt, log.csv, metrics.csv, tensorboard/, summary.json,
    model.safetensors (last iteration) and model_best.safetensors (best mask AP, box AP without masks).

    Args:
        recipe: what to do.
        output_dir: folder of the run, created when missing.
        resume: continue from the newest checkpoint in ``output_dir``; the losses are those of an
            uninterrupted run. False starts over and removes the folder's old checkpoints.
        quiet: print nothing.

    Raises:
        OSError: a data or weights file is missing.
        ValueError: a recipe field does not fit the data, the weights or the checkpoint.
    """

    def __init__(
        self, recipe: Recipe, output_dir: str | os.PathLike[str], *, resume: bool = True, quiet: bool = False
    ) -> None:
        self.recipe = recipe
        self.output_dir = Path(output_dir)
        self.console = Console(stderr=True, quiet=quiet)
        self.device = _device(recipe.device)
        self.train_data = training_data(recipe)
        self.val_data = validation_data(recipe)
        self.config = recipe.model_settings(self.train_data)
        self.output_dir.mkdir(parents=True, exist_ok=True)

        self.iteration = 0
        self.progress: dict[str, Any] = {"best": None, "seconds": 0.0}
        checkpoint = self._newest_checkpoint() if resume else None
        torch.manual_seed(recipe.seed)
        self.model = build_model(self.config)
        if checkpoint is None:
            self._say(load_weights(self.model, recipe.weights))
        self.model.to(self.device)
        self.optimizer = build_optimizer(self.model, recipe.solver)
        if checkpoint is not None:
            self._restore(checkpoint)
        else:
            for old in list_checkpoints(self.output_dir):
                old.unlink()
        self._unreadable: set[int | None] = set()

    # ---- the loop ----

    def run(self) -> dict[str, Any]:
        """Trains to the last iteration, evaluates and writes the model; returns the content of summary.json.

        Raises TrainingError when a loss is not finite, and KeyboardInterrupt after saving a checkpoint when
        interrupted by Ctrl-C or SIGTERM.
        """
        solver = self.recipe.solver
        done = self._finished()
        if done is not None:
            self._say(f"already trained: {self.output_dir / FINAL_MODEL}")
            return done
        self._write_recipe()
        self._announce()
        total = solver.iterations
        log = TrainingLog(
            self.output_dir, self.iteration, total, self.recipe.log_every, solver.batch_size, self.console
        )
        metrics: dict[str, float] | None = None
        with log, _StopSignal() as stop:
            self.model.train()
            for batch in self._batches():
                began = time.monotonic()
                metrics = None
                losses, rate = self.step(batch)
                self.iteration += 1
                log.iteration(batch.iteration, losses, rate)
                self._report_problems(batch.problems, log)
                self.progress["seconds"] += time.monotonic() - began
                if self._due(self.recipe.eval_every):
                    metrics = self._evaluate(log)
                if self._due(self.recipe.checkpoint_every) or self.iteration == total or stop.requested:
                    self._save_checkpoint()
                if stop.requested and self.iteration < total:
                    log.message(f"interrupted; run again to continue from iteration {self.iteration}")
                    raise KeyboardInterrupt
            if metrics is None and self.val_data is not None:
                metrics = self._evaluate(log)
        return self._finish(metrics)

    def step(self, batch: Batch) -> tuple[dict[str, float], float]:
        """One optimiser step; returns the loss terms with their ``total``, and the learning rate."""
        from instseg import ops

        rate = set_learning_rate(self.optimizer, batch.iteration, self.recipe.solver)
        self.optimizer.zero_grad(set_to_none=True)
        images = ops.make_batch(batch.images, self.config.input, batch.original_sizes)
        terms: dict[str, torch.Tensor] = self.model(images, batch.targets)
        stacked = torch.stack([term.float().reshape(()) for term in terms.values()])
        total = stacked.sum()
        # One transfer, hence one synchronisation, for all terms.
        values = torch.cat([stacked.detach(), total.detach().reshape(1)]).tolist()
        losses = dict(zip([*terms, "total"], values, strict=True))
        _check_finite(losses, batch)
        total.backward()  # type: ignore[no-untyped-call]
        if self.recipe.solver.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.solver.clip_norm)
        self.optimizer.step()
        return losses, rate

    def _batches(self) -> Any:
        data, solver = self.recipe.data, self.recipe.solver
        augmentation = Augmentation(
            self.config.input, tuple(data.short_sides), data.long_side, data.short_side_sampling, data.flip
        )
        return training_batches(
            self.train_data,
            augmentation,
            batch_size=solver.batch_size,
            seed=self.recipe.seed,
            start=self.iteration,
            stop=solver.iterations,
            workers=data.workers,
        )

    def _due(self, every: int) -> bool:
        return every > 0 and self.iteration % every == 0

    # ---- evaluation ----

    def _evaluate(self, log: TrainingLog) -> dict[str, float] | None:
        if self.val_data is None:
            return None
        from instseg import Predictor
        from instseg.evaluation import evaluate, summary_line

        self.model.eval()
        result = evaluate(Predictor(self.model, device=str(self.device)), self.val_data)
        self.model.train()
        for problem in result["problems"]:
            log.message(f"skipped in evaluation: {problem}")
        metrics = {name: value for name, value in result.items() if isinstance(value, float)}
        log.message(f"iteration {self.iteration}: {summary_line(metrics)}")
        log.metrics(self.iteration, metrics)
        best = self.progress["best"]
        decisive = "mask_AP" if "mask_AP" in metrics else "AP"
        if best is None or metrics[decisive] > best.get(decisive, -1.0):
            self.progress["best"] = {"iteration": self.iteration, **metrics}
            self._save_model(BEST_MODEL, metrics)
        log.paused()
        return metrics

    # ---- files ----

    def _summary(self, metrics: dict[str, float] | None) -> dict[str, Any]:
        import instseg

        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "iteration": self.iteration,
            "metrics": metrics,
            "best": self.progress["best"],
            "training_seconds": round(self.progress["seconds"], 1),
            "training_images": len(self.train_data),
            "versions": {
                "instseg": str(getattr(instseg, "__version__", "unknown")),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }

    def _save_model(self, name: str, metrics: dict[str, float] | None) -> None:
        self.model.save(str(self.output_dir / name), summary=self._summary(metrics))

    def _finish(self, metrics: dict[str, float] | None) -> dict[str, Any]:
        summary = self._summary(metrics)
        self._save_model(FINAL_MODEL, metrics)
        _write_text(self.output_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
        self._say(f"model: {self.output_dir / FINAL_MODEL}")
        return summary

    def _finished(self) -> dict[str, Any] | None:
        """The summary of a run that needs nothing more."""
        path = self.output_dir / "summary.json"
        if self.iteration < self.recipe.solver.iterations or not (self.output_dir / FINAL_MODEL).is_file():
            return None
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(summary, dict) and summary.get("iteration") == self.iteration
        return summary if same else None

    def _write_recipe(self) -> None:
        text = yaml.safe_dump(self.recipe.model_dump(mode="json"), sort_keys=False)
        _write_text(self.output_dir / "recipe.yaml", text)

    def _save_checkpoint(self) -> None:
        checkpoint = Checkpoint(
            iteration=self.iteration,
            model=dict(self.model.state_dict()),
            optimizer=self.optimizer.state_dict(),
            random=random_state(),
            recipe=self.recipe.model_dump(mode="json"),
            config=self.config.to_dict(),
            progress=self.progress,
        )
        save_checkpoint(self.output_dir, checkpoint, self.recipe.keep_checkpoints)

    def _newest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that can be read; one that was damaged is passed over."""
        for path in reversed(list_checkpoints(self.output_dir)):
            try:
                return load_checkpoint(path)
            except (OSError, ValueError) as error:
                self._say(f"{error}; trying the one before")
        return None

    def _restore(self, checkpoint: Checkpoint) -> None:
        changed = differences(checkpoint.config, self.config.to_dict())
        if changed:
            raise ValueError(
                f"[Trainer] the checkpoint in '{self.output_dir}' is of another model "
                f"({'; '.join(changed[:3])}); choose another folder or start over with --no-resume"
            )
        changed = differences(checkpoint.recipe, self.recipe.model_dump(mode="json"))
        changed = [line for line in changed if not line.startswith(_HARMLESS)]
        if changed:
            self._say(f"the recipe changed since the checkpoint: {'; '.join(changed)}")
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        # Values of the recipe win over those stored with the optimiser.
        for group, fresh in zip(
            self.optimizer.param_groups,
            build_optimizer(self.model, self.recipe.solver).param_groups,
            strict=True,
        ):
            group.update({key: value for key, value in fresh.items() if key != "params"})
        restore_random_state(checkpoint.random)
        self.iteration = checkpoint.iteration
        self.progress = checkpoint.progress
        if self.iteration < self.recipe.solver.iterations:
            self._say(f"resuming at iteration {self.iteration}")

    # ---- messages ----

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _announce(self) -> None:
        solver = self.recipe.solver
        parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self._say(
            f"{self.recipe.name}: {len(self.train_data)} images, {self.train_data.num_objects} objects, "
            f"{len(self.config.class_names)} classes; {parameters / 1e6:.2f} M trainable parameters; "
            f"batch {solver.batch_size}, {solver.iterations} iterations "
            f"({solver.iterations * solver.batch_size / len(self.train_data):.1f} epochs), {self.device}"
        )
        for data in (self.train_data, self.val_data):
            if data is not None and data.problems:
                self._say(
                    f"{data.annotations_path}: {len(data.problems)} problems, the first one: "
                    f"{data.problems[0]}; 'instseg data check' lists all"
                )

    def _report_problems(self, problems: list[Problem], log: TrainingLog) -> None:
        for problem in problems:
            if problem.image_id not in self._unreadable:
                self._unreadable.add(problem.image_id)
                log.message(f"skipped in training: {problem}")


def _check_finite(losses: dict[str, float], batch: Batch) -> None:
    broken = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"[Trainer] {broken[0]} at iteration {batch.iteration} on images {batch.image_ids}; "
            f"check these images' boxes, lower solver.base_lr or set solver.clip_norm"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"[Trainer] device '{name}' is unknown; use auto, cpu or cuda:<number>") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"[Trainer] device '{name}' is not available: this torch sees no GPU")
    return device


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


class _StopSignal:
    """Turns the first SIGINT or SIGTERM into a request that the loop honours between iterations."""

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
